"""Image data sets: CIFAR through torchvision's own integrity checks, and scikit-learn's embedded digits."""

import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paperlib import paths
from paperlib.data.arrays import Arrays, DataError, Source, stratified


def cifar100(root: Path | None = None) -> Source:
    """CIFAR-100 with its 100 classes, :cite:t:`krizhevsky2009learning`."""
    return _cifar("CIFAR100", root, "fine_labels", "fine_label_names")


def cifar100_superclasses(root: Path | None = None) -> Source:
    """CIFAR-100 with its 20 superclasses as labels, from the same files."""
    return _cifar("CIFAR100", root, "coarse_labels", "coarse_label_names")


def cifar10(root: Path | None = None) -> Source:
    """CIFAR-10, :cite:t:`krizhevsky2009learning`."""
    return _cifar("CIFAR10", root, "labels", "label_names")


def digits(root: Path | None = None) -> Source:
    """scikit-learn's 1,797 handwritten digits, each pixel doubled to 16 x 16, a fixed stratified fifth as test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.kron(bunch.images, np.ones((1, 2, 2))).astype(np.uint8)[..., None] * 15  # 0..16 -> 0..240
    arrays = Arrays(torch.from_numpy(images), torch.from_numpy(bunch.target.astype(np.int64)))
    test, train = stratified(arrays.labels, 0.2, 0, "digits test")
    return Source(arrays.take(train), arrays.take(test), tuple("0123456789"), validation_share=0.2, flip=False)


def cifar_present(name: str = "cifar100", root: Path | None = None) -> bool:
    """Whether the unpacked files are there and pass the md5 check; never downloads."""
    import torchvision
    from torchvision.datasets.utils import check_integrity

    cls = {"cifar100": torchvision.datasets.CIFAR100, "cifar10": torchvision.datasets.CIFAR10}[name]
    folder = Path(root or paths.DATA) / cls.base_folder
    files = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
    return all(check_integrity(folder / file, md5) for file, md5 in files)


def _cifar(name: str, root: Path | None, label_key: str, names_key: str) -> Source:
    import torchvision

    cls = getattr(torchvision.datasets, name)
    root = Path(root or paths.DATA)
    folder = root / cls.base_folder
    if not cifar_present(name.lower(), root):
        try:
            cls(root, train=True, download=True)
        except Exception as error:  # urllib, tarfile and torchvision each raise their own kind
            state = "incomplete or corrupt (md5 differs)" if folder.exists() else "missing"
            raise DataError(
                f"{name} is {state} at {folder}, and downloading it failed: {error}. Put the official archive "
                f"{cls.filename} (md5 {cls.tgz_md5}) or its unpacked folder {cls.base_folder}/ into {root}, or point "
                "PAPERLIB_DATA at a folder that holds it. A broken copy may simply be deleted.") from error
    splits = []
    fine: list[int] = []
    coarse: list[int] = []
    for files in (cls.train_list, cls.test_list):
        pixels: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for file, _ in files:
            with open(folder / file, "rb") as stream:  # md5-checked official files, so unpickling is safe
                entry = pickle.load(stream, encoding="latin1")
            pixels.append(entry["data"])
            labels += entry[label_key]
            fine += entry.get("fine_labels", [])
            coarse += entry.get("coarse_labels", [])
        images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits.append(Arrays(torch.from_numpy(images), torch.tensor(labels)))
    with open(folder / cls.meta["filename"], "rb") as stream:
        class_names = tuple(pickle.load(stream, encoding="latin1")[names_key])
    superclass = None
    if label_key == "fine_labels":
        superclass = torch.tensor([group for _, group in sorted(set(zip(fine, coarse, strict=True)))])
    return Source(splits[0], splits[1], class_names, superclass=superclass)

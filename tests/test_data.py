"""Data sets, splits, label noise and batches: who is in which split, and that every draw has its own seed."""

from __future__ import annotations

import math
import pickle
import urllib.error
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paperlib import data, paths
from paperlib.config import RunConfig
from paperlib.data import Arrays, DataError, EvaluationLoader, Normalizer, Source, TrainLoader, images
from paperlib.data.arrays import noisy_labels
from paperlib.data.synthetic import FAMILIES, synthetic
from paperlib.seeding import derive, generator

CPU = torch.device("cpu")


def sizes(splits: data.Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


def counts(labels: torch.Tensor) -> list[int]:
    return labels.bincount().tolist()


@pytest.fixture
def tagged(monkeypatch):
    """A data set whose inputs say which sample they are: 10 classes of 600 down to 420 training samples."""
    labels = torch.cat([torch.full((600 - 20 * label,), label) for label in range(10)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
    tags = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    source = Source(Arrays(tags, labels), Arrays(-1 - tags[:1000], labels[:1000]), tuple("abcdefghij"),
                    superclass=torch.arange(10) // 5)
    monkeypatch.setitem(data.DATASETS, "tagged", lambda config: source)
    return source


def split(**changes) -> data.Splits:
    return data.splits(RunConfig(**{"dataset": "tagged", **changes}))


def tags(arrays: Arrays) -> set[int]:
    return set(arrays.inputs.squeeze(1).int().tolist())


# Splits.


def test_splits_are_disjoint_and_complete(tagged):
    splits = split()
    train, validation = tags(splits.train), tags(splits.validation)
    assert not train & validation
    assert train | validation == set(range(len(tagged.train)))
    assert min(tags(splits.test)) < max(tags(splits.test)) < 0, "test samples are the data set's own"


def test_splits_hold_the_same_share_of_every_class(tagged):
    splits = split(train_fraction=0.2)
    totals = counts(tagged.train.labels)
    assert counts(splits.validation.labels) == [round(0.1 * n) for n in totals]
    assert counts(splits.train.labels) == [round(0.2 * (n - round(0.1 * n))) for n in totals]


def test_samples_keep_their_labels_through_all_splits(tagged):
    splits = split(train_fraction=0.3)
    for part in (splits.train, splits.validation):
        assert torch.equal(part.labels, tagged.train.labels[part.inputs.squeeze(1).long()])


def test_the_split_depends_on_its_own_seed_alone(tagged):
    splits = split()
    torch.rand(3)
    assert tags(split(seed=7, seed_noise=7, epochs=3).validation) == tags(splits.validation)
    assert tags(split(seed_split=1).validation) != tags(splits.validation)


def test_fewer_images_are_among_the_more_and_validation_stays(tagged):
    everything, half, tenth = split(), split(train_fraction=0.5), split(train_fraction=0.1)
    assert tags(tenth.train) < tags(half.train) < tags(everything.train)
    assert tags(tenth.validation) == tags(everything.validation)
    assert tenth.checksum == everything.checksum


@pytest.mark.parametrize("classes", [10, 100])
def test_data_of_the_size_of_cifar_is_split_as_the_protocol_says(monkeypatch, classes):
    def part(n: int) -> Arrays:
        return Arrays(torch.zeros(n, 1, 1, 3, dtype=torch.uint8), torch.arange(n) % classes)

    source = Source(part(50_000), part(10_000), tuple(map(str, range(classes))))
    monkeypatch.setitem(data.DATASETS, "cifar-sized", lambda config: source)
    assert sizes(split(dataset="cifar-sized")) == (45_000, 5_000, 10_000)
    fifth = split(dataset="cifar-sized", train_fraction=0.2)
    assert sizes(fifth) == (9_000, 5_000, 10_000)
    assert set(counts(fifth.train.labels)) == {9_000 // classes}
    assert set(counts(fifth.validation.labels)) == {5_000 // classes}


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'cifar': did you mean 'cifar10.*Valid data sets: synth"):
        data.splits(RunConfig(dataset="cifar"))


def test_the_checksum_sees_every_byte(tagged):
    before = split().checksum
    tagged.test.labels[3] += 1
    assert split().checksum != before


# Digits: the embedded real data.


@pytest.fixture(scope="module")
def digits():
    return data.splits(RunConfig(dataset="digits"))


def test_a_fifth_of_digits_is_test_and_a_fifth_of_the_rest_validation(digits):
    n, test = 1_797, len(digits.test)
    assert sum(sizes(digits)) == n
    assert test == pytest.approx(n / 5, abs=5) and len(digits.validation) == pytest.approx((n - test) / 5, abs=5)
    assert digits.num_classes == 10 and min(counts(digits.test.labels)) > 30


def test_digits_are_small_images_that_may_not_be_mirrored(digits):
    inputs = digits.train.inputs
    assert inputs.dtype == torch.uint8 and inputs.shape[1:] == (16, 16, 1) and inputs.max() == 240
    assert torch.equal(inputs[:, ::2, ::2], inputs[:, 1::2, 1::2])  # every pixel doubled
    assert not digits.flip


def test_channel_statistics_are_those_of_the_training_split_alone(digits):
    values = digits.train.inputs.double() / 255
    assert digits.mean.item() == pytest.approx(values.mean().item(), rel=1e-12)
    assert digits.std.item() == pytest.approx(values.std(correction=0).item(), rel=1e-12)


# Label noise.


def test_the_stated_share_of_labels_changes_and_evenly_to_all_others():
    labels = torch.arange(60_000) % 6
    noisy = noisy_labels(labels, 6, 0.3, "symmetric", 0)
    moved = noisy != labels
    sd = math.sqrt(0.3 * 0.7 / len(labels))
    assert moved.double().mean().item() == pytest.approx(0.3, abs=4 * sd)  # not 0.3 * 5/6
    offsets = counts((noisy - labels)[moved] % 6)
    expected = moved.sum().item() / 5
    assert offsets[0] == 0
    assert all(abs(n - expected) < 4 * math.sqrt(expected) for n in offsets[1:]), offsets


def test_superclass_noise_stays_inside_the_superclass():
    superclass = torch.tensor([0, 1, 0, 1, 0, 2])  # class 5 is alone and can only stay
    labels = torch.arange(6_000) % 6
    noisy = noisy_labels(labels, 6, 0.5, "superclass", 0, superclass)
    assert torch.equal(superclass[noisy], superclass[labels])
    seen = Counter(zip(labels.tolist(), noisy.tolist(), strict=True))
    assert {pair for pair in seen} == {(a, b) for a in range(6) for b in range(6) if superclass[a] == superclass[b]}
    assert seen[(1, 3)] == pytest.approx(500, abs=4 * math.sqrt(250))
    assert seen[(0, 2)] == pytest.approx(250, abs=4 * math.sqrt(250 * 0.75))


def test_superclass_noise_needs_superclasses():
    with pytest.raises(ValueError, match="expected a data set with superclasses"):
        noisy_labels(torch.arange(4), 4, 0.5, "superclass", 0)


def test_noise_is_on_training_and_validation_labels_and_never_on_test(tagged):
    splits = split(label_noise=0.4)
    for part in (splits.train, splits.validation):
        clean = tagged.train.labels[part.inputs.squeeze(1).long()]
        assert (part.labels != clean).double().mean().item() == pytest.approx(0.4, abs=0.1)
    assert torch.equal(splits.test.labels, tagged.test.labels)


def test_noise_depends_on_its_own_seed_alone(tagged):
    def labels_by_tag(**changes) -> dict[int, int]:
        splits = split(label_noise=0.4, **changes)
        return {int(tag): label for part in (splits.train, splits.validation)
                for tag, label in zip(part.inputs.squeeze(1), part.labels.tolist(), strict=True)}

    noisy = labels_by_tag()
    torch.rand(1)
    assert labels_by_tag(seed=5, seed_split=5) == noisy, "another split of the images has the same noise on each"
    fewer = labels_by_tag(train_fraction=0.3)
    assert fewer == {tag: noisy[tag] for tag in fewer} and len(fewer) < len(noisy)
    assert labels_by_tag(seed_noise=1) != noisy


def test_flips_are_counted_in_this_runs_own_samples(tagged):
    splits = split(label_noise=0.4, train_fraction=0.3)
    flips = sum(int((part.labels != tagged.train.labels[part.inputs.squeeze(1).long()]).sum())
                for part in (splits.train, splits.validation))
    assert splits.label_flips == flips > 0
    assert split().label_flips == 0


def test_training_and_validation_noise_differ_where_a_data_set_has_both():
    source = synthetic("capacity_competition", {"n": 20_000}, 0)
    splits = data.splits(RunConfig(dataset="synthetic", family="capacity_competition", family_options={"n": 20_000},
                                   label_noise=0.3))
    train = splits.train.labels != source.train.labels
    validation = splits.validation.labels != source.validation.labels
    assert not torch.equal(train, validation)
    assert torch.equal(splits.test.labels, source.test.labels)
    assert splits.label_flips == int(train.sum() + validation.sum())


# Batches.

PAD = 2


@pytest.fixture(scope="module")
def pictures():
    """Random images, so that every window of every image is one of a kind; the label is the image's index."""
    draw = np.random.default_rng(0)
    return Arrays(torch.from_numpy(draw.integers(0, 256, (240, 6, 8, 3), dtype=np.uint8)), torch.arange(240))


NORMALIZER = Normalizer(torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64),
                        torch.tensor([0.2, 0.3, 0.25], dtype=torch.float64), CPU)


def loader(arrays: Arrays, **changes) -> TrainLoader:
    options = {"batch_size": 24, "seed": 3, "augment": True, "flip": True, **changes}
    return TrainLoader(arrays, NORMALIZER, CPU, **options)


def order(of: TrainLoader, epoch: int = 0) -> list[int]:
    return [label for _, labels in of.epoch(epoch) for label in labels.tolist()]


def normalized(image: np.ndarray) -> np.ndarray:
    """One image (H, W, channels) as the network should see it, (channels, H, W)."""
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.25])
    return ((image / 255 - mean) / std).transpose(2, 0, 1)


def test_an_epoch_covers_every_sample_once(pictures):
    assert len(loader(pictures)) == 10
    assert sorted(order(loader(pictures))) == list(range(240))
    assert order(loader(pictures)) != list(range(240))


def test_a_last_batch_that_is_not_full_is_left_out_and_not_always_the_same(pictures):
    of = loader(pictures, batch_size=100)
    assert len(of) == 2 and [len(labels) for _, labels in of.epoch(0)] == [100, 100]
    assert len(set(order(of, 0))) == 200
    assert set(order(of, 0)) != set(order(of, 1))


def test_a_batch_larger_than_the_data_is_all_of_it(pictures):
    of = loader(pictures, batch_size=1000)
    assert of.batch_size == 240 and len(of) == 1 and sorted(order(of)) == list(range(240))


def test_no_sample_at_all_is_an_error(pictures):
    with pytest.raises(ValueError, match="at least one training sample"):
        loader(pictures.take(torch.arange(0)))


def test_the_order_depends_on_seed_and_epoch_alone(pictures):
    expected = order(loader(pictures))
    torch.manual_seed(99)
    used = loader(pictures, augment=False, batch_size=60)
    order(used, 4)
    assert order(used) == expected
    assert order(loader(pictures), 1) != expected
    assert order(loader(pictures, seed=4)) != expected


@pytest.mark.parametrize("start", [0, 4, 9, 10])
def test_entering_an_epoch_at_a_step_goes_on_as_the_full_epoch_does(pictures, start):
    full = list(loader(pictures).epoch(2, resolution=4))
    tail = list(loader(pictures).epoch(2, start, resolution=4))
    assert len(tail) == 10 - start
    for (inputs, labels), (same_inputs, same_labels) in zip(full[start:], tail, strict=True):
        assert torch.equal(inputs, same_inputs) and torch.equal(labels, same_labels)


def test_augmentation_is_a_window_of_the_reflected_image_possibly_mirrored(pictures):
    raw = pictures.inputs.numpy()
    used = Counter()
    for epoch in range(3):
        for batch, labels in loader(pictures).epoch(epoch):
            for image, index in zip(batch.numpy(), labels.tolist(), strict=True):
                padded = np.pad(raw[index], ((PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
                match = []
                for dy in range(2 * PAD + 1):
                    for dx in range(2 * PAD + 1):
                        window = padded[dy : dy + 6, dx : dx + 8]
                        for mirrored, candidate in ((False, window), (True, window[:, ::-1])):
                            if np.allclose(image, normalized(candidate), atol=1e-5):
                                match.append((dy, dx, mirrored))
                assert len(match) == 1, f"image {index} is {len(match)} of the windows"
                used[match[0]] += 1
    assert len(used) == 50 and max(used.values()) < 40  # 720 draws of 50 equally likely windows
    assert sum(n for (_, _, mirrored), n in used.items() if mirrored) == pytest.approx(360, abs=4 * math.sqrt(180))


def test_augmentation_differs_between_epochs_seeds_and_steps(pictures):
    same = pictures.take(torch.zeros(48, dtype=torch.int64))  # one image, over and over

    def batches(seed: int, epoch: int) -> list[torch.Tensor]:
        return [inputs for inputs, _ in loader(same, seed=seed).epoch(epoch)]

    first, second = batches(3, 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, batches(3, 1)[0]) and not torch.equal(first, batches(4, 0)[0])


def test_nothing_is_mirrored_where_that_changes_the_class(pictures):
    raw = pictures.inputs.numpy()
    for batch, labels in loader(pictures, flip=False).epoch(0):
        for image, index in zip(batch.numpy(), labels.tolist(), strict=True):
            padded = np.pad(raw[index], ((PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect")
            windows = [padded[dy : dy + 6, dx : dx + 8] for dy in range(5) for dx in range(5)]
            assert any(np.allclose(image, normalized(window), atol=1e-5) for window in windows)


def test_without_augmentation_images_are_only_normalised(pictures):
    for batch, labels in loader(pictures, augment=False).epoch(0):
        for image, index in zip(batch.numpy(), labels.tolist(), strict=True):
            np.testing.assert_allclose(image, normalized(pictures.inputs[index].numpy()), atol=1e-5)


def test_batches_are_float32_in_channels_last(pictures):
    for inputs, labels in (next(loader(pictures).epoch(0)), next(loader(pictures, augment=False).epoch(0)),
                           next(iter(EvaluationLoader(pictures, NORMALIZER, CPU)))):
        assert inputs.dtype == torch.float32 and labels.dtype == torch.int64
        assert inputs.shape[1:] == (3, 6, 8) and inputs.is_contiguous(memory_format=torch.channels_last)


def test_low_resolution_shrinks_what_full_resolution_shows(pictures):
    (full, _), (small, _) = next(loader(pictures).epoch(0)), next(loader(pictures).epoch(0, resolution=4))
    assert small.shape[2:] == (4, 4)
    torch.testing.assert_close(small, F.interpolate(full, size=(4, 4), mode="bilinear", antialias=True))
    assert next(loader(pictures).epoch(0, resolution=16))[0].shape[2:] == (6, 8), "images are never enlarged"


def test_evaluation_shows_every_sample_once_in_order_and_never_augmented(pictures):
    of = EvaluationLoader(pictures, NORMALIZER, CPU, batch_size=100)
    for _ in range(2):
        batches = list(of)
        assert [len(labels) for _, labels in batches] == [100, 100, 40]
        assert torch.cat([labels for _, labels in batches]).tolist() == list(range(240))
        shown = torch.cat([inputs for inputs, _ in batches]).numpy()
        np.testing.assert_allclose(shown, [normalized(image) for image in pictures.inputs.numpy()], atol=1e-5)


def test_features_pass_through_as_they_are():
    arrays = Arrays(torch.rand(30, 2), torch.arange(30))
    mean, std = data.channel_statistics(arrays.inputs)
    of = TrainLoader(arrays, Normalizer(mean, std, CPU), CPU, batch_size=10, seed=0, augment=True, flip=True)
    inputs, labels = next(of.epoch(0, resolution=1))
    assert torch.equal(inputs, arrays.inputs[labels])


def test_every_draw_has_its_own_address():
    assert derive(0, "order", 1) == derive(0, "order", 1) < 2**63
    addresses = [(0,), (1,), (0, "order", 1), (0, "order", 2), (0, "augment", 1), (0, "augment", 1, 0), (1, "order")]
    assert len({derive(*address) for address in addresses}) == len(addresses)
    assert derive(0, "order", 0) == 3991725939186754870, "committed records depend on this number"
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(torch.rand(3, generator=generator(0, "a")), torch.rand(3, generator=generator(0, "a")))
    assert torch.equal(torch.get_rng_state(), before)


# Synthetic families.


def capacity_competition_at(x: float, y: float, stripes: int, top2_stripes: int, common: float) -> list[float]:
    """The family's description once more, for one point and without tensors."""
    height = (y + 1) / 2
    probabilities = [0.0] * 5
    if x < 0:
        probabilities[min(int(height * stripes), stripes - 1) % 2] = 1.0
    else:
        probabilities[2] = common
        probabilities[3 + min(int(height * top2_stripes), top2_stripes - 1) % 2] = 1 - common
    return probabilities


@pytest.mark.parametrize("options", [{}, {"stripes": 8}, {"top2_stripes": 5, "common": 0.75}], ids=str)
def test_class_probabilities_are_those_described_and_sum_to_one(options):
    x = torch.cat([torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1,
                   torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [0.0, -1.0], [1.0, 1.0], [0.3, 0.0]])])
    found = FAMILIES["capacity_competition"](x, **options)
    assert found.sum(dim=1) == pytest.approx(np.ones(len(x)))
    full = {"stripes": 2, "top2_stripes": 4, "common": 0.6, **options}
    expected = [capacity_competition_at(*point, **full) for point in x.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_labels_are_drawn_with_those_probabilities():
    source = synthetic("capacity_competition", {"stripes": 3, "common": 0.7}, 0)
    for part in (source.train, source.validation, source.test):
        assert part.inputs.min() >= -1 and part.inputs.max() <= 1
        probabilities = FAMILIES["capacity_competition"](part.inputs, stripes=3, common=0.7).double()
        assert (probabilities[torch.arange(len(part)), part.labels] > 0).all()
        drawn = F.one_hot(part.labels, 5).double().sum(dim=0)
        sd = (probabilities * (1 - probabilities)).sum(dim=0).sqrt()
        assert ((drawn - probabilities.sum(dim=0)).abs() <= 4 * sd + 1e-6).all()


def test_parts_and_seeds_are_fresh_draws():
    def draw(seed: int, n: int = 20_000) -> Source:
        return synthetic("capacity_competition", {"n": n}, seed)

    source = draw(0)
    assert len(draw(0, 100).train) == 100 and len(source.validation) == len(source.test) == 20_000
    parts = [source.train, source.validation, source.test, draw(1).train]
    assert len({float(part.inputs[0, 0]) for part in parts}) == 4
    assert torch.equal(draw(0).train.inputs, source.train.inputs)


def test_unknown_families_and_options_are_named():
    with pytest.raises(ValueError, match="family='moons': expected one of 'capacity_competition'"):
        data.splits(RunConfig(dataset="synthetic", family="moons"))
    with pytest.raises(ValueError, match="family=None: expected one of"):
        data.splits(RunConfig(dataset="synthetic"))
    with pytest.raises(ValueError, match="unknown option 'stripe' of family .*: expected n, stripes, top2_stripes"):
        data.splits(RunConfig(dataset="synthetic", family="capacity_competition", family_options={"stripe": 3}))


# CIFAR.


@pytest.fixture
def offline(monkeypatch):
    """A machine without a network."""
    from torchvision.datasets import cifar

    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", fail)


def test_missing_cifar_says_what_to_do(offline, tmp_path):
    assert not images.cifar_present("cifar100", tmp_path)
    with pytest.raises(DataError) as caught:
        images.cifar100(tmp_path)
    text = str(caught.value)
    assert isinstance(caught.value, OSError)
    assert f"CIFAR100 is missing at {tmp_path}" in text and "no route to host" in text
    assert "cifar-100-python.tar.gz" in text and "md5 eb9058c3a382ffc7106e4002c42a8d85" in text
    assert "PAPERLIB_DATA" in text
    with pytest.raises(DataError, match="CIFAR10 is missing.*cifar-10-python.tar.gz"):
        images.cifar10(tmp_path)


@pytest.mark.parametrize("dataset", ["cifar100", "cifar100_superclasses"])
def test_half_a_cifar_is_called_incomplete_or_corrupt(offline, tmp_path, monkeypatch, dataset):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({"data": np.zeros((5, 3072), np.uint8)})[:-20])
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(DataError, match=r"incomplete or corrupt \(md5 differs\) at .*cifar-100-python.*deleted"):
        data.splits(RunConfig(dataset=dataset))


def test_cifar10_is_read_from_its_batches(tmp_path, monkeypatch):
    """The format of the official files, small and without their checksums."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 20, 3072), dtype=np.uint8)
    for name, values in zip(names, pixels, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": values, "labels": [i % 10 for i in range(20)]}))
    words = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": words}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[-1], None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})

    source = images.cifar10(tmp_path)
    assert len(source.train) == 100 and len(source.test) == 20 and source.class_names == tuple(words)
    assert source.flip and source.superclass is None
    assert torch.equal(source.train.labels, torch.arange(100) % 10)
    assert source.train.inputs.shape == (100, 32, 32, 3)
    red = source.test.inputs[3, :, :, 0].numpy()
    np.testing.assert_array_equal(red, pixels[-1, 3, :1024].reshape(32, 32))


@pytest.fixture(scope="module")
def cifar100() -> Source:
    if not images.cifar_present():
        pytest.skip(f"CIFAR-100 is not in {paths.DATA}: its files are needed to check what is read from them")
    return images.cifar100()


@pytest.mark.cifar100
def test_cifar100_has_100_classes_in_20_superclasses_of_5(cifar100):
    assert len(cifar100.train) == 50_000 and len(cifar100.test) == 10_000
    assert len(set(cifar100.class_names)) == 100
    assert counts(cifar100.train.labels) == [500] * 100 and counts(cifar100.test.labels) == [100] * 100
    assert counts(cifar100.superclass) == [5] * 20
    names = {name: int(group) for name, group in zip(cifar100.class_names, cifar100.superclass, strict=True)}
    flowers = ["orchid", "poppy", "rose", "sunflower", "tulip"]
    assert {names[name] for name in flowers} == {names["rose"]} and names["rose"] != names["cloud"]


@pytest.mark.cifar100
def test_cifar100_superclasses_are_the_same_images(cifar100):
    coarse = images.cifar100_superclasses()
    assert len(coarse.class_names) == 20 and "flowers" in coarse.class_names
    assert torch.equal(coarse.train.inputs, cifar100.train.inputs)
    assert torch.equal(coarse.train.labels, cifar100.superclass[cifar100.train.labels])
    assert torch.equal(coarse.test.labels, cifar100.superclass[cifar100.test.labels])


@pytest.mark.cifar100
def test_cifar100_statistics_are_the_published_ones(cifar100):
    mean, std = data.channel_statistics(cifar100.train.inputs)
    assert mean.tolist() == pytest.approx([0.50707516, 0.48654887, 0.44091784], abs=1e-8)
    assert std.tolist() == pytest.approx([0.26733429, 0.25643846, 0.27615047], abs=1e-8)


@pytest.mark.cifar100
def test_cifar100_splits(cifar100, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "cifar100", lambda config: cifar100)
    splits = data.splits(RunConfig())
    assert sizes(splits) == (45_000, 5_000, 10_000) and splits.flip
    assert counts(splits.validation.labels) == [50] * 100 and counts(splits.train.labels) == [450] * 100
    fifth = data.splits(RunConfig(train_fraction=0.2, label_noise=0.2, label_noise_kind="superclass"))
    assert sizes(fifth) == (9_000, 5_000, 10_000)
    assert torch.equal(fifth.validation.inputs, splits.validation.inputs)
    assert torch.equal(cifar100.superclass[fifth.validation.labels], cifar100.superclass[splits.validation.labels])
    assert fifth.label_flips / 14_000 == pytest.approx(0.2, abs=0.02)
    assert torch.equal(fifth.test.labels, splits.test.labels)

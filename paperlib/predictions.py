"""The logits of finished runs, for what the ranks in a record do not tell: scores, and changes made after training.

They are large and are not committed; what is computed from them is, with the code that did it.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperlib import metrics, records
from paperlib.records import Record


@dataclass(frozen=True)
class Predictions:
    """Of one split: ``logits`` float32 (n, C), ``labels`` int64 (n,), those that the split was judged by."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        logits, labels = self.logits, self.labels
        if logits.ndim != 2 or logits.dtype != np.float32 or labels.shape != logits.shape[:1]:
            raise ValueError(f"logits {logits.shape} of {logits.dtype} and labels {labels.shape}: expected float32 "
                             "(n, C) and (n,)")


def place(folder: Path | str, run_id: str) -> Path:
    """The file of one run: a compressed numpy archive."""
    return Path(folder) / f"{run_id}.npz"


def recorded(folder: Path | str, record: Record, split: str) -> Predictions:
    """The predictions of a recorded run, held to what the record says.

    Raises:
        FileNotFoundError: the run kept none.
        ValueError: they cannot be read, or the ranks that follow from them are not those of the record.
    """
    import torch  # records are read without it

    found = load(folder, record.run_id, split)
    own = metrics.label_ranks(torch.from_numpy(found.logits), torch.from_numpy(found.labels)).numpy()
    expected = record.ranks(split)
    differ = len(expected) if own.shape != expected.shape else int((own != expected).sum())
    if differ:
        raise ValueError(f"{place(folder, record.run_id)}: {differ} of {len(expected)} {split} ranks are not those of "
                         f"record {record.run_id}: expected the predictions that were kept when it was made")
    return found


def save(folder: Path | str, run_id: str, splits: Mapping[str, Predictions]) -> Path:
    """Write the predictions of a run atomically; ``splits`` by name, "validation" or "test"."""
    path = place(folder, run_id)
    arrays: dict[str, Any] = {
        f"{split}_{key}": value for split, found in splits.items()
        for key, value in (("logits", found.logits), ("labels", found.labels))}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    records.write_atomically(path, content.getvalue())
    return path


def load(folder: Path | str, run_id: str, split: str) -> Predictions:
    """The predictions of one run for one split.

    Raises:
        FileNotFoundError: the run kept none; says how runs keep them.
        ValueError: the file cannot be read, or has no such split.
    """
    path = place(folder, run_id)
    if not path.exists():
        raise FileNotFoundError(f"no predictions of run {run_id} in {folder}: a sweep keeps them with "
                                "--predictions FOLDER, for the runs that it makes then")
    try:
        with open(path, "rb") as file, np.load(file) as content:  # np.load alone leaves a broken file open
            arrays = dict(content)
    except (zipfile.BadZipFile, zlib.error, TypeError, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected the predictions of a run ({error}). Delete it and run its cell "
                         "again.") from error
    if not {f"{split}_logits", f"{split}_labels"} <= set(arrays):
        held = [name.removesuffix("_logits") for name in arrays if name.endswith("_logits")]
        raise ValueError(f"{path} holds no {split!r} predictions: expected one of {', '.join(held) or '(none)'}")
    return Predictions(arrays[f"{split}_logits"], arrays[f"{split}_labels"])

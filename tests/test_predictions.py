"""Kept logits: those that the record's ranks come from, whole or not there, and errors that name what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paperlib import metrics, predictions, train
from paperlib.config import RunConfig
from paperlib.predictions import Predictions

CONFIG = RunConfig(dataset="digits", model="mlp", width=8, epochs=1, batch_size=128, lr=0.1, precision="fp32")


@pytest.fixture
def some():
    return Predictions(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([2, 0]))


@pytest.mark.parametrize("test", [True, False])
def test_kept_logits_are_those_of_the_record(tmp_path, test):
    config = CONFIG.replace(evaluate_test=test)
    plain = train.train(config, commit="a test", quiet=True, device="cpu")
    record = train.train(config, commit="a test", quiet=True, device="cpu", keep=tmp_path / "kept")
    assert record.validation == plain.validation and record.test == plain.test
    for split in ("validation", *(["test"] if test else [])):
        found = predictions.load(tmp_path / "kept", config.run_id, split)
        assert found.logits.dtype == np.float32 and found.labels.dtype == np.int64
        ranks = metrics.label_ranks(torch.from_numpy(found.logits), torch.from_numpy(found.labels))
        assert ranks.tolist() == record.ranks(split).tolist()
    if not test:
        with pytest.raises(ValueError, match=r"holds no 'test' predictions: expected one of validation"):
            predictions.load(tmp_path / "kept", config.run_id, "test")


def test_runs_of_many_seeds_keep_none(tmp_path):
    config = CONFIG.replace(seed=(0, 1), augment=False)
    with pytest.raises(ValueError, match="expected a run of one seed"):
        train.train(config, commit="a test", quiet=True, keep=tmp_path)


def test_a_file_that_is_not_there_says_how_to_keep_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="--predictions FOLDER"):
        predictions.load(tmp_path, "abc", "test")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_cannot_be_read_is_named(tmp_path, some, content):
    path = predictions.save(tmp_path, "abc", {"test": some})
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ValueError, match=r"abc\.npz: expected the predictions of a run"):
        predictions.load(tmp_path, "abc", "test")


def test_what_does_not_fit_is_refused(some):
    for logits, labels in [(some.logits, some.labels[:1]), (some.logits.astype(float), some.labels),
                           (some.logits[0], some.labels)]:
        with pytest.raises(ValueError, match=r"expected float32 \(n, C\)"):
            Predictions(logits, labels)


def test_an_archive_of_something_else_is_named(tmp_path):
    np.savez(tmp_path / "abc.npz", test_logits=np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="holds no 'test' predictions"):
        predictions.load(tmp_path, "abc", "test")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "abd.npz")
    with pytest.raises(ValueError, match=r"abd\.npz: expected the predictions of a run"):
        predictions.load(tmp_path, "abd", "test")


def test_a_file_is_whole_or_the_one_before(tmp_path, some, monkeypatch):
    predictions.save(tmp_path, "abc", {"test": some})

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk is full"):
        predictions.save(tmp_path, "abc", {"test": Predictions(some.logits + 1, some.labels)})
    assert np.array_equal(predictions.load(tmp_path, "abc", "test").logits, some.logits)
    assert [path.name for path in tmp_path.iterdir()] == ["abc.npz"]

"""How fast training is on each machine that was measured: the documents of ``experiments/performance.md``."""

import json
from typing import Any

import pandas as pd

from paperlib import paths

_KEYS = {"schema", "quick", "device", "environment", "peaks", "rates"}  # the rest is missing where time ran out


def performance_documents() -> dict[str, dict[str, Any]]:
    """The documents by the name of their device, CPUs first.

    Raises:
        FileNotFoundError: there is none; says how to make one.
        ValueError: a file is no such document, or one of tiny networks.
    """
    documents = {}
    for path in sorted(paths.PERFORMANCE.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or _KEYS - document.keys():
            raise ValueError(f"{path}: expected the document of experiments/performance.md")
        if document["quick"]:
            raise ValueError(f"{path} was made with quick=true, whose numbers mean nothing: run "
                             "experiments/performance.md again without it")
        documents[document["environment"]["device"]] = document
    if not documents:
        raise FileNotFoundError(f"no file in {paths.PERFORMANCE}: make one with experiments/performance.md, as "
                                "experiments/README.md shows")
    return dict(sorted(documents.items(), key=lambda item: item[1]["device"] != "cpu"))


def training_rates(kind: str = "cpu") -> pd.DataFrame:
    """Images a second of the real loop and of its ceiling, one row for each device, network and precision.

    Args:
        kind: of device: cpu (per core-second) or cuda (per second).

    Columns: device, network, model, width, precision, batch_size, pixels, macs (forward, of one image), loop, ceiling
    and ratio (loop / ceiling), each with quartiles ``_low`` and ``_high``, gflops (of the loop), best (GFLOP/s of the
    fastest plain convolution in that precision), fraction (gflops / best), ceiling_fraction, earlier (rate of the
    ceiling / that of our first measurement on another machine; NaN for a network that was not in it).
    """
    frame = _section("rates", kind)
    if frame.empty:
        return frame
    peaks = _section("peaks", kind)
    best = peaks[peaks["kind"] == "convolution"].groupby(["device", "precision"])["best"].max()
    frame["best"] = best.loc[pd.MultiIndex.from_frame(frame[["device", "precision"]])].to_numpy()
    frame["fraction"] = frame["gflops"] / frame["best"]
    frame["ceiling_fraction"] = frame["fraction"] / frame["ratio"]
    known = json.loads(paths.EARLIER_RATES.read_text(encoding="utf-8"))["rows"]
    frame["earlier"] = [row.ceiling / _earlier(row, known) for row in frame.itertuples()]
    return frame


def step_parts(kind: str = "cpu") -> pd.DataFrame:
    """Where the time of a step goes: device, network, part, seconds, share, ..."""
    return _section("profiles", kind)


def loss_shares(kind: str = "cpu") -> pd.DataFrame:
    """Seconds of each loss with its derivative, and its share of a step of the fast network: device, loss, ..."""
    return _section("losses", kind)


def augmentation_rates(kind: str = "cpu") -> pd.DataFrame:
    """Augmented images a second: device, path, images, slower (how many times slower than ours); quartiles."""
    return _section("augmentation", kind)


def choice_costs(kind: str = "cpu") -> pd.DataFrame:
    """Time of a bare step made otherwise over that of the recipe's: device, network, choice, time with quartiles."""
    return _section("choices", kind)


def ensemble_speedups(kind: str = "cpu") -> pd.DataFrame:
    """Many small models as one program against a loop over them.

    Columns: device, models, batch_size, hidden, seconds of a model's step (batched, plain) and times
    (plain / batched), with quartiles.
    """
    return _section("ensembles", kind)


def determinism_costs(kind: str = "cpu") -> pd.DataFrame:
    """Time of a deterministic step over that of a free one: device, network, cost with quartiles."""
    return _section("determinism", kind)


def _section(name: str, kind: str) -> pd.DataFrame:
    frame = pd.DataFrame([{"device": device} | row for device, document in performance_documents().items()
                          if document["device"] == kind for row in document.get(name, [])])
    if {"model", "pixels"} <= set(frame):
        frame["network"] = [f"{row.model} {row.width}, batch {row.batch_size}"
                            + ("" if row.pixels == 32 else f", {row.pixels} px") for row in frame.itertuples()]
    return frame


def _earlier(row: Any, known: list[dict[str, Any]]) -> float:
    """The rate of the network with as many multiply-accumulates, whatever it is called by now."""
    found = [entry["images"] for entry in known if entry["precision"] == row.precision
             and abs(row.macs / 1e6 / entry["million_macs"] - 1) < 0.01]
    return found[0] if found else float("nan")

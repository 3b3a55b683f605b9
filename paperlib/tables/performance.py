"""Tables of what losses and training were found to do and to cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paperlib import analysis
from paperlib.tables._text import rows, sign


def calibration(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the test of every loss for top-k calibration found: at how many class probabilities which set wins."""
    found = analysis.calibration() if frame is None else frame
    return pd.DataFrame({
        "loss": [f"{row.label}, {row.note}" if row.note else row.label for row in rows(found)],
        "right": [f"{row.right} of {row.n}" for row in rows(found)],
        "tied": found["tied"].astype(str), "wrong": found["wrong"].astype(str),
        "least gap": [sign(row.gap, 4).removeprefix("+") for row in rows(found)],
        "only approached": [", ".join(f"{count} {where}" for count, where in [
            (row.at_tie, "at a tie"), (row.far_out, "far out")] if count) or "–" for row in rows(found)],
        "largest regret (points)": [f"{100 * row.regret:.1f}" for row in rows(found)],
        "descents that end right (%)": [f"{100 * row.descents_right:.0f}" for row in rows(found)],
        "from cross entropy (%)": [f"{100 * row.kept_right:.0f}" for row in rows(found)],
        "how": found["solver"].map({"search": "search", "linear": "linear programs"})})


def loss_speed(frame: pd.DataFrame | None = None, condition: str = "loop") -> pd.DataFrame:
    """Time of each loss of the library as a multiple of torch's cross entropy, by size: median [quartiles]."""
    found = analysis.loss_costs() if frame is None else frame
    found = found[(found["side"] != "rival") & (found["condition"] == condition)]
    return _by_size(found, [f"{row.ratio:.1f} [{row.ratio_low:.1f}, {row.ratio_high:.1f}]" for row in rows(found)],
                    ["loss"])


def rival_speed(frame: pd.DataFrame | None = None, condition: str = "loop") -> pd.DataFrame:
    """Time of other people's code as a multiple of the same loss here, by size: median [quartiles]."""
    found = analysis.loss_costs() if frame is None else frame
    found = found[(found["side"] == "rival") & (found["condition"] == condition)]
    cells = [f"{row.times_ours:.1f} [{row.times_ours_low:.1f}, {row.times_ours_high:.1f}]" for row in rows(found)]
    return _by_size(found, cells, ["loss", "code"]).rename(columns={"code": "other code"})


def loss_memory(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Peak memory of each loss beyond the logits, in multiples of them and of torch's cross entropy, by size."""
    found = analysis.loss_memory() if frame is None else frame
    return _by_size(found, [f"{row.logits:.1f} ({row.ratio:.1f} x)" for row in rows(found)], ["loss"])


def training_rates(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Images a second of the training loop, its share of bare steps, and both beside the fastest convolution."""
    found = analysis.training_rates() if frame is None else frame
    return pd.DataFrame({
        "network": found["network"], "precision": found["precision"],
        "million MACs": [f"{row.macs / 1e6:.1f}" for row in rows(found)],
        "images a second": [f"{row.loop:.0f}" for row in rows(found)],
        "of bare steps (%)": [_percent(row, "ratio", 0) for row in rows(found)],
        "of the convolution (%)": [f"{100 * row.fraction:.0f}" for row in rows(found)]})


def loss_shares(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of each loss with its derivative, and its share of a step, the cheapest first."""
    found = (analysis.loss_shares() if frame is None else frame).sort_values("seconds", kind="stable")
    return pd.DataFrame({
        "loss": found["loss"], "ms": [f"{1e3 * row.seconds:.2f}" for row in rows(found)],
        "share of a step (%)": [_percent(row, "share", 2) for row in rows(found)]})


def augmentation_rates(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Augmented images a second of each path, and how many times slower than the batched loader it is."""
    found = analysis.augmentation_rates() if frame is None else frame
    return pd.DataFrame({
        "path": found["path"],
        "images a second": [f"{row.images:.0f} [{row.images_low:.0f}, {row.images_high:.0f}]" for row in rows(found)],
        "times slower": [f"{row.slower:.1f}" for row in rows(found)]})


def choice_costs(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of a bare step made otherwise, as a multiple of the recipe's."""
    found = analysis.choice_costs() if frame is None else frame
    return pd.DataFrame({"choice": found["choice"], "time": [_multiple(row, "time") for row in rows(found)]})


def determinism_costs(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Time of a step with deterministic algorithms, as a multiple of that without."""
    found = analysis.determinism_costs() if frame is None else frame
    return pd.DataFrame({"network": found["network"], "time": [_multiple(row, "cost") for row in rows(found)]})


def ensemble_speedups(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Microseconds of one model's step, alone and in a batched program, and how many times faster that is."""
    found = analysis.ensemble_speedups() if frame is None else frame
    return pd.DataFrame({
        "models": [str(row.models) for row in rows(found)], "batch": [str(row.batch_size) for row in rows(found)],
        "hidden units": [str(row.hidden) for row in rows(found)],
        "one after another (µs)": [f"{1e6 * row.plain:.0f}" for row in rows(found)],
        "together (µs)": [f"{1e6 * row.batched:.1f}" for row in rows(found)],
        "times faster": [f"{row.times:.1f} [{row.times_low:.1f}, {row.times_high:.1f}]" for row in rows(found)]})


def measurements() -> pd.DataFrame:
    """Device, versions, code and date of each measurement of speed."""
    return pd.DataFrame([_measurement(name, found) for name, found in analysis.performance_documents().items()])


def _measurement(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    environment, seconds = found["environment"], found.get("cpu_seconds")
    return {"device": name, "threads": str(environment["threads"]), "instruction set": environment["cpu_capability"],
            "torch": environment["torch"], "commit": (found.get("code", {}).get("commit") or "unknown")[:7],
            "date": found.get("finished", "cut off")[:10],
            "minutes of CPU": "–" if seconds is None else f"{seconds / 60:.0f}"}


def _multiple(row: Any, name: str) -> str:
    """A ratio with its quartiles."""
    low, middle, high = (getattr(row, key) for key in (f"{name}_low", name, f"{name}_high"))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _percent(row: Any, name: str, digits: int = 1) -> str:
    """A fraction with its quartiles, in percent."""
    low, middle, high = (100 * getattr(row, key) for key in (f"{name}_low", name, f"{name}_high"))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _by_size(found: pd.DataFrame, cells: Sequence[str], index: list[str]) -> pd.DataFrame:
    """One column a size, in the order of the frame."""
    sizes = [f"{row.n} x {row.num_classes}" for row in rows(found)]
    wide = found.assign(size=sizes, cell=list(cells)).pivot(index=index, columns="size", values="cell")
    wide = wide.loc[found.set_index(index).index.unique(), list(dict.fromkeys(sizes))]
    return wide.fillna("–").reset_index().rename_axis(columns=None)

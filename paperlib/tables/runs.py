"""Tables of a grid's runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paperlib import analysis, grids, paths, records
from paperlib.grids import GridLike
from paperlib.reruns import compare
from paperlib.tables._text import in_points, mean_sd, named, or_else, rows, signed, target_names, wide

#: Names of what tells machines apart.
_ENVIRONMENT = {"device": "device", "threads": "threads", "cpu_capability": "instruction set", "platform": "platform",
                "engine": "training steps", "python": "Python", "torch": "PyTorch", "torchvision": "torchvision",
                "numpy": "NumPy", "paperlib": "paperlib"}


def accuracies(grid_name: GridLike, ks: Sequence[int] = (1, 5, 10, 20), targets: Sequence[int] = (95, 99),
               links: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """Accuracy at some k, and the smallest k for some targets, of every loss.

    Args:
        grid_name: the grid.
        ks: out of 1, 2, 5, 10 and 20.
        targets: in percent, out of 90, 95 and 99.
        links: pages to link a loss to, by (setup, variant).
    """
    columns = {f"top{k}": f"top-{k}" for k in ks} | {f"k{target}": f"k for {target} %" for target in targets}
    frame = analysis.summary(grid_name, list(columns))
    unit = [100 if quantity.startswith("top") else 1 for quantity in frame["quantity"]]
    frame["text"] = list(map(mean_sd, unit * frame["mean"], unit * frame["sd"]))
    frame["n"] = frame.groupby(["setup", "variant"])["n"].transform("max")
    return wide(frame, grid_name, "quantity", columns, links, extra=["n"])


def differences(grid_name: GridLike, ks: Sequence[int] = (1, 5, 10, 25), comparisons: int = 1,
                frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Accuracy minus cross entropy's in percentage points, with paired t intervals."""
    found = analysis.differences(grid_name, ks=ks, comparisons=comparisons) if frame is None else frame.copy()
    found["text"] = in_points(found)
    return wide(found, grid_name, "k", {k: f"top-{k}" for k in found["k"].unique()}, extra=["n"])


def candidates(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Smallest k for each target, averaged over seeds, with intervals over seeds and images."""
    found = analysis.candidates(grid_name) if frame is None else frame.copy()
    found["text"] = [f"{row.k:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in rows(found)]
    return wide(found, grid_name, "target", target_names(found), extra=["n"])


def candidate_differences(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How many candidates more than cross entropy, with paired intervals over seeds and images."""
    found = analysis.candidate_differences(grid_name) if frame is None else frame.copy()
    found["text"] = [signed(row.difference, row.low, row.high, 1) for row in rows(found)]
    return wide(found, grid_name, "target", target_names(found), extra=["n"])


def certificates(grid_name: GridLike, targets: Sequence[float] = (0.95, 0.99)) -> pd.DataFrame:
    """Smallest k of each trained network with its exact interval over images, and the k certified for it."""
    found = analysis.certificates(grid_name, targets)
    found["text"] = [f"{row.k} [{row.low}, {or_else(row.high, 'no bound')}]" for row in rows(found)]
    found["promise"] = [or_else(row.certified, "none") for row in rows(found)]
    keys = ["setup", "variant", "seed"]
    parts = {}
    for target in targets:
        own = found[found["target"] == target].set_index(keys)
        parts[f"k for {100 * target:g} %"] = own["text"]
        parts[f"certified for {100 * target:g} %"] = own["promise"]
    return named(pd.DataFrame(parts).reset_index(), grid_name)


def status(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Runs that have a record, and how many miss one, with the first of them by the grid's priority."""
    found = analysis.status(grid_names)
    found["core_hours"] = [f"{hours:.1f}" for hours in found["core_hours"]]
    found["missing"] = [_missing(row) for row in rows(found)]
    found = found.drop(columns="missing_runs").replace({"protocol": {"": "–"}})
    return found.rename(columns={"core_hours": "core hours", "missing": "missing runs"}).astype(str)


def _missing(row: "pd.Series[Any]") -> str:
    if not row.runs:
        return "all: not yet run"
    first = row.missing_runs.split(", ")[0]
    return f"{row.missing}, next {first}" if first else "none"


def explorer_grids() -> pd.DataFrame:
    """Grids that report test results, and whether the explorer page shows them."""
    found = analysis.explorer_grids()
    words = {"whole": "yes", "part": "what has finished", "elsewhere": "with another grid", "no": "not yet"}
    return pd.DataFrame({"grid": found["grid"], "title": found["title"], "in the explorer": found["shown"].map(words)})


def machines(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Device and versions, a column for each machine that runs were made on."""
    found = analysis.environments(grid_names).drop_duplicates("machine").sort_values("machine")
    table = found.set_index("machine")[[*_ENVIRONMENT]].rename(columns=_ENVIRONMENT).astype(str).T
    table.columns = [f"machine {number}" for number in table.columns]
    return table.rename_axis("what").reset_index()


def origins(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """On which machine, when and with which code the runs of each grid were made."""
    table = []
    for (grid, machine), own in analysis.environments(grid_names).groupby(["grid", "machine"], sort=False):
        first, last = own["first"].min(), own["last"].max()
        code = [f"{(row.commit or 'unknown')[:7]}{' (changed)' if row.dirty is True else ''}: {row.runs}"
                for row in rows(own)]
        table.append({"grid": grid, "machine": str(machine), "runs": str(own["runs"].sum()),
                      "dates": first if first == last else f"{first} to {last}", "runs by commit": ", ".join(code)})
    return pd.DataFrame(table)


def reruns() -> pd.DataFrame:
    """The runs of ``paths.RERUNS`` beside the committed records of the same runs; a row a run, perhaps none.

    Accuracies are those of the last split that both evaluated, at the k of training.
    """
    found = compare(records.load(paths.RERUNS), records.load()) if paths.RERUNS.exists() else []
    cells = {cell.config.run_id: (grid, cell) for name in reversed(grids.names())
             if (grid := grids.load_filled(name)) for cell in grid.cells}
    table = []
    for rerun in found:
        grid, cell = cells[rerun.again.run_id]
        accuracy = rerun.accuracies[-1]
        known = [f"{100 * value:.1f}" for value in (accuracy.low, accuracy.high) if math.isfinite(value)]
        table.append({
            "run": f"{grid.setups[cell.setup]['label']}: {grid.variants[cell.variant]['label']} (seed {cell.seed})",
            "changed": ", ".join(f"{key} {before} → {again}" for key, (again, before) in rerun.changes.items()) or "–",
            "accuracy (%)": f"{accuracy.split} top-{accuracy.k}",
            "record": f"{100 * accuracy.before:.2f}", "again": f"{100 * accuracy.again:.2f}",
            "a further seed": " to ".join(known) or "unknown", "outcome": rerun.summary})
    return pd.DataFrame(table)


def run_list(grid_name: GridLike) -> pd.DataFrame:
    """Every run of a grid: its place, identifier, top-1 accuracy and wall time."""
    found = named(analysis.runs(grid_name), grid_name)
    found["top-1 (%)"] = [f"{100 * value:.1f}" for value in found["top1"]]
    found["minutes"] = [f"{value:.1f}" for value in found["minutes"]]
    return found[["setup", "loss", "seed", "run_id", "top-1 (%)", "minutes"]].rename(columns={"run_id": "run"})

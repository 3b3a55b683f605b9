"""Tables and sentences on scores that are changed after training."""

import pandas as pd

from paperlib import analysis
from paperlib.analysis.comparisons import PRIMARY_GRID
from paperlib.grids import GridLike
from paperlib.tables._text import in_points, list_rows, rows, signed, wide

#: What to call the methods of the document.
METHODS = {"none": "as they are", "temperature": "temperature", "bias": "bias", "vector": "vector", "matrix": "matrix",
           "bias-topk": "bias, by top-k entropy", "chosen": "chosen on validation"}
TARGETS = (0.95, 0.99)


def posthoc_differences(grid_name: GridLike = PRIMARY_GRID, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Accuracy of adjusted networks minus that of cross entropy as it is, in percentage points.

    Of cross entropy every method that can change a rank, of the other losses what was chosen, and none.
    """
    found = analysis.posthoc_differences(grid_name) if frame is None else frame.copy()
    found = found[(found["method"] != "temperature") & (
        (found["variant"] == "ce") | found["method"].isin(["none", "chosen"]))]
    found = found.assign(text=in_points(found), scores=found["method"].map(METHODS))
    names = {k: f"top-{k}" for k in found["k"].unique()}
    table = wide(found, grid_name, "k", names, extra=["scores", "n"])
    return table[["setup", "loss", "scores", *names.values(), "n"]].rename(columns={"loss": "trained with"})


def posthoc_lists(grid_name: GridLike = PRIMARY_GRID, target: float = 0.99) -> pd.DataFrame:
    """As :func:`paperlib.tables.lists`, of cross entropy with the scores that validation images chose."""
    found = analysis.posthoc_lists(grid_name, target)
    labels = analysis.labels(grid_name) | {"changed": "cross entropy, scores changed"}
    certified = {(row.setup, "changed"): row.certified for row in rows(found)}
    return list_rows(found.assign(variant="changed"), certified, target, labels)


def posthoc_added(grid_name: GridLike = PRIMARY_GRID, variant: str = "transition") -> str:
    """Whether another loss still adds to changed scores, setup by setup; empty while none is complete."""
    part = analysis.posthoc_part(grid_name)
    found = analysis.posthoc_differences(grid_name, ks=(5,), scores="chosen", comparisons=1)
    own = found.query("variant == @variant and method == 'chosen'")
    if part is None or own.empty:
        return ""
    labels, still = analysis.labels(grid_name), analysis.idle(part, variant)
    return "; ".join(f"{'yes' if row.low > 0 else 'no' if row.high < 0 else 'not shown'} with {labels[row.setup]}, "
                     f"{gain} points of top-5" for gain, row in zip(in_points(own), rows(own), strict=True)
                     if row.setup not in still)


def posthoc_answer(grid_name: GridLike = PRIMARY_GRID, trained: str = "transition",
                   ks: tuple[int, ...] = (1, 5)) -> pd.DataFrame:
    """What the chosen adjustment of cross entropy buys, what another loss does, and both: a row each, by setup.

    Accuracy in percentage points, and candidates more or fewer. Empty while no setup is complete.
    """
    part = analysis.posthoc_part(grid_name)
    if part is None:
        return pd.DataFrame()
    labels, still = analysis.labels(grid_name), analysis.idle(part, trained)
    gains = analysis.posthoc_differences(grid_name).set_index(["setup", "variant", "method", "k"])
    saved = analysis.posthoc_candidates(grid_name, targets=TARGETS, variants=("ce", trained)).set_index(
        ["setup", "variant", "method", "target"])
    table = []
    for setup in part.setups:
        for words, variant, method in (("scores changed", "ce", "chosen"), (trained, trained, "none"),
                                       ("both", trained, "chosen")):
            if (setup, variant, method, ks[0]) not in gains.index or (variant == trained and setup in still):
                continue
            line = {"setup": labels[setup], "what": words}
            for k in ks:
                row = gains.loc[(setup, variant, method, k)]
                line[f"top-{k}"] = signed(100 * row["mean"], 100 * row["low"], 100 * row["high"], 2)
            for target in TARGETS:
                row = saved.loc[(setup, variant, method, target)]
                line[f"k for {100 * target:g} %"] = signed(row["difference"], row["low"], row["high"])
            table.append(line | {"n": int(gains.loc[(setup, variant, method, ks[0]), "n"])})
    return pd.DataFrame(table)

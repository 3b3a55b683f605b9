"""Tables and sentences on scores that are changed after training."""

import pandas as pd

from paperlib import analysis
from paperlib.analysis.comparisons import PRIMARY_GRID
from paperlib.grids import GridLike
from paperlib.tables._text import rows, signed, wide

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
    found = found.assign(text=[signed(100 * row.mean, 100 * row.low, 100 * row.high, 2) for row in rows(found)],
                         scores=found["method"].map(METHODS))
    names = {k: f"top-{k}" for k in found["k"].unique()}
    table = wide(found, grid_name, "k", names, extra=["scores", "n"])
    return table[["setup", "loss", "scores", *names.values(), "n"]].rename(columns={"loss": "trained with"})


def posthoc_sentences(grid_name: GridLike = PRIMARY_GRID, trained: str = "transition",
                      ks: tuple[int, ...] = (1, 5)) -> list[str]:
    """One paragraph a setup: what the chosen adjustment does to cross entropy, what training does, and what both do.

    Empty while no setup is complete. Of a setup in which the trained loss never left cross entropy it has the first
    alone.
    """
    part = analysis.posthoc_part(grid_name)
    if part is None:
        return []
    labels, still = analysis.labels(grid_name), analysis.idle(part, trained)
    gains, saved = analysis.posthoc_differences(grid_name), analysis.posthoc_candidates(grid_name, targets=TARGETS)
    by_place = gains.set_index(["setup", "variant", "method", "k"])
    few = saved.set_index(["setup", "variant", "method", "target"])

    def changes(setup: str, variant: str, method: str) -> str:
        texts = []
        for k in ks:
            row = by_place.loc[(setup, variant, method, k)]
            texts.append(f"top-{k} by {signed(100 * row['mean'], 100 * row['low'], 100 * row['high'], 2)} points")
        for target in TARGETS:
            row = few.loc[(setup, variant, method, target)]
            change = signed(row["difference"], row["low"], row["high"])
            texts.append(f"the candidates for {100 * target:g} % by {change}")
        return ", ".join(texts[:-1]) + f" and {texts[-1]}"

    found = []
    for setup in part.setups:
        if (setup, "ce", "chosen", ks[0]) not in by_place.index:
            continue
        seeds = int(by_place.loc[(setup, "ce", "chosen", ks[0])]["n"])
        text = f"**{labels[setup]}** ({seeds} seeds): the adjustment changes {changes(setup, 'ce', 'chosen')}."
        if (setup, trained, "none", ks[0]) in by_place.index and setup not in still:
            text += (f" The {trained} changes {changes(setup, trained, 'none')}. Both together change "
                     f"{changes(setup, trained, 'chosen')}.")
        found.append(text)
    return found

"""How often a list length that was chosen on validation images keeps its promise on the test images."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from paperlib import stats
from paperlib.analysis import frames
from paperlib.grids import GridLike


def promises(grid_name: GridLike, targets: Sequence[float] = frames.TARGETS, level: Any = 0.95) -> pd.DataFrame:
    """Choose k for a target on the validation images of each network, and check it on its test images.

    Two rules choose: "smallest", the smallest k that reaches the target, and "certified",
    :func:`paperlib.stats.certified_k`. Networks whose validation labels are noisy promise something else than what is
    checked, and are left out. The networks share their images, so they are no independent trials.

    Args:
        grid_name: the grid.
        targets: accuracies to promise.
        level: confidence of the certified k.

    Returns:
        One row a setup, target and rule, over all variants and seeds. Columns: setup, target, rule, images (of
        validation), test_images, networks (for which the rule finds a k), held (of those, how many reach the target
        on test), k (mean), worst (the lowest test accuracy at the chosen k).
    """
    rows = []
    for cell, record in frames.joined(grid_name)[1]:
        if cell.config.label_noise:
            continue
        chosen_on, checked_on = record.ranks("validation"), record.ranks("test")
        for target in targets:
            for rule, k in (("smallest", stats.smallest_k_statistic([target])(chosen_on)[0]),
                            ("certified", stats.certified_k(chosen_on, target, level))):
                hits = None if k is None else int((checked_on <= k).sum())
                reached = None if k is None else bool(k >= stats.smallest_k_statistic([target])(checked_on)[0])
                rows.append({"setup": cell.setup, "target": target, "rule": rule, "images": len(chosen_on),
                             "test_images": len(checked_on), "networks": int(k is not None), "held": reached, "k": k,
                             "worst": None if hits is None else hits / len(checked_on)})
    columns = ["setup", "target", "rule", "images", "test_images", "networks", "held", "k", "worst"]
    found = pd.DataFrame(rows, columns=columns).astype({"held": "boolean", "k": "Float64", "worst": "Float64"})
    keys = ["setup", "target", "rule", "images", "test_images"]
    how: dict[str, Any] = {"networks": "sum", "held": "sum", "k": "mean", "worst": "min"}
    return found.groupby(keys, sort=False).agg(how).reset_index()[columns].astype({"held": "int64"})

"""What a loss does to single classes and superclasses, and to scores: the document of ``experiments/by_class.py``.

Intervals and p values here are over training seeds, for these test images. The spread over classes and the
question whether hard classes gain are about the classes themselves: each is computed from products of numbers that
share neither a seed nor an image (each class's test images are halved), so that chance that two numbers share cannot
look like an effect.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as distributions

from paperlib import documents, paths, stats
from paperlib.analysis import frames, study
from paperlib.grids import Grid, GridLike

_SCRIPT = "experiments/by_class.py"
#: From so many seeds on, sign flips can reach any usual level over many comparisons; Holm's t tests before.
FLIPS = 8
_HOLM, _FLIPS = "t tests, Holm", "sign flips, largest |t|"

#: By setup and variant: how often each class of each half of the images was right, (S, 2, C, values of k).
Hits = dict[tuple[str, str], NDArray[np.int64]]


def class_document() -> dict[str, Any]:
    """The document: ``settings``, ``code``, ``environment``, ``core_seconds``, ``cells`` by run id.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document, or not complete.
    """
    return documents.read(paths.CLASSES, _SCRIPT)


def counted(grid_name: GridLike, baseline: str = "ce", scored: bool = False) -> Grid | None:
    """The part of a grid that can be compared, as :func:`paperlib.analysis.finished`, and whose runs were counted.

    Records may arrive before they are counted: the document then still serves for the runs that it has.

    Args:
        grid_name: the grid.
        baseline: variant that others are compared with.
        scored: whether runs must also have measured scores.

    Returns:
        None: no setup has the baseline and another variant.
    """
    held = {name for name, cell in class_document()["cells"].items() if cell["scores"] is not None or not scored}
    return study.finished(grid_name, baseline=baseline, held=held)


def class_hits(grid_name: GridLike) -> Hits:
    """How many test images of each half and class have their label among the first k: (S, 2, C, values of k).

    The values of k are those of the document's settings.

    Raises:
        ValueError: the document lacks a run of the grid, or was made with another record of it.
    """
    document = class_document()
    rows: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    for cell, record in frames.joined(grid_name)[1]:
        found = document["cells"].get(record.run_id)
        if found is None:
            raise ValueError(f"{paths.CLASSES} has no run {record.run_id} ({cell.place} of {cell.grid}): add it with "
                             f"python {_SCRIPT} {cell.grid}")
        own = np.array(list(found["hits"].values())).transpose(1, 2, 0)
        right = record.counts("test")[0].cumsum()[[k - 1 for k in document["settings"]["ks"]]]
        if (own.sum(axis=(0, 1)) != right).any():
            raise ValueError(f"{paths.CLASSES} counts another record of run {record.run_id} than there is now: make "
                             f"it again with python {_SCRIPT} {cell.grid}")
        rows.setdefault((cell.setup, cell.variant), []).append(own)
    return {key: np.stack(value) for key, value in rows.items()}


def class_differences(grid_name: GridLike, baseline: str = "ce", level: float = 0.95,
                      by: str = "class") -> pd.DataFrame:
    """What each class gains over the baseline, paired by seed, with t intervals and p values for all classes at once.

    Args:
        grid_name: the grid, or a part of one.
        baseline: variant to subtract.
        level: of each interval, which stands alone.
        by: "class" or "superclass".

    Returns:
        Columns: setup, variant, k, name, group (superclass of a class), baseline (its accuracy), mean (difference of
        accuracies), sd, n (seeds), low, high, p (adjusted over all classes of the setup, variant and k), test (how:
        sign flips of whole seeds with the largest absolute t, or with fewer than eight seeds t tests with Holm's
        correction).

    Raises:
        ValueError: unknown baseline or ``by``, or no superclasses.
    """
    about, hits = class_document()["settings"]["data"], class_hits(grid_name)
    frames.require_variant(hits, baseline)
    images = np.array(about["images"]).sum(axis=0)
    names, group_of = _members(about, by)
    if by == "superclass":
        hits = {key: np.stack([own[:, :, group_of == group].sum(axis=2) for group in range(len(names))], axis=2)
                for key, own in hits.items()}
        images = np.bincount(group_of, weights=images, minlength=len(names))
    groups = ([about["superclasses"][group] for group in group_of] if by == "class" and about["superclasses"]
              else names)
    parts = []
    for (setup, variant), own in hits.items():
        if variant == baseline:
            continue
        before = hits[setup, baseline].sum(axis=1) / images[:, None]
        gaps = own.sum(axis=1) / images[:, None] - before
        for place, k in enumerate(class_document()["settings"]["ks"]):
            parts.append(pd.DataFrame({
                "setup": setup, "variant": variant, "k": k, "name": names, "group": groups,
                "baseline": before[:, :, place].mean(axis=0), **_tests(gaps[:, :, place], images, level)}))
    return pd.concat(parts, ignore_index=True)


def _members(about: dict[str, Any], by: str) -> tuple[list[str], NDArray[np.int64]]:
    if by not in ("class", "superclass"):
        raise ValueError(f"by={by!r}: expected 'class' or 'superclass'")
    if by == "superclass" and not about["superclasses"]:
        raise ValueError(f"by='superclass': {about['dataset']} has none, expected 'class'")
    group_of = np.array(about["superclass_of"] or [0] * len(about["classes"]), dtype=np.int64)
    return about["superclasses" if by == "superclass" else "classes"], group_of


def _tests(gaps: NDArray[np.float64], images: NDArray[Any], level: float) -> dict[str, Any]:
    """Columns of differences (S, C)."""
    seeds = len(gaps)
    if seeds < 2:
        return {"mean": gaps.mean(axis=0), "sd": np.nan, "n": seeds, "low": -np.inf, "high": np.inf, "p": 1.0,
                "test": _HOLM}
    # A class has so few images that all seeds may differ by the same number of them. That is no certainty: the sd is
    # taken to be at least that of rounding to whole images.
    sd = np.maximum(gaps.std(axis=0, ddof=1), 1 / images / np.sqrt(12))
    error, mean = sd / np.sqrt(seeds), gaps.mean(axis=0)
    half = distributions.t.isf((1 - level) / 2, seeds - 1) * error
    p = (stats.max_t_sign_flips(gaps) if seeds >= FLIPS
         else stats.holm(2 * distributions.t.sf(np.abs(mean) / error, seeds - 1)))
    return {"mean": mean, "sd": sd, "n": seeds, "low": mean - half, "high": mean + half, "p": p,
            "test": _FLIPS if seeds >= FLIPS else _HOLM}


def _disjoint(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Covariance over classes of two quantities, from pairs of numbers that share no seed and no image.

    For arrays (draws, S, 2, C), centred over classes: the mean of :math:`x_{s,h} y_{s',h'}` over seeds
    :math:`s \ne s'` and halves :math:`h \ne h'`, over classes divided by C - 1. The noise of both factors is
    independent, so it drops out on average, also where ``x`` is ``y``: the method of moments for a variance.
    """
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    seeds, classes = x.shape[-3], x.shape[-1]
    y = y[..., ::-1, :]  # the other half
    crossed = (x.sum(axis=-3) * y.sum(axis=-3)).sum(axis=(-2, -1)) - (x * y).sum(axis=(-3, -2, -1))
    return crossed / (2 * seeds * (seeds - 1)) / (classes - 1)


def class_spread(grid_name: GridLike, baseline: str = "ce", level: float = 0.95, draws: int = 1000,
                 seed: int = 0) -> pd.DataFrame:
    """How much a loss's effect differs from class to class once noise is taken out, and whether hard classes gain.

    The ``spread`` is the standard deviation over classes of the true effect; the plain one, ``observed``, also holds
    the noise of seeds and of few images a class. The ``slope`` is the change of the gain per unit of the baseline's
    accuracy on the class, negative where hard classes gain more. A class on which the baseline happened to do badly
    gains on average with any other network: regression to the mean, which makes the plain regression (``naive``) fall
    too much. So gain and accuracy come from other seeds and other images, and the variance of the accuracy, by which
    one divides, is that of the true one. Intervals resample classes.

    Args:
        grid_name: the grid, or a part of one.
        baseline: variant to subtract.
        level: of the intervals.
        draws: resamples of the classes.
        seed: of the resamples.

    Returns:
        Columns: setup, variant, k, n (seeds), mean (difference over all classes), observed, naive, spread (0 where
        the moments are negative), spread_low, spread_high, slope, slope_low, slope_high (all NaN with one seed; slopes
        also where the baseline is equally good at all classes).
    """
    document, hits = class_document(), class_hits(grid_name)
    frames.require_variant(hits, baseline)
    images = np.array(document["settings"]["data"]["images"])[:, :, None]
    picks = np.random.default_rng(seed).integers(images.shape[1], size=(draws, images.shape[1]))
    ends = [50 * (1 - level), 50 * (1 + level)]
    rows = []
    for (setup, variant), own in hits.items():
        if variant == baseline:
            continue
        before, after = hits[setup, baseline] / images, own / images
        for place, k in enumerate(document["settings"]["ks"]):
            accuracy, gain = before[..., place], (after - before)[..., place]
            row: dict[str, Any] = {"setup": setup, "variant": variant, "k": k, "n": len(gain)}
            mean_gain, mean_accuracy = gain.mean(axis=(0, 1)), accuracy.mean(axis=(0, 1))
            row |= {"mean": mean_gain.mean(), "observed": mean_gain.std(ddof=1),
                    "naive": _ratio(*np.cov(mean_accuracy, mean_gain)[0, ::-1])}
            row |= {f"{name}{end}": np.nan for name in ("spread", "slope") for end in ("", "_low", "_high")}
            if len(gain) > 1:
                again = [np.moveaxis(values[..., picks], -2, 0) for values in (gain, accuracy)]
                row |= _estimate("spread", _spread, (gain, accuracy), again, ends)
                row |= _estimate("slope", _slope, (gain, accuracy), again, ends)
            rows.append(row)
    return pd.DataFrame(rows)


def _spread(gain: NDArray[np.float64], accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.maximum(_disjoint(gain, gain), 0))


def _slope(gain: NDArray[np.float64], accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(_disjoint(gain, accuracy), _disjoint(accuracy, accuracy))


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    """NaN where all classes are equally hard."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) != 0)


def _estimate(name: str, of: Callable[..., NDArray[np.float64]], observed: Any, again: Any,
              ends: list[float]) -> dict[str, float]:
    low, high = np.percentile(of(*again), ends)
    return {name: float(of(*observed)), f"{name}_low": low, f"{name}_high": high}


def reliability(grid_name: GridLike) -> pd.DataFrame:
    """Predicted against measured: columns setup, variant, k, bin, predicted, right, n (seeds); means over seeds.

    ``predicted`` is the mass of the first k, ``right`` the share of images with the label among them; bins hold
    equally many images. The grid's runs must have measured scores, as those of ``counted(grid, scored=True)`` do.
    """
    rows = [{"setup": cell.setup, "variant": cell.variant, "k": int(k), "bin": place, "seed": cell.seed,
             "predicted": predicted, "right": right}
            for cell, found in _scores(grid_name) for k, table in found["reliability"].items()
            for place, (predicted, right) in enumerate(zip(table["predicted"], table["right"], strict=True))]
    keys = ["setup", "variant", "k", "bin"]
    return pd.DataFrame(rows).groupby(keys, sort=False).agg(
        predicted=("predicted", "mean"), right=("right", "mean"), n=("seed", "size")).reset_index()


def score_differences(grid_name: GridLike, baseline: str = "ce", level: float = 0.95) -> pd.DataFrame:
    """What a loss does to the scores of lists, beside the baseline, paired by seed.

    Quantities: error1, error5, ... (expected calibration error of the mass of the first k), floor1, ... (what it
    would be for exact probabilities), within (share of wrong first candidates of the label's superclass), different
    (superclasses in the first five).

    Columns: setup, variant, quantity, mean, n (seeds), difference (NaN for the baseline itself), low, high.
    """
    rows = []
    for cell, found in _scores(grid_name):
        own = {f"error{k}": value for k, value in found["calibration_error"].items()}
        own |= {f"floor{k}": value for k, value in found["calibration_floor"].items()}
        own |= {name: found[name] for name in ("within", "different") if name in found}
        rows += [{"setup": cell.setup, "variant": cell.variant, "seed": cell.seed, "quantity": name, "value": value}
                 for name, value in own.items()]
    frame, found_rows = pd.DataFrame(rows), []
    frames.require_variant(zip(frame["setup"], frame["variant"], strict=True), baseline)
    for (setup, variant, quantity), part in frame.groupby(["setup", "variant", "quantity"], sort=False):
        values = part.set_index("seed")["value"].astype(float)
        other = frame[(frame["setup"] == setup) & (frame["variant"] == baseline) & (frame["quantity"] == quantity)]
        gaps = (values - other.set_index("seed")["value"].astype(float)).to_numpy()
        gap = (stats.paired_t_interval(gaps, level) if variant != baseline and np.isfinite(gaps).all()
               else stats.Interval(np.nan, np.nan, len(values), np.nan, np.nan))
        found_rows.append({"setup": setup, "variant": variant, "quantity": quantity, "mean": values.mean(),
                           "n": len(values), "difference": gap.mean, "low": gap.low, "high": gap.high})
    return pd.DataFrame(found_rows)


def _scores(grid_name: GridLike) -> list[tuple[Any, dict[str, Any]]]:
    cells = class_document()["cells"]
    pairs = [(cell, (cells.get(record.run_id) or {}).get("scores")) for cell, record in frames.joined(grid_name)[1]]
    if missing := [cell for cell, found in pairs if found is None]:
        raise ValueError(f"{paths.CLASSES} has no scores of run {missing[0].config.run_id} ({missing[0].place}): "
                         f"python {_SCRIPT} {missing[0].grid} --predictions FOLDER adds them, where a sweep kept them")
    return [(cell, found) for cell, found in pairs if found is not None]

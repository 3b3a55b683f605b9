"""A ratio of two means that were measured together: what is gained for each unit of what it costs."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as distributions

from paperlib.stats._check import as_differences, as_fraction
from paperlib.stats.bootstrap import Band


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, level: Any = 0.95) -> Band:
    r"""Interval of a ratio of two means from paired values, by Fieller's theorem (:cite:t:`fieller1954problems`).

    All :math:`\rho` that the paired t test of :math:`a - \rho b = 0` does not reject:
    :math:`(\bar a - \rho \bar b)^2 \le t^2 (s_{aa} - 2 \rho s_{ab} + \rho^2 s_{bb}) / S`. Exact for normal pairs and
    any number of them, where the ratios of resampled means of three seeds would be ten values. The set is an
    interval if, and only if, the t interval of the denominator leaves out 0.

    Args:
        numerators: a, one number a seed, shape (S,).
        denominators: b, of the same seeds.
        level: confidence in (0, 1).

    Returns:
        :class:`Band` of floats: the ratio of the means, and the interval. Where the denominator cannot be told from 0,
        or there is one seed, the ends are -inf and inf: the data bound no ratio. The ratio itself is NaN where the
        denominators' mean is 0.

    Raises:
        ValueError: not finite numbers of one shape (S,); level out of range.
    """
    a, b = as_differences(numerators, "numerators", 1), as_differences(denominators, "denominators", 1)
    if a.shape != b.shape:
        raise ValueError(f"numerators {a.shape} and denominators {b.shape}: expected a pair for each seed")
    alpha, seeds = float(1 - as_fraction(level, "level")), len(a)
    top, bottom = float(a.mean()), float(b.mean())
    estimate = top / bottom if bottom else math.nan
    if seeds == 1 or not bottom:
        return Band(estimate, -math.inf, math.inf)
    # In units of the means' sizes the roots of the quadratic do not depend on the units of a and b.
    unit_a, unit_b = float(np.abs(a).max()) or 1.0, float(np.abs(b).max())
    deviations = np.stack([(a - top) / unit_a, (b - bottom) / unit_b])
    g = float(distributions.t.isf(alpha / 2, seeds - 1)) ** 2 / seeds / (seeds - 1)
    (aa, ab), (_, bb) = (g * deviations @ deviations.T).tolist()
    top, bottom = top / unit_a, bottom / unit_b
    square, half, constant = bottom**2 - bb, top * bottom - ab, top**2 - aa
    if square <= 0:
        return Band(estimate, -math.inf, math.inf)
    root = math.sqrt(max(0.0, half**2 - square * constant))  # never below 0 here, but for rounding
    return Band(estimate, (half - root) / square * unit_a / unit_b, (half + root) / square * unit_a / unit_b)

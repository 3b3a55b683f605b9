"""Statistics for ranks and seeds: exact where counts decide, simulated with a stated seed elsewhere.

``order``: intervals for proportions and for the smallest k, exact.
``seeds``: comparisons over training seeds: paired t, sign flips of the largest ``|t|``, Holm, equivalence.
``bootstrap``: two-way bootstrap over seeds and images, for curves and for differences of smallest k.
``crossing``: from which k on one curve is ahead of another.
``ratio``: what is gained for each unit of a cost that is measured as well.
"""

from paperlib.stats.bootstrap import (
    Band,
    mean_interval,
    smallest_k_difference,
    smallest_k_differences,
    smallest_k_statistic,
    sup_t_band,
    two_way_bootstrap,
)
from paperlib.stats.crossing import crossing_interval, crossing_k
from paperlib.stats.order import certified_k, clopper_pearson, smallest_k_interval, wilson
from paperlib.stats.ratio import ratio_interval
from paperlib.stats.seeds import (
    Equivalence,
    Interval,
    equivalence_test,
    holm,
    hotelling_radius,
    max_t_sign_flips,
    paired_t_interval,
    prediction_interval,
    sign_flips,
)

__all__ = [
    "Band", "Equivalence", "Interval", "certified_k", "clopper_pearson", "crossing_interval", "crossing_k",
    "equivalence_test", "holm", "hotelling_radius", "max_t_sign_flips", "mean_interval", "paired_t_interval",
    "prediction_interval", "ratio_interval", "sign_flips", "smallest_k_difference", "smallest_k_differences",
    "smallest_k_interval", "smallest_k_statistic", "sup_t_band", "two_way_bootstrap", "wilson",
]

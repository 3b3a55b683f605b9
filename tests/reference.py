"""Slow, plain references for every loss, each written from its definition and from nothing else.

A reference takes one row of logits `s` (numbers of `mp`, masked classes already taken out), the position `y` of
its label and the loss's options. Numbers have 100 digits and exponents without bounds, so every formula stands
here as it stands in the paper: no shift by a maximum, no rearrangement, at any size of the logits. `at` is the row
at which a quantity that the loss detaches is evaluated: gradients hold it fixed.

Adding a loss is one entry in `REFERENCES`; a loss without one fails `test_losses_contract.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from math import inf, isinf

import mpmath
import torch
from torch import Tensor

mp = mpmath.MPContext()
mp.dps = 100
STEP = mp.mpf("1e-30")  # of the central differences: their error is far below double precision


def softmax(s):
    total = mp.fsum(mp.exp(x) for x in s)
    return [mp.exp(x) / total for x in s]


def by_score(s):
    """Class indices, the highest score first."""
    return sorted(range(len(s)), key=lambda j: s[j], reverse=True)


def after_top(s, k):
    """s_[k+1], the best score outside the k largest; minus infinity where nothing is left."""
    return s[by_score(s)[k]] if k < len(s) else -mp.inf


def cross_entropy(s, y, at, label_smoothing=0.0):
    p, q = softmax(s), [mp.mpf(label_smoothing) / len(s)] * len(s)
    q[y] += 1 - mp.mpf(label_smoothing)
    return -mp.fsum(q_j * mp.log(p_j) for q_j, p_j in zip(q, p, strict=True))


def topk_grouped(s, y, at, k):
    p = softmax(s)
    if s[y] > after_top(s, k):
        return -mp.log(mp.fsum(p[j] for j in by_score(s)[:k]))
    return -mp.log(p[y])


def gate(s, y, k, kind, tau, margin):
    gap = s[y] - after_top(s, k)
    if kind == "none" or gap == mp.inf:
        return mp.mpf(1)
    if kind == "ratio":
        return 1 - mp.exp(-gap / mp.mpf(tau))
    return min(max(gap / mp.mpf(margin), mp.mpf(0)), mp.mpf(1))


def topk_transition(
    s, y, at, k, gate="ratio", tau=1.0, margin=1.0, strength=1.0, detach_gate=True, blend="probability"
):
    p = softmax(s)
    if not s[y] > after_top(s, k):
        return -mp.log(p[y])
    rest = mp.fsum(p[j] for j in by_score(s)[:k] if j != y)
    w = mp.mpf(float(strength)) * GATE(at if detach_gate else s, y, k, gate, tau, margin)
    if blend == "probability":
        return -mp.log(p[y] + w * rest)
    return -(1 - w) * mp.log(p[y]) - w * mp.log(p[y] + rest)


GATE = gate  # `gate` is also an option's name


def truncated_topk_entropy(s, y, at, k):
    competitors = sorted((x - s[y] for j, x in enumerate(s) if j != y), reverse=True)
    return mp.log(1 + mp.fsum(mp.exp(a) for a in competitors[k - 1 :]))


def smooth_topk_svm(s, y, at, k, tau=1.0, margin=1.0):
    """The sum over all k-subsets, as in the paper; none of them (k classes or more are masked): no loss."""
    tau, margin = mp.mpf(tau), mp.mpf(margin)
    everything, right = [], []
    for subset in combinations(range(len(s)), k):
        score = mp.fsum(s[j] for j in subset) / k
        everything.append(mp.exp((score + (0 if y in subset else margin)) / tau))
        if y in subset:
            right.append(mp.exp(score / tau))
    return tau * mp.log(mp.fsum(everything) / mp.fsum(right)) if right else mp.mpf(0)


def smooth_topk_svm_polynomial(s, y, at, k, tau=1.0, margin=1.0):
    """The same with elementary symmetric polynomials: the coefficients of the product of 1 + x_j t over j != y."""
    tau, margin = mp.mpf(tau), mp.mpf(margin)
    e = [mp.mpf(1)] + [mp.mpf(0)] * k
    for j, x in enumerate(s):
        if j != y:
            root = mp.exp(x / (k * tau))
            e = [e[0]] + [e[i] + root * e[i - 1] for i in range(1, k + 1)]
    with_y, without_y = mp.exp(s[y] / (k * tau)) * e[k - 1], mp.exp(margin / tau) * e[k]
    return tau * mp.log((with_y + without_y) / with_y) if with_y else mp.mpf(0)


def ldr_kl(s, y, at, lam=1.0, c=2.0):
    lam, c = mp.mpf(lam), mp.mpf(c)
    return lam * mp.log(mp.fsum(mp.exp(((c if j != y else 0) + x - s[y]) / lam) for j, x in enumerate(s)) / len(s))


def violations(s, y):
    """z of the hinge losses, the label's own 0 included, largest first."""
    return sorted(((1 if j != y else 0) + x - s[y] for j, x in enumerate(s)), reverse=True)


def topk_hinge_alpha(s, y, at, k):
    """Fewer than k classes left: every list of k holds the label, no loss."""
    return max(mp.fsum(violations(s, y)[:k]) / k, mp.mpf(0)) if len(s) >= k else mp.mpf(0)


def topk_hinge_beta(s, y, at, k):
    return mp.fsum(max(z, mp.mpf(0)) for z in violations(s, y)[:k]) / k


def consistent_topk_hinge(s, y, at, k):
    return max(1 + after_top(s, k) - s[y], mp.mpf(0))


def noised_topk_hinge(s, y, at, k, eps=1.0, noise=None, margins=None):
    """`noise`: the draws of this row, one list of numbers a copy."""
    if noise is None:  # eps = 0
        noise = [[0] * len(s)]
    copies = [[x + mp.mpf(eps) * mp.mpf(z) for x, z in zip(s, draw, strict=True)] for draw in noise]
    threshold = mp.fsum(after_top(copy, k) for copy in copies) / len(copies)
    return max((1 if margins is None else mp.mpf(margins[y])) + threshold - s[y], mp.mpf(0))


def topk_entropy(s, y, at, k):
    """The program of the definition: the share of each competitor in x is exp(a_j) cut off at 1 / k, up to a factor.

    With x = t w, where the shares w sum to 1, the objective is t (<a, w> + H(w)) + h(t) + h(1 - t), h(t) = -t log t.
    """
    a = [x - s[y] for j, x in enumerate(s) if j != y]
    if len(a) < k:  # x_j <= sum(x) / k leaves only x = 0
        return mp.mpf(0)
    raw, cap = [mp.exp(x - max(a)) for x in a], mp.mpf(1) / k
    free = len(a)  # how many are not cut off; the factor makes the shares sum to 1
    order = sorted(range(len(a)), key=lambda j: a[j], reverse=True)
    while True:
        rest = order[len(a) - free :]
        factor = (1 - (len(a) - free) * cap) / mp.fsum(raw[j] for j in rest) if rest else mp.mpf(0)
        if not rest or factor * raw[rest[0]] <= cap:
            break
        free -= 1
    w = [cap if j not in rest else factor * raw[j] for j in range(len(a))]
    gain = mp.fsum(w_j * x - (w_j * mp.log(w_j) if w_j else 0) for w_j, x in zip(w, a, strict=True))
    t = 1 / (1 + mp.exp(-gain))
    return t * gain - t * mp.log(t) - ((1 - t) * mp.log(1 - t) if t < 1 else 0)


def laplace_cdf(t):
    return mp.exp(t) / 2 if t <= 0 else 1 - mp.exp(-t) / 2


def lapsum_topk(s, y, at, k, alpha=1.0):
    """For every number of scores above the threshold, where it would be; right where the shares then sum to k."""
    if len(s) <= k:
        return mp.mpf(0)
    alpha, order = mp.mpf(alpha), sorted(s, reverse=True)
    for above in range(len(s) + 1):
        p = mp.fsum(mp.exp(-x / alpha) for x in order[:above])
        q = mp.fsum(mp.exp(x / alpha) for x in order[above:])
        c = k - above
        root = mp.sqrt(c**2 + p * q)
        t = q / (c + root) if c > 0 else (root - c) / p
        shares = [laplace_cdf((x - alpha * mp.log(t)) / alpha) for x in s] if t else [0]
        if abs(mp.fsum(shares) - k) < mp.mpf("1e-60"):
            return -mp.log(shares[y])
    raise AssertionError(f"no threshold for {s}")


def swap_probability(distance):
    """Of the Cauchy distribution, also far from 0, where one half minus the arc tangent would cancel."""
    return mp.atan2(1, distance) / mp.pi


def sorting_network(s, y, layers, beta):
    """The probability of each place for the label, after comparators that exchange with a probability."""
    s, place = list(s), [mp.mpf(j == y) for j in range(len(s))]
    for upper, lower in layers:
        if lower < len(s):
            swap = swap_probability(beta * (s[upper] - s[lower]))
            for values in (s, place):
                a, b = values[upper], values[lower]
                values[upper], values[lower] = (1 - swap) * a + swap * b, swap * a + (1 - swap) * b
    return place


def odd_even_layers(n):
    return [(i, i + 1) for layer in range(n) for i in range(layer % 2, n - 1, 2)]


def bitonic_layers(n):
    """For the next power of two: merges that compare mirror images, then halves, then quarters, ..."""
    result, block = [], 2
    while block < 2 * n:
        result += [(i + j, i + block - 1 - j) for i in range(0, 2 * n, block) for j in range(block // 2)]
        step = block // 4
        while step:
            result += [(i + j, i + j + step) for i in range(0, 2 * n, 2 * step) for j in range(step)]
            step //= 2
        block *= 2
    return result


def difftopk_cross_entropy(s, y, at, k, p_k=None, method="odd_even", steepness=2.0, m=None):
    """Without `p_k` all weight is on lists of length k; the share of length 1 is the softmax of all classes."""
    shares = p_k or [0] * (k - 1) + [1]
    first, beta = softmax(s)[y], mp.mpf(steepness)
    others = sorted((j for j in range(len(s)) if j != y), key=lambda j: s[j], reverse=True)
    chosen = others[: (m or 16) - 1]
    before = [j for j in chosen if s[j] >= s[y]]
    order = [*before, y, *(j for j in chosen if s[j] < s[y])]  # the label behind its equals
    v, n, own = [s[j] for j in order], len(order), len(before)
    if method in ("odd_even", "bitonic"):
        layers = odd_even_layers(n) if method == "odd_even" else bitonic_layers(n)
        p = sorting_network(v, own, layers, beta)
    elif method == "neuralsort":
        apart = [mp.fsum(abs(x - z) for z in v) for x in v]
        p = [softmax([beta * ((n + 1 - 2 * i) * x - a) for x, a in zip(v, apart, strict=True)])[own]
             for i in range(1, n + 1)]  # fmt: skip
    else:
        p = [softmax([-beta * abs(top - x) for x in v])[own] for top in v]
    rest = mp.fsum(share * mp.fsum(p[:length]) for length, share in enumerate(shares, 1) if length > 1)
    return -mp.log(shares[0] * first + rest)


@dataclass(frozen=True)
class Reference:
    """The definition of one loss and the options under which the contract is checked."""

    value: Callable
    options: list[dict] = field(default_factory=lambda: [{}])
    takes_k: bool = True


REFERENCES = {
    "cross_entropy": Reference(cross_entropy, [{}, {"label_smoothing": 0.1}, {"label_smoothing": 1.0}], takes_k=False),
    "topk_grouped": Reference(topk_grouped),
    "topk_transition": Reference(
        topk_transition,
        [
            {},
            {"tau": 0.2, "strength": 0.7},
            {"detach_gate": False},
            {"detach_gate": False, "tau": 3.0, "blend": "loss"},
            {"blend": "loss", "strength": torch.tensor(0.5)},
            {"gate": "linear", "margin": 2.0},
            {"gate": "linear", "margin": 0.5, "detach_gate": False},
            {"gate": "linear", "detach_gate": False, "blend": "loss", "strength": 0.7},
            {"gate": "none", "strength": 0.3},
            {"gate": "none", "strength": 0.3, "blend": "loss", "detach_gate": False},
        ],
    ),
    "ldr_kl": Reference(ldr_kl, [{}, {"lam": 0.3, "c": 0.0}, {"lam": 5.0}], takes_k=False),
    "topk_hinge_alpha": Reference(topk_hinge_alpha),
    "topk_hinge_beta": Reference(topk_hinge_beta),
    "consistent_topk_hinge": Reference(consistent_topk_hinge),
    "noised_topk_hinge": Reference(
        noised_topk_hinge, [{"eps": 0.0}, {"eps": 0.5}, {"eps": 2.0}]
    ),
    "topk_entropy": Reference(topk_entropy),
    "truncated_topk_entropy": Reference(truncated_topk_entropy),
    "lapsum_topk": Reference(lapsum_topk, [{}, {"alpha": 0.1}, {"alpha": 10.0}]),
    "difftopk_cross_entropy": Reference(
        difftopk_cross_entropy,
        [
            {},
            {"method": "bitonic", "steepness": 0.5},
            {"method": "neuralsort", "steepness": 0.2},
            {"method": "softsort"},
            {"p_k": [0.2, 0.5, 0.3]},
            {"method": "neuralsort", "steepness": 0.5, "p_k": [0.5, 0.0, 0.5], "m": 4},
        ],
    ),
    "smooth_topk_svm": Reference(
        smooth_topk_svm, [{}, {"tau": 0.1}, {"tau": 0.01, "margin": 0.0}, {"tau": 5.0, "margin": 3.0}]
    ),
}


#: Noise of `noised_topk_hinge`, the same for every row: one line a copy, one column a class.
DRAWS = torch.randn(3, 8, generator=torch.Generator().manual_seed(26), dtype=torch.float64)


def _of_row(options, kept):
    """The options of one row: noise and margins only of the classes that are not masked."""
    own = dict(options)
    if own.get("eps"):
        own["noise"] = DRAWS[:, kept].tolist()
    if own.get("margins") is not None:
        own["margins"] = [own["margins"][j] for j in kept]
    return own


def _without_masked(row, label):
    """The row as numbers of `mp` without its masked classes, the label's new position, the positions kept."""
    kept = [j for j, x in enumerate(row) if x != -inf]
    return [mp.mpf(row[j]) for j in kept], kept.index(label), kept


def values(name: str, logits: Tensor, labels: Tensor, *, value: Callable | None = None, **options) -> Tensor:
    """Losses of the rows of (N, C) logits in float64, shape (N,); masked classes are absent."""
    value = value or REFERENCES[name].value
    result = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if isinf(row[label]):
            result.append(inf)
        else:
            s, y, kept = _without_masked(row, label)
            result.append(float(value(s, y, s, **_of_row(options, kept))))
    return torch.tensor(result, dtype=torch.float64)


def gradients(name: str, logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Gradients of the rows' losses in float64, shape (N, C), by central differences; 0 at masked classes."""
    value = REFERENCES[name].value
    result = torch.zeros(logits.shape, dtype=torch.float64)
    for i, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if isinf(row[label]):
            continue
        s, y, kept = _without_masked(row, label)
        own = _of_row(options, kept)
        for position, j in enumerate(kept):
            up, down = s.copy(), s.copy()
            up[position] += STEP
            down[position] -= STEP
            rise = value(up, y, s, **own) - value(down, y, s, **own)
            result[i, j] = float(rise / (2 * STEP))
    return result

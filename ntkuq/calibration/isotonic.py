"""Reliability without bins: the increasing function that fits the outcomes best."""

from dataclasses import dataclass, field

import numpy as np

from .bootstrap import SEED


POINTS = 200  # of a curve


@dataclass(frozen=True)
class Isotonic:
    r"""The increasing function x of the probability with the least $\sum (x(p) - y)^2$.

    Found by pooling adjacent violators; it is the best one for every proper score at
    once. Equal probabilities have one value.

    Args:
        probability: the different probabilities, increasing, (m,).
        count: points of each, (m,).
        value: x at each of them, (m,).
        at: which of them each point has, (n,).
    """

    probability: np.ndarray = field(repr=False)
    count: np.ndarray = field(repr=False)
    value: np.ndarray = field(repr=False)
    at: np.ndarray = field(repr=False)

    @property
    def fitted(self) -> np.ndarray:
        """x at each point, (n,)."""
        return self.value[self.at]

    def corners(self) -> np.ndarray:
        """Where pieces begin and end, thinned to 200 at most, (<= 200,) indices."""
        jumps = np.flatnonzero(np.diff(self.value) > 0)
        ends = np.unique(np.r_[0, jumps, jumps + 1, self.value.size - 1])
        if ends.size <= POINTS:
            return ends
        return ends[np.rint(np.linspace(0, ends.size - 1, POINTS)).astype(int)]


def isotonic(p: np.ndarray, y: np.ndarray) -> Isotonic:
    """Fit by pooling adjacent violators.

    Args:
        p: probabilities, (n,).
        y: outcomes 0 and 1, (n,), floating.

    >>> import numpy as np
    >>> fit = isotonic(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 1.0, 0.0, 1.0]))
    >>> fit.fitted.tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    order = ascending(p)
    ordered = p[order]
    at = np.empty(p.size, np.int64)
    new = ordered[1:] > ordered[:-1]
    if new.all():
        at[order] = np.arange(p.size)
        return Isotonic(ordered, np.ones(p.size), pooled(y[order]), at)
    at[order] = np.r_[0, np.cumsum(new)]
    first = np.r_[0, np.flatnonzero(new) + 1]
    count = np.diff(np.r_[first, p.size]).astype(float)
    hits = np.add.reduceat(y[order], first)
    return Isotonic(ordered[first], count, pooled(hits / count, count), at)


def ascending(p: np.ndarray) -> np.ndarray:
    """The order that sorts probabilities, (n,).

    Sorting integers is faster than sorting indices: nonnegative numbers are ordered
    like their bits, whose last ones make room for the index. Where two probabilities
    differ in these only, indices are sorted after all.

    Args:
        p: (n,), below 2.

    >>> ascending(np.array([0.3, 0.1, 0.2])).tolist()
    [1, 2, 0]
    """
    bits = max(p.size - 1, 1).bit_length()
    if p.min() > 0:
        high = np.ascontiguousarray(p).view(np.int64) >> (bits - 1) << bits
        order = np.sort(high | np.arange(p.size)) & ((1 << bits) - 1)
        ordered = p[order]
        if (ordered[1:] >= ordered[:-1]).all():
            return order
    return np.argsort(p)


def gain_by_chance(fit: Isotonic, draws: int = 50) -> float:
    """Mean gain in Brier score of recalibrating a calibrated model on its own points.

    Outcomes are drawn anew with the predicted probabilities and fitted.

    Args:
        fit: of the outcomes at hand.
        draws: how often; at most 100 000 points in all, but once at least.
    """
    p, count, n = np.clip(fit.probability, 0.0, 1.0), fit.count, fit.at.size
    rng = np.random.default_rng(SEED)
    size = int(np.clip(100_000 // n, 1, draws)), p.size
    if n == p.size:
        share = (rng.random(size) < p).astype(float)
        x = pooled(share)
    else:
        share = rng.binomial(count.astype(np.int64), p, size) / count
        x = pooled(share, np.broadcast_to(count, size))
    # (p - y)^2 - (x - y)^2, averaged over equal probabilities
    gain = (p - x) * (p + x - 2 * share)
    return float(np.mean(gain @ count)) / n


def pooled(y: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """The best increasing fit to each row of values between 0 and 1.

    Args:
        y: (..., m).
        weight: above 0, of the same shape, or equal weights.
    """
    from scipy import optimize

    # Rows two apart never violate the order, so that one call serves all.
    rows = y.size // y.shape[-1]
    apart = 2.0 * np.arange(rows).reshape(*y.shape[:-1], 1)
    flat = (y + apart if rows > 1 else y).reshape(-1)
    w = None if weight is None else weight.reshape(-1)
    fit = optimize.isotonic_regression(flat, weights=w).x.reshape(y.shape)
    return fit - apart if rows > 1 else fit

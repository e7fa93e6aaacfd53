"""The slab of the input space where intervals hold the observation the least often."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from ntkuq.calibration.coverage import coverage
from ntkuq.calibration.ends import central
from ntkuq.calibration.exact import matched, need_regression
from ntkuq.calibration.records import Score, finite
from ntkuq.calibration.regression import squeeze
from ntkuq.posteriors.predictive import Predictive

from .nearness import flat


FEWEST = 10  # points of the fit half in a slab

MOST = 10_000  # points of the fit half that are looked at

BLOCK = 2_000_000  # numbers of one block of projections


@dataclass(frozen=True)
class WorstSlab:
    r"""A slab $\{x: a \le v \cdot z(x) \le b\}$ found in one half, tried in the other.

    Args:
        coverage: the share of held-out points of the slab that are covered; `p` is
            the one-sided exact p-value of a true share of at least the level. NaN
            where no held-out point lies in the slab.
        fit_coverage: the share in the fit half, where the slab was chosen as the worst:
            too low even for a calibrated model.
        share: the part of the held-out half that lies in the slab.
        direction: v, unit length, by feature, (D,), for standardized inputs.
        lower: a, in standard deviations along v.
        upper: b.
        rows: rows of the held-out points in the slab.
    """

    coverage: Score
    fit_coverage: float
    share: float
    direction: np.ndarray = field(repr=False)
    lower: float
    upper: float
    rows: np.ndarray = field(repr=False)

    def to_dict(self) -> dict:
        """As plain numbers for JSON, without the rows."""
        return {
            "coverage": self.coverage.to_dict(),
            "fit_coverage": finite(self.fit_coverage),
            "share": self.share,
            "direction": self.direction.tolist(),
            "lower": finite(self.lower),
            "upper": finite(self.upper),
        }


def worst_slab(
    p: Predictive,
    y: ArrayLike,
    x: ArrayLike,
    *,
    level: float,
    share: float = 0.1,
    directions: int = 1000,
    key: PRNGKeyArray,
) -> WorstSlab:
    """Coverage of the central interval in the worst slab of the input space.

    See `worst_slab_of`, which takes what is covered from any kind of region.

    Args:
        p: predictions at N points.
        y: shape of the predictions, in the units of the data.
        x: inputs, (N, ...), flattened to D features.
        level: the kept probability of the intervals, between 0 and 1.
        share: the smallest part of the fit half that a slab holds.
        directions: how many directions are tried.
        key: random key for the split and the directions.

    Raises:
        TypeError: for classes.
        ValueError: when shapes do not fit, values are not finite, or there are too few
            points for the share.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(2000, 3))
    >>> y = np.where(x[:, 0] > 1, 3.0, 0.9) * rng.normal(size=2000)
    >>> p = Predictive.normal(np.zeros(2000), np.ones(2000))
    >>> slab = worst_slab(p, y, x, level=0.9, key=jax.random.key(0))
    >>> slab.coverage.value < 0.7, int(np.argmax(np.abs(slab.direction)))
    (True, 0)
    """
    need_regression(p, "worst_slab", "worst_slab_of with what a region covers")
    with jax.enable_x64(True):
        double, outcome = matched(p, y)
        lower, upper = central(double, level)
    covered = squeeze((lower <= outcome) & (outcome <= upper))
    return worst_slab_of(
        covered, x, level=level, share=share, directions=directions, key=key
    )


def worst_slab_of(
    covered: ArrayLike,
    x: ArrayLike,
    *,
    level: float,
    share: float = 0.1,
    directions: int = 1000,
    key: PRNGKeyArray,
) -> WorstSlab:
    r"""Coverage in the worst slab of the input space.

    A random half of the points chooses, among slabs with at least the given share of
    it, the one with the lowest coverage: exactly along each direction; the directions
    are the features themselves and random ones. The other half says what the coverage
    there is, so that this number is unbiased given the slab and its exact binomial
    interval holds. Inputs are standardized by the fit half; of a fit half above 10 000
    points a random part is looked at.

    Args:
        covered: whether each observation was inside its region, (N,) or (N, C).
        x: inputs, (N, ...), flattened to D features.
        level: the kept probability that was asked for, between 0 and 1.
        share: the smallest part of the fit half that a slab holds.
        directions: how many directions are tried, the D features among them.
        key: random key for the split and the directions.

    Raises:
        ValueError: when shapes do not fit, inputs are not finite or all constant, or
            there are fewer than 20 / share points.

    References:
        Cauchois, Gupta and Duchi, 2021, Journal of Machine Learning Research 22, 81.
        Romano, Sesia and Candès, 2020, NeurIPS (arXiv 2006.02544).
    """
    hit, inputs = np.asarray(covered), flat("x", x)
    n = inputs.shape[0]
    if hit.ndim not in (1, 2) or hit.shape[0] != n or hit.dtype != bool:
        raise ValueError(
            f"expected covered to be booleans of shape ({n},) or ({n}, C), got "
            f"{hit.dtype} of shape {hit.shape}"
        )
    for name, number in (("level", level), ("share", share)):
        if not 0 < number < 1:
            raise ValueError(f"expected {name} between 0 and 1, got {number}")
    if directions < 1:
        raise ValueError(f"expected at least 1 direction, got {directions}")
    if n < 2 * FEWEST / share:
        raise ValueError(
            f"expected at least {int(np.ceil(2 * FEWEST / share))} points for slabs "
            f"with a share of {share:g}, got {n}; ask for a larger share"
        )
    rng = np.random.default_rng(np.ravel(jax.random.key_data(key)).tolist())
    order = rng.permutation(n)
    fit, held = order[: n // 2][:MOST], order[n // 2 :]
    mean, std = inputs[fit].mean(axis=0), inputs[fit].std(axis=0)
    varies = std > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    if not varies.any():
        raise ValueError("expected inputs that differ, got the same input everywhere")
    z = (inputs[:, varies] - mean[varies]) / std[varies]

    value = hit.reshape(n, -1).mean(axis=1)
    least = int(np.ceil(share * fit.size))
    tried = _directions(rng, z.shape[1], directions)
    low_cover, v, a, b = _search(z[fit], value[fit], tried, least)
    along = z[held] @ v
    inside = held[(a <= along) & (along <= b)]
    direction = np.zeros(inputs.shape[1])
    direction[varies] = v
    return WorstSlab(
        coverage=_tested(hit[inside], float(level)),
        fit_coverage=low_cover,
        share=inside.size / held.size,
        direction=direction,
        lower=a,
        upper=b,
        rows=np.sort(inside),
    )


def _tested(hit: np.ndarray, level: float) -> Score:
    from scipy import stats

    if not hit.shape[0]:
        return Score(float("nan"), None, 0, None, level=level)
    score = coverage(hit, level)
    if hit.ndim > 1:
        return score
    hits = int(hit.sum())
    p = float(stats.binom.cdf(hits, hit.size, level))
    return Score(score.value, score.se, score.n, score.interval, hits, level, p)


def _directions(
    rng: np.random.Generator, size: int, total: int
) -> Iterator[np.ndarray]:
    """Unit vectors, (D, K) at a time: the axes first, then random ones."""
    axes = min(size, total)
    step = max(1, BLOCK // size)
    for start in range(0, axes, step):
        count = min(step, axes - start)
        yield np.eye(size, count, -start)
    # With one feature there is no other direction.
    for start in range(axes, total if size > 1 else axes, step):
        v = rng.standard_normal((size, min(step, total - start)))
        yield v / np.linalg.norm(v, axis=0)


def _search(
    z: np.ndarray, value: np.ndarray, tried: Iterator[np.ndarray], least: int
) -> tuple[float, np.ndarray, float, float]:
    """The lowest mean of values in a slab of at least so many points, and the slab.

    A slab has a mean below r just when the sum of (value - r) over it is negative, and
    the smallest such sum along a direction comes from the running maximum of its
    cumulative sums. So r is lowered to the mean of the slab with the smallest sum until
    no slab is below it (Dinkelbach's method), all directions with one r. Slabs begin
    and end between different projections.
    """
    n, size = z.shape
    lowest = float(value.mean()), np.eye(size)[0], -np.inf, np.inf
    step = max(1, BLOCK // n)
    for many in tried:
        for start in range(0, many.shape[1], step):
            v = many[:, start : start + step]
            along = (z @ v).T
            order = np.argsort(along, axis=1)
            along = np.take_along_axis(along, order, axis=1)
            cut = np.ones((v.shape[1], n + 1), bool)
            cut[:, 1:-1] = along[:, 1:] != along[:, :-1]
            total = np.zeros((v.shape[1], n + 1))
            np.cumsum(value[order], axis=1, out=total[:, 1:])
            while True:
                better = _below(total, cut, least, lowest[0])
                if better is None:
                    break
                row, i, j = better
                mean = float((total[row, j] - total[row, i]) / (j - i))
                ends = float(along[row, i]), float(along[row, j - 1])
                lowest = mean, v[:, row], *ends
    return lowest


def _below(
    total: np.ndarray, cut: np.ndarray, least: int, rate: float
) -> tuple[int, int, int] | None:
    """Row, begin and end of the window whose sum is the furthest below the rate."""
    excess = total - rate * np.arange(total.shape[1])
    begin = np.where(cut, excess, -np.inf)[:, : excess.shape[1] - least]
    best = np.maximum.accumulate(begin, axis=1)
    sums = np.where(cut[:, least:], excess[:, least:] - best, np.inf)
    row, end = np.unravel_index(np.argmin(sums), sums.shape)
    if sums[row, end] >= -1e-9 * total.shape[1]:
        return None
    first = int(np.argmax(begin[row, : end + 1]))
    return int(row), first, int(end) + least

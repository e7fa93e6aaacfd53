"""Scores of a regression: how far outside a predicted interval, in some unit."""

import abc
from dataclasses import dataclass

import numpy as np

from ntkuq.calibration.exact import need_finite
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractScore
from .inputs import means, moments, need_scale
from .order import need_level
from .quantiles import central
from .regions import Interval


class AbstractResidual(AbstractScore):
    r"""The signed distance to an interval: $\max(l - y,\; y - u) / s$.

    The region at threshold t is $[l - ts,\; u + ts]$. A negative t that would turn
    the ends around gives the middle alone: the score allows nothing there, and one
    point more cannot lower the coverage.
    """

    @abc.abstractmethod
    def parts(
        self, p: Predictive, level: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower end l, upper end u and unit s, each with the shape of the batch."""

    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        lower, upper, unit = self.parts(p, level)
        return np.maximum(lower - y, y - upper) / unit

    def region(self, p: Predictive, at: np.ndarray, level: float) -> Interval:
        return widened(*self.parts(p, level), at)


def widened(
    lower: np.ndarray, upper: np.ndarray, unit: np.ndarray, at: np.ndarray
) -> Interval:
    r"""$[l - ts,\; u + ts]$, empty for t = -inf.

    Both ends move out by a few units in the last place, so that rounding does not shut
    out an outcome whose score equals the threshold (whole numbers, ties).
    """
    by = at * unit
    size = np.abs(by) + np.maximum(np.abs(lower), np.abs(upper))
    slack = 4 * np.finfo(np.float64).eps * np.where(np.isfinite(by), size, 0.0)
    low, high = lower - (by + slack), upper + (by + slack)
    turned = (low > high) & np.isfinite(by)
    if turned.any():
        middle = lower + (upper - lower) / 2
        low, high = np.where(turned, middle, low), np.where(turned, middle, high)
    return Interval(low, high)


@dataclass(frozen=True)
class AbsoluteResidual(AbstractResidual):
    r"""$|y - m|$: every interval has the same width.

    References:
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, 2018, JASA 113, 1094-1111.
    """

    def parts(
        self, p: Predictive, level: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean = means(p)
        return mean, mean, np.ones_like(mean)


@dataclass(frozen=True)
class NormalizedResidual(AbstractResidual):
    r"""$|y - m| / s$ with the standard deviation s of a new observation.

    Widths follow the prediction: twice the predicted standard deviation, twice the
    width. For Normal predictions it orders outcomes as `Tail` does.

    References:
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, 2018, JASA 113, 1094-1111.
    """

    def parts(
        self, p: Predictive, level: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, std = moments(p)
        return mean, mean, std


@dataclass(frozen=True)
class Quantiles(AbstractResidual):
    r"""$\max(l - y,\; y - u)$ with the predicted central interval $[l, u]$.

    Conformalized quantile regression: both ends of the predicted interval move by the
    same amount, in the units of the data, outwards or inwards.

    Args:
        level: of the predicted interval; None for that of the conformal method. A
            quantile table may know one level only.

    Raises:
        ValueError: for a level outside (0, 1).

    References:
        Romano, Patterson and Candès, 2019, NeurIPS (arXiv 1905.03222).
    """

    level: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            need_level(self.level)

    def parts(
        self, p: Predictive, level: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        need_scale(p)
        level = level if self.level is None else self.level
        lower, upper = central(p, level)
        need_finite("quantiles", lower)
        need_finite("quantiles", upper)
        return lower, upper, np.ones_like(lower)

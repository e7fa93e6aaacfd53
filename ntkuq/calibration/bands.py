"""Bands around reliability curves, from resamples of neighboring probabilities."""

import abc
from dataclasses import dataclass, field

import numpy as np

from .blocks import Blocks, hits_by_chance
from .isotonic import Isotonic, pooled


CELLS = 1000  # of neighboring probabilities that resamples tell apart
DRAWS = 200


@dataclass(frozen=True)
class Cells:
    """Points gathered into at most 1000 cells of neighboring probabilities.

    Args:
        at: the cell of each point, (n,).
        count: points, (m,).
        mean: mean probability, (m,), from 0 to 1.
        of_value: the cell of each probability of the fit, or empty.
    """

    at: np.ndarray = field(repr=False)
    count: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    of_value: np.ndarray = field(repr=False)

    @staticmethod
    def of(p: np.ndarray, fit: Isotonic) -> "Cells":
        """Cells of about equal count; equal probabilities stay together."""
        count = fit.count
        middle = (np.cumsum(count) - (count + 1) / 2).astype(np.int64)
        new = np.diff(middle * CELLS // p.size) > 0
        of_value = np.r_[0, np.cumsum(new)]
        count = np.bincount(of_value, count).astype(np.int64)
        at = of_value[fit.at]
        mean = np.bincount(at, p, minlength=count.size) / count
        return Cells(at, count, np.clip(mean, 0.0, 1.0), of_value)

    def calibrated(self, draws: int, residual: np.ndarray, dealt: Blocks) -> np.ndarray:
        """Shares of outcomes that a calibrated model would show, (draws, m).

        Args:
            draws: how many.
            residual: outcome less probability of each point, (n,); for groups.
            dealt: the points in blocks.
        """
        if dealt.grouped:
            noise = dealt.noise(dealt.sums(self.at, self.count.size, residual), draws)
            return np.clip(self.mean + noise / self.count, 0.0, 1.0)
        return hits_by_chance(self.count, self.mean, draws) / self.count

    def miscalibration(self, share: np.ndarray) -> np.ndarray:
        """How much each row of shares could improve its Brier score, (draws,)."""
        weight = np.broadcast_to(self.count.astype(float), share.shape)
        x, p = pooled(share, weight), self.mean
        # (p - y)^2 - (x - y)^2, averaged over the outcomes of a cell
        gain = (p - x) * (p + x - 2 * share)
        return gain @ self.count / self.count.sum()


class AbstractBand(abc.ABC):
    """What the ends of a band around a reliability curve say."""

    level: float

    @abc.abstractmethod
    def ends(
        self,
        cells: Cells,
        at: np.ndarray,
        y: np.ndarray,
        p: np.ndarray,
        dealt: Blocks,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, (k,) each.

        Args:
            cells: the points in cells.
            at: the cells where they are wanted, (k,).
            y: outcomes, (n,).
            p: probabilities, (n,).
            dealt: the points in blocks.
        """


@dataclass(frozen=True)
class ConsistencyBand(AbstractBand):
    """Around the diagonal: where the curve of a calibrated model would be.

    Outcomes are drawn anew with the predicted probabilities (with groups, resampled
    groups about their mean) and curves are fitted to them. It holds point by point.

    Args:
        level: the kept probability.
    """

    level: float

    def ends(
        self,
        cells: Cells,
        at: np.ndarray,
        y: np.ndarray,
        p: np.ndarray,
        dealt: Blocks,
    ) -> tuple[np.ndarray, np.ndarray]:
        share = cells.calibrated(DRAWS, y - p, dealt)
        weight = np.broadcast_to(cells.count.astype(float), share.shape)
        return _quantiles(pooled(share, weight)[:, at], self.level)


@dataclass(frozen=True)
class ConfidenceBand(AbstractBand):
    """Around the estimate: where the true curve may be, by bootstrap.

    The curve's own flattening of jumps is not corrected. It holds point by point.

    Args:
        level: the kept probability.
    """

    level: float

    def ends(
        self,
        cells: Cells,
        at: np.ndarray,
        y: np.ndarray,
        p: np.ndarray,
        dealt: Blocks,
    ) -> tuple[np.ndarray, np.ndarray]:
        m = cells.count.size
        hits = dealt.again(dealt.sums(cells.at, m, y), DRAWS)
        count = dealt.again(dealt.sums(cells.at, m, np.ones_like(y)), DRAWS)
        share = np.clip(hits / np.where(count > 0, count, 1), 0.0, 1.0)
        # A cell that was not drawn has no say.
        return _quantiles(pooled(share, np.maximum(count, 1e-9))[:, at], self.level)


def _quantiles(curves: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    # fits may leave 0 to 1 by rounding
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)

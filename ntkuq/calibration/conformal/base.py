"""What a conformal method is made of: a score, and the threshold found for it."""

import abc
from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.overlap import rows, warn_overlap
from ntkuq.posteriors.predictive import Predictive

from .inputs import exact, outcomes
from .law import CoverageLaw
from .order import need_level, threshold
from .regions import Region


class AbstractScore(abc.ABC):
    """How strange an outcome is under its prediction: larger is stranger.

    Any score gives the guarantee; a good one gives small regions.
    """

    @abc.abstractmethod
    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        """The score of each outcome.

        Args:
            p: predictions at N points with float64 parameters.
            y: outcomes of the shape of the batch, or class codes.
            level: the kept probability that is aimed at.

        Returns:
            (N,), or (N, C) where each output has a score of its own.
        """

    @abc.abstractmethod
    def region(self, p: Predictive, at: np.ndarray, level: float) -> Region:
        """The outcomes whose score is at most `at`.

        Args:
            p: predictions at N points with float64 parameters.
            at: thresholds, shape of the scores or one that broadcasts to it;
                infinity gives everything, minus infinity nothing.
            level: as for `scores`.
        """


@dataclass(frozen=True)
class Conformal:
    r"""A score with its threshold: regions with a coverage guarantee.

    Args:
        name: of the method, for messages.
        level: the kept probability.
        score: how strange an outcome is.
        threshold: the largest score inside the region, shape () or (C,).
        n: how many points it was calibrated on.
        seen: a number for each of those points, for the warning about overlap.
    """

    name: str
    level: float
    score: AbstractScore
    threshold: np.ndarray
    n: int
    seen: np.ndarray = field(repr=False, compare=False)

    def region(self, p: Predictive) -> Region:
        r"""Regions that hold the outcome with probability of at least `level`.

        $P(y_{n+1} \in C(x_{n+1})) \ge L$ over the draw of the calibrate part and of
        the new point, if all are exchangeable; not for each x.

        Args:
            p: predictions at new points, of the same posterior.

        Raises:
            TypeError: for another kind of prediction.
            ValueError: for predictions that are not finite.
        """
        now = rows(p)
        if any_equal(self.seen, now):
            warn_overlap(self.seen, now, self.name)
        return self.score.region(exact(p), self.threshold, self.level)

    @property
    def law(self) -> CoverageLaw:
        """How the coverage varies from one calibrate part to another."""
        return CoverageLaw(self.level, self.n)


class AbstractConformal(abc.ABC):
    """A conformal method with one held-out part: `fit`, then `region`."""

    level: float

    @property
    @abc.abstractmethod
    def scoring(self) -> AbstractScore:
        """The score in use."""

    def __post_init__(self) -> None:
        need_level(self.level)
        _ = self.scoring  # bad options fail here, not at `fit`

    def fit(self, p: Predictive, y: ArrayLike) -> Conformal:
        """Find the threshold on points that the model was not trained on.

        Args:
            p: predictions at the n points of the calibrate part.
            y: their outcomes, shape of the predictions, or class codes.

        Raises:
            TypeError: for predictions of another kind than the score needs.
            ValueError: when n is too small for the level (the n needed is named), or
                a value is not finite.
        """
        scores = method_scores(self, p, y)
        name = type(self).__name__
        at = threshold(scores, self.level, name)
        return Conformal(name, self.level, self.scoring, at, len(scores), rows(p))


def any_equal(seen: np.ndarray, now: np.ndarray) -> bool:
    """Whether two numbers are equal at all: a fifth of the time of counting them."""
    both = np.sort(np.concatenate([seen, now]))
    return bool((both[1:] == both[:-1]).any())


def method_scores(method: AbstractConformal, p: Predictive, y: ArrayLike) -> np.ndarray:
    """The scores of a method on the calibrate part."""
    return score_all(method.scoring, p, y, method.level)


def score_all(
    score: AbstractScore, p: Predictive, y: ArrayLike, level: float
) -> np.ndarray:
    """The scores of outcomes under predictions as they come from a posterior."""
    p = exact(p)
    return score.scores(p, outcomes(p, y), level)

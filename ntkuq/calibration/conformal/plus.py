"""Intervals from models that were each trained without a part of the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.predictive import Predictive

from .base import score_all
from .groups import group_names
from .inputs import exact
from .order import exact_rank, need_enough, need_level, need_numbers
from .regions import Interval
from .residuals import AbstractResidual, NormalizedResidual, widened


@dataclass(frozen=True)
class FittedPlus:
    """The scores of all points, each under the model that did not see it.

    Args:
        name: of the method, for messages.
        level: the kept probability.
        score: how strange an outcome is.
        scores: of the points of each fold, in increasing order.
        folds: the names of the folds, sorted, (K,).
    """

    name: str
    level: float
    score: AbstractResidual
    scores: tuple[np.ndarray, ...] = field(repr=False)
    folds: np.ndarray

    @property
    def n(self) -> int:
        """The number of points."""
        return sum(part.size for part in self.scores)

    @property
    def guarantee(self) -> float:
        r"""The coverage that is proven, without any assumption on the model.

        $1 - 2\alpha - \min\{\frac{2(1 - 1/K)}{n/K + 1}, \frac{1 - K/n}{K + 1}\}$ with
        $\alpha = 1 - L$ for K equal folds (Theorem 4 of the paper), which is
        $1 - 2\alpha$ for K = n. In practice it is close to L.
        """
        n, k = self.n, len(self.scores)
        slack = min(2 * (1 - 1 / k) / (n / k + 1), (1 - k / n) / (k + 1))
        return max(0.0, 1 - 2 * (1 - self.level) - slack)

    def region(self, models: Sequence[Predictive]) -> Interval:
        """Intervals at new points.

        Args:
            models: predictions at the same N points by each of the K models, in the
                order of `folds`: `models[k]` comes from the model trained without
                fold k.

        Raises:
            ValueError: when there are not K predictions of one shape.
        """
        if len(models) != len(self.scores):
            raise ValueError(
                f"{self.name}: expected {len(self.scores)} predictions, one by each "
                f"model that left out a fold, got {len(models)}"
            )
        parts = [self.score.parts(exact(model), self.level) for model in models]
        shapes = sorted({part[0].shape for part in parts})
        if len(shapes) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"{self.name}: expected predictions of one shape (N,), got {shapes}"
            )
        place = exact_rank(self.n, self.level) - 1
        rows = shapes[0][0]
        lower, upper = np.empty(rows), np.empty(rows)
        step = max(1, 2_000_000 // self.n)
        for start in range(0, rows, step):
            some = slice(start, start + step)
            ends = [
                widened(low[some, None], high[some, None], unit[some, None], scores)
                for (low, high, unit), scores in zip(parts, self.scores)
            ]
            # The lower end is the same order statistic of the mirrored values.
            low = -np.concatenate([end.lower for end in ends], axis=1)
            high = np.concatenate([end.upper for end in ends], axis=1)
            lower[some] = -np.partition(low, place, axis=1)[:, place]
            upper[some] = np.partition(high, place, axis=1)[:, place]
        middle = lower + (upper - lower) / 2
        turned = lower > upper
        return Interval(
            np.where(turned, middle, lower), np.where(turned, middle, upper)
        )


@dataclass(frozen=True)
class CVPlus:
    r"""CV+: every point is calibrated on, under a model trained without its fold.

    $[\;q^-\{m_{-k(i)}(x) - s_i\},\; q^+\{m_{-k(i)}(x) + s_i\}\;]$ with the
    $\lceil (n+1)L \rceil$-th largest and smallest of the n values (times the unit of
    the score). With $\alpha = 1 - L$ the proven coverage is about $1 - 2\alpha$
    (`guarantee`), the usual one about L. No part has to be held out, K models are
    trained in place of one.

    Args:
        level: the kept probability L.
        score: `AbsoluteResidual()` gives the intervals of the paper.

    Raises:
        ValueError: for a level outside (0, 1).

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> rng = np.random.default_rng(0)
    >>> y, fold = rng.normal(size=100), np.arange(100) % 5
    >>> left_out = Predictive.normal(np.zeros(100), np.ones(100))
    >>> fitted = CVPlus(level=0.9).fit(left_out, y, fold)
    >>> new = [Predictive.normal(np.zeros(3), np.ones(3)) for _ in range(5)]
    >>> fitted.region(new).upper.round(1), round(fitted.guarantee, 2)
    (array([1.7, 1.7, 1.7]), 0.72)

    References:
        Barber, Candès, Ramdas and Tibshirani, 2021, Annals of Statistics 49, 486-507
        (arXiv 1905.02928).
    """

    level: float
    score: AbstractResidual = field(default_factory=NormalizedResidual)

    def __post_init__(self) -> None:
        need_level(self.level)

    def fit(self, p: Predictive, y: ArrayLike, fold: ArrayLike) -> FittedPlus:
        """Order the scores of all points within their folds.

        Args:
            p: for each of the n points the prediction of the model that was trained
                without its fold.
            y: their outcomes, (n,).
            fold: the fold of each point, (n,), names or numbers.

        Raises:
            ValueError: when n is too small for the level, there is one fold only, or
                a value is not finite.
        """
        return fit_plus(type(self).__name__, self.level, self.score, p, y, fold)


@dataclass(frozen=True)
class JackknifePlus:
    r"""Jackknife+: CV+ with each point a fold of its own.

    $P(y \in C(x)) \ge 1 - 2\alpha$ with $\alpha = 1 - L$, for any model that treats
    its training points alike.

    Args:
        level: the kept probability L.
        score: `AbsoluteResidual()` gives the intervals of the paper.

    Raises:
        ValueError: for a level outside (0, 1).

    References:
        Barber, Candès, Ramdas and Tibshirani, 2021, Annals of Statistics 49, 486-507
        (arXiv 1905.02928).
    """

    level: float
    score: AbstractResidual = field(default_factory=NormalizedResidual)

    def __post_init__(self) -> None:
        need_level(self.level)

    def fit(self, p: Predictive, y: ArrayLike) -> FittedPlus:
        """Keep the leave-one-out scores.

        Args:
            p: leave-one-out predictions at the n points.
            y: their outcomes, (n,).

        Raises:
            ValueError: when n is too small for the level or a value is not finite.
        """
        n = np.shape(y)[0] if np.ndim(y) else 0
        fold = np.arange(n)
        return fit_plus(type(self).__name__, self.level, self.score, p, y, fold)


def fit_plus(
    name: str,
    level: float,
    score: AbstractResidual,
    p: Predictive,
    y: ArrayLike,
    fold: ArrayLike,
) -> FittedPlus:
    """The scores of both methods, by fold."""
    scores = score_all(score, p, y, level)
    if scores.ndim != 1:
        raise ValueError(f"{name}: expected one output, (n,), got {scores.shape}")
    need_numbers(scores, name)
    need_enough(scores.size, level, name)
    folds, code = np.unique(group_names(fold, scores.size), return_inverse=True)
    if folds.size < 2:
        raise ValueError(f"{name}: expected at least two folds, got one: {folds[0]}")
    order = np.lexsort((scores, code))
    parts = np.split(scores[order], np.cumsum(np.bincount(code))[:-1])
    return FittedPlus(name, level, score, tuple(parts), folds)

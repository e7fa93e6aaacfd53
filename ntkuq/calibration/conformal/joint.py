"""One region for several outputs at once."""

import abc
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.bootstrap import SEED
from ntkuq.calibration.overlap import rows
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractScore, Conformal
from .inputs import exact, moments, outcomes
from .order import need_level, threshold
from .regions import Boxes, Ellipsoids, mahalanobis
from .residuals import widened


@dataclass(frozen=True)
class LargestResidual(AbstractScore):
    r"""$\max_c |y_c - m_c| / s_c$: its regions are boxes."""

    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        mean, std = columns(p)
        return np.max(np.abs(y - mean) / std, axis=1)

    def region(self, p: Predictive, at: np.ndarray, level: float) -> Boxes:
        mean, std = columns(p)
        return Boxes(*widened(mean, mean, std, np.asarray(at)[..., None]))


@dataclass(frozen=True)
class Mahalanobis(AbstractScore):
    r"""$\|L^{-1} \mathrm{diag}(s)^{-1} (y - m)\|$: its regions are ellipsoids.

    Args:
        factor: L, (C, C), lower triangular.
    """

    factor: np.ndarray

    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        mean, std = columns(p)
        return mahalanobis((y - mean) / std, self.factor)

    def region(self, p: Predictive, at: np.ndarray, level: float) -> Ellipsoids:
        mean, std = columns(p)
        # rounding must not shut out a point whose score is the threshold
        radius = np.broadcast_to(at * (1 + 1e-14), mean.shape[:1])
        return Ellipsoids(mean, std, self.factor, radius)


class AbstractShape(abc.ABC):
    """The shape of a joint region, learned or given."""

    @abc.abstractmethod
    def learn(self, p: Predictive, y: np.ndarray) -> tuple[AbstractScore, np.ndarray]:
        """The score, and which points are left to find its threshold, (n,)."""


@dataclass(frozen=True)
class Box(AbstractShape):
    """Boxes whose sides are proportional to the predicted standard deviations."""

    def learn(self, p: Predictive, y: np.ndarray) -> tuple[AbstractScore, np.ndarray]:
        return LargestResidual(), np.ones(len(y), bool)


@dataclass(frozen=True)
class Ellipsoid(AbstractShape):
    r"""Ellipsoids along the second moments of the normalized residuals.

    $LL^T = \frac1m \sum_i r_i r_i^T$, $r = (y - m) / s$, from a part of the calibrate
    points (drawn with a fixed seed) that is not used for the threshold: the same points
    for both would cost the guarantee.

    Args:
        share: of the calibrate points that give the shape.

    Raises:
        ValueError: for a share outside (0, 1).
    """

    _: KW_ONLY
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"expected a share between 0 and 1, got {self.share}")

    def learn(self, p: Predictive, y: np.ndarray) -> tuple[AbstractScore, np.ndarray]:
        mean, std = columns(p)
        n, outputs = mean.shape
        used = np.random.default_rng(SEED).permutation(n)[: round(self.share * n)]
        if used.size <= outputs:
            raise ValueError(
                f"Ellipsoid: expected more than {outputs} points for the shape of "
                f"{outputs} outputs, got {used.size} (share {self.share:g} of {n}); "
                "give more points or use Box()"
            )
        residual = ((y - mean) / std)[used]
        try:
            factor = np.linalg.cholesky(residual.T @ residual / used.size)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "Ellipsoid: the residuals of the outputs are linearly dependent, so no "
                "ellipsoid has a volume; leave out an output or use Box()"
            ) from error
        left = np.ones(n, bool)
        left[used] = False
        return Mahalanobis(factor), left


@dataclass(frozen=True)
class JointConformal:
    r"""Regions that hold all outputs of a point at once.

    $P(y \in C(x)) \ge L$ for the whole vector y of C outputs, where C intervals of
    level L each would hold it less often.

    Args:
        level: the kept probability L.
        shape: `Box()` or `Ellipsoid()`; the latter follows correlated residuals.

    Raises:
        ValueError: for a level outside (0, 1).

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> rng = np.random.default_rng(0)
    >>> mean, y = rng.normal(size=(2, 400, 2))
    >>> p = Predictive.normal(mean, np.ones((400, 2)))
    >>> region = JointConformal(level=0.9).fit(p, mean + y).region
    >>> new = Predictive.normal(np.zeros((1, 2)), np.ones((1, 2)))
    >>> region(new).upper.round(1)  # 1.9 without noise
    array([[2., 2.]])

    References:
        Johnstone and Cox, 2021, COPA (ellipsoids). Messoudi, Destercke and Rousseau,
        2021, Pattern Recognition 120 (largest normalized residual).
    """

    level: float
    shape: AbstractShape = field(default_factory=Box)

    def __post_init__(self) -> None:
        need_level(self.level)

    def fit(self, p: Predictive, y: ArrayLike) -> Conformal:
        """Find shape and threshold.

        Args:
            p: predictions (n, C) at the points of the calibrate part.
            y: their outcomes, (n, C).

        Raises:
            ValueError: when there are too few points, a single output, or a value
                that is not finite.
        """
        name, seen = type(self).__name__, rows(p)
        p = exact(p)
        y = outcomes(p, y)
        score, left = self.shape.learn(p, y)
        scores = score.scores(p, y, self.level)[left]
        at = threshold(scores, self.level, name)
        return Conformal(name, self.level, score, at, scores.size, seen)


def columns(p: Predictive) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of several outputs, (N, C).

    Raises:
        ValueError: for another shape.
    """
    mean, std = moments(p)
    if mean.ndim != 2:
        raise ValueError(
            f"a joint region is for several outputs, (N, C), got {mean.shape}; use "
            "SplitConformal for one"
        )
    return mean, std

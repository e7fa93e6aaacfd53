"""Conformal prediction from one held-out part."""

from dataclasses import dataclass, field

from .base import AbstractConformal, AbstractScore
from .residuals import NormalizedResidual, Quantiles


@dataclass(frozen=True)
class SplitConformal(AbstractConformal):
    r"""Intervals from the ordered scores of a held-out part.

    $C(x) = \{y : s(x, y) \le s_{(k)}\}$, $k = \lceil (n+1)L \rceil$. If the calibrate
    points and the new one are exchangeable, then $L \le P(y \in C(x))$, and
    $P \le L + 1/(n+1)$ where scores have no ties. With several outputs each has a
    threshold of its own and the guarantee is for each alone; `JointConformal` is for
    all at once. Ties (whole numbers, repeated rows) can only raise the coverage.

    Args:
        level: the kept probability L.
        score: how strange an outcome is; `NormalizedResidual()` unless said otherwise,
            since a `Predictive` has a standard deviation for every point.

    Raises:
        ValueError: for a level outside (0, 1).

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> rng = np.random.default_rng(0)
    >>> mean, std = rng.normal(size=999), np.ones(999)
    >>> y = mean + 2 * rng.normal(size=999)  # twice as wide: 3.3 is right
    >>> method = SplitConformal(level=0.9)
    >>> conformal = method.fit(Predictive.normal(mean, std), y)
    >>> lower, upper = conformal.region(Predictive.normal(np.zeros(1), np.ones(1)))
    >>> print(f"{upper[0]:.1f}, {conformal.n} points")
    3.4, 999 points

    References:
        Papadopoulos, Proedrou, Vovk and Gammerman, 2002, ECML, 345-356. Lei, G'Sell,
        Rinaldo, Tibshirani and Wasserman, 2018, JASA 113, 1094-1111.
    """

    level: float
    score: AbstractScore = field(default_factory=NormalizedResidual)

    @property
    def scoring(self) -> AbstractScore:
        return self.score


@dataclass(frozen=True)
class CQR(AbstractConformal):
    """Conformalized quantile regression: `SplitConformal(level, Quantiles())`.

    Args:
        level: the kept probability.

    References:
        Romano, Patterson and Candès, 2019, NeurIPS (arXiv 1905.03222).
    """

    level: float

    @property
    def scoring(self) -> AbstractScore:
        return Quantiles()

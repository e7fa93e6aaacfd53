"""Conformal sets of classes."""

from dataclasses import KW_ONLY, dataclass

from jaxtyping import PRNGKeyArray

from .base import AbstractConformal, AbstractScore
from .classes import CumulativeProbability, Improbability


@dataclass(frozen=True)
class LAC(AbstractConformal):
    r"""Least ambiguous sets: the classes above one threshold of probability.

    $C(x) = \{c : 1 - \pi_c(x) \le s_{(k)}\}$, the smallest sets on average among those
    with $P(y \in C) \ge L$ if the probabilities are right; hard points get too few
    classes. A set may be empty: no class is probable enough there.

    Args:
        level: the kept probability L.
        allow_empty: False puts the most probable class into an empty set.

    Raises:
        ValueError: for a level outside (0, 1).

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> p = Predictive.probabilities(np.full((20, 2), 0.5))
    >>> sets = LAC(level=0.9).fit(p, np.arange(20) % 2)
    >>> new = Predictive.probabilities(np.array([[0.6, 0.4], [0.5, 0.5]]))
    >>> sets.region(new).size
    array([1, 2])

    References:
        Sadinle, Lei and Wasserman, 2019, JASA 114, 223-234 (arXiv 1609.00451).
    """

    level: float
    _: KW_ONLY
    allow_empty: bool = True

    @property
    def scoring(self) -> AbstractScore:
        return Improbability(allow_empty=self.allow_empty)


@dataclass(frozen=True)
class APS(AbstractConformal):
    r"""Adaptive prediction sets: the most probable classes, up to a total.

    $C(x) = \{c : \rho_c(x) + u\,\pi_c(x) \le s_{(k)}\}$ (`CumulativeProbability`).
    $L \le P(y \in C) \le L + 1/(n+1)$ where randomized; without, at least L. Sets are
    large on hard points and small on easy ones.

    Args:
        level: the kept probability L.
        randomized: whether the last class is in by a draw, which keeps the coverage
            from lying above the level. The draw is a fixed function of the predicted
            probabilities and the key.
        allow_empty: False puts the most probable class into an empty set.
        key: random key of the draw; a fixed seed where None.

    Raises:
        ValueError: for a level outside (0, 1).

    References:
        Romano, Sesia and Candès, 2020, NeurIPS (arXiv 2006.02544).
    """

    level: float
    randomized: bool = True
    _: KW_ONLY
    allow_empty: bool = True
    key: PRNGKeyArray | None = None

    @property
    def scoring(self) -> AbstractScore:
        return CumulativeProbability(
            self.randomized, allow_empty=self.allow_empty, key=self.key
        )


@dataclass(frozen=True)
class RAPS(AbstractConformal):
    r"""Regularized adaptive prediction sets: a cost for every class beyond the first k.

    $C(x) = \{c : \rho_c + u\,\pi_c + \lambda\,(o_c - k)^+ \le s_{(k')}\}$: the noise
    of many improbable classes no longer makes sets large. Choose λ and k on points of
    their own (the training part, say): chosen on the calibrate part they would cost
    the guarantee.

    Args:
        level: the kept probability.
        penalty: λ for each rank beyond the offset; 0.001 to 0.5 in the paper.
        offset: k, how many classes are free.
        randomized: as for `APS`.
        allow_empty: False puts the most probable class into an empty set.
        key: random key of the draw; a fixed seed where None.

    Raises:
        ValueError: for a level outside (0, 1), a negative penalty or offset.

    References:
        Angelopoulos, Bates, Jordan and Malik, 2021, ICLR (arXiv 2009.14193).
    """

    level: float
    _: KW_ONLY
    penalty: float
    offset: int
    randomized: bool = True
    allow_empty: bool = True
    key: PRNGKeyArray | None = None

    @property
    def scoring(self) -> AbstractScore:
        return CumulativeProbability(
            self.randomized,
            penalty=self.penalty,
            offset=self.offset,
            allow_empty=self.allow_empty,
            key=self.key,
        )

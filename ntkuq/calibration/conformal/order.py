"""The order statistic on which the guarantee of conformal prediction rests."""

import math
from fractions import Fraction

import numpy as np

from ntkuq.posteriors.distributions import first_bad


def need_level(level: float) -> None:
    """Refuse a kept probability outside (0, 1).

    Raises:
        ValueError: for such a level, NaN included.
    """
    if not 0 < level < 1:
        raise ValueError(
            f"expected a level strictly between 0 and 1, got {level}; it is the "
            "probability that a region keeps, 0.9 for 90 %"
        )


def exact_rank(n: int, level: float) -> int:
    r"""Which of the n ordered scores bounds the region: $k = \lceil (n+1)L \rceil$.

    The level is taken for the shortest decimal that names it: 100 · 0.55 is 55 here,
    not 56 as in binary arithmetic. Where k > n no score is large enough.

    >>> exact_rank(99, 0.55), exact_rank(8, 0.9)
    (55, 9)
    """
    return math.ceil((n + 1) * _decimal(level))


def smallest_n(level: float) -> int:
    r"""The fewest scores that allow a finite region: $\lceil L / (1 - L) \rceil$.

    >>> smallest_n(0.9), smallest_n(0.95), smallest_n(0.5)
    (9, 19, 1)
    """
    kept = _decimal(level)
    return math.ceil(kept / (1 - kept))


def need_enough(n: int, level: float, what: str) -> None:
    """Refuse a calibrate part so small that only the whole space has the level.

    Raises:
        ValueError: with the number of points that is needed.
    """
    if exact_rank(n, level) > n:
        raise ValueError(
            f"{what}: a region of level {level:g} needs at least {smallest_n(level)} "
            f"points to calibrate on, got {n}; give more or lower the level"
        )


def threshold(scores: np.ndarray, level: float, what: str) -> np.ndarray:
    r"""The score that a new point stays below with probability of at least `level`.

    $\hat q = s_{(k)}$, $k = \lceil (n+1)L \rceil$. For exchangeable scores
    $L \le P(s_{n+1} \le \hat q)$, and $P \le L + 1/(n+1)$ where they have no ties.

    Args:
        scores: (n, …); an order statistic is taken over the first axis.
        level: the kept probability L.
        what: begins the message of an error.

    Returns:
        Shape (…).

    Raises:
        ValueError: when n is too small or a score is NaN.

    >>> print(threshold(np.arange(1.0, 10.0), 0.9, "scores"))
    9.0

    References:
        Vovk, Gammerman and Shafer, 2005, Algorithmic Learning in a Random World.
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, 2018, JASA 113, 1094-1111.
    """
    n = scores.shape[0]
    need_enough(n, level, what)
    need_numbers(scores, what)
    place = exact_rank(n, level) - 1
    return np.asarray(np.partition(scores, place, axis=0)[place])


def need_numbers(scores: np.ndarray, what: str) -> None:
    """Refuse NaN among the scores; the first such row is named.

    Raises:
        ValueError: when there is one.
    """
    ok = ~np.isnan(scores)
    if not ok.all():
        raise ValueError(
            f"{what}: the score of row {first_bad(ok)} is NaN; expected finite "
            "predictions and outcomes"
        )


def _decimal(level: float) -> Fraction:
    return Fraction(repr(float(level)))

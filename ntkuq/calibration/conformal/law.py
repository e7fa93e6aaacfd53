"""How the coverage of conformal regions varies with the calibrate part."""

from dataclasses import dataclass

import numpy as np

from .order import exact_rank, need_enough, need_level


@dataclass(frozen=True)
class CoverageLaw:
    r"""The law of the coverage given the calibrate part, when scores have no ties.

    Coverage $\sim \mathrm{Beta}(k, n + 1 - k)$ with $k = \lceil (n+1)L \rceil$; the
    hits among m new points are beta-binomial. So one calibrate part may well cover
    less than the level: its mean over calibrate parts does not.

    Args:
        level: the kept probability L.
        n: number of points of the calibrate part.

    Raises:
        ValueError: for a level outside (0, 1) or too few points for it.

    >>> law = CoverageLaw(0.9, 99)
    >>> print(law.mean, "{:.3f} {:.3f}".format(*law.interval(0.95)))
    0.9 0.834 0.950

    References:
        Vovk, 2012, Proceedings of ACML (arXiv 1209.2673).
    """

    level: float
    n: int

    def __post_init__(self) -> None:
        need_level(self.level)
        need_enough(self.n, self.level, "CoverageLaw")

    @property
    def parameters(self) -> tuple[int, int]:
        """Both parameters of the beta law."""
        k = exact_rank(self.n, self.level)
        return k, self.n + 1 - k

    @property
    def mean(self) -> float:
        """The coverage over all calibrate parts: between L and L + 1/(n + 1)."""
        a, b = self.parameters
        return a / (a + b)

    def interval(self, level: float) -> tuple[float, float]:
        """Where the coverage of one calibrate part lies with probability `level`.

        Raises:
            ValueError: for a level outside (0, 1).
        """
        from scipy import special

        need_level(level)
        a, b = self.parameters
        tail = (1 - level) / 2
        ends = special.betaincinv(a, b, tail), special.betaincinv(a, b, 1 - tail)
        return float(ends[0]), float(ends[1])

    def p_value(self, hits: int, m: int) -> float:
        """Of the hits among m exchangeable new points: twice the smaller tail.

        Raises:
            ValueError: for more hits than points.
        """
        from scipy import special

        if not 0 <= hits <= m:
            raise ValueError(f"expected 0 to {m} hits among {m} points, got {hits}")
        a, b = self.parameters
        k = np.arange(m + 1)
        log = special.betaln(k + a, m - k + b) - special.betaln(m - k + 1, k + 1)
        weights = np.exp(log - special.betaln(a, b)) / (m + 1)
        tail = min(weights[: hits + 1].sum(), weights[hits:].sum())
        return float(min(1.0, 2 * tail))

"""Power laws in the width: slopes with an interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ntkuq.calibration import Score
from ntkuq.calibration.means import mean_score


#: A slope is tested on at least so many widths, over at least such a factor.
FEWEST, FACTOR = 3, 8


def width_slope(widths: Sequence[float], values: Float[np.ndarray, "S W"]) -> Score:
    r"""The exponent of a power law in the width, with seeds as clusters.

    Ordinary least squares of $\log v_{sw}$ on $\log m_w$, one slope a seed:
    $\hat\beta_s = \sum_w (x_w - \bar x) \log v_{sw} / \sum_w (x_w - \bar x)^2$. Every
    seed has all widths, so that the mean of these slopes is the slope over all, and
    their spread its cluster-robust error, whatever the values of one seed have in
    common. The 95 % interval is Student's with S - 1 degrees of freedom.

    Args:
        widths: m, W of them.
        values: positive numbers, one row a seed.

    Returns:
        The slope; n counts seeds.

    References: Ibragimov and Müller 2010, Journal of Business and Economic Statistics
    28(4), 453-468.

    >>> v = np.array([[1.0, 0.5, 0.25], [2.0, 1.0, 0.5]])
    >>> round(width_slope((16, 64, 256), v).value, 6)
    -0.5
    """
    x = np.log(np.asarray(widths, np.float64))
    x = x - x.mean()
    return mean_score(np.log(np.asarray(values, np.float64)) @ x / np.sum(x**2))


def why_no_slope(widths: Sequence[int]) -> str | None:
    """Why so few widths, or so near to each other, do not tell a slope.

    >>> why_no_slope((8, 64, 256)) is None
    True
    """
    if len(widths) >= FEWEST and max(widths) >= FACTOR * min(widths):
        return None
    got = ", ".join(map(str, widths)) or "none"
    return (
        f"needs at least {FEWEST} widths, the largest at least {FACTOR} times the "
        f"smallest, got {got}"
    )

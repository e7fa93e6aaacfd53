"""The central interval of each prediction, on the host."""

import jax
import numpy as np

from ntkuq.posteriors.predictive import Predictive

from .exact import exact
from .laws import law


def central(p: Predictive, level: float) -> tuple[np.ndarray, np.ndarray]:
    r"""$Q(\tfrac{1 - L}{2})$ and $Q(\tfrac{1 + L}{2})$ in float64; nothing is compiled.

    Args:
        p: predictions at N points.
        level: the kept probability L, between 0 and 1.

    Returns:
        Lower and upper ends, shape of the batch, in the units of the data.

    Raises:
        ValueError: for a level beyond a quantile table.
        NotImplementedError: for a law without quantiles.

    >>> lower, upper = central(Predictive.normal(np.zeros(1), np.ones(1)), 0.95)
    >>> print(f"{lower[0]:.3f} {upper[0]:.3f}")
    -1.960 1.960
    """
    with jax.enable_x64(True):
        double = exact(p)
        found = law(double)
        if not 0 < level <= found.reach:
            # which says what the table holds, or what a level is
            lower, upper = double.interval(level)
            return np.asarray(lower), np.asarray(upper)
        lower, upper = found.quantiles(np.array([(1 - level) / 2, (1 + level) / 2]))
    return lower, upper

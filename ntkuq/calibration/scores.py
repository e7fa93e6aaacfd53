"""Score predictions: every number with its standard error, n and interval."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.join import flattened
from ntkuq.posteriors.predictive import Predictive, current

from .classification import classification
from .records import Scores
from .regression import regression


def score(
    predictive: Predictive,
    y: ArrayLike,
    *,
    levels: Sequence[float] = (0.5, 0.9, 0.95),
) -> Scores:
    """Score predictions against what was observed.

    Regression: `nll` (nats), `crps` and `rmse` (units of the data), `coverage_90` and
    `width_90` for each level, `calibration_error` and `pit_ks`. Classes: `nll` (nats),
    `brier` (0 to 2), `accuracy` and `ece`. Points are taken to be independent. A score
    that the kind of prediction does not allow is listed in `omitted` with the reason.
    With several outputs or positions (images, sequences) `nll` adds those of a point up
    and the other scores average over them; `ece` is left out there, since the positions
    of one point are not independent. Everything is computed in float64.

    Args:
        predictive: predictions at N points.
        y: shape of the predictions, an axis of length 1 at the end aside; in the units
            of the data, or class codes.
        levels: kept probabilities of the intervals to check.

    Returns:
        The scores, the per-point values behind them, and calibration curves.

    Raises:
        ValueError: when shapes do not fit, y is not finite, or a level is outside
            (0, 1).

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=500)
    >>> s = score(Predictive.normal(np.zeros(500), np.ones(500)), y)
    >>> print(f"{s['coverage_90'].value:.2f} of {s['coverage_90'].n}")
    0.92 of 500
    """
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"expected levels between 0 and 1, got {level}")
    with jax.enable_x64(True):
        exact = _double(predictive)
        y = np.asarray(exact.matched(y))
        if exact.is_classification:
            return classification(exact, y)
        if y.ndim > 2:
            exact, y = flattened(exact), y.reshape(len(y), -1)
        return regression(exact, y, tuple(levels))


def _double(p: Predictive) -> Predictive:
    """The same predictions with float64 parameters on the host."""

    def one(a: jax.Array) -> np.ndarray:
        host = np.asarray(a)
        floating = jnp.issubdtype(host.dtype, jnp.floating)
        return host.astype(np.float64) if floating else host

    return Predictive(latent=None, observed=jax.tree.map(one, current(p.observed)))

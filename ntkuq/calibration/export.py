"""Hand predictions over to ArviZ."""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray
from numpyro import distributions as dist

from ntkuq.posteriors.predictive import Predictive, current


if TYPE_CHECKING:
    from xarray import DataTree


def to_datatree(
    predictive: Predictive, y: ArrayLike, *, key: PRNGKeyArray, samples: int = 1000
) -> "DataTree":
    """An ArviZ DataTree with draws of new observations and what was observed.

    Groups: `posterior_predictive` (1 chain, `samples` draws), `observed_data`, and,
    where there is a density, `log_likelihood`: of each component for an equally
    weighted mixture, otherwise of the prediction as a whole (one draw).

    Args:
        predictive: predictions at N points.
        y: observations.
        key: random key for the draws.
        samples: number of draws.

    Raises:
        ValueError: when the shape of y does not fit.
    """
    from arviz_base import from_dict

    seen = predictive.matched(y)
    groups = {
        "posterior_predictive": {
            "y": np.asarray(predictive.sample(key, samples))[None]
        },
        "observed_data": {"y": np.asarray(seen)},
    }
    try:
        density = _log_likelihood(predictive, seen)
    except NotImplementedError:
        return from_dict(groups)
    return from_dict({**groups, "log_likelihood": {"y": density[None]}})


def _log_likelihood(predictive: Predictive, y: jax.Array) -> np.ndarray:
    """Log density of each draw (or of the whole prediction), (draws, N)."""
    observed = current(predictive.observed)
    if isinstance(observed, dist.MixtureSameFamily):
        weights = np.asarray(observed.mixing_distribution.probs)
        if np.ptp(weights) < 1e-6:
            parts = observed.component_distribution
            each = np.asarray(parts.log_prob(y[..., None]))
            each = np.moveaxis(each, -1, 0)
            return each.sum(axis=-1) if each.ndim == 3 else each
    return np.asarray(predictive.log_prob(y))[None]

"""Hand predictions and posteriors over to ArviZ."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray
from numpyro import distributions as dist

from ntkuq.data import as_dataset
from ntkuq.posteriors.arviz import posterior_groups
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.predictive import Predictive, current


if TYPE_CHECKING:
    from xarray import DataTree


def to_datatree(
    source: Predictive | AbstractPosterior,
    y: Any,
    *,
    key: PRNGKeyArray,
    samples: int = 1000,
) -> "DataTree":
    """An ArviZ DataTree with draws of new observations and what was observed.

    Of predictions: `posterior_predictive` (1 chain, `samples` draws), `observed_data`,
    and, where there is a density, `log_likelihood`: of each component for an equally
    weighted mixture, otherwise of the prediction as a whole (one draw).

    Of a posterior and data, by chain and draw: `posterior` (weights, where it has
    them), `log_likelihood` and `posterior_predictive` of each draw, `sample_stats` of
    Markov chains, `observed_data`; see `ntkuq.posteriors.arviz`. With the training
    data `arviz_stats.loo` takes it. A posterior without draws of its function is
    exported as its predictions are.

    Several outputs become one variable each (`y_0`, `y_1`, …), as ArviZ's plots ask.

    Args:
        source: predictions at N points, or a posterior.
        y: observations (N, …) for predictions; a data set for a posterior.
        key: random key for the draws.
        samples: number of draws; a posterior that consists of networks gives them all.

    Raises:
        ValueError: when the shape of y does not fit.
        TypeError: for a posterior without a data set.

    >>> tree = to_datatree(
    ...     Predictive.normal(np.zeros(3), np.ones(3)),
    ...     np.ones(3),
    ...     key=jax.random.key(0),
    ... )
    >>> tree["posterior_predictive"]["y"].shape
    (1, 1000, 3)
    """
    if isinstance(source, AbstractPosterior):
        return _of_posterior(source, y, samples, key)
    return _of_predictions(source, y, samples, key)


def _of_posterior(
    posterior: AbstractPosterior, data: Any, samples: int, key: PRNGKeyArray
) -> "DataTree":
    if isinstance(data, np.ndarray | jax.Array):
        raise TypeError(
            "to_datatree: expected a data set with a posterior, "
            f"to_datatree(posterior, data, key=key), got an array of shape {data.shape}"
        )
    whole = as_dataset(data)
    groups = posterior_groups(posterior, whole, samples=samples, key=key)
    if groups is not None:
        return _tree(groups)
    return _of_predictions(posterior.predict(whole.x), whole.y, samples, key)


def _of_predictions(
    predictive: Predictive, y: ArrayLike, samples: int, key: PRNGKeyArray
) -> "DataTree":
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
        return _tree(groups)
    return _tree({**groups, "log_likelihood": {"y": density[None]}})


def _tree(groups: dict[str, dict[str, np.ndarray]]) -> "DataTree":
    """The DataTree, with one variable for each of several outputs."""
    # ArviZ takes a second to import
    from arviz_base import from_dict

    seen = groups["observed_data"]["y"]
    count = seen.shape[1] if seen.ndim == 2 else 1
    names = [f"y_{number}" for number in range(count)] if count > 1 else ["y"]
    if seen.ndim == 2:
        groups = dict(groups)
        for name in {"observed_data", "posterior_predictive"} & set(groups):
            array = groups[name]["y"]
            groups[name] = {one: array[..., n] for n, one in enumerate(names)}
    return from_dict(groups, dims={name: ["obs_id"] for name in ["y", *names]})


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

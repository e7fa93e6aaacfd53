"""Draws of a posterior as the groups of an ArviZ DataTree."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree

from ntkuq.data import DataLike, Dataset, as_dataset
from ntkuq.models import (
    BNN,
    AbstractLikelihood,
    KnownNoise,
    NoisyTargets,
    as_arrays,
    parameters,
)
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.draws import draw_outputs
from ntkuq.posteriors.ensemble import EnsemblePosterior
from ntkuq.posteriors.map import MAPPosterior
from ntkuq.posteriors.mcmc.posterior import NUTSPosterior
from ntkuq.posteriors.predictive import current


#: Groups of a DataTree: arrays by variable by group.
Groups = dict[str, dict[str, np.ndarray]]


class _Draws(NamedTuple):
    """Function values of each draw, and what else is known of it.

    values: in the units of the data, (S, N, C). noise: of each draw and point, where
    it is not that of the likelihood, (S or 1, N or 1, D). weights: by path, (S, …).
    statistics: by name, (chains, draws).
    """

    values: Float[Array, "S N C"]
    noise: Float[Array, "_ _ D"] | None = None
    chains: int = 1
    weights: dict[str, np.ndarray] = {}  # noqa: RUF012
    statistics: dict[str, np.ndarray] = {}  # noqa: RUF012


def posterior_groups(
    posterior: AbstractPosterior, data: DataLike, *, samples: int = 1000, key: Array
) -> Groups | None:
    r"""What draws of a posterior say, one entry a draw.

    `posterior`: the weights by their path in the network; `log_likelihood`:
    $\log p(y_n \mid f_s(x_n))$ of each draw s, in the units of the data;
    `posterior_predictive`: a new observation for each draw; `observed_data`; and
    `sample_stats` of Markov chains. Arrays have the axes (chain, draw, …).

    Posteriors that consist of networks (chains, ensembles) give all of them. Laplace
    and variational posteriors are drawn from. A Gaussian process with Gaussian noise
    has no weights: its `posterior` is f, draws of its function at each point.

    Args:
        posterior: what a method's `fit` returned.
        data: where to predict; with the training data, `arviz_stats.loo` estimates the
            score of each datum left out.
        samples: draws of posteriors that can be drawn from.
        key: of the draws.

    Returns:
        Arrays by variable by group; `None` for posteriors that have no draws of the
        function which a likelihood belongs to (Gaussian processes for classes).
    """
    whole = as_dataset(data)
    function_key, key = jax.random.split(key)
    # log densities are compared with one another: in float64, whatever came
    with jax.enable_x64(True):
        found = _draws(posterior, whole, samples, function_key)
        if found is None:
            return None
        groups = _predictions(posterior.bnn, found, whole, key)
    shape = (found.chains, len(found.values) // found.chains)

    def apart(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: a.reshape(*shape, *a.shape[1:]) for name, a in arrays.items()}

    made = {name: apart(arrays) for name, arrays in groups.items()}
    if found.weights:
        made["posterior"] = apart(found.weights)
    if found.statistics:
        made["sample_stats"] = found.statistics
    return {**made, "observed_data": {"y": np.asarray(whole.y)}}


def weights_by_path(networks: PyTree) -> dict[str, np.ndarray]:
    """The parameter arrays of a network by path, such as `layers[0].weight`.

    A DataTree does not allow "/" in a name: it becomes "|".

    >>> net = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> {name: array.shape for name, array in weights_by_path(net).items()}
    {'weight': (1, 2), 'bias': (1,)}
    """
    leaves = jax.tree_util.tree_leaves_with_path(parameters(networks))
    return {
        jax.tree_util.keystr(path).lstrip(".").replace("/", "|"): np.asarray(leaf)
        for path, leaf in leaves
    }


def _draws(
    posterior: AbstractPosterior, data: Dataset, samples: int, key: Array
) -> _Draws | None:
    bnn = posterior.bnn
    if isinstance(posterior, NUTSPosterior):
        noise = posterior.noise
        if noise is not None:
            scale = bnn.scaling.scale()
            noise = jnp.asarray(np.asarray(noise, np.float64) * scale)[:, None]
        return _Draws(
            _in_data_units(bnn, posterior.outputs(data.x)),
            noise,
            posterior.chains,
            weights_by_path(posterior.networks),
            posterior.statistics,
        )
    networks = _networks(posterior, key)
    if networks is not None:
        weights = weights_by_path(networks)
        dtype = next(iter(weights.values())).dtype
        outputs = draw_outputs(networks, bnn.inputs(data.x, dtype))
        chains = getattr(posterior, "chains", 1)
        return _Draws(_in_data_units(bnn, outputs), None, chains, weights)
    posterior_: Any = posterior
    if hasattr(posterior, "sample_functions") and hasattr(posterior, "sample"):
        # the same key: the functions of these networks
        values = posterior_.sample_functions(key, samples)(data.x)
        values = jnp.asarray(values, jnp.float64).reshape(samples, len(data), -1)
        weights = weights_by_path(posterior_.sample(key, samples))
        return _Draws(values, None, 1, weights)
    return _gaussian(posterior, data, samples, key)


def _networks(posterior: AbstractPosterior, key: Array) -> PyTree | None:
    """The networks that a posterior consists of, stacked; `None` for others."""
    if isinstance(posterior, MAPPosterior):
        return posterior.sample(key, 1)
    if isinstance(posterior, EnsemblePosterior):
        return _stacked(posterior.members)
    return getattr(posterior, "networks", None)


def _stacked(members: tuple[PyTree, ...]) -> PyTree | None:
    parts = [eqx.partition(member, eqx.is_array) for member in members]
    if any(not eqx.tree_equal(rest, parts[0][1]) for _, rest in parts):
        return None
    arrays = jax.tree.map(lambda *a: jnp.stack(a), *[part for part, _ in parts])
    return eqx.combine(arrays, parts[0][1])


def _gaussian(
    posterior: AbstractPosterior, data: Dataset, samples: int, key: Array
) -> _Draws | None:
    """Draws of the function at each point, where function and noise are Gaussian."""
    predictive = posterior.predict(data.x)
    if predictive.latent is None:
        return None
    latent, noise = current(predictive.latent), predictive.aleatoric
    if not isinstance(latent, dist.Normal) or noise is None:
        return None
    if not isinstance(predictive.observed, dist.Normal):
        return None
    loc, spread, noise = (
        jnp.asarray(a, jnp.float64).reshape(1, len(data), -1)
        for a in (latent.loc, latent.scale, noise)
    )
    white = jax.random.normal(key, (samples, *loc.shape[1:]), jnp.float64)
    values = loc + spread * white
    return _Draws(values, jnp.sqrt(noise), 1, {"f": np.asarray(values)})


def _in_data_units(bnn: BNN, latent: Float[Array, "S N C"]) -> Float[Array, "S N C"]:
    loc, scale = jnp.asarray(bnn.scaling.loc()), jnp.asarray(bnn.scaling.scale())
    latent = jnp.asarray(latent, jnp.float64)
    return bnn.likelihood.shift(latent, loc, scale)[0]


def _predictions(bnn: BNN, found: _Draws, data: Dataset, key: Array) -> Groups:
    """Log likelihoods (S, N) and new observations (S, N, …)."""
    y = _targets(bnn.likelihood, data)
    if found.noise is not None:
        law = dist.Normal(
            found.values, jnp.broadcast_to(found.noise, found.values.shape)
        )
        seen = law
        if isinstance(y, NoisyTargets):
            seen, y = dist.Normal(found.values, y.scale), y.value
        density = jnp.sum(seen.log_prob(y), axis=-1)
    else:
        likelihood = as_arrays(bnn.likelihood, np.float64)
        loc, scale = jnp.asarray(bnn.scaling.loc()), jnp.asarray(bnn.scaling.scale())
        likelihood = likelihood.rescale(loc, scale)
        if isinstance(likelihood, KnownNoise) and data.noise_scale is None:
            likelihood = likelihood.new
        density = _densities(likelihood, found.values, y)
        law = likelihood.distribution(found.values)
    groups = {"log_likelihood": {"y": np.asarray(density)}}
    try:
        drawn = np.asarray(law.sample(key))
    except NotImplementedError:
        # a density of the user's own, without a sampler
        return groups
    shape = (len(found.values), *data.y.shape)
    return {**groups, "posterior_predictive": {"y": drawn.reshape(shape)}}


def _targets(likelihood: AbstractLikelihood, data: Dataset) -> Array | NoisyTargets:
    """What `log_prob` takes, in the units of the data."""
    if not likelihood.continuous:
        return jnp.asarray(np.asarray(data.y, np.int32))
    y = np.asarray(data.y, np.float64).reshape(len(data), -1)
    if isinstance(likelihood, KnownNoise) and data.noise_scale is not None:
        noise = np.asarray(data.noise_scale, np.float64).reshape(len(data), -1)
        return NoisyTargets(
            jnp.asarray(y), jnp.asarray(np.broadcast_to(noise, y.shape))
        )
    return jnp.asarray(y)


@eqx.filter_jit
def _densities(
    likelihood: AbstractLikelihood, values: Float[Array, "S N C"], y: PyTree
) -> Float[Array, "S N"]:
    return jax.lax.map(lambda f: jax.vmap(likelihood.log_prob)(f, y), values)

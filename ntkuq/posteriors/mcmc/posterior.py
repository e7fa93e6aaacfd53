"""Draws of Markov chains over the weights as a posterior."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.linearize import map_chunks
from ntkuq.models import BNN, forward, trainable
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior
from ntkuq.posteriors.draws import CHUNK, NetworkFunctions
from ntkuq.posteriors.join import unflattened
from ntkuq.posteriors.mcmc.mixing import NotAReference, advice, failures
from ntkuq.posteriors.mcmc.target import replaced
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions


class NUTSPosterior(AbstractPosterior):
    """Networks drawn by Markov chains, equally likely; the chains are kept apart.

    Args:
        bnn: the problem, as it was given.
        method: how the chains were run.
        model: the network, with the weights that were not sampled.
        leaves: draws of the sampled parameter arrays, (S, …) each, the draws of a chain
            together.
        noise: draws of the noise scale in the network's units, (S, D), where it was
            sampled.
        chains: number of chains; S is a multiple of it.
        statistics: of each draw, (chains, draws): "lp" (the log joint density up to a
            constant), "acceptance_rate", "diverging", "n_steps".
        subset: positions of `leaves` among the network's parameter arrays.
    """

    bnn: BNN
    method: AbstractMethod
    model: PyTree
    leaves: list[Array]
    noise: Float[Array, "S D"] | None
    chains: int
    statistics: dict[str, np.ndarray]
    subset: tuple[int, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    @property
    def draws(self) -> int:
        """The number of draws S, of all chains."""
        return self.leaves[0].shape[0]

    @property
    def networks(self) -> PyTree:
        """All drawn networks, stacked along a leading axis (S, …)."""
        return self._stacked(np.arange(self.draws))

    @property
    def is_reference(self) -> bool:
        """Do the chains agree well enough to measure other posteriors by?"""
        return not failures(self.diagnostics)

    def check(self) -> None:
        """Return where the chains can serve as a reference.

        R-hat of the predictions below 1.01, 400 effective draws or more in the bulk and
        in the tails, no divergences, and two chains or more.

        Raises:
            NotAReference: where they cannot, with the reason and what to change.
        """
        wrong = failures(self.diagnostics)
        if wrong:
            raise NotAReference(
                f"expected chains that have mixed, got others: {'; '.join(wrong)}. To "
                f"change that {advice(self.diagnostics, self.method)}"
            )

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the drawn networks' predictions at x (N, …)."""
        with jax.enable_x64(self._dtype == np.float64):
            return self._mixture(self.outputs(x), self.noise)

    def predict_chains(self, x: PyTree) -> list[Predictive]:
        """The predictions of each chain alone; their average is `predict(x)`."""
        with jax.enable_x64(self._dtype == np.float64):
            values = self.outputs(x)
            rows = np.arange(self.draws).reshape(self.chains, -1)
            return [
                self._mixture(values[r], None if self.noise is None else self.noise[r])
                for r in rows
            ]

    def outputs(self, x: PyTree) -> Float[Array, "S N C"]:
        """The outputs of each drawn network at x (N, …), in the network's units."""
        with jax.enable_x64(self._dtype == np.float64):
            inputs = self._units.inputs(x, self._dtype)
            return leaf_outputs(self.model, self.subset, self.leaves, inputs)

    def sample(self, key: Array, n: int) -> PyTree:
        """n networks drawn with replacement, stacked along a leading axis."""
        return self._stacked(np.asarray(jax.random.randint(key, (n,), 0, self.draws)))

    def sample_functions(self, key: Array, n: int) -> NetworkFunctions:
        """n of the networks as functions of x in units of the data."""
        return NetworkFunctions(self._units, self.sample(key, n))

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self.leaves[0].dtype)

    @property
    def _units(self) -> BNN:
        """The problem with a network whose precision is that of the draws."""
        return self.bnn.with_model(self.model)

    def _stacked(self, rows: Int[np.ndarray, " n"]) -> PyTree:
        def repeat(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf, (len(rows), *leaf.shape))

        with jax.enable_x64(self._dtype == np.float64):
            values, rest = eqx.partition(self.model, trainable(self.model))
            every = eqx.combine(jax.tree.map(repeat, values), rest)
            return replaced(every, self.subset, [leaf[rows] for leaf in self.leaves])

    def _mixture(self, latent: Float[Array, "S N C"], noise: Array | None):
        if noise is None:
            return from_functions(self._units, latent, self._dtype)
        return _noisy(self.bnn, latent, noise)


def leaf_outputs(
    model: PyTree, subset: tuple[int, ...], leaves: list[Array], x: PyTree
) -> Float[Array, "S N C"]:
    """The outputs at scaled inputs x of a network for draws of some of its leaves."""
    values = map_chunks(lambda part: _outputs(model, subset, leaves, part), x, CHUNK)
    return jnp.swapaxes(values, 0, 1)


@eqx.filter_jit
def _outputs(
    model: PyTree, subset: tuple[int, ...], leaves: list[Array], x: PyTree
) -> Float[Array, "N S C"]:
    def one(leaves: list[Array]) -> Array:
        network = replaced(model, subset, leaves)
        return jax.vmap(lambda a: forward(network, a))(x)

    return jnp.swapaxes(jax.lax.map(one, leaves), 0, 1)


def _noisy(
    bnn: BNN, latent: Float[Array, "S N C"], noise: Float[Array, "S D"]
) -> Predictive:
    """The mixture of draws of function and noise, in the units of the data."""
    loc = jnp.asarray(bnn.scaling.loc(), latent.dtype)
    scale = jnp.asarray(bnn.scaling.scale(), latent.dtype)
    mean, variance, f, sigma = _moments(latent, noise, loc, scale)
    weights = jnp.full((len(latent),), 1.0 / len(latent), latent.dtype)
    predictive = Predictive(
        latent=dist.Normal(mean, jnp.sqrt(variance)),
        observed=dist.MixtureSameFamily(
            dist.Categorical(probs=weights), dist.Normal(f, sigma)
        ),
        epistemic=variance,
        aleatoric=jnp.mean(sigma**2, axis=-1),
    )
    if bnn.target_shape is None:
        return predictive
    return unflattened(predictive, bnn.target_shape)


@jax.jit
def _moments(latent, noise, loc, scale):
    f = jnp.moveaxis(latent * scale + loc, 0, -1)
    sigma = jnp.moveaxis(noise * scale, 0, -1)
    sigma = jnp.broadcast_to(sigma, f.shape)
    # one output: predictions have shape (N,)
    f, sigma = (a[:, 0] if a.shape[1] == 1 else a for a in (f, sigma))
    variance = jnp.maximum(jnp.var(f, axis=-1), jnp.finfo(f.dtype).tiny)
    return jnp.mean(f, axis=-1), variance, f, sigma

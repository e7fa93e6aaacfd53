"""Posteriors that are networks, equally likely: draws of weights and what they say."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.data.inputs import checked_inputs
from ntkuq.linearize import map_chunks
from ntkuq.models import BNN, Frozen, forward, trainable
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, output_dtype


#: Inputs whose outputs are computed at a time, for all networks one after the other.
CHUNK = 1024


class SampledPosterior(AbstractPosterior):
    """Networks with weights drawn from a posterior, equally likely.

    Args:
        networks: the networks, stacked along a leading axis (S, …).
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float | None
    diagnostics: dict[str, Any]
    networks: PyTree

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the networks' predictions at x (N, …)."""
        return predict_draws(self.bnn, self.networks, x)

    def sample(self, key: Array, n: int) -> PyTree:
        """n networks drawn with replacement, stacked along a leading axis."""
        return draw_networks(self.networks, n, key=key)

    def sample_functions(self, key: Array, n: int) -> NetworkFunctions:
        """n of the networks as functions of x in units of the data."""
        return NetworkFunctions(self.bnn, self.sample(key, n))


def predict_draws(bnn: BNN, networks: PyTree, x: PyTree) -> Predictive:
    """The equal mixture of stacked networks (S, …) at x (N, …), in data units."""
    latent = draw_outputs(networks, bnn.inputs(x))
    return from_functions(bnn, latent, output_dtype(bnn))


def draw_outputs(networks: PyTree, x: PyTree) -> Float[Array, "S N C"]:
    """The outputs of stacked networks at scaled inputs, network by network."""
    values = map_chunks(lambda part: _outputs(networks, part), x, CHUNK)
    return jnp.swapaxes(values, 0, 1)


def draw_networks(networks: PyTree, n: int, *, key: Array) -> PyTree:
    """n of the stacked networks, drawn with replacement."""
    arrays, rest = eqx.partition(networks, _drawn(networks))
    rows = jax.random.randint(key, (n,), 0, _count(networks))
    return eqx.combine(jax.tree.map(lambda a: a[rows], arrays), rest)


class NetworkFunctions(eqx.Module):
    """n networks as functions of x, in units of the data, the same at every call.

    Args:
        bnn: the problem, for the units of inputs and outputs.
        networks: the networks, stacked along a leading axis.

    `functions(x)` gives (n, N) for one output, else (n, N, C); `functions[s]` is one
    of them, with values (N,) or (N, C).
    """

    bnn: BNN
    networks: PyTree

    def __len__(self) -> int:
        return _count(self.networks)

    def __getitem__(self, number: int) -> NetworkFunction:
        if not -len(self) <= number < len(self):
            raise IndexError(
                f"expected the number of a function below {len(self)}, got {number}"
            )
        arrays, rest = eqx.partition(self.networks, _drawn(self.networks))
        one = eqx.combine(jax.tree.map(lambda a: a[number][None], arrays), rest)
        return NetworkFunction(NetworkFunctions(self.bnn, one))

    def __call__(self, x: PyTree) -> Float[Array, "n N *C"]:
        latent = draw_outputs(self.networks, self.bnn.inputs(checked_inputs(x)))
        loc = jnp.asarray(self.bnn.scaling.loc(), latent.dtype)
        scale = jnp.asarray(self.bnn.scaling.scale(), latent.dtype)
        values, _ = self.bnn.likelihood.shift(latent, loc, scale)
        return values[..., 0] if values.shape[-1] == 1 else values


class NetworkFunction(eqx.Module):
    """One function drawn from a posterior."""

    drawn: NetworkFunctions

    def __call__(self, x: PyTree) -> Float[Array, "N *C"]:
        return self.drawn(x)[0]


def _drawn(networks: PyTree) -> PyTree:
    """Which arrays have the leading axis: parameters, and what is fixed for a draw."""

    def is_frozen(node: PyTree) -> bool:
        return isinstance(node, Frozen)

    def turn(node: PyTree, chosen: PyTree) -> PyTree:
        return jax.tree.map(eqx.is_array, node) if is_frozen(node) else chosen

    return jax.tree.map(turn, networks, trainable(networks), is_leaf=is_frozen)


def _count(networks: PyTree) -> int:
    arrays = eqx.filter(networks, _drawn(networks))
    return jax.tree.leaves(arrays)[0].shape[0]


@eqx.filter_jit
def _outputs(networks: PyTree, x: PyTree) -> Float[Array, "N S C"]:
    arrays, rest = eqx.partition(networks, _drawn(networks))

    def one(arrays: PyTree) -> Array:
        model = eqx.combine(arrays, rest)
        return jax.vmap(lambda a: forward(model, a))(x)

    return jnp.swapaxes(jax.lax.map(one, arrays), 0, 1)

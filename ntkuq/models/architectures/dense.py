"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array

from ntkuq.models.parametrization import (
    AbstractParametrization,
    Place,
    Role,
    Standard,
    parametrized,
)


#: Equinox's layers and their initialization.
STANDARD = Standard()


def mlp(
    inputs: int,
    outputs: int,
    *,
    width: int = 50,
    depth: int = 2,
    activation: Callable[[Array], Array] = jax.nn.tanh,
    parametrization: AbstractParametrization = STANDARD,
) -> Callable[..., eqx.nn.MLP]:
    """A builder of fully connected networks inputs-width-…-width-outputs.

    Args:
        inputs, outputs: sizes of one example and of the network's output.
        width, depth: units of a hidden layer, number of hidden layers.
        activation: elementwise nonlinearity.
        parametrization: `Standard()`, which are Equinox's layers with weights
            ~ U(±1/sqrt(fan_in)), of variance 1 / (3 fan_in); or `Standard(weight_std)`,
            `NTK()`, `MuP()`.

    Returns:
        build: key -> `eqx.nn.MLP`.

    >>> mlp(8, 1, width=50)(jax.random.key(0)).depth
    2
    """

    def build(key: Array) -> eqx.nn.MLP:
        made = eqx.nn.MLP(inputs, outputs, width, depth, activation, key=key)
        keys = jax.random.split(jax.random.fold_in(key, 1), depth + 1)
        layers = tuple(
            parametrized(
                layer,
                Place(_role(n, depth), layer.weight.shape[1], width),
                parametrization,
                key=keys[n],
            )
            for n, layer in enumerate(made.layers)
        )
        return eqx.tree_at(lambda network: network.layers, made, layers)

    return build


def _role(layer: int, last: int) -> Role:
    if layer == last:
        return Role.READOUT
    return Role.INPUT if layer == 0 else Role.HIDDEN

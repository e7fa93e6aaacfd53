"""Reference architectures, each a builder key -> module with its parametrization."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


def mlp(
    inputs: int,
    outputs: int,
    *,
    width: int = 50,
    depth: int = 2,
    activation: Callable[[Array], Array] = jax.nn.tanh,
) -> Callable[..., eqx.nn.MLP]:
    """A builder of fully connected networks inputs-width-…-width-outputs.

    Standard parametrization: weights ~ U(±1/sqrt(fan_in)), Equinox's initialization,
    which has variance 1 / (3 fan_in).

    Args:
        inputs, outputs: sizes of one example and of the network's output.
        width, depth: units of a hidden layer, number of hidden layers.
        activation: elementwise nonlinearity.

    Returns:
        build: key -> `eqx.nn.MLP`.

    >>> mlp(8, 1, width=50)(jax.random.key(0)).depth
    2
    """

    def build(key: Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(inputs, outputs, width, depth, activation, key=key)

    return build


def describe(model: eqx.Module, inputs: tuple[int, ...]) -> str:
    """One line that says what a network is, such as "MLP 8-50-50-1 (tanh)".

    >>> describe(mlp(8, 1)(jax.random.key(0)), (8,))
    'MLP 8-50-50-1 (tanh)'
    """
    if isinstance(model, eqx.nn.MLP):
        sizes = [layer.in_features for layer in model.layers]
        sizes.append(model.layers[-1].out_features)
        text = "-".join(str(size) for size in sizes)
        # MLP stores one copy of the activation for each unit: find its name
        name = _name(model.activation)
        return f"MLP {text} ({name})" if name else f"MLP {text}"
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return f"{type(model).__name__} with {len(leaves)} parameter arrays, input {inputs}"


def _name(function: object) -> str:
    known = {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
        "sigmoid": jax.nn.sigmoid,
        "elu": jax.nn.elu,
    }
    inner = getattr(function, "fn", function)
    for name, candidate in known.items():
        if inner is candidate:
            return name
    return getattr(inner, "__name__", "")

"""What a network is, in one line."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from ntkuq.models.architectures.convolutional import CNN
from ntkuq.models.architectures.residual import ResNet
from ntkuq.models.parametrization import Scaled, Standard


def describe(model: eqx.Module, inputs: tuple[int, ...]) -> str:
    """One line that says what a network is: layers, nonlinearity, parametrization.

    A network of Equinox's layers multiplies its weights by nothing, which is the
    standard parametrization, however they were drawn.

    >>> from ntkuq.models import mlp
    >>> describe(mlp(8, 1)(jax.random.key(0)), (8,))
    'MLP 8-50-50-1 (tanh), standard parametrization'
    """
    if isinstance(model, eqx.nn.MLP):
        sizes = [model.in_size, *[model.width_size] * model.depth, model.out_size]
        # MLP stores one copy of the activation for each unit: find its name
        return _line("MLP", sizes, "", model.activation, model.layers)
    if isinstance(model, CNN):
        layers = (*model.convolutions, model.readout)
        sizes = [_sizes(layers[0])[0], *(_sizes(layer)[1] for layer in layers)]
        return _line("CNN", sizes, ", global pooling", model.activation, layers)
    if isinstance(model, ResNet):
        sizes = [*_sizes(model.stem), _sizes(model.readout)[1]]
        count = len(model.blocks)
        what = f", {count} block{'s' if count > 1 else ''} × {count}^-1/2"
        return _line("ResNet", sizes, what, model.activation, (model.stem,))
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return f"{type(model).__name__} with {len(leaves)} parameter arrays, input {inputs}"


def _line(
    kind: str,
    sizes: Sequence[int | str],
    more: str,
    activation: object,
    layers: tuple[eqx.Module, ...],
) -> str:
    text = f"{kind} {'-'.join(str(size) for size in sizes)}{more}"
    name = _name(activation)
    text += f" ({name})" if name else ""
    scaled = [layer.text for layer in layers if isinstance(layer, Scaled)]
    return f"{text}, {scaled[0] if scaled else Standard().text}"


def _sizes(layer: eqx.nn.Linear | eqx.nn.Conv | Scaled) -> tuple[int, int]:
    """Numbers or channels in and out."""
    weight = (layer.layer if isinstance(layer, Scaled) else layer).weight
    return weight.shape[1], weight.shape[0]


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

"""The three networks of the race as Equinox modules, from and to plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

import ntkuq as nq


class LeNet(eqx.Module):
    """Two convolutions with average pooling, three dense layers: P = 61 706."""

    convolutions: list[eqx.nn.Conv2d]
    layers: list[eqx.nn.Linear]
    pool: eqx.nn.AvgPool2d

    def __init__(self, key: Array):
        keys = jax.random.split(key, 5)
        self.convolutions = [
            eqx.nn.Conv2d(1, 6, 5, padding=2, key=keys[0]),
            eqx.nn.Conv2d(6, 16, 5, key=keys[1]),
        ]
        self.layers = [
            eqx.nn.Linear(400, 120, key=keys[2]),
            eqx.nn.Linear(120, 84, key=keys[3]),
            eqx.nn.Linear(84, 10, key=keys[4]),
        ]
        self.pool = eqx.nn.AvgPool2d(2, 2)

    def __call__(self, x: Float[Array, "1 28 28"]) -> Float[Array, " 10"]:
        for convolution in self.convolutions:
            x = self.pool(jax.nn.relu(convolution(x)))
        x = jnp.ravel(x)
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def builder(problem: str, sizes: list[int]) -> Callable[[Array], eqx.nn.MLP | LeNet]:
    """key -> network. `sizes` are the layer sizes of the fully connected ones."""
    if problem == "cnn":
        return LeNet
    activation = jax.nn.tanh if problem == "concrete" else jax.nn.relu
    return nq.models.mlp(
        sizes[0],
        sizes[-1],
        width=sizes[1],
        depth=len(sizes) - 2,
        activation=activation,
    )


def _layers(model: eqx.nn.MLP | LeNet) -> list[Any]:
    if isinstance(model, LeNet):
        return [*model.convolutions, *model.layers]
    return list(model.layers)


def to_arrays(model: eqx.nn.MLP | LeNet) -> dict[str, np.ndarray]:
    """w0, b0, w1, … in the layout that Equinox and PyTorch share."""
    arrays = {}
    for number, layer in enumerate(_layers(model)):
        arrays[f"w{number}"] = np.asarray(layer.weight, np.float64)
        arrays[f"b{number}"] = np.asarray(layer.bias, np.float64).reshape(-1)
    return arrays


def from_arrays(
    problem: str, arrays: Mapping[str, np.ndarray], dtype: DTypeLike
) -> eqx.nn.MLP | LeNet:
    """The network with these weights."""
    count = sum(name.startswith("w") for name in arrays)
    sizes = [arrays["w0"].shape[1], *(arrays[f"b{n}"].shape[0] for n in range(count))]
    model = builder(problem, sizes)(jax.random.key(0))

    def leaves(model: eqx.nn.MLP | LeNet) -> list[Array]:
        return [leaf for layer in _layers(model) for leaf in (layer.weight, layer.bias)]

    found = []
    for number, layer in enumerate(_layers(model)):
        found.append(jnp.asarray(arrays[f"w{number}"], dtype))
        found.append(jnp.asarray(arrays[f"b{number}"].reshape(layer.bias.shape), dtype))
    return eqx.tree_at(leaves, model, found)

"""A multilayer perceptron of arm and context, with its gradient in factors."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Factor(NamedTuple):
    r"""Gradient of one layer: $\partial f / \partial W = \delta\, h^\top$.

    Args:
        delta: (N, out) derivative by the layer's output.
        inputs: (N, in) the layer's input, with a last 1 for the bias.
        block: (N,) which of the layer's matrices it is.
    """

    delta: Float[Array, "N out"]
    inputs: Float[Array, "N in"]
    block: Int[Array, " N"]


class Values(NamedTuple):
    """Rewards (N,) and the factors of their gradients, one a layer."""

    reward: Float[Array, " N"]
    factors: tuple[Factor, ...]


class Perceptron(eqx.Module):
    r"""Reward of arm and context by a ReLU network, one of whose layers is the arm's.

    With `disjoint` the first layer has one matrix an arm, which is the encoding
    $x \otimes e_k$ of NeuralUCB without its zeros; else the last has, one head an arm
    on shared features. With width 0 or depth 0 it is linear. At the start the network
    is zero: hidden units come in pairs with opposite output weights (Zhou et al. 2020,
    section 4).

    Args:
        width: hidden units a layer, an even number.
        depth: hidden layers.
        disjoint: whether arms differ in the first layer.

    >>> net = Perceptron(width=8)
    >>> weights = net.init(3, 2, per_arm=False, key=jax.random.key(0))
    >>> [w.shape for w in weights]
    [(2, 8, 4), (1, 1, 9)]
    """

    width: int = eqx.field(static=True, default=100)
    depth: int = eqx.field(static=True, default=1)
    disjoint: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.depth < 0 or (self.depth and (self.width < 2 or self.width % 2)):
            raise ValueError(
                "Perceptron: expected depth >= 0 and an even width >= 2, got depth "
                f"{self.depth} and width {self.width}"
            )

    def init(
        self, features: int, arms: int, *, per_arm: bool, key: Array
    ) -> tuple[Array, ...]:
        """Weights at the start, (blocks, out, in + 1) each."""
        blocks = [1] * (self.depth + 1)
        if not per_arm:
            blocks[0 if self.disjoint else -1] = arms
        sizes = [features] + [self.width] * self.depth
        half, weights = self.width // 2, []
        for layer in range(self.depth):
            key, now = jax.random.split(key)
            inputs = sizes[layer] if layer == 0 else half
            shape = (blocks[layer], half, inputs)
            w = jax.random.normal(now, shape) * jnp.sqrt(2.0 / inputs)
            if layer == 0:
                w = jnp.concatenate([w, w], axis=1)
            else:
                none = jnp.zeros_like(w)
                w = jnp.concatenate(
                    [
                        jnp.concatenate([w, none], axis=2),
                        jnp.concatenate([none, w], axis=2),
                    ],
                    axis=1,
                )
            weights.append(jnp.pad(w, ((0, 0), (0, 0), (0, 1))))
        if self.depth == 0:
            return (jnp.zeros((blocks[0], 1, features + 1)),)
        v = jax.random.normal(key, (blocks[-1], 1, half)) / jnp.sqrt(1.0 * self.width)
        last = jnp.concatenate([v, -v], axis=2)
        return (*weights, jnp.pad(last, ((0, 0), (0, 0), (0, 1))))


def rewards(
    weights: tuple[Array, ...], x: Float[Array, "N d"], arm: Int[Array, " N"]
) -> Float[Array, " N"]:
    """The network's values at N pairs of context and arm."""
    h = x
    for layer, w in enumerate(weights):
        h = _layer(w, _augmented(h), arm)
        h = jax.nn.relu(h) if layer + 1 < len(weights) else h
    return h[:, 0]


def values(
    weights: tuple[Array, ...], x: Float[Array, "N d"], arm: Int[Array, " N"]
) -> Values:
    """Values and gradients in factors at N pairs of context and arm."""
    h, inputs = x, []
    for layer, w in enumerate(weights):
        inputs.append(_augmented(h))
        h = _layer(w, inputs[-1], arm)
        h = jax.nn.relu(h) if layer + 1 < len(weights) else h
    delta = jnp.ones_like(h)
    factors = []
    for w, at in zip(reversed(weights), reversed(inputs), strict=True):
        block = arm if w.shape[0] > 1 else jnp.zeros_like(arm)
        factors.append(Factor(delta, at, block))
        # at the first layer this is not used
        delta = jnp.where(at[:, :-1] > 0, _back(w, delta, arm)[:, :-1], 0.0)
    return Values(h[:, 0], tuple(reversed(factors)))


def _augmented(h: Array) -> Array:
    return jnp.concatenate([h, jnp.ones((h.shape[0], 1), h.dtype)], axis=1)


def _layer(w: Array, h: Array, arm: Array) -> Array:
    if w.shape[0] == 1:
        return h @ w[0].T
    if h.shape[0] <= w.shape[0]:
        return jnp.einsum("ni,noi->no", h, w[arm])
    every = jnp.einsum("ni,koi->nko", h, w)
    return jnp.take_along_axis(every, arm[:, None, None], axis=1)[:, 0]


def _back(w: Array, delta: Array, arm: Array) -> Array:
    if w.shape[0] == 1:
        return delta @ w[0]
    if delta.shape[0] <= w.shape[0]:
        return jnp.einsum("no,noi->ni", delta, w[arm])
    every = jnp.einsum("no,koi->nki", delta, w)
    return jnp.take_along_axis(every, arm[:, None, None], axis=1)[:, 0]

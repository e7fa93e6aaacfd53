"""A multilayer perceptron of arm and context, with its gradient in factors."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.models import parametrization as way


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
        parametrization: `Standard()` or `NTK()` of `ntkuq.models`. With `NTK()` the
            covariance of features has a limit as the width grows, as in the analysis of
            NeuralUCB, whose $\sqrt m f$ and $g / \sqrt m$ are this network and its
            gradient. Biases have gain `bias_std`.

    References: Zhou, Li, Gu 2020 (arXiv 1911.04462).

    >>> net = Perceptron(width=8)
    >>> weights = net.init(3, 2, per_arm=False, key=jax.random.key(0))
    >>> [w.shape for w in weights]
    [(2, 8, 4), (1, 1, 9)]
    """

    width: int = eqx.field(static=True, default=100)
    depth: int = eqx.field(static=True, default=1)
    disjoint: bool = eqx.field(static=True, default=True)
    parametrization: way.AbstractParametrization = way.Standard()

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
            w = jax.random.normal(now, shape) * self._deviation(layer, inputs)
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
        v = jax.random.normal(key, (blocks[-1], 1, half))
        v = v * self._deviation(self.depth, self.width)
        last = jnp.concatenate([v, -v], axis=2)
        return (*weights, jnp.pad(last, ((0, 0), (0, 0), (0, 1))))

    def _scales(self, layer: int, fan_in: int) -> way.Scales | None:
        role = way.Role.HIDDEN if layer else way.Role.INPUT
        role = way.Role.READOUT if layer == self.depth else role
        return self.parametrization.scales(way.Place(role, fan_in, self.width))

    def _deviation(self, layer: int, fan_in: int) -> float:
        """Of weights at the start: half of a hidden layer's inputs are not zero."""
        scales = self._scales(layer, 2 * fan_in if 0 < layer < self.depth else fan_in)
        if scales is None:
            return (1.0 if layer == self.depth else 2.0) ** 0.5 / fan_in**0.5
        return scales.weight_std * (2.0**0.5 if 0 < layer < self.depth else 1.0)

    def gains(self, weights: tuple[Array, ...]) -> tuple[Array | None, ...]:
        """By which each layer's columns are multiplied, (in + 1,); `None` for 1."""
        found = []
        for layer, w in enumerate(weights):
            scales = self._scales(layer, w.shape[-1] - 1)
            if scales is None or scales.gains is None:
                found.append(None)
                continue
            gain, bias = scales.gains
            found.append(jnp.full(w.shape[-1], gain, w.dtype).at[-1].set(bias))
        return tuple(found)

    def scaled(self, weights: tuple[Array, ...]) -> tuple[Array, ...]:
        """The matrices that multiply, from the weights that learn."""
        return tuple(
            w if g is None else w * g
            for w, g in zip(weights, self.gains(weights), strict=True)
        )

    def rewards(
        self,
        weights: tuple[Array, ...],
        x: Float[Array, "N d"],
        arm: Int[Array, " N"],
    ) -> Float[Array, " N"]:
        """Values at N pairs of context and arm."""
        return rewards(self.scaled(weights), x, arm)

    def values(
        self,
        weights: tuple[Array, ...],
        x: Float[Array, "N d"],
        arm: Int[Array, " N"],
    ) -> Values:
        """Values, and gradients by the weights that learn, in factors."""
        found = values(self.scaled(weights), x, arm)
        factors = tuple(
            f if g is None else f._replace(inputs=f.inputs * g)
            for f, g in zip(found.factors, self.gains(weights), strict=True)
        )
        return found._replace(factors=factors)


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

"""Covariances of networks that only neural-tangents covers."""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.kernels import gaussian
from ntkuq.kernels.base import AbstractCovariance, Gram, LogValues, Parameter, flat
from ntkuq.kernels.blocks import rectangular_blocks, symmetric_blocks
from ntkuq.kernels.bridge import evaluate, load
from ntkuq.kernels.layers import (
    Activation,
    AveragePool,
    GlobalAveragePool,
    Graph,
    Reshape,
)
from ntkuq.kernels.recursion import output_variance
from ntkuq.kernels.stages import recognized


#: Numbers of one intermediate of a block (pairs of inputs and of positions).
NUMBERS = 2**22


def check(graph: Graph) -> Graph:
    """The same graph; raises where it has no kernel or neural-tangents is missing."""
    gaussian.check(graph)
    for node in graph.nodes:
        if isinstance(node.layer, Activation):
            recognized([node.layer])
    load()
    return graph


class _Rows(NamedTuple):
    """What a block needs of each input: all of it, and the scales of the layers."""

    x: Array
    weight: Float[Array, " N"]
    bias: Float[Array, " N"]


def _rows(params: LogValues, x: Array) -> _Rows:
    scale = jnp.exp(params["input scale"])
    scaled = flat(x) * scale[None, :] if scale.ndim else x * scale
    scales = (jnp.exp(params[name]) for name in ("weight std", "bias std"))
    return _Rows(scaled, *(jnp.broadcast_to(a, x.shape[:1]) for a in scales))


def _side(graph: Graph, x: Array) -> int:
    """Rows of a block."""
    shape = x.shape[1:]
    for node in graph.nodes:
        if isinstance(node.layer, Reshape):
            shape = node.layer.shape
    positions = math.prod(shape[1:])
    power = 2 if graph.has(AveragePool, GlobalAveragePool) else 1
    return min(512, max(1, math.isqrt(NUMBERS // max(1, positions) ** power)))


def _gram(
    graph: Graph, params: LogValues, x1: Array, x2: Array | None, part: int, form: bool
) -> Array:
    """K (part 0) or Θ (part 1) in blocks; `form`: in the standard parametrization."""

    def tile(one: _Rows, two: _Rows) -> Array:
        scales = one.weight[0], one.bias[0]
        found = evaluate(graph, *scales, one.x, two.x, standard=form)[part]
        # computed once: compiled into both triangles it may differ by rounding
        return jax.lax.optimization_barrier(found)

    side, rows = _side(graph, x1), _rows(params, x1)
    if x2 is None:
        found = symmetric_blocks(tile, rows, _diagonal(graph, rows, part, form), side)
    else:
        found = rectangular_blocks(tile, rows, _rows(params, x2), side)
    return found * output_variance(params, found)


def _diagonal(graph: Graph, rows: _Rows, part: int, form: bool) -> Array:
    """The diagonal of K or Θ, from each input with itself."""

    def one(row: _Rows) -> Array:
        x, scales = row.x[None], (row.weight, row.bias)
        found = evaluate(graph, *scales, x, None, standard=form, same=True)[part]
        return found[0, 0]

    size = min(_side(graph, rows.x) ** 2, rows.x.shape[0])
    return jax.lax.map(one, rows, batch_size=size)


class StaxNNGP(AbstractCovariance):
    """K of a network with branches, pooling or normalization, by neural-tangents."""

    parameters: dict[str, Parameter]
    layers: Graph

    def gram(self, params, x1, x2=None):
        return _gram(self.layers, params, x1, x2, 0, False)

    def diagonal(self, params, x):
        found = _diagonal(self.layers, _rows(params, x), 0, False)
        return found * output_variance(params, found)

    def at(self, x):
        return Gram(self, x)


class StaxNTK(AbstractCovariance):
    """Θ of a network with branches, pooling or normalization, by neural-tangents.

    `standard` is its form in the standard parametrization.
    """

    parameters: dict[str, Parameter]
    layers: Graph
    standard: bool = eqx.field(static=True, default=False)

    def gram(self, params, x1, x2=None):
        return _gram(self.layers, params, x1, x2, 1, self.standard)

    def diagonal(self, params, x):
        found = _diagonal(self.layers, _rows(params, x), 1, self.standard)
        return found * output_variance(params, found)

    def at(self, x):
        return Gram(self, x)

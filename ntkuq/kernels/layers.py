"""Layers that have an infinite-width kernel, and the graph that they form."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array


class UnsupportedLayer(TypeError):
    """The network has a layer whose infinite-width kernel is not implemented."""


class Layer(eqx.Module):
    """One step of a network: static, hashable, without its weights."""


class Input(Layer):
    """The example itself."""


class Dense(Layer):
    """`eqx.nn.Linear`.

    `fan_in`, the width of its input, matters in the standard parametrization only.
    """

    bias: bool = eqx.field(static=True)
    fan_in: int | None = eqx.field(static=True, default=None)


class Activation(Layer):
    """An elementwise function."""

    function: Callable[[Array], Array] = eqx.field(static=True)


class Flatten(Layer):
    """All axes of one example to one."""


class Reshape(Layer):
    """The example in another shape; of the input only."""

    shape: tuple[int, ...] = eqx.field(static=True)


class Convolution(Layer):
    """`eqx.nn.Conv1d` or `Conv2d`, one group, no dilation, one window length an axis.

    `fan_in`, channels times the size of the window, matters in the standard
    parametrization only.
    """

    window: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    fan_in: int | None = eqx.field(static=True, default=None)


class AveragePool(Layer):
    """`eqx.nn.AvgPool1d` or `AvgPool2d` without padding."""

    window: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)


class GlobalAveragePool(Layer):
    """The mean over all positions, for each channel."""


class LayerNorm(Layer):
    """`eqx.nn.LayerNorm` over all axes, its affine part as it starts (1 and 0)."""

    eps: float = eqx.field(static=True)


class Scale(Layer):
    """Multiplication by a constant."""

    factor: float = eqx.field(static=True)


class Sum(Layer):
    """The sum of the inputs: a residual connection."""


class Node(eqx.Module):
    """A layer and the positions of the nodes that feed it."""

    layer: Layer
    inputs: tuple[int, ...] = eqx.field(static=True)


class Graph(eqx.Module):
    """A network as its layers: node 0 is the input, the last node the output.

    Args:
        nodes: in an order in which each comes after its inputs.

    >>> graph = Graph((Node(Input(), ()), Node(Dense(True), (0,))))
    >>> graph.chain()
    (Dense(bias=True),)
    """

    nodes: tuple[Node, ...]

    def __check_init__(self):
        for place, node in enumerate(self.nodes):
            if isinstance(node.layer, Input) != (place == 0):
                raise ValueError("Graph: expected one Input, as its first node")
            if any(not 0 <= source < place for source in node.inputs):
                raise ValueError(
                    f"Graph: expected node {place} after its inputs, got {node.inputs}"
                )

    def chain(self) -> tuple[Layer, ...] | None:
        """The layers after the input where each feeds the next; `None` elsewhere."""
        for place, node in enumerate(self.nodes):
            if place and node.inputs != (place - 1,):
                return None
        return tuple(node.layer for node in self.nodes[1:])

    def has(self, *kinds: type[Layer]) -> bool:
        """Whether one of the layers is of these kinds."""
        return any(isinstance(node.layer, kinds) for node in self.nodes)

    @staticmethod
    def of(layers: tuple[Layer, ...]) -> Graph:
        """The graph of layers that follow one another.

        >>> Graph.of((Dense(True), Flatten())).nodes[2].inputs
        (1,)
        """
        nodes = [Node(Input(), ())]
        nodes += [Node(layer, (place,)) for place, layer in enumerate(layers)]
        return Graph(tuple(nodes))

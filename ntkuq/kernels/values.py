"""What a traced network computes with: constants, weights, and data of a graph."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ntkuq.kernels.elementwise import Steps
from ntkuq.kernels.layers import (
    Activation,
    Convolution,
    Dense,
    Flatten,
    GlobalAveragePool,
    Graph,
    Input,
    Layer,
    LayerNorm,
    Node,
    Reshape,
    Scale,
    Sum,
    UnsupportedLayer,
)
from ntkuq.kernels.marks import refusal


class Known(NamedTuple):
    """A constant."""

    value: np.ndarray


class Weight(NamedTuple):
    """Made of parameters of the network only: where they come from."""

    sources: frozenset[tuple]


class Data(NamedTuple):
    """Depends on the example: value `step` of what is elementwise of a node."""

    node: int
    step: int = 0


class Builder:
    """The graph while it is read, and what is computed elementwise of its nodes.

    Args:
        shape: of the input.
        name: of the network.
    """

    def __init__(self, shape: tuple[int, ...], name: str):
        self.name = name
        self.nodes = [Node(Input(), ())]
        #: of an example at each node; channels first
        self.shapes = [shape]
        #: for messages
        self.places = ["its input"]
        self.steps = [Steps()]

    def node(
        self,
        layer: Layer,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        place: str | None = None,
    ) -> int:
        """The node of a layer.

        A layer without weights is the same node each time. Such a layer after a flatten
        goes before it, where it gives the same: its kernel needs the positions.
        """
        if not isinstance(layer, Dense | Convolution):
            found = self._before_flatten(layer, inputs, shape)
            if found is not None:
                return found
            for known, other in enumerate(self.nodes):
                if other.inputs == inputs and other.layer == layer:
                    return known
        self.nodes.append(Node(layer, inputs))
        self.shapes.append(shape)
        own = f"the output of {place}" if place else self.places[inputs[0]]
        self.places.append(own)
        self.steps.append(Steps())
        return len(self.nodes) - 1

    def _before_flatten(
        self, layer: Layer, inputs: tuple[int, ...], shape: tuple[int, ...]
    ) -> int | None:
        if not isinstance(layer, Activation | Scale | LayerNorm | Sum):
            return None
        if not all(isinstance(self.nodes[n].layer, Flatten) for n in inputs):
            return None
        before = tuple(self.nodes[n].inputs[0] for n in inputs)
        if len({self.shapes[n] for n in before}) > 1:
            return None
        inner = self.node(layer, before, self.shapes[before[0]])
        return self.node(Flatten(), (inner,), shape)

    def refusal(self, node: int, why: str) -> UnsupportedLayer:
        """What to say where a use of a node has no kernel."""
        return refusal(f"what {self.name} does with {self.places[node]}", why)

    def settle(self, data: Data) -> int:
        """The node of a value: its elementwise steps become a layer."""
        steps, step = self.steps[data.node], data.step
        factor = steps.factors[step]
        shape = self.shapes[data.node]
        if steps.logical[step]:
            raise self.refusal(data.node, "a comparison is used as a number")
        # x * n / n is x, but for rounding
        if factor is not None and math.isclose(factor, 1.0, rel_tol=1e-14):
            return data.node
        if factor is not None:
            return self.node(Scale(float(factor)), (data.node,), shape)
        return self.node(Activation(steps.function(step)), (data.node,), shape)

    def plus(self, one: Data, two: Data) -> Data:
        """The sum of values of two nodes."""
        inputs = (self.settle(one), self.settle(two))
        return Data(self.node(Sum(), inputs, self.shapes[inputs[0]]))

    def reshape(self, data: Data, old: tuple[int, ...], new: tuple[int, ...]) -> Data:
        """A value in a new shape of the same size."""
        shape = self.shapes[data.node]
        if old == new:
            return data
        size = math.prod(new)
        if len(shape) <= 1 and (size == 1 or new[:1] == (size,)):
            return data  # axes of length 1 come and go
        if len(shape) > 1 and new == (size,):
            node = self.settle(data)
            # one position: the mean over it is Gaussian where it is, unlike a flatten
            alone = math.prod(shape[1:]) == 1 and node != 0
            layer = GlobalAveragePool() if alone else Flatten()
            return Data(self.node(layer, (node,), new))
        node = self.settle(data)
        if isinstance(self.nodes[node].layer, Reshape | Flatten):
            node = self.nodes[node].inputs[0]
        if node == 0:
            return Data(self.node(Reshape(new), (0,), new))
        raise self.refusal(
            data.node,
            f"it is reshaped from {old} to {new}, which is not a flatten",
        )

    def total(self, data: Data, old: tuple[int, ...], axes: tuple[int, ...]) -> Data:
        """The sum over axes."""
        shape = self.shapes[data.node]
        if all(old[axis] == 1 for axis in axes):
            rest = tuple(n for axis, n in enumerate(old) if axis not in axes)
            return self.reshape(data, old, rest)
        if len(shape) < 2 or old != shape or axes != tuple(range(1, len(shape))):
            raise self.refusal(
                data.node,
                f"it is summed over axes {axes} of {old}, which are not all positions "
                "of each channel",
            )
        node = self.node(GlobalAveragePool(), (self.settle(data),), shape[:1])
        count = float(math.prod(shape[1:]))
        return Data(node, self.steps[node].add("mul", (0, count)))

    def graph(self, output: int) -> Graph:
        """What the output needs."""
        needed = {0, output}
        for place in range(output, 0, -1):
            if place in needed:
                needed.update(self.nodes[place].inputs)
        order = {place: n for n, place in enumerate(sorted(needed))}
        return Graph(
            tuple(
                Node(node.layer, tuple(order[n] for n in node.inputs))
                for place, node in enumerate(self.nodes)
                if place in needed
            )
        )

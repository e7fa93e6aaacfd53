"""Whether the recursion of covariances holds for a graph of layers."""

from __future__ import annotations

from typing import NamedTuple

from ntkuq.kernels.layers import (
    Activation,
    AveragePool,
    Convolution,
    Dense,
    Flatten,
    GlobalAveragePool,
    Graph,
    Input,
    Layer,
    LayerNorm,
    Node,
    Sum,
    UnsupportedLayer,
)


class _State(NamedTuple):
    """What is known of the values at a node.

    gaussian: at infinite width normal with mean 0, independent over channels.
    images: whether they have positions (`None`: as the input has).
    ends: the last layers with weights before it; of what is linear in them the mean
        over their weights is 0 (empty elsewhere).
    all: all layers with weights that it depends on.
    """

    gaussian: bool
    images: bool | None
    ends: frozenset[int]
    all: frozenset[int]


def check(graph: Graph) -> None:
    """Raise where the kernel of a layer would not be that of the network.

    Nonlinearities and normalization need Gaussian values; a sum needs parts without
    correlation; the output must be Gaussian and without positions.

    Raises:
        UnsupportedLayer: naming the layer and what to do.
    """
    known: list[_State] = []
    for place, node in enumerate(graph.nodes):
        known.append(_after(place, node, [known[n] for n in node.inputs]))
    last, layer = known[-1], graph.nodes[-1].layer
    if isinstance(layer, Activation):
        raise UnsupportedLayer(
            "the network ends in a nonlinearity, so its outputs are not Gaussian at "
            "any width: leave it to the likelihood (Categorical, Bernoulli, Poisson)"
        )
    if not last.gaussian or last.images:
        raise UnsupportedLayer(
            "expected a network that ends in a dense layer or in the mean over all "
            "positions of a convolution, so that its outputs are Gaussian and "
            f"independent; it ends in {type(layer).__name__}"
        )


def _after(place: int, node: Node, before: list[_State]) -> _State:
    layer = node.layer
    if isinstance(layer, Input):
        return _State(False, None, frozenset(), frozenset())
    one = before[0]
    if isinstance(layer, Dense | Convolution):
        own = frozenset({place})
        return _State(True, isinstance(layer, Convolution), own, one.all | own)
    if isinstance(layer, Activation | LayerNorm):
        _need_gaussian(layer, one)
        if isinstance(layer, LayerNorm):
            return one
        return one._replace(gaussian=False, ends=frozenset())
    if isinstance(layer, Flatten):
        return one._replace(gaussian=False, images=False)
    if isinstance(layer, GlobalAveragePool):
        return one._replace(images=False)
    if isinstance(layer, AveragePool):
        return one._replace(images=True)
    if isinstance(layer, Sum):
        return _sum(*before)
    return one


def _need_gaussian(layer: Layer, one: _State) -> None:
    if one.gaussian:
        return
    kind = "nonlinearity" if isinstance(layer, Activation) else "LayerNorm"
    if not one.all:
        raise UnsupportedLayer(
            f"the network starts with a {kind}, before any dense layer or "
            "convolution: apply it to the data instead"
        )
    raise UnsupportedLayer(
        f"no infinite-width kernel for a {kind} of values that are not Gaussian: it "
        "must follow a dense layer, a convolution, or a sum or mean of such, not "
        "another nonlinearity (in a residual network: add before the nonlinearity)"
    )


def _sum(one: _State, two: _State) -> _State:
    fresh = (one.ends and not one.ends & two.all) or (
        two.ends and not two.ends & one.all
    )
    if not fresh:
        raise UnsupportedLayer(
            "no infinite-width kernel for a sum of correlated values: at least one of "
            "them must come out of a dense layer or convolution of its own, after "
            "which there is no nonlinearity"
        )
    both = one.gaussian and two.gaussian
    ends = one.ends | two.ends if one.ends and two.ends else frozenset()
    return _State(both, one.images or two.images, ends, one.all | two.all)

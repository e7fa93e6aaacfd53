"""A chain of dense layers as stages, each a nonlinearity and the layer after it."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array

from ntkuq.kernels.duals import AbstractDual, PiecewiseLinear, recognize
from ntkuq.kernels.layers import Activation, Dense, Flatten, Layer, UnsupportedLayer


class Stage(eqx.Module):
    """A dense layer and the nonlinearity before it (`None` for the first)."""

    dual: AbstractDual | None
    bias: bool = eqx.field(static=True)


def is_dense(layers: tuple[Layer, ...]) -> bool:
    """Whether the recursion of this file has all layers."""
    return all(isinstance(layer, Dense | Activation | Flatten) for layer in layers)


def stages(layers: tuple[Layer, ...]) -> tuple[Stage, ...]:
    """Pair each dense layer with the nonlinearity before it.

    Raises:
        UnsupportedLayer: for a nonlinearity before the first or after the last dense
            layer (the outputs are then not Gaussian), or one that mixes its entries.

    >>> import jax
    >>> from ntkuq.kernels.layers import Activation, Dense
    >>> len(stages((Dense(True), Activation(jax.nn.relu), Dense(True))))
    2
    """
    if not any(isinstance(layer, Dense) for layer in layers):
        raise UnsupportedLayer("expected a network with a dense layer, got none")
    found: list[Stage] = []
    pending: list[Activation] = []
    for layer in layers:
        if isinstance(layer, Activation):
            pending.append(layer)
        elif isinstance(layer, Dense):
            if pending and not found:
                raise UnsupportedLayer(
                    "the network starts with a nonlinearity, before any dense layer: "
                    "apply it to the data instead"
                )
            dual = recognized(pending)
            if found and dual is None:
                dual = PiecewiseLinear(1.0, 1.0)
            found.append(Stage(dual, layer.bias))
            pending = []
    if pending:
        raise UnsupportedLayer(
            "the network ends in a nonlinearity, so its outputs are not Gaussian at "
            "any width: leave it to the likelihood (Categorical, Bernoulli, Poisson)"
        )
    return tuple(found)


def recognized(activations: list[Activation]) -> AbstractDual | None:
    """The dual map of activations in a row; `None` where there is none."""
    if not activations:
        return None
    functions = [a.function for a in activations]

    def composed(t: Array) -> Array:
        for function in functions:
            t = function(t)
        return t

    try:
        return recognize(functions[0] if len(functions) == 1 else composed)
    except ValueError as error:
        name = getattr(functions[0], "__name__", type(functions[0]).__name__)
        raise UnsupportedLayer(
            f"no infinite-width kernel for the nonlinearity {name}: {error}"
        ) from error

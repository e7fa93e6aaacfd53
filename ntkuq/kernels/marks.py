"""Equinox layers that show in a trace as one operation each.

A layer is replaced by one of a derived class, with the same fields, whose call is a
jitted function with a name of its own. So a network's own `__call__` can do with its
layers what it likes, and a trace of it shows which of them meets which value.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ntkuq.kernels.layers import UnsupportedLayer


nn = eqx.nn
PREFIX = "ntkuq_layer_"
SUPPORTED = (
    "eqx.nn Linear, MLP, Conv1d, Conv2d, AvgPool1d, AvgPool2d, AdaptiveAvgPool1d, "
    "AdaptiveAvgPool2d, LayerNorm and RMSNorm, put together by Sequential, Lambda or a "
    "class of your own with elementwise functions, sums, multiplication by constants, "
    "flattening and means over all positions"
)
#: Layers that `layer_of` translates.
LAYERS = (
    nn.Linear,
    nn.Conv,
    nn.Conv1d,
    nn.Conv2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.LayerNorm,
    nn.RMSNorm,
)
#: What only passes examples on, and is traced through.
_THROUGH = (nn.Sequential, nn.MLP, nn.Lambda, nn.Identity, nn.Dropout)


def refusal(where: str, why: str) -> UnsupportedLayer:
    """What to say of a part of the network that has no kernel."""
    return UnsupportedLayer(
        f"no infinite-width kernel for {where}: {why}; supported are {SUPPORTED}. Use "
        "kernel=Empirical(), which takes any network, or GP(kernel=RBF())"
    )


def mark(module: PyTree) -> tuple[PyTree, list[tuple[str, Any]]]:
    """Replace the layers in a network.

    Args:
        module: an Equinox network, abstract or not.

    Returns:
        The network with marked layers, and of each mark the place and the layer.
    """
    found: list[tuple[str, Any]] = []
    name = type(module).__name__

    def turn(path: tuple, leaf: Any) -> Any:
        if not _is_layer(leaf):
            return leaf
        place = f"{name}{jax.tree_util.keystr(path)} ({type(leaf).__name__})"
        marked: Any = object.__new__(_marked(type(leaf)))
        for field, value in vars(leaf).items():
            object.__setattr__(marked, field, value)
        object.__setattr__(marked, "mark", len(found))
        object.__setattr__(marked, "place", place)
        found.append((place, leaf))
        return marked

    marked = jax.tree_util.tree_map_with_path(turn, module, is_leaf=_is_layer)
    return marked, found


def _is_layer(node: Any) -> bool:
    kind = type(node)
    ours = isinstance(node, eqx.Module) and kind.__module__.startswith("equinox.nn.")
    return ours and kind not in _THROUGH and callable(node)


@functools.cache
def _marked(kind: type) -> type:
    fields = {
        "__module__": __name__,
        "__qualname__": f"Marked{kind.__name__}",
        "__annotations__": {"mark": int, "place": str},
        "__call__": _call if kind in LAYERS else _refuse,
        "mark": eqx.field(static=True, default=0),
        "place": eqx.field(static=True, default=""),
    }
    metaclass: Any = type(kind)
    return metaclass(f"Marked{kind.__name__}", (kind,), fields)


def _call(self: Any, x: Any, *state: Any, key: Any = None) -> Any:
    del key
    if state:
        raise refusal(self.place, "it was called with a state")
    arrays, static = eqx.partition(self, eqx.is_array)
    kind = type(self).__mro__[1]

    def layer(arrays: PyTree, x: Any) -> Any:
        return kind.__call__(eqx.combine(arrays, static), x)

    layer.__name__ = layer.__qualname__ = f"{PREFIX}{self.mark}"
    return jax.jit(layer)(arrays, x)


def _refuse(self: Any, *args: Any, **options: Any) -> Any:
    del args, options
    raise refusal(self.place, f"{type(self).__mro__[1].__name__} is not supported")

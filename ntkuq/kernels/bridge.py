"""The one home of neural-tangents: loading it, and networks that only it covers.

neural-tangents 0.6.5 asks for TensorFlow, which only its sub-package `experimental`
uses, and for names that newer versions of JAX have moved. `load` supplies both for the
time of the import; afterwards only the empty `experimental` is left.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
import threading
import types
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.kernels.activate import activate
from ntkuq.kernels.base import flat
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
    Reshape,
    Scale,
    Sum,
    UnsupportedLayer,
)
from ntkuq.kernels.stages import recognized


INSTALL = (
    "this needs the package neural-tangents, which is not installed. With pip (two "
    "commands, so that TensorFlow stays out):\n"
    "  pip install --no-deps neural-tangents==0.6.5\n"
    "  pip install frozendict"
)

_LOCK = threading.Lock()


def _moved_names() -> Iterator[tuple[ModuleType, str, Any]]:
    """Names that neural-tangents looks up where JAX once had them."""
    core = jax.extend.core
    for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive"):
        yield jax.core, name, getattr(core, name)
    for name in ("Value", "AbstractValue"):  # used in annotations only
        yield jax.core, name, object
    # the key of a rule that never fires
    yield jax.interpreters.ad, "zeros_like_p", core.Primitive("zeros_like")


def _stand_ins() -> dict[str, ModuleType]:
    util = types.ModuleType("jax.util")
    vars(util).update(
        safe_map=lambda f, *xs: [f(*a) for a in zip(*xs, strict=True)],
        safe_zip=lambda *xs: list(zip(*xs, strict=True)),
    )
    experimental = types.ModuleType("neural_tangents.experimental")
    experimental.__path__ = []
    return {"jax.util": util, "neural_tangents.experimental": experimental}


@contextlib.contextmanager
def _older_jax() -> Iterator[None]:
    added: list[tuple[ModuleType, str]] = []
    before = sys.modules.get("jax.util")
    try:
        for module, name, value in _moved_names():
            if not hasattr(module, name):
                setattr(module, name, value)
                added.append((module, name))
        sys.modules.update(_stand_ins())
        yield
    finally:
        for module, name in added:
            delattr(module, name)
        if before is None:
            sys.modules.pop("jax.util", None)
        else:
            sys.modules["jax.util"] = before


def load() -> ModuleType:
    """Import neural-tangents, without TensorFlow, on current JAX.

    Safe to call from several threads and more than once.

    Raises:
        ImportError: with the commands to type, where it is not installed.
    """
    with _LOCK:
        if "neural_tangents" in sys.modules:
            return sys.modules["neural_tangents"]
        if importlib.util.find_spec("neural_tangents") is None:
            raise ImportError(INSTALL)
        with _older_jax():
            return importlib.import_module("neural_tangents")


def evaluate(
    graph: Graph,
    weight_std: Array,
    bias_std: Array,
    x1: Array,
    x2: Array | None,
    *,
    standard: bool = False,
    same: bool = False,
) -> tuple[Array, Array]:
    """K and Θ of a graph of layers, (N1, N2) each, by neural-tangents.

    Its kernel functions serve for all layers but the nonlinearities, whose dual maps
    are ours, and sums.

    Args:
        graph: of the network, as `check` accepts.
        weight_std, bias_std: scales of all layers.
        x1, x2: inputs (N, ...), channels first; without `x2` both are `x1`.
        standard: Θ in the standard parametrization: the weights of a layer count with
            its fan-in, its biases with 1.
        same: x1 is one input, paired with itself: the diagonal, exact to rounding.
    """
    # neural-tangents mixes dtypes and ranks, as JAX allows by default
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        scales = Scales(weight_std, bias_std, standard)
        values: list[Any] = []
        for node in graph.nodes:
            before = [values[n] for n in node.inputs]
            values.append(_apply(node.layer, before, scales, graph, (x1, x2), same))
        return values[-1].nngp, values[-1].ntk


class Scales(NamedTuple):
    """Of all layers, and whether Θ is that of the standard parametrization."""

    weight: Array
    bias: Array
    standard: bool


def _apply(
    layer: Layer, before: list[Any], scales: Scales, graph: Graph, inputs, same: bool
) -> Any:
    if isinstance(layer, Input):
        return inputs
    if isinstance(layer, Sum):
        return _sum(*[_started(value, graph) for value in before])
    value = before[0]
    if isinstance(value, tuple) and isinstance(layer, Flatten | Reshape | Scale):
        return tuple(None if x is None else _rearrange(layer, x) for x in value)
    kernel = _started(value, graph)
    if isinstance(layer, Activation):
        dual = recognized([layer])
        assert dual is not None  # noqa: S101
        return activate(dual, kernel, same=same)
    if isinstance(layer, Scale):
        square = layer.factor**2
        return _with(kernel, *[square * a for a in _arrays(kernel)])
    if isinstance(layer, Dense | Convolution) and scales.standard:
        channels = layer.fan_in
        if isinstance(layer, Convolution) and channels is not None:
            channels //= math.prod(layer.window)
        if channels is None:
            raise ValueError("expected the fan-in of each layer, got None")
        shapes = [(*shape[:-1], channels) for shape in (kernel.shape1, kernel.shape2)]
        kernel = kernel.replace(shape1=shapes[0], shape2=shapes[1])
    return _translate(layer, scales, kernel)(kernel)


def _translate(layer: Layer, scales: Scales, kernel: Any) -> Any:
    stax = load().stax
    form = "standard" if scales.standard else "ntk"
    if isinstance(layer, Dense):
        bias = scales.bias if layer.bias else None
        made = stax.Dense(1, W_std=scales.weight, b_std=bias, parameterization=form)
    elif isinstance(layer, Convolution):
        made = stax.Conv(
            1,
            layer.window,
            layer.stride,
            layer.padding,
            W_std=scales.weight,
            b_std=scales.bias if layer.bias else None,
            parameterization=form,
        )
    elif isinstance(layer, AveragePool):
        made = stax.AvgPool(layer.window, layer.stride, "VALID")
    elif isinstance(layer, GlobalAveragePool):
        made = stax.GlobalAvgPool()
    elif isinstance(layer, LayerNorm):
        axes = tuple(range(1, len(kernel.shape1)))
        made = stax.LayerNorm(axis=axes, eps=layer.eps)
    elif isinstance(layer, Flatten):
        made = stax.Flatten()
    else:
        raise UnsupportedLayer(f"no kernel for {type(layer).__name__} here")
    return made[2]


def _rearrange(layer: Layer, x: Array) -> Array:
    if isinstance(layer, Reshape):
        return jnp.reshape(x, (x.shape[0], *layer.shape))
    return layer.factor * x if isinstance(layer, Scale) else flat(x)


def _started(value: Any, graph: Graph) -> Any:
    """The kernel of the inputs (channels last), where it is not one yet."""
    if not isinstance(value, tuple):
        return value
    x1, x2 = (
        None if x is None else jnp.moveaxis(x, 1, -1) if x.ndim > 2 else flat(x)
        for x in value
    )
    positions = graph.has(AveragePool, GlobalAveragePool)
    return load().stax.Identity()[2](
        x1, x2, None, diagonal_batch=True, diagonal_spatial=not positions
    )


def _arrays(kernel: Any) -> list[Array]:
    cov2 = kernel.cov1 if kernel.cov2 is None else kernel.cov2
    return [kernel.nngp, kernel.ntk, kernel.cov1, cov2]


def _with(kernel: Any, nngp: Array, ntk: Array, cov1: Array, cov2: Array) -> Any:
    two = None if kernel.cov2 is None else cov2
    return kernel.replace(nngp=nngp, ntk=ntk, cov1=cov1, cov2=two)


def _sum(one: Any, two: Any) -> Any:
    if one.is_reversed != two.is_reversed:
        two = two.reverse()
    parts = [a + b for a, b in zip(_arrays(one), _arrays(two))]
    gaussian_both = one.is_gaussian and two.is_gaussian
    return _with(one.replace(is_gaussian=gaussian_both), *parts)

"""The one home of neural-tangents: loading it, and networks that only it covers.

neural-tangents 0.6.5 asks for TensorFlow, which only its sub-package `experimental`
uses, and for names that newer versions of JAX have moved. `load` supplies both for the
time of the import; afterwards only the empty `experimental` is left.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.kernels.base import (
    AbstractCovariance,
    Gram,
    LogValues,
    Parameter,
    flat,
    symmetric,
)
from ntkuq.kernels.dense import output_variance, recognized
from ntkuq.kernels.duals import Erf, PiecewiseLinear
from ntkuq.kernels.layers import (
    Activation,
    AveragePool,
    Convolution,
    Dense,
    Flatten,
    Layer,
    UnsupportedLayer,
)


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


def check(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same layers; raises where `stax` cannot express them or is missing."""
    load()
    with jax.enable_x64(True):
        one = jnp.ones((), jnp.float64)
        kernel_fn(layers, one, one)
    if not isinstance(layers[-1], Dense):
        raise UnsupportedLayer(
            "expected a network that ends in a dense layer, so that its outputs are "
            f"Gaussian; it ends in {type(layers[-1]).__name__}"
        )
    return layers


def kernel_fn(layers: tuple[Layer, ...], weight_std: Array, bias_std: Array) -> Any:
    """The neural-tangents kernel function of a list of layers.

    Args:
        layers: from `walk`.
        weight_std, bias_std: scales of all layers; they may be traced, if the function
            is built where they are.

    Returns:
        (x1, x2, get) -> kernel, as neural-tangents has it; images with channels last.
    """
    stax = load().stax

    def translate(layer: Layer) -> Any:
        if isinstance(layer, Dense):
            bias = bias_std if layer.bias else None
            return stax.Dense(1, W_std=weight_std, b_std=bias)
        if isinstance(layer, Convolution):
            bias = bias_std if layer.bias else None
            return stax.Conv(
                1,
                layer.window,
                layer.stride,
                layer.padding,
                W_std=weight_std,
                b_std=bias,
            )
        if isinstance(layer, AveragePool):
            return stax.AvgPool(layer.window, layer.stride, "VALID")
        if isinstance(layer, Flatten):
            return stax.Flatten()
        assert isinstance(layer, Activation)  # noqa: S101
        return _nonlinearity(stax, layer)

    return stax.serial(*[translate(layer) for layer in layers])[2]


def _nonlinearity(stax: Any, layer: Activation) -> Any:
    dual = recognized([layer])
    if isinstance(dual, PiecewiseLinear):
        return stax.ABRelu(dual.negative, dual.positive)
    if isinstance(dual, Erf):
        return stax.Erf()
    name = getattr(layer.function, "__name__", "this function")
    raise UnsupportedLayer(
        f"no convolutional infinite-width kernel for the nonlinearity {name}: with "
        "Conv2d or AvgPool2d use ReLU, leaky ReLU, the absolute value or erf"
    )


def _channels_last(x: Array) -> Array:
    return jnp.moveaxis(x, 1, -1) if x.ndim == 4 else flat(x)


def _kernel(
    layers: tuple[Layer, ...], params: LogValues, x1: Array, x2: Array | None, get: str
) -> Array:
    weight, bias = jnp.exp(params["weight std"]), jnp.exp(params["bias std"])
    scale = jnp.exp(params["input scale"])
    z1 = _channels_last(x1 * scale)
    z2 = None if x2 is None else _channels_last(x2 * scale)
    # neural-tangents mixes dtypes and ranks, as JAX allows by default
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        values = kernel_fn(layers, weight, bias)(z1, z2, get)
    return values * output_variance(params, values)


def _diagonal(
    layers: tuple[Layer, ...], params: LogValues, x: Array, get: str
) -> Array:
    """The diagonal from pairs of an input with itself, one at a time.

    For ReLU networks Θ has a relative error of about 1e-8 here: arccos near 1.
    """
    return jax.lax.map(
        lambda row: _kernel(layers, params, row[None], None, get)[0, 0], x
    )


class StaxNNGP(AbstractCovariance):
    """K of a network with convolutions, by neural-tangents."""

    parameters: dict[str, Parameter]
    layers: tuple[Layer, ...]

    def gram(self, params, x1, x2=None):
        k = _kernel(self.layers, params, x1, x2, "nngp")
        return k if x2 is not None else symmetric(k, jnp.diagonal(k))

    def diagonal(self, params, x):
        return _diagonal(self.layers, params, x, "nngp")

    def at(self, x):
        return Gram(self, x)


class StaxNTK(AbstractCovariance):
    """Θ of a network with convolutions, by neural-tangents."""

    parameters: dict[str, Parameter]
    layers: tuple[Layer, ...]

    def gram(self, params, x1, x2=None):
        k = _kernel(self.layers, params, x1, x2, "ntk")
        return k if x2 is not None else symmetric(k, jnp.diagonal(k))

    def diagonal(self, params, x):
        return _diagonal(self.layers, params, x, "ntk")

    def at(self, x):
        return Gram(self, x)

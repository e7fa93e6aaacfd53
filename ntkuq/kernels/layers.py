"""Walk an Equinox network into a list of layers that a kernel understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class UnsupportedLayer(TypeError):
    """The network has a layer whose infinite-width kernel is not implemented."""


class Layer(eqx.Module):
    """One step of a network: static, hashable, without its weights."""


class Dense(Layer):
    """`eqx.nn.Linear`, or each layer of an `eqx.nn.MLP`."""

    bias: bool = eqx.field(static=True)


class Activation(Layer):
    """An elementwise function."""

    function: Callable[[Array], Array] = eqx.field(static=True)


class Flatten(Layer):
    """All axes of one example to one."""


class Convolution(Layer):
    """`eqx.nn.Conv2d` with one group and no dilation."""

    window: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: str = eqx.field(static=True)
    bias: bool = eqx.field(static=True)


class AveragePool(Layer):
    """`eqx.nn.AvgPool2d` without padding."""

    window: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)


SUPPORTED = (
    "eqx.nn.MLP, Linear, Sequential, Lambda (an elementwise function or a flatten), "
    "Dropout, Identity, Conv2d and AvgPool2d"
)


def walk(module: Any, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers of a network, in the order in which an example meets them.

    Args:
        module: an Equinox network; its weights are not looked at, so that the abstract
            one of `eqx.filter_eval_shape` serves.
        shape: shape of one input.

    Returns:
        A tuple of `Dense`, `Activation`, `Flatten`, `Convolution`, `AveragePool`.
        Dropout is left out: it is the identity at inference.

    Raises:
        UnsupportedLayer: naming the layer and what is supported.

    >>> import equinox as eqx, jax
    >>> net = eqx.nn.MLP(2, 1, 8, depth=1, key=jax.random.key(0))
    >>> [type(layer).__name__ for layer in walk(net, (2,))]
    ['Dense', 'Activation', 'Dense']
    """
    layers, _ = _walk(module, tuple(shape), type(module).__name__)
    return tuple(layers)


def _refuse(name: str, why: str) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"no infinite-width kernel for {name}: {why}; supported are {SUPPORTED}. Use "
        "kernel=Empirical(), which takes any network, or GP(kernel=RBF())"
    )


def _walk(
    module: Any, shape: tuple[int, ...], name: str
) -> tuple[list[Layer], tuple[int, ...]]:
    nn = eqx.nn
    if isinstance(module, nn.Sequential):
        return _chain(module.layers, shape, name)
    if isinstance(module, nn.MLP):
        return _mlp(module, name)
    if isinstance(module, nn.Linear):
        if len(shape) > 1:
            raise _refuse(name, f"its input has shape {shape}, flatten it first")
        width = module.out_features
        return [Dense(module.use_bias)], () if width == "scalar" else (width,)
    if isinstance(module, nn.Dropout | nn.Identity):
        return [], shape
    if isinstance(module, nn.Lambda):
        return _function(module.fn, shape, name)
    if isinstance(module, nn.Conv2d):
        return _convolution(module, shape, name)
    if isinstance(module, nn.AvgPool2d):
        return _pool(module, shape, name)
    if not isinstance(module, eqx.Module) and callable(module):
        return _function(module, shape, name)
    if type(module).__module__.startswith("equinox."):
        raise _refuse(name, f"{type(module).__name__} is not supported")
    raise _refuse(
        name,
        f"{type(module).__name__} is a class of its own, whose __call__ is not read; "
        "write the network with eqx.nn.Sequential",
    )


def _chain(
    modules: Sequence[Any], shape: tuple[int, ...], name: str
) -> tuple[list[Layer], tuple[int, ...]]:
    found: list[Layer] = []
    for i, module in enumerate(modules):
        layers, shape = _walk(module, shape, f"{name}[{i}] ({type(module).__name__})")
        found += layers
    return found, shape


def _mlp(module: Any, name: str) -> tuple[list[Layer], tuple[int, ...]]:
    for function in (module.activation, module.final_activation):
        if isinstance(function, eqx.Module):
            raise _refuse(
                name, f"its activation {type(function).__name__} has parameters"
            )
    width = (module.width_size,)
    hidden, _ = _function(module.activation, width, f"{name}.activation")
    out = () if module.out_size == "scalar" else (module.out_size,)
    last, _ = _function(module.final_activation, out, f"{name}.final_activation")
    layers: list[Layer] = []
    for _ in range(module.depth):
        layers += [Dense(module.use_bias), *hidden]
    return [*layers, Dense(module.use_final_bias), *last], out


def _function(
    function: Callable[..., Any], shape: tuple[int, ...], name: str
) -> tuple[list[Layer], tuple[int, ...]]:
    with jax.enable_x64(True):
        probe = np.random.default_rng(0).standard_normal(shape) * 10.0
        value = function(jnp.asarray(probe))
        # both signs, lest a ReLU pass for the identity on a positive probe
        same = value.size == probe.size and all(
            np.array_equal(np.ravel(function(jnp.asarray(p))), np.ravel(p))
            for p in (probe, -probe)
        )
    if same and value.shape == shape:
        return [], shape
    if same and value.ndim == 1:
        return [Flatten()], value.shape
    if value.shape != shape:
        raise _refuse(
            name, f"it maps shape {shape} to {value.shape} and is not a flatten"
        )
    return [Activation(function)], shape


def _convolution(
    module: Any, shape: tuple[int, ...], name: str
) -> tuple[list[Layer], tuple[int, ...]]:
    if len(shape) != 3:
        raise _refuse(name, f"expected inputs (channels, height, width), got {shape}")
    if module.groups != 1 or tuple(module.dilation) != (1, 1):
        raise _refuse(name, "groups and dilation are not supported")
    window, stride = tuple(module.kernel_size), tuple(module.stride)
    padding = _padding(module, name)
    if padding == "VALID":
        size = [(n - w) // s + 1 for n, w, s in zip(shape[1:], window, stride)]
    else:
        size = [-(-n // s) for n, s in zip(shape[1:], stride)]
    layer = Convolution(window, stride, padding, module.use_bias)
    return [layer], (module.out_channels, *size)


def _padding(module: Any, name: str) -> str:
    padding = module.padding
    if module.padding_mode.upper() == "CIRCULAR":
        raise _refuse(name, "circular padding is not supported")
    if isinstance(padding, str):
        if padding.upper() in ("SAME", "VALID"):
            return padding.upper()
        raise _refuse(name, f"padding {padding} is not supported")
    pairs = tuple(tuple(p) for p in padding)
    if all(p == (0, 0) for p in pairs):
        return "VALID"
    centered = all(p == (w // 2, w // 2) for p, w in zip(pairs, module.kernel_size))
    odd = all(w % 2 for w in module.kernel_size)
    if centered and odd and tuple(module.stride) == (1, 1):
        return "SAME"
    raise _refuse(name, f"padding {pairs} is neither none nor that of 'SAME'")


def _pool(
    module: Any, shape: tuple[int, ...], name: str
) -> tuple[list[Layer], tuple[int, ...]]:
    if len(shape) != 3:
        raise _refuse(name, f"expected inputs (channels, height, width), got {shape}")
    padding = module.padding
    if any(any(p) for p in padding) or module.use_ceil:
        raise _refuse(name, "padding and use_ceil are not supported")
    window, stride = tuple(module.kernel_size), tuple(module.stride)
    size = [(n - w) // s + 1 for n, w, s in zip(shape[1:], window, stride)]
    return [AveragePool(window, stride)], (shape[0], *size)

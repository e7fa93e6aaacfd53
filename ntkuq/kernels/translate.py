"""Equinox layers as layers of a kernel, with the shapes of their outputs."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx

from ntkuq.kernels.layers import (
    AveragePool,
    Convolution,
    Dense,
    GlobalAveragePool,
    Layer,
    LayerNorm,
)
from ntkuq.kernels.marks import refusal


nn = eqx.nn


def layer_of(
    module: Any, shape: tuple[int, ...], place: str
) -> tuple[Layer | None, tuple[int, ...]]:
    """The layer of one of `marks.LAYERS`, and the shape of its output.

    Args:
        module: the Equinox layer.
        shape: of its input.
        place: of the layer in the network, for messages.

    Returns:
        The layer (`None` where it does nothing), and the shape.

    Raises:
        UnsupportedLayer: for options that have no kernel.
    """
    if isinstance(module, nn.Linear):
        return _dense(module, shape, place)
    if isinstance(module, nn.Conv):
        return _convolution(module, shape, place)
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
        return _adaptive(module, shape, place)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return LayerNorm(float(module.eps)), shape
    return _pool(module, shape, place)


def _dense(
    module: Any, shape: tuple[int, ...], place: str
) -> tuple[Layer, tuple[int, ...]]:
    if len(shape) > 1:
        raise refusal(
            place, f"its input has shape {shape}: it is applied at several positions"
        )
    width, size = module.out_features, module.in_features
    layer = Dense(module.use_bias, 1 if size == "scalar" else size)
    return layer, () if width == "scalar" else (width,)


def _spatial(shape: tuple[int, ...], axes: int, place: str) -> tuple[int, ...]:
    if len(shape) != axes + 1 or axes > 2:
        expected = "(channels, length)" if axes == 1 else "(channels, height, width)"
        raise refusal(place, f"expected an input {expected}, got {shape}")
    return shape[1:]


def _convolution(
    module: Any, shape: tuple[int, ...], place: str
) -> tuple[Layer, tuple[int, ...]]:
    sides = _spatial(shape, module.num_spatial_dims, place)
    if module.groups != 1 or any(n != 1 for n in module.dilation):
        raise refusal(place, "groups and dilation are not supported")
    window, stride = tuple(module.kernel_size), tuple(module.stride)
    padding = _padding(module, place)
    if padding == "VALID":
        size = [(n - w) // s + 1 for n, w, s in zip(sides, window, stride)]
    else:
        size = [-(-n // s) for n, s in zip(sides, stride)]
    fan_in = module.in_channels * math.prod(window)
    layer = Convolution(window, stride, padding, module.use_bias, fan_in)
    return layer, (module.out_channels, *size)


def _padding(module: Any, place: str) -> str:
    padding = module.padding
    if module.padding_mode.upper() != "ZEROS":
        raise refusal(place, f"{module.padding_mode} padding is not supported")
    if isinstance(padding, str):
        if padding.upper() in ("SAME", "VALID"):
            return padding.upper()
        raise refusal(place, f"padding {padding} is not supported")
    pairs = tuple(tuple(p) for p in padding)
    if all(p == (0, 0) for p in pairs):
        return "VALID"
    centered = all(p == (w // 2, w // 2) for p, w in zip(pairs, module.kernel_size))
    odd = all(w % 2 for w in module.kernel_size)
    if centered and odd and all(s == 1 for s in module.stride):
        return "SAME"
    raise refusal(place, f"padding {pairs} is neither none nor that of 'SAME'")


def _pool(
    module: Any, shape: tuple[int, ...], place: str
) -> tuple[Layer, tuple[int, ...]]:
    sides = _spatial(shape, module.num_spatial_dims, place)
    if any(any(pair) for pair in module.padding) or module.use_ceil:
        raise refusal(place, "padding and use_ceil are not supported")
    window, stride = tuple(module.kernel_size), tuple(module.stride)
    size = [(n - w) // s + 1 for n, w, s in zip(sides, window, stride)]
    return AveragePool(window, stride), (shape[0], *size)


def _adaptive(
    module: Any, shape: tuple[int, ...], place: str
) -> tuple[Layer | None, tuple[int, ...]]:
    target = tuple(module.target_shape)
    sides = _spatial(shape, len(target), place)
    if target == sides:
        return None, shape
    if all(n == 1 for n in target):
        return GlobalAveragePool(), shape[:1]
    if any(side % n for side, n in zip(sides, target)):
        raise refusal(
            place, f"its windows differ in length: {sides} is no multiple of {target}"
        )
    window = tuple(side // n for side, n in zip(sides, target))
    return AveragePool(window, window), (shape[0], *target)

"""Convolutions to few channels, on a CPU.

XLA multiplies a kernel with the patches of the data, and the channels of the output
fill the registers of the processor: with 6 of them most lanes idle, and in float64 its
code is fast for multiples of 8 from 24 on only. A block of b x c neighboring outputs is
one convolution with stride (b, c) to b c times the channels, whose kernel holds shifted
copies of the kernel: more operations on paper, and 2 to 9 times faster.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike
from jaxtyping import Array


#: Channels of a block: multiples of LANES between these (measured, AVX-512).
LANES, LEAST, MOST = 8, 24, 64
#: Convolutions to more channels are left as they are.
FEW = {"float32": 12, "float64": 16}


class _Layout(NamedTuple):
    """A convolution with unit strides: where axes lie, and the padding.

    given, kernel, made: axes (batch, channel, *spatial) of the data and the output,
        (out, in, *spatial) of the kernel.
    padding: below and above, for each spatial axis.
    """

    given: tuple[int, ...]
    kernel: tuple[int, ...]
    made: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def convolve(data: ArrayLike, kernel: Array, options: dict[str, Any]) -> Array:
    """What `conv_general_dilated_p.bind(data, kernel, **options)` is."""
    data = jnp.asarray(data)
    layout = _layout(data, kernel, options)
    if layout is None or not _gains(data, kernel, layout):
        return primitives.conv_general_dilated_p.bind(data, kernel, **options)
    return blocked_conv_p.bind(data, kernel, layout=layout)


def _layout(data: Array, kernel: Array, options: dict[str, Any]) -> _Layout | None:
    """The layout of a plain convolution on a CPU; `None` for any other."""
    ones = ("window_strides", "lhs_dilation", "rhs_dilation")
    groups = options["feature_group_count"] * options["batch_group_count"]
    types = {data.dtype, kernel.dtype, options["preferred_element_type"]} - {None}
    plain = (
        jax.default_backend() == "cpu"
        and len(types) == 1
        and data.dtype in (jnp.float32, jnp.float64)
        and data.ndim > 2
        and groups == 1
        and all(one == 1 for name in ones for one in options[name])
    )
    if not plain:
        return None
    numbers = options["dimension_numbers"]
    padding = tuple((int(low), int(high)) for low, high in options["padding"])
    return _Layout(numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec, padding)


def _gains(data: Array, kernel: Array, layout: _Layout) -> bool:
    """Is there a block for the output, or for the gradient of the data?"""
    window = tuple(kernel.shape[axis] for axis in layout.kernel[2:])
    wide, narrow = (kernel.shape[axis] for axis in layout.kernel[:2])
    within = tuple(data.shape[axis] for axis in layout.given[2:])
    most = FEW[data.dtype.name]
    return (
        _block(_sides(within, window, layout.padding), window, wide, most) is not None
        or _block(within, window, narrow, most) is not None
    )


def _sides(
    given: tuple[int, ...],
    window: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> tuple[int, ...]:
    """Sides of the output."""
    each = zip(given, window, padding, strict=True)
    return tuple(side + sum(pad) - wide + 1 for side, wide, pad in each)


@functools.cache
def _block(
    sides: tuple[int, ...], window: tuple[int, ...], channels: int, few: int
) -> tuple[int, ...] | None:
    """The block of outputs with the fewest operations; `None` where none is worth it.

    sides: of the output.
    """
    if channels > few or min(sides) < 1:
        return None
    best, least = None, math.inf
    for block in itertools.product(
        *(range(1, min(MOST // channels, n) + 1) for n in sides)
    ):
        wide = math.prod(block) * channels
        if not LEAST <= wide <= MOST or wide % LANES:
            continue
        each = zip(sides, window, block, strict=True)
        work = channels * math.prod(
            math.ceil(side / b) * b * (w + b - 1) for side, w, b in each
        )
        # of equals the one along the first axis, the faster one more often than not
        if work <= least:
            best, least = block, work
    return best


def _convolve(data: Array, kernel: Array, *, layout: _Layout) -> Array:
    window = tuple(kernel.shape[axis] for axis in layout.kernel[2:])
    given = tuple(data.shape[axis] for axis in layout.given[2:])
    sides = _sides(given, window, layout.padding)
    channels = kernel.shape[layout.kernel[0]]
    block = _block(sides, window, channels, FEW[data.dtype.name])
    if block is None:
        return _plain(data, kernel, layout)
    # to (batch, *spatial, channel) and (*spatial, in, out)
    data = jnp.transpose(data, (layout.given[0], *layout.given[2:], layout.given[1]))
    kernel = jnp.transpose(
        kernel, (*layout.kernel[2:], layout.kernel[1], layout.kernel[0])
    )
    counts = tuple(math.ceil(side / b) for side, b in zip(sides, block, strict=True))
    padding = [
        (low, high + count * b - side)
        for (low, high), count, b, side in zip(
            layout.padding, counts, block, sides, strict=True
        )
    ]
    rank = len(block)
    axes = "".join(chr(ord("a") + n) for n in range(rank))
    found = jax.lax.conv_general_dilated(
        data,
        _copies(kernel, block),
        block,
        padding,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    # (batch, *counts, *block, channel) to the order of the output
    found = found.reshape(found.shape[0], *counts, *block, -1)
    order: list[list[int]] = [[] for _ in layout.made]
    order[layout.made[0]] = [0]
    order[layout.made[1]] = [found.ndim - 1]
    for n, axis in enumerate(layout.made[2:]):
        order[axis] = [1 + n, 1 + rank + n]
    shape = [math.prod(found.shape[axis] for axis in group) for group in order]
    found = jnp.transpose(found, [axis for group in order for axis in group])
    found = found.reshape(shape)
    cut = [slice(None)] * found.ndim
    for axis, side in zip(layout.made[2:], sides, strict=True):
        cut[axis] = slice(side)
    return found[tuple(cut)]


def _copies(kernel: Array, block: tuple[int, ...]) -> Array:
    """(*spatial, in, out) to (*spatial + block - 1, in, block * out)."""
    shifted = [
        jnp.pad(
            kernel,
            [(n, b - 1 - n) for n, b in zip(place, block, strict=True)] + [(0, 0)] * 2,
        )
        for place in np.ndindex(*block)
    ]
    wide = jnp.stack(shifted, axis=-2)
    return wide.reshape(*wide.shape[:-2], -1)


def _plain(data: Array, kernel: Array, layout: _Layout) -> Array:
    return jax.lax.conv_general_dilated(
        data,
        kernel,
        (1,) * len(layout.padding),
        layout.padding,
        dimension_numbers=jax.lax.ConvDimensionNumbers(
            layout.given, layout.kernel, layout.made
        ),
    )


def _to_data(gradient: Array, data: Any, kernel: Array, *, layout: _Layout) -> Array:
    """The transpose in the data: a convolution with the mirrored kernel."""
    del data
    out, into, *spatial = layout.kernel
    window = tuple(kernel.shape[axis] for axis in spatial)
    # full where it was valid
    padding = tuple(
        (w - 1 - low, w - 1 - high)
        for w, (low, high) in zip(window, layout.padding, strict=True)
    )
    turned = _Layout(layout.made, (into, out, *spatial), layout.given, padding)
    mirrored = jnp.flip(kernel, spatial)
    return blocked_conv_p.bind(gradient, mirrored, layout=turned)


def _to_kernel(gradient: Array, data: Array, kernel: Any, *, layout: _Layout) -> Array:
    """The transpose in the kernel, by XLA's own."""
    like = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)
    found = jax.linear_transpose(lambda kernel: _plain(data, kernel, layout), like)
    return found(gradient)[0]


def _batched(arguments, axes, *, layout: _Layout):
    """More data are a longer batch; kernels of their own take the plain route."""
    data, kernel = arguments
    at, of_kernel = axes
    if of_kernel is not None:
        plain = functools.partial(_plain, layout=layout)
        return jax.vmap(plain, (at, of_kernel))(data, kernel), 0
    batch = layout.given[0]
    data = jnp.moveaxis(data, at, batch)
    shape = data.shape
    flat = data.reshape(*shape[:batch], -1, *shape[batch + 2 :])
    made = blocked_conv_p.bind(flat, kernel, layout=layout)
    batch = layout.made[0]
    sides = shape[layout.given[0]], shape[layout.given[0] + 1]
    made = made.reshape(*made.shape[:batch], *sides, *made.shape[batch + 1 :])
    return made, batch


#: Bilinear, as `conv_general_dilated_p` is: all transformations go through it.
blocked_conv_p = core.Primitive("blocked_conv")
blocked_conv_p.def_impl(
    lambda data, kernel, *, layout: jax.jit(_convolve, static_argnames="layout")(
        data, kernel, layout=layout
    )
)
blocked_conv_p.def_abstract_eval(
    lambda data, kernel, *, layout: ShapedArray(
        jax.eval_shape(
            functools.partial(_plain, layout=layout),
            jax.ShapeDtypeStruct(data.shape, data.dtype),
            jax.ShapeDtypeStruct(kernel.shape, kernel.dtype),
        ).shape,
        data.dtype,
    )
)
ad.defbilinear(blocked_conv_p, _to_data, _to_kernel)
batching.primitive_batchers[blocked_conv_p] = _batched
mlir.register_lowering(
    blocked_conv_p, mlir.lower_fun(_convolve, multiple_results=False)
)

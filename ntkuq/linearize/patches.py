"""The patches of data that a convolution multiplies with its kernel."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives
from jaxtyping import Array, Float


def patches(
    data: Float[Array, "..."], kernel: tuple[int, ...], options: dict[str, Any]
) -> Float[Array, "T I ..."]:
    """One patch for each position of the output: (positions, in, *kernel).

    Copies of shifted slices: on a processor this is far cheaper than a convolution
    with unit kernels.

    Args:
        data: in the layout that `options` names.
        kernel: sizes of the kernel's spatial axes.
        options: the parameters of `lax.conv_general_dilated`.
    """
    spec = options["dimension_numbers"].lhs_spec
    # channels last, as patches are: moving them afterwards is slow
    x = jnp.transpose(data, (spec[0], *spec[2:], spec[1]))  # (batch, *spatial, in)
    strides, dilation = options["window_strides"], options["rhs_dilation"]
    spread = [
        (low, high, inner - 1)
        for (low, high), inner in zip(
            options["padding"], options["lhs_dilation"], strict=True
        )
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    sizes = [
        (side - step * (length - 1) - 1) // stride + 1
        for side, step, length, stride in zip(
            x.shape[1:-1], dilation, kernel, strides, strict=True
        )
    ]
    parts = []
    for offset in itertools.product(*map(range, kernel)):
        starts = [o * step for o, step in zip(offset, dilation, strict=True)]
        ends = [
            start + stride * (size - 1) + 1
            for start, stride, size in zip(starts, strides, sizes, strict=True)
        ]
        part = jax.lax.slice(
            x, (0, *starts, 0), (len(x), *ends, x.shape[-1]), (1, *strides, 1)
        )
        parts.append(part)
    found = jnp.stack(parts, axis=-1)  # (batch, *spatial, in, prod(kernel))
    return found.reshape(-1, x.shape[-1], *kernel)


def grouped(data: Array, kernel: Array, options: dict[str, Any]) -> Array:
    """A convolution with groups of features, as a product of patches and kernels.

    The derivative in the kernel is then a product too: that of XLA's convolution, for
    each example and output, takes a hundred times longer on a CPU.
    """
    numbers, groups = options["dimension_numbers"], options["feature_group_count"]
    window = tuple(kernel.shape[axis] for axis in numbers.rhs_spec[2:])
    found = patches(data, window, options)
    apart = found.reshape(len(found), groups, -1)
    kernels = jnp.transpose(kernel, numbers.rhs_spec).reshape(
        groups, -1, apart.shape[2]
    )
    made = jnp.einsum("tgi,goi->tgo", apart, kernels)
    batch, feature, *spatial = numbers.out_spec
    shape = jax.eval_shape(
        lambda data, kernel: primitives.conv_general_dilated_p.bind(
            data, kernel, **options
        ),
        data,
        kernel,
    ).shape
    order = (batch, *spatial, feature)
    made = made.reshape([shape[axis] for axis in order])
    return jnp.transpose(made, [order.index(axis) for axis in range(len(order))])

"""The empirical NTK in blocks: full, traced over outputs, by output, or its diagonal.

The Gram matrix of a network with parameters theta and prior covariance Sigma0 is
K[n, c, m, d] = sum_p s_p dF_c(x_n)/dtheta_p dF_d(x'_m)/dtheta_p.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.chunks import (
    chunk_bytes,
    even,
    factor_chunk_size,
    factor_numbers,
    map_chunks,
    rows,
    split_rows,
)
from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.products import (
    gram,
    network_trace_gram,
    output_gram,
    own_gram,
)


#: Factors of all examples are kept where they take at most so many chunks of memory.
HELD_CHUNKS = 4


def ntk(
    jacobian: Jacobian,
    x1: PyTree,
    x2: PyTree | None = None,
    variances: list[Array] | None = None,
) -> Float[Array, "N C M D"]:
    """The full empirical NTK J(x1) Sigma0 J(x2)^T, (N, C, M, D).

    Args:
        jacobian: at the network's parameters.
        x1: inputs (N, …).
        x2: inputs (M, …); `None` for x1 again, which makes the matrix symmetric.
        variances: a prior variance, (), for each leaf of the subset; `None` for 1.

    References: Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> ntk(Jacobian.at(line, x[0]), x)[:, 0, :, 0]
    Array([[2., 3.],
           [3., 5.]], dtype=float32)
    """
    return _blocks(gram, jacobian, x1, x2, variances, rows_axis=0, columns_axis=2)


def ntk_trace(
    jacobian: Jacobian,
    x1: PyTree,
    x2: PyTree | None = None,
    variances: list[Array] | None = None,
) -> Float[Array, "N M"]:
    """The NTK summed over equal outputs, sum_c K[n, c, m, c]; arguments as in `ntk`.

    Divide by the number of outputs for the mean over them.
    """
    return _blocks(
        network_trace_gram, jacobian, x1, x2, variances, rows_axis=0, columns_axis=1
    )


def ntk_per_output(
    jacobian: Jacobian,
    x1: PyTree,
    x2: PyTree | None = None,
    variances: list[Array] | None = None,
) -> Float[Array, "C N M"]:
    """The NTK of each output by itself, K[n, c, m, c]; arguments as in `ntk`."""
    return _blocks(
        output_gram, jacobian, x1, x2, variances, rows_axis=1, columns_axis=2
    )


def ntk_diagonal(
    jacobian: Jacobian, x: PyTree, variances: list[Array] | None = None
) -> Float[Array, "N C C"]:
    """The NTK of each example with itself, K[n, c, n, d]; arguments as in `ntk`."""
    ones = _variances(jacobian, variances)
    return map_chunks(
        lambda part: _own_block(jacobian, part, ones), x, _size(jacobian, x)
    )


def _blocks(
    product: Callable,
    jacobian: Jacobian,
    x1: PyTree,
    x2: PyTree | None,
    variances: list[Array] | None,
    *,
    rows_axis: int,
    columns_axis: int,
) -> Array:
    """Whole, or from factors made chunk by chunk, or in blocks that make their own."""
    other = x1 if x2 is None else x2
    ones = _variances(jacobian, variances)
    left, right = _size(jacobian, x1), _size(jacobian, other)
    if left >= rows(x1) and right >= rows(other):
        return _block(product, jacobian, x1, x2, ones)
    if _held(jacobian, x1) + _held(jacobian, other) <= HELD_CHUNKS * chunk_bytes():
        one, two = map_chunks(lambda part: _factors(jacobian, part), x1, left), None
        if x2 is not None:
            two = map_chunks(lambda part: _factors(jacobian, part), x2, right)
        return _product(product, one, two, ones)
    parts = []
    for one in split_rows(x1, left):
        row = [
            _block(product, jacobian, one, two, ones)
            for two in split_rows(other, right)
        ]
        parts.append(jnp.concatenate(row, axis=columns_axis))
    return jnp.concatenate(parts, axis=rows_axis)


def _variances(jacobian: Jacobian, variances: list[Array] | None) -> list[Array]:
    if variances is not None:
        return variances
    return [jnp.ones((), leaf.dtype) for leaf in jacobian.leaves]


def _held(jacobian: Jacobian, x: PyTree) -> int:
    """Bytes of the factors at x."""
    out = jacobian.output(x)
    numbers = factor_numbers(jacobian, out.shape[0])
    return numbers * rows(x) * out.dtype.itemsize


def _size(jacobian: Jacobian, x: PyTree) -> int:
    out = jacobian.output(x)
    size = factor_chunk_size(jacobian, out.shape[0], out.dtype.itemsize)
    return even(rows(x), size)


def _pair(jacobian: Jacobian, x1: PyTree, x2: PyTree | None):
    left = jacobian.factors(x1)
    return left, left if x2 is None else jacobian.factors(x2)


@eqx.filter_jit
def _block(product, jacobian, x1, x2, variances):
    """The product of the factors at x1 and x2, one program."""
    return product(*_pair(jacobian, x1, x2), variances)


@eqx.filter_jit
def _factors(jacobian, x):
    return jacobian.factors(x)


@eqx.filter_jit
def _product(product, one, two, variances):
    return product(one, one if two is None else two, variances)


@eqx.filter_jit
def _own_block(jacobian, x, variances):
    return own_gram(jacobian.factors(x), variances)

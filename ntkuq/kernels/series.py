"""Hermite coefficients and the power series of a correlation matrix."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


#: Terms of a series, without the remainder.
TERMS = 48


class Parity(enum.Enum):
    """Which Hermite coefficients a function has.

    EVEN: even degrees and degree 1, an even function plus a line (GELU, SiLU,
    softplus). ODD: odd degrees and degree 0, an odd function plus a constant (tanh,
    sigmoid). NONE: all.
    """

    EVEN = 0
    ODD = 1
    NONE = 2

    def slope(self) -> Parity:
        """The parity of the derivative."""
        swap = {Parity.EVEN: Parity.ODD, Parity.ODD: Parity.EVEN}
        return swap.get(self, Parity.NONE)


def parity(function: Callable[[Array], Array]) -> Parity:
    """The parity of an elementwise function, by its values.

    >>> with jax.enable_x64(True):
    ...     print(parity(jnp.tanh), parity(jax.nn.gelu))
    Parity.ODD Parity.EVEN
    """
    t = np.linspace(0.05, 6.0, 60)
    plus, minus = (np.asarray(function(jnp.asarray(s * t))) for s in (1.0, -1.0))
    odd, even = 0.5 * (plus - minus), 0.5 * (plus + minus)
    close = functools.partial(np.allclose, rtol=1e-11, atol=1e-13)
    if close(even, even[0]):
        return Parity.ODD
    return Parity.EVEN if close(odd, odd[0] / t[0] * t) else Parity.NONE


def _nodes() -> tuple[np.ndarray, np.ndarray]:
    # The trapezoid rule on a Gaussian weight converges geometrically for functions
    # that are analytic near the real axis, faster than Gauss-Hermite for tanh.
    z = np.linspace(-12.0, 12.0, 321)
    weights = np.exp(-0.5 * z**2)
    return z, weights / weights.sum()


def _polynomials() -> np.ndarray:
    z, _ = NODES
    table = [np.ones_like(z), z]
    for n in range(1, 2 * TERMS + 1):
        table.append((z * table[n] - np.sqrt(n) * table[n - 1]) / np.sqrt(n + 1))
    return np.stack(table, axis=1)


NODES = _nodes()
POLYNOMIALS = _polynomials()


class Coefficients(NamedTuple):
    """Coefficients (N, K) of ascending degrees, and the lone one of degree 0 or 1."""

    table: Float[Array, "N K"]
    lone: Float[Array, " N"]


def coefficients(
    function: Callable[[Array], Array], kind: Parity, root: Float[Array, " N"]
) -> Coefficients:
    r"""Coefficients $c_n = E[f(\sqrt q z) h_n(z)]$ and a remainder.

    Args:
        function: elementwise f.
        kind: its parity.
        root: sqrt(q) of each input.

    Returns:
        48 coefficients, of each or of each other degree, and one (two where there is
        no parity: even and odd) for what is missing, so that the squares of a row sum
        to $E f(\sqrt q z)^2$.
    """
    z, weights = (jnp.asarray(a, root.dtype) for a in NODES)
    values = function(root[:, None] * z[None, :])
    if kind is Parity.NONE:
        head = _project(values, np.arange(TERMS))
        mirrored = values[:, ::-1]
        even = _missing(0.5 * (values + mirrored), weights, head[:, ::2])
        odd = _missing(0.5 * (values - mirrored), weights, head[:, 1::2])
        rest = jnp.stack([even, odd], axis=1)  # degrees 48 and 49
        table = jnp.concatenate([head, rest], axis=1)
        return Coefficients(table, jnp.zeros_like(root))
    head = _project(values, 2 * np.arange(TERMS) + kind.value)
    lone = _project(values, np.array([1 - kind.value]))[:, 0]
    both = jnp.concatenate([head, lone[:, None]], axis=1)
    last = _missing(values, weights, both)
    return Coefficients(jnp.concatenate([head, last[:, None]], axis=1), lone)


def _project(values: Array, degrees: np.ndarray) -> Array:
    basis = POLYNOMIALS[:, degrees] * NODES[1][:, None]
    return values @ jnp.asarray(basis, values.dtype)


def _missing(values: Array, weights: Array, found: Array) -> Array:
    """The root of E f^2 minus the squares of the coefficients found."""
    total = values**2 @ weights
    rest = total - jnp.sum(found**2, axis=1)
    # a remainder at the level of rounding has no derivative worth having
    real = rest > 1e-14 * total
    return jnp.where(real, jnp.sqrt(jnp.where(real, rest, 1.0)), 0.0)


def series(
    kind: Parity, c1: Coefficients, c2: Coefficients, rho: Float[Array, "N M"]
) -> Float[Array, "N M"]:
    r"""$\sum_n c_n(q_1) c_n(q_2) \rho^n$ of each pair."""
    if kind is Parity.NONE:
        return power_series(c1.table, c2.table, rho)
    lone = c1.lone[:, None] * c2.lone[None, :]
    values = power_series(c1.table, c2.table, rho**2)
    return values + lone * rho if kind is Parity.EVEN else values * rho + lone


@jax.custom_vjp
def power_series(
    c1: Float[Array, "N K"], c2: Float[Array, "M K"], rho: Float[Array, "N M"]
) -> Float[Array, "N M"]:
    r"""$\sum_n c_{1,in} c_{2,jn} \rho_{ij}^n$, by Horner's rule.

    The derivative keeps three matrices instead of one for each degree.
    """
    return _horner(c1, c2, rho)


@jax.jit
def _horner(c1: Array, c2: Array, rho: Array) -> Array:
    total = jnp.zeros_like(rho)
    for n in reversed(range(c1.shape[1])):
        total = total * rho + c1[:, n, None] * c2[None, :, n]
    return total


def _forward(c1, c2, rho):
    return _horner(c1, c2, rho), (c1, c2, rho)


#: Rows of the correlation matrix handled at a time in the derivative.
_ROWS = 64


def _backward(saved, cotangent):
    c1, c2, rho = saved
    degrees = c1.shape[1]
    n = jnp.arange(1, degrees, dtype=rho.dtype)[None, :]
    rho_bar = cotangent * _horner(c1[:, 1:] * n, c2[:, 1:], rho)

    # Row blocks, so that the powers of a block stay in the cache.
    size = rho.shape[0]
    pad = -size % _ROWS
    blocks = (size + pad) // _ROWS

    def split(a: Array) -> Array:
        a = jnp.pad(a, ((0, pad), (0, 0)))
        return jnp.reshape(a, (blocks, _ROWS, a.shape[1]))

    def block(c2_bar, rows):
        rho_rows, cot_rows, c1_rows = rows

        def degree(n, state):
            power, c1_bar, c2_bar = state
            c1_bar = c1_bar.at[:, n].set(power @ c2[:, n])
            c2_bar = c2_bar.at[n].add(c1_rows[:, n] @ power)
            return power * rho_rows, c1_bar, c2_bar

        start = (cot_rows, jnp.zeros_like(c1_rows), c2_bar)
        _, c1_bar, c2_bar = jax.lax.fori_loop(0, degrees, degree, start)
        return c2_bar, c1_bar

    c2_bar, c1_bar = jax.lax.scan(
        block, jnp.zeros_like(c2.T), (split(rho), split(cotangent), split(c1))
    )
    return jnp.reshape(c1_bar, (-1, degrees))[:size], c2_bar.T, rho_bar


power_series.defvjp(_forward, _backward)

"""The expected improvement in logarithms, accurate far below the incumbent."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


#: Below -TAIL the difference of phi(z) and |z| Phi(z) cancels: take the fraction.
TAIL = 3.0
#: Levels of the continued fraction; at t = TAIL these give full float64 precision.
LEVELS = 60


def log_improvement(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""$\log h(z)$ with $h(z) = E[\max(z + \epsilon, 0)] = \varphi(z) + z\,\Phi(z)$.

    With $t = -z$ and the Mills ratio $\Phi(z)/\varphi(z) = 1/(t + k)$,
    $k = 1/(t + 2/(t + 3/(t + \cdots)))$, the tail is
    $h(z) = \varphi(z)\,k / (t + k)$: no difference of nearly equal numbers.

    Args:
        z: how far the mean lies above the incumbent, in standard deviations.

    Returns:
        log h, finite with a finite slope wherever z² is; may be called inside `jit`
        and `grad`.

    References: Ament et al. 2023 (arXiv 2310.20708) on why the logarithm is needed;
    the fraction is Laplace's.

    >>> import jax.numpy as jnp
    >>> [f"{v:.5g}" for v in log_improvement(jnp.array([0.0, -10.0, -1e4]))]
    ['-0.91894', '-55.553', '-5e+07']
    """
    return _log_h(z)


@jax.custom_jvp
def _log_h(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return _value_and_slope(z)[0]


@_log_h.defjvp
def _log_h_jvp(primals, tangents):
    value, slope = _value_and_slope(*primals)
    return value, slope * tangents[0]


def _value_and_slope(z: Array) -> tuple[Array, Array]:
    r"""log h, and its slope $\Phi/h$, which is $1/k$ in the tail."""
    tail = z <= -TAIL
    # each branch sees only values that it can take: no NaN reaches the gradient
    near = jnp.where(tail, -TAIL, z)
    far = jnp.where(tail, -z, TAIL)
    below = jax.scipy.special.ndtr(near)
    bulk = jnp.exp(_log_density(near)) + near * below

    # a loop: unrolled, it is most of what a program with this value compiles
    def level(n: Array, fraction: Array) -> Array:
        return far + (LEVELS - n).astype(far.dtype) / fraction

    fraction = jax.lax.fori_loop(0, LEVELS - 1, level, far)
    k = 1.0 / fraction
    value = _log_density(-far) + jnp.log(k) - jnp.log(far + k)
    return jnp.where(tail, value, jnp.log(bulk)), jnp.where(
        tail, fraction, below / bulk
    )


def _log_density(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return -0.5 * (z**2 + math.log(2 * math.pi))

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
    tail = z <= -TAIL
    # each branch sees only values that it can take: no NaN reaches the gradient
    near = jnp.where(tail, -TAIL, z)
    far = jnp.where(tail, -z, TAIL)
    bulk = jnp.log(jnp.exp(_log_density(near)) + near * jax.scipy.special.ndtr(near))

    fraction = far
    for level in range(LEVELS, 1, -1):
        fraction = far + level / fraction
    k = 1.0 / fraction
    return jnp.where(tail, _log_density(-far) + jnp.log(k) - jnp.log(far + k), bulk)


def _log_density(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return -0.5 * (z**2 + math.log(2 * math.pi))

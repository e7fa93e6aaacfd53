r"""Arc-cosine functions of Gaussian pairs, by polynomials accurate to rounding.

With $\rho = \cos\theta$ and $g = 1 - \rho$ the functions below are smooth multiples of
$s = \sin(\theta/2) = \sqrt{g/2}$. Written in g, not in $\rho$, they keep all digits
where two inputs are nearly equal, and they run several times faster than arccos.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _series(terms: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Taylor coefficients in $t = s^2$ of the two smooth factors.

    $\arcsin(s)/(\pi s) = \frac1\pi \sum_n c_n t^n / (2n+1)$ and
    $(\sin\theta - \theta\cos\theta)/(\pi s^3)
    = \frac8\pi \sum_n c_n t^n / ((2n+1)(2n+3))$, with $c_n = \binom{2n}{n} 4^{-n}$.
    """
    n = np.arange(terms, dtype=np.longdouble)
    c = np.cumprod(np.concatenate([[1.0], (2 * n[1:] - 1) / (2 * n[1:])]))
    pi = 4 * np.arctan(np.longdouble(1))
    return c / ((2 * n + 1) * pi), 8 * c / ((2 * n + 1) * (2 * n + 3) * pi)


def _fit(taylor: np.ndarray, degree: int) -> tuple[float, ...]:
    """The polynomial in u = 4 t - 1 near the best one on 0 <= t <= 1/2."""
    size = degree + 1
    k = np.arange(size, dtype=np.longdouble)
    pi = 4 * np.arctan(np.longdouble(1))
    nodes = np.cos(pi * (k + 0.5) / size)
    values = np.polynomial.polynomial.polyval((nodes + 1) / 4, taylor)
    # Chebyshev coefficients by the discrete cosine transform
    fit = 2 / size * np.cos(pi * k[:, None] * (k + 0.5) / size) @ values
    fit[0] /= 2
    return tuple(np.polynomial.chebyshev.cheb2poly(fit).astype(float).tolist())


# The nearest singularity, t = 1, makes the error fall by 5.8 with each degree.
_ANGLE, _AREA = _series(64)
_POLYNOMIALS = {
    8: (_fit(_ANGLE, 20), _fit(_AREA, 18)),
    4: (_fit(_ANGLE, 8), _fit(_AREA, 7)),
}


def _polynomial(coefficients: tuple[float, ...], u: Array) -> Array:
    # Even and odd parts, for two chains of operations that do not wait for each other.
    square = u * u

    def horner(part: tuple[float, ...]) -> Array:
        total = jnp.full_like(u, part[-1])
        for c in part[-2::-1]:
            total = total * square + c
        return total

    return horner(coefficients[::2]) + u * horner(coefficients[1::2])


def _small(gap: Array) -> tuple[Array, Array]:
    """t = sin(theta/2)^2 of the angle or of its supplement, the smaller, and s."""
    t = 0.5 * jnp.where(gap < 1.0, gap, 2.0 - gap)
    t = jnp.where(t > 0.0, t, 0.0)
    return t, jnp.sqrt(t)


@jax.custom_jvp
def angle(gap: Array) -> Array:
    r"""$\theta / 2\pi$, where $g = 1 - \cos\theta$ is in [0, 2].

    It is 1/2 minus the probability that both Gaussians are positive. The derivative is
    set to 0 where it is infinite, at g = 0 and g = 2.

    >>> float(angle(jnp.asarray(1.0)))
    0.25
    """
    t, s = _small(gap)
    found = s * _polynomial(_POLYNOMIALS[gap.dtype.itemsize][0], 4.0 * t - 1.0)
    return jnp.where(gap < 1.0, found, 0.5 - found)


@angle.defjvp
def _angle_jvp(primals, tangents):
    (gap,), (gap_dot,) = primals, tangents
    square = gap * (2.0 - gap)
    inside = square > 0.0
    slope = jnp.where(inside, jax.lax.rsqrt(jnp.where(inside, square, 1.0)), 0.0)
    return angle(gap), slope / (2.0 * np.pi) * gap_dot


@jax.custom_jvp
def relu_gap(gap: Array) -> Array:
    r"""$1 - (\sin\theta + (\pi - \theta)\cos\theta)/\pi$, with $g = 1 - \cos\theta$.

    One minus the correlation (about 0) of the ReLUs of two Gaussians of correlation
    $\cos\theta$.

    >>> float(relu_gap(jnp.asarray(0.0)))
    0.0
    """
    t, s = _small(gap)
    area = s * _polynomial(_POLYNOMIALS[gap.dtype.itemsize][1], 4.0 * t - 1.0)
    return jnp.where(gap < 1.0, t * (2.0 - area), 1.0 - t * area)


@relu_gap.defjvp
def _relu_gap_jvp(primals, tangents):
    (gap,), (gap_dot,) = primals, tangents
    return relu_gap(gap), (1.0 - 2.0 * angle(gap)) * gap_dot

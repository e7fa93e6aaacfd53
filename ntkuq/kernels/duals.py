r"""Dual maps: what a nonlinearity does to the covariance of Gaussian inputs.

For (u, v) normal with mean 0, variances $q_1$, $q_2$ and covariance $k$, a dual map
gives $E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.series import NODES, Parity, coefficients, parity, series


class AbstractDual(eqx.Module):
    """The dual map of a nonlinearity."""

    @abc.abstractmethod
    def __call__(
        self,
        k: Float[Array, "N M"],
        q1: Float[Array, " N"],
        q2: Float[Array, " M"],
    ) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
        """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of each pair."""

    @abc.abstractmethod
    def diagonal(
        self, q: Float[Array, " N"]
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """E[phi(u)^2] and E[phi'(u)^2], exact to rounding."""


def _root(q: Array) -> Array:
    """sqrt(q) with derivative 0 at q = 0."""
    positive = q > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, q, 1.0)), 0.0)


@jax.custom_jvp
def _arc1(rho: Array) -> Array:
    """E[relu(u) relu(v)] for unit variances and correlation rho."""
    sine = jnp.sqrt(jnp.maximum((1.0 - rho) * (1.0 + rho), 0.0))
    return (sine + rho * (jnp.pi - jnp.arccos(rho))) / (2.0 * jnp.pi)


@_arc1.defjvp
def _arc1_jvp(primals, tangents):
    # exact, while the two terms of the plain derivative are infinite at rho = 1
    return _arc1(*primals), _arc0(*primals) * tangents[0]


@jax.custom_jvp
def _arc0(rho: Array) -> Array:
    """P(u > 0, v > 0) for unit variances and correlation rho."""
    return (jnp.pi - jnp.arccos(rho)) / (2.0 * jnp.pi)


@_arc0.defjvp
def _arc0_jvp(primals, tangents):
    (rho,), (rho_dot,) = primals, tangents
    square = (1.0 - rho) * (1.0 + rho)
    inside = square > 0.0
    slope = jnp.where(inside, jax.lax.rsqrt(jnp.where(inside, square, 1.0)), 0.0)
    return _arc0(rho), slope / (2.0 * jnp.pi) * rho_dot


def _correlation(k: Array, s1: Array, s2: Array) -> tuple[Array, Array]:
    """The correlation of each pair, 0 where a variance is 0, and s1 s2."""
    size = s1[:, None] * s2[None, :]
    positive = size > 0.0
    rho = jnp.where(positive, k / jnp.where(positive, size, 1.0), 0.0)
    return jnp.where(rho > 1.0, 1.0, jnp.where(rho < -1.0, -1.0, rho)), size


class PiecewiseLinear(AbstractDual):
    r"""$\phi(t) = a t$ for t < 0 and $b t$ for t > 0: ReLU, leaky ReLU, |t|, identity.

    $E[\phi\phi] = ab\,k + (b-a)^2 \sqrt{q_1 q_2} A_1(\rho)$ and
    $E[\phi'\phi'] = ab + (b-a)^2 A_0(\rho)$ with the arc-cosine functions
    $A_1 = (\sqrt{1-\rho^2} + \rho(\pi-\arccos\rho)) / 2\pi$,
    $A_0 = (\pi-\arccos\rho)/2\pi$.

    References:
        Cho and Saul, *Kernel methods for deep learning*, NeurIPS 2009.

    >>> PiecewiseLinear(0.0, 1.0)
    PiecewiseLinear(negative=0.0, positive=1.0)
    """

    negative: float = eqx.field(static=True)
    positive: float = eqx.field(static=True)

    def __call__(self, k, q1, q2):
        product = self.negative * self.positive
        kink = (self.positive - self.negative) ** 2
        if kink == 0.0:
            return product * k, jnp.full_like(k, product)
        rho, size = _correlation(k, _root(q1), _root(q2))
        value = product * k + kink * size * _arc1(rho)
        return value, product + kink * _arc0(rho)

    def diagonal(self, q):
        half = 0.5 * (self.negative**2 + self.positive**2)
        return half * q, jnp.full_like(q, half)


class Erf(AbstractDual):
    r"""$\phi = \mathrm{erf}$, in closed form.

    $E[\phi\phi] = \frac2\pi \arcsin\frac{2k}{\sqrt{(1+2q_1)(1+2q_2)}}$ and
    $E[\phi'\phi'] = \frac4\pi ((1+2q_1)(1+2q_2) - 4k^2)^{-1/2}$.

    References:
        Williams, *Computing with infinite networks*, NeurIPS 1996.

    >>> Erf()
    Erf()
    """

    def __call__(self, k, q1, q2):
        a, b = q1[:, None], q2[None, :]
        gap = a * b - k**2  # at least 0 but for rounding
        root = jnp.sqrt(1.0 + 2.0 * (a + b) + 4.0 * jnp.where(gap > 0.0, gap, 0.0))
        return 2.0 / jnp.pi * jnp.arctan2(2.0 * k, root), 4.0 / jnp.pi / root

    def diagonal(self, q):
        root = jnp.sqrt(1.0 + 4.0 * q)
        return 2.0 / jnp.pi * jnp.arctan2(2.0 * q, root), 4.0 / jnp.pi / root


class Hermite(AbstractDual):
    r"""Any other smooth nonlinearity, by its Hermite series.

    $E[\phi(u)\phi(v)] = \sum_n c_n(q_1) c_n(q_2) \rho^n$ with
    $c_n(q) = E[\phi(\sqrt q z) h_n(z)]$, $h_n$ the normalized Hermite polynomials
    (Mehler's formula). Each term is positive semi-definite, so the sum is. The series
    has 48 terms, of each other degree where the nonlinearity is odd or even up to a
    line; what is missing on the diagonal is given to a last term, so that the diagonal
    is exact. Relative error elsewhere, at any correlation, for tanh, GELU, SiLU,
    softplus and sigmoid: 1e-6 for q <= 3, 1e-3 for q <= 10. ELU (a jump in the second
    derivative): 1e-6, and 1e-3 for the NTK. Kinks away from 0: 1e-3, and a few percent
    for the NTK.

    Args:
        function: elementwise, differentiable.
        kind: its parity.
    """

    function: Callable[[Array], Array] = eqx.field(static=True)
    kind: Parity = eqx.field(static=True, default=Parity.NONE)

    def __call__(self, k, q1, q2):
        r1 = _root(q1)
        r2 = r1 if q2 is q1 else _root(q2)
        rho, _ = _correlation(k, r1, r2)
        return (
            _series(self.function, self.kind, rho, r1, r2),
            _series(slope(self.function), self.kind.slope(), rho, r1, r2),
        )

    def diagonal(self, q):
        z, weights = (jnp.asarray(a, q.dtype) for a in NODES)
        t = _root(q)[:, None] * z[None, :]
        return self.function(t) ** 2 @ weights, slope(self.function)(t) ** 2 @ weights


def slope(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The derivative of an elementwise function."""

    def derivative(t: Array) -> Array:
        return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]

    return derivative


def _series(function, kind: Parity, rho: Array, r1: Array, r2: Array) -> Array:
    c1 = coefficients(function, kind, r1)
    c2 = c1 if r2 is r1 else coefficients(function, kind, r2)
    return series(kind, c1, c2, rho)


def recognize(function: Callable[[Array], Array]) -> AbstractDual:
    """The dual map of an elementwise function, recognized by its values.

    Args:
        function: array to array of the same shape.

    Raises:
        ValueError: when it does not act on each entry by itself.

    >>> import jax
    >>> recognize(jax.nn.relu)
    PiecewiseLinear(negative=0.0, positive=1.0)
    """
    with jax.enable_x64(True):
        side = np.linspace(0.01, 30.0, 100)
        t = np.concatenate([-side, side])
        values = np.asarray(function(jnp.asarray(t)))
        part = np.asarray(function(jnp.asarray(t[::-3])))
        erf = np.asarray(jax.scipy.special.erf(jnp.asarray(t)))
        kind = parity(function)
    if values.shape != t.shape or not np.allclose(part, values[::-3], rtol=1e-12):
        raise ValueError("expected a function that acts on each entry by itself")
    if not np.isfinite(values).all():
        raise ValueError("expected a function that is finite on [-30, 30]")
    a, b = float(values[0] / t[0]), float(values[-1] / t[-1])
    if np.allclose(values, np.where(t < 0, a * t, b * t), rtol=1e-12, atol=1e-14):
        return PiecewiseLinear(a, b)
    if np.allclose(values, erf, rtol=1e-12, atol=1e-14):
        return Erf()
    return Hermite(function, kind)

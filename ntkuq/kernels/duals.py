r"""Dual maps: what a nonlinearity does to the covariance of Gaussian inputs.

For (u, v) normal with mean 0, variances $q_1$, $q_2$ and correlation $\rho$, a dual map
gives $E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$. Correlations are taken and given as
the *gap* $1 - \rho$ to equality: the derivative of a ReLU's dual is infinite at
$\rho = 1$, so that digits lost in $1 - \rho$ would cost half of all.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.kernels.arccosine import angle, relu_gap
from ntkuq.kernels.series import (
    NODES,
    Coefficients,
    Parity,
    coefficients,
    parity,
    series,
)


class AbstractDual(eqx.Module):
    """The dual map of a nonlinearity.

    `points` and `slope_points` are what a pair needs of each of its inputs: computed
    once an input, not once a pair.
    """

    @abc.abstractmethod
    def diagonal(
        self, q: Float[Array, " N"]
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """E[phi(u)^2] and E[phi'(u)^2], exact to rounding."""

    @abc.abstractmethod
    def points(self, q: Float[Array, " N"]) -> PyTree:
        """What `gaps` needs of inputs of variance q; leaves have the leading axis N."""

    @abc.abstractmethod
    def slope_points(self, q: Float[Array, " N"]) -> PyTree:
        """What `slopes` needs of inputs of variance q."""

    @abc.abstractmethod
    def gaps(
        self, gap: Float[Array, "N M"], one: PyTree, two: PyTree
    ) -> Float[Array, "N M"]:
        """1 - E[phi(u) phi(v)] / sqrt(E[phi(u)^2] E[phi(v)^2]) of pairs of this gap."""

    @abc.abstractmethod
    def slopes(
        self, gap: Float[Array, "N M"], one: PyTree, two: PyTree
    ) -> Float[Array, "N M"]:
        """E[phi'(u) phi'(v)] of pairs of this gap."""

    def __call__(
        self,
        k: Float[Array, "N M"],
        q1: Float[Array, " N"],
        q2: Float[Array, " M"],
    ) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
        """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of pairs of covariance k."""
        gap = 1.0 - _correlation(k, root(q1), root(q2))
        e1, e2 = root(self.diagonal(q1)[0]), root(self.diagonal(q2)[0])
        value = 1.0 - self.gaps(gap, self.points(q1), self.points(q2))
        slopes = self.slopes(gap, self.slope_points(q1), self.slope_points(q2))
        return e1[:, None] * e2[None, :] * value, slopes


def root(q: Array) -> Array:
    """sqrt(q) with derivative 0 at q = 0."""
    positive = q > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, q, 1.0)), 0.0)


def reciprocal(value: Array) -> Array:
    """1 / value, 0 where the value is 0."""
    positive = value > 0.0
    return jnp.where(positive, 1.0 / jnp.where(positive, value, 1.0), 0.0)


def _correlation(k: Array, s1: Array, s2: Array) -> Array:
    """The correlation of each pair, 0 where a variance is 0."""
    rho = k * reciprocal(s1)[:, None] * reciprocal(s2)[None, :]
    return jnp.where(rho > 1.0, 1.0, jnp.where(rho < -1.0, -1.0, rho))


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

    def diagonal(self, q):
        return self._half * q, jnp.full_like(q, self._half)

    def points(self, q):
        return ()

    def slope_points(self, q):
        return ()

    def gaps(self, gap, one, two):
        if self._kink == 0.0 or self._half == 0.0:
            return gap
        kink = 0.5 * self._kink * relu_gap(gap)
        if self._product == 0.0:
            return kink / self._half
        return (self._product * gap + kink) / self._half

    def slopes(self, gap, one, two):
        if self._kink == 0.0:
            return jnp.full_like(gap, self._product)
        return self._half - self._kink * angle(gap)

    @property
    def _half(self) -> float:
        return 0.5 * (self.negative**2 + self.positive**2)

    @property
    def _product(self) -> float:
        return self.negative * self.positive

    @property
    def _kink(self) -> float:
        return (self.positive - self.negative) ** 2


class Erf(AbstractDual):
    r"""$\phi = \mathrm{erf}$, in closed form.

    $E[\phi\phi] = \frac2\pi \arcsin\frac{2k}{\sqrt{(1+2q_1)(1+2q_2)}}$ and
    $E[\phi'\phi'] = \frac4\pi ((1+2q_1)(1+2q_2) - 4k^2)^{-1/2}$.

    References:
        Williams, *Computing with infinite networks*, NeurIPS 1996.

    >>> Erf()
    Erf()
    """

    def diagonal(self, q):
        wide = jnp.sqrt(1.0 + 4.0 * q)
        return 2.0 / jnp.pi * jnp.arctan2(2.0 * q, wide), 4.0 / jnp.pi / wide

    def points(self, q):
        return q, root(q), reciprocal(root(self.diagonal(q)[0]))

    def slope_points(self, q):
        return q, root(q)

    def gaps(self, gap, one, two):
        (q1, r1, i1), (q2, r2, i2) = one, two
        twice = 2.0 * (1.0 - gap) * r1[:, None] * r2[None, :]
        value = 2.0 / jnp.pi * jnp.arctan2(twice, _wide(gap, q1, q2))
        return 1.0 - value * i1[:, None] * i2[None, :]

    def slopes(self, gap, one, two):
        (q1, _), (q2, _) = one, two
        return 4.0 / jnp.pi / _wide(gap, q1, q2)


def _wide(gap: Array, q1: Array, q2: Array) -> Array:
    """sqrt((1 + 2 q1)(1 + 2 q2) - 4 k^2) with q1 q2 - k^2 = q1 q2 g (2 - g)."""
    a, b = q1[:, None], q2[None, :]
    return jnp.sqrt(1.0 + 2.0 * (a + b) + 4.0 * a * b * (gap * (2.0 - gap)))


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

    def diagonal(self, q):
        z, weights = (jnp.asarray(a, q.dtype) for a in NODES)
        t = root(q)[:, None] * z[None, :]
        return self.function(t) ** 2 @ weights, slope(self.function)(t) ** 2 @ weights

    def points(self, q):
        unit = reciprocal(root(self.diagonal(q)[0]))
        table, lone = coefficients(self.function, self.kind, root(q))
        return Coefficients(table * unit[:, None], lone * unit)

    def slope_points(self, q):
        return coefficients(slope(self.function), self.kind.slope(), root(q))

    def gaps(self, gap, one, two):
        return 1.0 - series(self.kind, one, two, 1.0 - gap)

    def slopes(self, gap, one, two):
        return series(self.kind.slope(), one, two, 1.0 - gap)


def slope(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The derivative of an elementwise function."""

    def derivative(t: Array) -> Array:
        return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]

    return derivative


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
    # also where a caller is being traced
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
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

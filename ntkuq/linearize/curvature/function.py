"""The exact Gauss-Newton matrix in function space (NC x NC).

With R' = S^T J L0^-1/2 (rows: data, columns: whitened parameters), weight space works
with W = R'^T R' and function space with K = R' R'^T, which share their non-zero
eigenvalues: both views give one posterior.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.chunks import factor_numbers, predicted_numbers
from ntkuq.linearize.curvature.accumulate import Summary, fitted
from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    Evaluated,
    same_kind,
    symmetric,
    without_negative,
)
from ntkuq.linearize.curvature.fisher import AbstractFisher, ExactFisher
from ntkuq.linearize.curvature.square import (
    Factored,
    Square,
    inverse_factor,
    log_det_plus_one,
    trace_and_log_det,
)
from ntkuq.linearize.curvature.weight import SpaceCost
from ntkuq.linearize.examples import AbstractExamples
from ntkuq.linearize.jacobian import Factors, Jacobian
from ntkuq.linearize.products import gram, own_gram, pull, push
from ntkuq.models import AbstractLikelihood


def function_space_cost(jacobian: Jacobian, data: int, outputs: int) -> SpaceCost:
    """Cost of K by layer factors and of its factor.

    The factors of all data stay in memory; a leaf without layer factors costs C P
    numbers an example.
    """
    nc = data * outputs
    numbers = factor_numbers(jacobian, outputs)
    products = float(nc * data * numbers)
    return SpaceCost(
        nc**3 / 3 + products + 4.0 * nc**2 * len(jacobian.subset),
        32.0 * nc**2 + 8.0 * data * numbers,
    )


class FunctionSpace(AbstractCurvature):
    """The NC x NC view: K = S^T J L0^-1 J^T S, from the factors of the data."""

    square: Square
    jacobian: Jacobian
    train: Factors
    variances: list[Array]

    @property
    def cheap(self) -> bool:
        return self.square.eigenvalues is not None

    def prepared(self):
        return FunctionSpace(
            self.square.decomposed(), self.jacobian, self.train, self.variances
        )

    def log_det(self, log_t: float) -> float:
        return self.square.log_det(log_t)

    def slopes(self, log_t: float):
        return self.square.slopes(log_t)

    def covariance(self, tau: float, t: float) -> FunctionCovariance:
        return self._covariance(tau, t, self.square.factor(t))

    def _covariance(self, tau: float, t: float, factored: Factored):
        dtype = np.dtype(factored.lower.dtype)
        return FunctionCovariance(
            factored.lower,
            self.train,
            self.variances,
            jnp.asarray(np.asarray(tau, dtype)),
            jnp.asarray(np.asarray(t, dtype)),
            factored.jitter,
            self.jacobian.sizes,
        )

    def at(self, tau: float, t: float):
        factored = self.square.factor(t)
        covariance = self._covariance(tau, t, factored)
        return Evaluated(covariance, float(factored.log_det), None)

    def log_det_at(self, variances, scale):
        return log_det_plus_one(scale * _flat_gram(self.train, variances))

    def with_variances(self, variances):
        square = Square(_train_gram(self.train, variances))
        return FunctionSpace(square, self.jacobian, self.train, variances)

    def merge(self, other):
        other = same_kind(self, other)
        train = jax.tree.map(lambda *a: jnp.concatenate(a), self.train, other.train)
        square = Square(_train_gram(train, self.variances))
        return FunctionSpace(square, self.jacobian, train, self.variances)


class FunctionCovariance(AbstractCovariance):
    """(1/tau) [k** - t k*^T (I + t K)^-1 k*], k* = S^T J L0^-1 J*^T.

    Args:
        factor: the Cholesky factor of I + t K (and jitter).
        train: factors of the training data, weighed by S.
        variances: of the prior, L0^-1, one number a leaf.
        tau, t: the factors on the prior precision, and of K.
        jitter: what the factorization needed.
        sizes: numbers in each leaf.
    """

    factor: Float[Array, "NC NC"]
    train: Factors
    variances: list[Array]
    tau: Float[Array, ""]
    t: Float[Array, ""]
    jitter: Float[Array, ""]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def effective(self) -> float:
        """The effective number of parameters, tr(t K (I + t K)^-1)."""
        with jax.enable_x64(self._double):
            _, trace = inverse_factor(self.factor)
            return self.factor.shape[0] - float(trace)

    def least_effective(self) -> float:
        """A lower bound of it that takes no inverse.

        It is the sum of 1 - exp(-l) over l = log(1 + eigenvalue), concave in l: above
        the chord from 0 to the largest l, which log(1 + trace) bounds.
        """
        with jax.enable_x64(self._double):
            squares, log_det = map(float, trace_and_log_det(self.factor))
        trace = squares - self.factor.shape[0]
        if trace <= 0:
            return 0.0
        most = math.log1p(trace)
        return log_det * -math.expm1(-most) / most

    @property
    def _double(self) -> bool:
        return self.factor.dtype == np.float64

    def _half(self, factors: Factors) -> Float[Array, "NC M"]:
        cross = gram(self.train, factors, self.variances)
        size = self.factor.shape[0]
        return jax.scipy.linalg.solve_triangular(
            self.factor, cross.reshape(size, -1), lower=True
        )

    def marginal(self, factors):
        n, c = factors.outputs.shape[0], factors.weighed
        prior = own_gram(factors, self.variances)
        half = self._half(factors).T.reshape(n, c, -1)
        met = self.t * jnp.einsum("nck,ndk->ncd", half, half)
        return without_negative((prior - met) / self.tau)

    def numbers(self, jacobian, outputs):
        own = predicted_numbers(jacobian, outputs)
        return own + outputs * (2 * self.factor.shape[0] + outputs)

    def joint(self, factors):
        size = factors.outputs.shape[0] * factors.weighed
        prior = gram(factors, factors, self.variances).reshape(size, size)
        half = self._half(factors)
        return without_negative(symmetric(prior - self.t * half.T @ half) / self.tau)

    def apply(self, vector):
        # Woodbury: (1/tau) [L0^-1 v - t L0^-1 R^T (I + t K)^-1 R L0^-1 v]
        prior = [v * u for v, u in zip(self.variances, vector, strict=True)]
        seen = push(self.train, prior)
        solved = jax.scipy.linalg.cho_solve((self.factor, True), seen.reshape(-1))
        back = pull(self.train, self.t * solved.reshape(seen.shape))
        return [
            (p - v * b) / self.tau
            for p, v, b in zip(prior, self.variances, back, strict=True)
        ]

    def sample(self, shape, *, key):
        # Matheron's rule: correct a prior draw by what the data would have said of it
        ends = np.cumsum(self.sizes)[:-1]
        dtype = self.factor.dtype

        def one(key: Array) -> Float[Array, " P"]:
            draw, noise = jax.random.split(key)
            z = jax.random.normal(draw, (sum(self.sizes),), dtype)
            prior = [
                jnp.sqrt(v) * part
                for v, part in zip(self.variances, jnp.split(z, ends), strict=True)
            ]
            seen = push(self.train, prior)
            e = jax.random.normal(noise, seen.shape, dtype)
            missing = (self.t * seen + jnp.sqrt(self.t) * e).reshape(-1)
            solved = jax.scipy.linalg.cho_solve((self.factor, True), missing)
            back = pull(self.train, solved.reshape(seen.shape))
            parts = [
                p - v * b for p, v, b in zip(prior, self.variances, back, strict=True)
            ]
            return jnp.concatenate(parts) / jnp.sqrt(self.tau)

        keys = jax.random.split(key, math.prod(shape))
        return jax.lax.map(one, keys, batch_size=32).reshape(*shape, -1)


@eqx.filter_jit
def _train(jacobian, likelihood, fisher, x, y, extra, variances):
    # one program: the gradients at a weight and the Jacobian of its bias are the same
    # numbers, and so are their products
    train, summary = fitted(jacobian, likelihood, fisher, x, y, extra)
    return train, summary, _flat_gram(train, variances)


def _flat_gram(train: Factors, variances: list[Array]) -> Float[Array, "NC NC"]:
    k = gram(train, train, variances)
    size = train.outputs.shape[0] * train.weighed
    return k.reshape(size, size)


_train_gram = eqx.filter_jit(_flat_gram)


def function_space(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    variances: list[Array],
    *,
    fisher: AbstractFisher | None = None,
) -> tuple[FunctionSpace, Summary]:
    """K from the layer factors of all data, which stay in memory."""
    fisher = ExactFisher() if fisher is None else fisher
    x, y = examples.whole()
    extra = fisher.extras(y, 0)
    train, summary, gram_ = _train(jacobian, likelihood, fisher, x, y, extra, variances)
    return FunctionSpace(Square(gram_), jacobian, train, variances), summary

"""The exact Gauss-Newton matrix, in weight space (P x P) or function space (NC x NC).

Both views give one posterior. With R' = S^T J L0^-1/2 (rows: data, columns: whitened
parameters), weight space works with W = R'^T R' and function space with K = R' R'^T,
which share their non-zero eigenvalues.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    Slopes,
    spectral_log_det,
    spectral_slopes,
    symmetric,
)
from ntkuq.linearize.curvature.whiten import whiten
from ntkuq.linearize.jacobian import Factors, Jacobian
from ntkuq.linearize.products import chunk_size, dense, gram, pull, push, rows
from ntkuq.models import AbstractLikelihood


#: Up to this size all eigenvalues are computed once; beyond it, one Cholesky factor
#: for each t that is asked for is cheaper.
SPECTRUM_LIMIT = 1500
#: Step in log t of the central differences of log det beyond `SPECTRUM_LIMIT`.
LOG_STEP = 0.1
#: Jitter tried in turn, relative to the largest diagonal entry of t M.
JITTERS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12)


class SpaceCost(NamedTuple):
    """Floating-point operations and bytes of a view."""

    flops: float
    bytes: float


def weight_space_cost(parameters: int, data: int, outputs: int) -> SpaceCost:
    """Cost of W and its factor: 2 NC P^2 + P^3 / 3 operations, 8 (2 P^2) bytes."""
    nc = data * outputs
    return SpaceCost(
        2.0 * nc * parameters**2 + parameters**3 / 3, 16.0 * parameters**2 + 2**28
    )


def function_space_cost(parameters: int, data: int, outputs: int) -> SpaceCost:
    """Cost of K by layer factors and its factor: about (NC)^3 / 3 operations."""
    del parameters  # never a P-sized object
    nc = data * outputs
    return SpaceCost(nc**3 / 3 + 30.0 * nc**2 * max(outputs, 8), 32.0 * nc**2)


class Square(eqx.Module):
    """A symmetric matrix M, with its eigenvalues where it is small."""

    matrix: Float[Array, "n n"]
    eigenvalues: np.ndarray | None

    @staticmethod
    def of(matrix: Float[Array, "n n"]) -> Square:
        if matrix.shape[0] > SPECTRUM_LIMIT:
            return Square(matrix, None)
        return Square(matrix, np.asarray(_spectrum(matrix)).clip(0.0))

    def log_det(self, log_t: float) -> float:
        """log det(I + t M)."""
        if self.eigenvalues is not None:
            return spectral_log_det(self.eigenvalues, log_t)
        factor, _ = self.factor(math.exp(log_t))
        return float(2.0 * jnp.sum(jnp.log(jnp.diagonal(factor))))

    def factor(self, t: float) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """The Cholesky factor of (1 + jitter) I + t M, and the jitter it took.

        t M may be singular, and has rounding errors of eps times its size, which can
        outweigh I where the data are almost free of noise.

        Raises:
            FloatingPointError: where M is not finite.
        """
        t_array = jnp.asarray(t, self.matrix.dtype)
        size = float(t * jnp.max(jnp.diagonal(self.matrix)))
        for relative in JITTERS:
            jitter = jnp.asarray(relative * size, self.matrix.dtype)
            factor = _factor(self.matrix, t_array, jitter)
            if bool(jnp.isfinite(factor[-1, -1])):
                return factor, jitter
        raise FloatingPointError(
            "expected a positive definite matrix I + t G, got one without a Cholesky "
            f"factor (t = {t:.2g}, largest diagonal entry of t G {size:.2g}): check "
            "the network for outputs or gradients that are not finite"
        )

    def slopes(self, log_t: float) -> Slopes:
        if self.eigenvalues is not None:
            return spectral_slopes(self.eigenvalues, log_t)
        steps = (-LOG_STEP, 0.0, LOG_STEP)
        below, value, above = (self.log_det(log_t + step) for step in steps)
        return Slopes(
            (above - below) / (2 * LOG_STEP),
            (above - 2 * value + below) / LOG_STEP**2,
        )


class WeightSpace(AbstractCurvature):
    """The P x P view: W = L0^-1/2 J^T H J L0^-1/2."""

    square: Square
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)

    @property
    def cheap(self) -> bool:
        return self.square.eigenvalues is not None

    def log_det(self, log_t: float) -> float:
        return self.square.log_det(log_t)

    def slopes(self, log_t: float) -> Slopes:
        return self.square.slopes(log_t)

    def covariance(self, tau: float, t: float) -> WeightCovariance:
        factor, jitter = self.square.factor(t)
        return WeightCovariance(
            factor,
            [d / jnp.sqrt(jnp.asarray(tau, d.dtype)) for d in self.deviations],
            self.sizes,
            jitter,
        )


class WeightCovariance(AbstractCovariance):
    """D (L L^T)^-1 D with L L^T = I + t W and D = (tau L0)^-1/2."""

    factor: Float[Array, "P P"]
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)
    jitter: Float[Array, ""]

    def _half(self, factors: Factors) -> Float[Array, "P NC"]:
        j = dense(factors, self.deviations)
        flat = j.reshape(-1, j.shape[-1]).T
        return jax.scipy.linalg.solve_triangular(self.factor, flat, lower=True)

    def marginal(self, factors):
        n, c = factors.outputs.shape
        half = self._half(factors).T.reshape(n, c, -1)
        return jnp.einsum("ncp,ndp->ncd", half, half)

    def joint(self, factors):
        half = self._half(factors)
        return half.T @ half

    def apply(self, vector):
        white = jnp.concatenate(
            [d * v for d, v in zip(self.deviations, vector, strict=True)]
        )
        solved = jax.scipy.linalg.cho_solve((self.factor, True), white)
        columns = _columns(self.deviations, self.sizes) * solved
        return jnp.split(columns, np.cumsum(self.sizes)[:-1])

    def sample(self, shape, *, key):
        z = jax.random.normal(key, (*shape, self.factor.shape[0]), self.factor.dtype)
        white = jax.scipy.linalg.solve_triangular(
            self.factor, z.reshape(-1, z.shape[-1]).T, lower=True, trans="T"
        ).T
        return white * _columns(self.deviations, self.sizes)


class FunctionSpace(AbstractCurvature):
    """The NC x NC view: K = S^T J L0^-1 J^T S, never a P-sized object."""

    square: Square
    jacobian: Jacobian
    train: Factors
    variances: list[Array]

    @property
    def cheap(self) -> bool:
        return self.square.eigenvalues is not None

    def log_det(self, log_t: float) -> float:
        return self.square.log_det(log_t)

    def slopes(self, log_t: float) -> Slopes:
        return self.square.slopes(log_t)

    def covariance(self, tau: float, t: float) -> FunctionCovariance:
        factor, jitter = self.square.factor(t)
        dtype = factor.dtype
        return FunctionCovariance(
            factor,
            self.jacobian,
            self.train,
            self.variances,
            jnp.asarray(tau, dtype),
            jnp.asarray(t, dtype),
            jitter,
        )


class FunctionCovariance(AbstractCovariance):
    """(1/tau) [k** - t k*^T (I + t K)^-1 k*], k* = S^T J L0^-1 J*^T."""

    factor: Float[Array, "NC NC"]
    jacobian: Jacobian
    train: Factors
    variances: list[Array]
    tau: Float[Array, ""]
    t: Float[Array, ""]
    jitter: Float[Array, ""]

    def _half(self, factors: Factors) -> Float[Array, "NC M"]:
        cross = gram(self.train, factors, self.variances)
        size = self.factor.shape[0]
        return jax.scipy.linalg.solve_triangular(
            self.factor, cross.reshape(size, -1), lower=True
        )

    def marginal(self, factors):
        n, c = factors.outputs.shape
        prior = jax.vmap(lambda one: _own_gram(one, self.variances))(factors)
        half = self._half(factors).T.reshape(n, c, -1)
        return (prior - self.t * jnp.einsum("nck,ndk->ncd", half, half)) / self.tau

    def joint(self, factors):
        size = factors.outputs.size
        prior = gram(factors, factors, self.variances).reshape(size, size)
        half = self._half(factors)
        return symmetric(prior - self.t * half.T @ half) / self.tau

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
        sizes = tuple(leaf.size for leaf in self.jacobian.leaves)
        ends = np.cumsum(sizes)[:-1]
        dtype = self.factor.dtype

        def one(key: Array) -> Float[Array, " P"]:
            draw, noise = jax.random.split(key)
            z = jax.random.normal(draw, (sum(sizes),), dtype)
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


def _columns(deviations: list[Array], sizes: tuple[int, ...]) -> Float[Array, " P"]:
    parts = [jnp.broadcast_to(d, (n,)) for d, n in zip(deviations, sizes, strict=True)]
    return jnp.concatenate(parts)


def _own_gram(one: Factors, variances: list[Array]) -> Float[Array, "C C"]:
    """J Sigma J^T of one example (leaves without the leading N)."""
    batch = jax.tree.map(lambda leaf: leaf[None], one)
    return gram(batch, batch, variances)[0, :, 0]


@jax.jit
def _factor(matrix: Array, t: Array, jitter: Array) -> Array:
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jnp.linalg.cholesky((1.0 + jitter) * eye + t * matrix)


@jax.jit
def _spectrum(matrix: Array) -> Array:
    return jnp.linalg.eigvalsh(matrix)


@eqx.filter_jit
def _whitened_square(jacobian, likelihood, x, deviations):
    r = dense(whiten(jacobian.factors(x), likelihood), deviations)
    flat = r.reshape(-1, r.shape[-1])
    return flat.T @ flat


@eqx.filter_jit
def _train_factors(jacobian, likelihood, x):
    return whiten(jacobian.factors(x), likelihood)


@eqx.filter_jit
def _train_gram(factors, variances):
    k = gram(factors, factors, variances)
    return symmetric(k.reshape(factors.outputs.size, -1))


def weight_space(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    variances: list[Array],
    outputs: int,
) -> WeightSpace:
    """W from one pass over x in chunks that fit `CHUNK_BYTES`."""
    deviations = [jnp.sqrt(v) for v in variances]
    size = chunk_size(jacobian, outputs, 8)
    total = jnp.zeros((jacobian.size, jacobian.size), deviations[0].dtype)
    for start in range(0, rows(x), size):
        part = jax.tree.map(lambda leaf, s=start: leaf[s : s + size], x)
        total = total + _whitened_square(jacobian, likelihood, part, deviations)
    matrix = symmetric(total)
    sizes = tuple(leaf.size for leaf in jacobian.leaves)
    return WeightSpace(Square.of(matrix), deviations, sizes)


def function_space(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    variances: list[Array],
    outputs: int,
) -> FunctionSpace:
    """K from the layer factors of x."""
    del outputs
    train = _train_factors(jacobian, likelihood, x)
    matrix = _train_gram(train, variances)
    return FunctionSpace(Square.of(matrix), jacobian, train, variances)

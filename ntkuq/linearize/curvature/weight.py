"""The exact Gauss-Newton matrix in weight space (P x P)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ntkuq.linearize.chunks import fitting
from ntkuq.linearize.curvature.accumulate import Hessians, Summary, accumulate
from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    Evaluated,
    same_kind,
)
from ntkuq.linearize.curvature.fisher import AbstractFisher, ExactFisher
from ntkuq.linearize.curvature.readout import (
    assembled,
    chunk_rows,
    extended,
    places,
    readout_pairs,
)
from ntkuq.linearize.curvature.square import (
    Square,
    inverse_factor,
    log_det_plus_one,
)
from ntkuq.linearize.examples import AbstractExamples
from ntkuq.linearize.jacobian import Factors, Jacobian
from ntkuq.linearize.products import dense
from ntkuq.linearize.triangular import self_product
from ntkuq.models import AbstractLikelihood


#: Groups of outputs in a product with a triangular factor: more are fewer operations.
GROUPS = 10


class SpaceCost(NamedTuple):
    """Floating-point operations and bytes of a view."""

    flops: float
    bytes: float


def weight_space_cost(jacobian: Jacobian, data: int, outputs: int) -> SpaceCost:
    """Cost of W and its factor: NC P^2 + P^3 / 3 operations, 8 (2 P^2) bytes.

    For a last layer N P^2 / 2 operations make W: half a product a pair of outputs.
    """
    size = jacobian.size
    rows = data * (0.5 if jacobian.is_readout else outputs)
    return SpaceCost(rows * size**2 + size**3 / 3, 16.0 * size**2 + 2**28)


class WeightSpace(AbstractCurvature):
    """The P x P view: W = L0^-1/2 J^T H J L0^-1/2."""

    square: Square
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)
    #: of a last layer: where its parameters lie, see `places`
    order: tuple[tuple[int, ...], ...] | None = eqx.field(static=True, default=None)

    @property
    def cheap(self) -> bool:
        return self.square.eigenvalues is not None

    def prepared(self):
        return WeightSpace(
            self.square.decomposed(), self.deviations, self.sizes, self.order
        )

    def log_det(self, log_t: float) -> float:
        return self.square.log_det(log_t)

    def slopes(self, log_t: float):
        return self.square.slopes(log_t)

    def covariance(self, tau: float, t: float) -> AbstractCovariance:
        return self.at(tau, t).covariance

    def at(self, tau: float, t: float):
        factored = self.square.factor(t)
        deviations = divided(self.deviations, math.sqrt(tau))
        inverse, trace = inverse_factor(factored.lower)
        effective = self.square.matrix.shape[0] - float(trace)
        lower, jitter, log_det = factored
        if self.order is None:
            made = WeightCovariance(lower, deviations, self.sizes, jitter)
        else:
            made = ReadoutCovariance(
                inverse, deviations, self.sizes, jitter, self.order
            )
        return Evaluated(made, float(log_det), effective)

    def _scaled(self, variances: list[Array]) -> Float[Array, "P P"]:
        ratios = [jnp.sqrt(v) / d for v, d in zip(variances, self.deviations)]
        column = columns(ratios, self.sizes)
        return self.square.matrix * column[:, None] * column

    def log_det_at(self, variances, scale):
        return log_det_plus_one(scale * self._scaled(variances))

    def with_variances(self, variances):
        square = Square.of(self._scaled(variances))
        return WeightSpace(square, roots(variances), self.sizes, self.order)

    def merge(self, other):
        other = same_kind(self, other)
        square = Square.of(self.square.matrix + other.square.matrix)
        return WeightSpace(square, self.deviations, self.sizes, self.order)


@jax.jit
def divided(deviations: list[Array], by: ArrayLike) -> list[Array]:
    """The standard deviations divided by one number."""
    return [d / by for d in deviations]


class WeightCovariance(AbstractCovariance):
    """D (L L^T)^-1 D with L L^T = I + t W and D = (tau L0)^-1/2."""

    factor: Float[Array, "P P"]
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)
    jitter: Float[Array, ""]

    def _half(self, factors: Factors) -> Float[Array, "P NC"]:
        j = dense(factors, self.deviations).astype(self.factor.dtype)
        flat = j.reshape(-1, j.shape[-1]).T
        return jax.scipy.linalg.solve_triangular(self.factor, flat, lower=True)

    def marginal(self, factors):
        n, c = factors.outputs.shape[0], factors.weighed
        half = self._half(factors).T.reshape(n, c, -1)
        return jnp.einsum("ncp,ndp->ncd", half, half)

    def variance(self, factors):
        n, c = factors.outputs.shape[0], factors.weighed
        return jnp.sum(self._half(factors) ** 2, axis=0).reshape(n, c)

    def numbers(self, jacobian, outputs):
        return outputs * (jacobian.plan.activations + 2 * jacobian.size + outputs)

    def joint(self, factors):
        half = self._half(factors)
        return half.T @ half

    def apply(self, vector):
        white = jnp.concatenate(
            [d * v for d, v in zip(self.deviations, vector, strict=True)]
        )
        solved = jax.scipy.linalg.cho_solve((self.factor, True), white)
        column = columns(self.deviations, self.sizes) * solved
        return jnp.split(column, np.cumsum(self.sizes)[:-1])

    def sample(self, shape, *, key):
        z = jax.random.normal(key, (*shape, self.factor.shape[0]), self.factor.dtype)
        white = jax.scipy.linalg.solve_triangular(
            self.factor, z.reshape(-1, z.shape[-1]).T, lower=True, trans="T"
        ).T
        scaled = white * columns(self.deviations, self.sizes)
        return scaled.reshape(*shape, -1)


@jax.jit
def roots(variances: list[Array]) -> list[Array]:
    """The standard deviation of each leaf."""
    return [jnp.sqrt(v) for v in variances]


class ReadoutCovariance(AbstractCovariance):
    """The same for a last layer, by the inverse factor R = L^-1: D R^T R D.

    The Jacobian holds the same inputs for each output, so that R J^T takes products
    with these alone, for one group of the rows of R at a time.
    """

    inverse: Float[Array, "P P"]
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)
    jitter: Float[Array, ""]
    order: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def _half(self, factors: Factors) -> Iterator[tuple[int, Float[Array, "N c p"]]]:
        """R J^T in groups of rows p, for the first c outputs; it is 0 for the others.

        R is triangular, and in an (out, in) matrix the parameters of later outputs come
        later; in another almost all rows are in the last group.
        """
        a = extended(factors, self.deviations).astype(self.inverse.dtype)
        order = np.asarray(self.order)
        inputs = order.shape[1]
        for last, start, end in self._groups():
            rows = self.inverse[start:end]
            met = jnp.swapaxes(rows[:, order[:last]], 0, 1)
            half = a @ met.reshape(-1, inputs).T
            yield last, half.reshape(len(a), last, -1)

    def _groups(self) -> list[tuple[int, int, int]]:
        """Outputs up to which rows from one to another have entries."""
        starts = [*np.asarray(self.order).min(axis=1), sum(self.sizes)]
        count = len(self.order)
        ends = np.linspace(0, count, 1 + min(count, GROUPS)).astype(int)
        return [
            (int(last), int(starts[first]), int(starts[last]))
            for first, last in itertools.pairwise(ends)
        ]

    def marginal(self, factors):
        count = factors.outputs.shape[1]
        total = jnp.zeros((), self.inverse.dtype)
        for met, half in self._half(factors):
            missing = (0, count - met)
            total = total + jnp.pad(half @ half.mT, ((0, 0), missing, missing))
        return total

    def variance(self, factors):
        count = factors.outputs.shape[1]
        total = jnp.zeros((), self.inverse.dtype)
        for met, half in self._half(factors):
            part = jnp.sum(half**2, axis=-1)
            total = total + jnp.pad(part, ((0, 0), (0, count - met)))
        return total

    def numbers(self, jacobian, outputs):
        rows = max(end - start for _, start, end in self._groups())
        return jacobian.plan.activations + outputs * (rows + 2 * outputs)

    def joint(self, factors):
        n, count = factors.outputs.shape
        total = jnp.zeros((), self.inverse.dtype)
        for met, half in self._half(factors):
            flat = jnp.pad(half, ((0, 0), (0, count - met), (0, 0)))
            flat = flat.reshape(n * count, -1)
            total = total + flat @ flat.T
        return total

    def apply(self, vector):
        column = columns(self.deviations, self.sizes)
        white = column * jnp.concatenate(vector)
        solved = self.inverse.T @ (self.inverse @ white)
        return jnp.split(column * solved, np.cumsum(self.sizes)[:-1])

    def sample(self, shape, *, key):
        z = jax.random.normal(key, (*shape, self.inverse.shape[0]), self.inverse.dtype)
        return (z @ self.inverse) * columns(self.deviations, self.sizes)


def columns(deviations: list[Array], sizes: tuple[int, ...]) -> Float[Array, " P"]:
    """One number a leaf, repeated for each of its parameters."""
    parts = [jnp.broadcast_to(d, (n,)) for d, n in zip(deviations, sizes, strict=True)]
    return jnp.concatenate(parts)


class Step(eqx.Module):
    """The step of `accumulate`: R^T R, R the whitened rows of a chunk.

    Of a last layer the blocks of it, see `readout_pairs`.
    """

    deviations: list[Array]
    invariant: bool = eqx.field(static=True)

    def __call__(
        self, factors: Factors, hessians: Hessians | None = None
    ) -> Float[Array, "P P"] | tuple[Float[Array, "Q _ _"], ...]:
        if hessians is not None:
            return readout_pairs(
                factors, hessians.each(), self.deviations, invariant=self.invariant
            )
        r = dense(factors, self.deviations)
        return self_product(r.reshape(-1, r.shape[-1]))


def _numbers(jacobian: Jacobian, outputs: int) -> int:
    """What `Step` holds for one example."""
    if jacobian.is_readout:
        inputs = jacobian.size // outputs
        return jacobian.plan.activations + 3 * inputs + 2 * outputs**2
    return outputs * (jacobian.plan.activations + jacobian.size)


def weight_space(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    variances: list[Array],
    outputs: int,
    *,
    fisher: AbstractFisher | None = None,
) -> tuple[WeightSpace, Summary]:
    """W from one pass over the data in chunks that fit `CHUNK_BYTES`."""
    deviations = roots(variances)
    size = fitting(_numbers(jacobian, outputs), 8)
    if jacobian.is_readout and (fisher is None or isinstance(fisher, ExactFisher)):
        size = chunk_rows(jacobian.size // outputs, size)
    invariant = likelihood.shift_invariant
    step = Step(deviations, invariant)
    seen = accumulate(step, jacobian, likelihood, examples, size, fisher)
    order = places(jacobian, outputs) if jacobian.is_readout else None
    if order is not None and isinstance(seen.total, tuple):
        square = Square(assembled(seen.total, order, invariant))
    else:
        square = Square.of(seen.total)
    return WeightSpace(square, deviations, jacobian.sizes, order), seen.summary

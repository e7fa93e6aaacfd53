"""The leading eigenpairs of the Gauss-Newton matrix, by Lanczos.

L0^-1/2 G L0^-1/2 is approximated by U diag(s) U^T with k orthonormal columns U. With
D = (tau L0)^-1/2 the posterior covariance is D [I - U diag(t s / (1 + t s)) U^T] D:
prior variance where the data are not looked at.

References: Lanczos 1950; Parlett 1998, The Symmetric Eigenvalue Problem, on
orthogonalizing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.linearize.chunks import factor_chunk_size, predicted_numbers
from ntkuq.linearize.curvature.accumulate import Summary, summarize
from ntkuq.linearize.curvature.base import (
    AbstractCovariance,
    AbstractCurvature,
    same_kind,
    spectral_log_det,
    spectral_slopes,
    without_negative,
)
from ntkuq.linearize.curvature.fisher import AbstractFisher, ExactFisher
from ntkuq.linearize.curvature.square import log_det_plus_one
from ntkuq.linearize.curvature.weight import columns, divided, roots
from ntkuq.linearize.examples import AbstractExamples
from ntkuq.linearize.jacobian import Factors, Jacobian
from ntkuq.linearize.operators import GGNOperator, JacobianOperator
from ntkuq.linearize.products import gram, own_gram, push
from ntkuq.models import AbstractLikelihood


class LowRankCurvature(AbstractCurvature):
    """U diag(s) U^T for L0^-1/2 G L0^-1/2.

    Args:
        vectors: U, (P, k).
        values: s, (k,).
        deviations: prior standard deviation of each leaf.
        residual: the largest norm of W u - s u over the pairs, over the largest s.
        rank: how many pairs are kept at most.
    """

    vectors: Float[Array, "P k"]
    values: Float[Array, " k"]
    deviations: list[Array]
    residual: float
    sizes: tuple[int, ...] = eqx.field(static=True)
    rank: int = eqx.field(static=True)

    @property
    def cheap(self) -> bool:
        return True

    def log_det(self, log_t: float) -> float:
        return spectral_log_det(np.asarray(self.values, np.float64), log_t)

    def slopes(self, log_t: float):
        return spectral_slopes(np.asarray(self.values, np.float64), log_t)

    def covariance(self, tau: float, t: float) -> LowRankCovariance:
        scaled = jnp.asarray(t, self.values.dtype) * self.values
        return LowRankCovariance(
            self.vectors,
            scaled / (1.0 + scaled),
            divided(self.deviations, math.sqrt(tau)),
            self.sizes,
        )

    def _scaled(self, variances: list[Array]) -> Float[Array, "P k"]:
        ratios = [jnp.sqrt(v) / d for v, d in zip(variances, self.deviations)]
        column = columns(ratios, self.sizes)[:, None]
        return column * self.vectors * jnp.sqrt(self.values)

    def log_det_at(self, variances, scale):
        root = self._scaled(variances)
        return log_det_plus_one(scale * root.T @ root)

    def with_variances(self, variances):
        deviations = roots(variances)
        return self._of(self._scaled(variances), deviations, self.residual)

    def merge(self, other):
        other = same_kind(self, other)
        root = self.vectors * jnp.sqrt(self.values)
        both = jnp.concatenate([root, other.vectors * jnp.sqrt(other.values)], axis=1)
        residual = max(self.residual, other.residual)
        found = self._of(both, self.deviations, residual)
        if found.values.size <= self.rank:
            return found
        dropped = float(found.values[self.rank] / found.values[0])
        return LowRankCurvature(
            found.vectors[:, : self.rank],
            found.values[: self.rank],
            self.deviations,
            max(residual, dropped),
            self.sizes,
            self.rank,
        )

    def _of(
        self, root: Float[Array, "P m"], deviations: list[Array], residual: float
    ) -> LowRankCurvature:
        """From any root R with R R^T the matrix."""
        vectors, singular, _ = jnp.linalg.svd(root, full_matrices=False)
        return LowRankCurvature(
            vectors, singular**2, deviations, residual, self.sizes, self.rank
        )

    @property
    def diagnostics(self):
        return {"rank": self.values.size, "residual": self.residual}


class LowRankCovariance(AbstractCovariance):
    """D (I - U diag(w) U^T) D with w = t s / (1 + t s)."""

    vectors: Float[Array, "P k"]
    shrinkage: Float[Array, " k"]
    deviations: list[Array]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def _seen(self, factors: Factors) -> Float[Array, "N C k"]:
        """J D U diag(sqrt w), by one product of factors for each column."""
        ends = np.cumsum(self.sizes)[:-1]

        def one(column: Float[Array, " P"]) -> Float[Array, "N C"]:
            parts = jnp.split(column, ends)
            scaled = [d * p for d, p in zip(self.deviations, parts, strict=True)]
            return push(factors, scaled)

        columns_ = self.vectors * jnp.sqrt(self.shrinkage)
        return jnp.moveaxis(jax.lax.map(one, columns_.T, batch_size=8), 0, -1)

    def marginal(self, factors):
        seen = self._seen(factors)
        prior = own_gram(factors, [d**2 for d in self.deviations])
        return without_negative(prior - jnp.einsum("nck,ndk->ncd", seen, seen))

    def numbers(self, jacobian, outputs):
        own = predicted_numbers(jacobian, outputs)
        return own + outputs * (self.shrinkage.size + outputs)

    def joint(self, factors):
        size = factors.outputs.shape[0] * factors.weighed
        seen = self._seen(factors).reshape(size, -1)
        prior = gram(factors, factors, [d**2 for d in self.deviations])
        return without_negative(prior.reshape(size, size) - seen @ seen.T)

    def apply(self, vector):
        white = jnp.concatenate(
            [d * v for d, v in zip(self.deviations, vector, strict=True)]
        )
        inner = self.vectors.T @ white
        kept = white - self.vectors @ (self.shrinkage * inner)
        column = columns(self.deviations, self.sizes) * kept
        return jnp.split(column, np.cumsum(self.sizes)[:-1])

    def sample(self, shape, *, key):
        size = self.vectors.shape[0]
        z = jax.random.normal(key, (*shape, size), self.vectors.dtype)
        # (I - U (1 - sqrt(1 - w)) U^T) is the symmetric root of I - U w U^T
        shrink = 1.0 - jnp.sqrt(1.0 - self.shrinkage)
        white = z - ((z @ self.vectors) * shrink) @ self.vectors.T
        return white * columns(self.deviations, self.sizes)


def low_rank(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    variances: list[Array],
    outputs: int,
    *,
    rank: int,
    fisher: AbstractFisher | None = None,
) -> tuple[LowRankCurvature, Summary]:
    """The `rank` leading eigenpairs from 2 rank + 10 products with G.

    The data stay in memory; the activations only batch by batch.
    """
    fisher = ExactFisher() if fisher is None else fisher
    size = factor_chunk_size(jacobian, 1, variances[0].dtype.itemsize)
    summary = summarize(jacobian, likelihood, examples, size)
    x, y = examples.whole()
    extra = fisher.extras(y, 0)
    most = min(jacobian.size, len(examples) * outputs)
    kept = min(rank, most)
    # one more than the rank: the start has a part that G does not see
    steps = min(2 * kept + 10, most + 1, jacobian.size)
    deviations = roots(variances)
    values, vectors, residual = _leading(
        jacobian, likelihood, fisher, x, extra, deviations, kept, steps
    )
    found = LowRankCurvature(
        vectors, values, deviations, float(residual), jacobian.sizes, rank
    )
    return found, summary


@eqx.filter_jit
def _leading(jacobian, likelihood, fisher, x, extra, deviations, rank, steps):
    def seed(latent, *more):
        return fisher.weights(likelihood, latent, *more)

    column = columns(deviations, jacobian.sizes)
    ggn = GGNOperator(JacobianOperator(jacobian, x, seed, *extra))
    start = jax.random.normal(jax.random.key(0), column.shape, column.dtype)
    basis, alpha, beta = lanczos(lambda v: column * ggn.mv(column * v), start, steps)
    small = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
    values, inner = jnp.linalg.eigh(small)
    values, inner = values[-rank:][::-1], inner[:, -rank:][:, ::-1]
    # of a Ritz pair W u - s u = (what the last step left over) times u's last entry
    left_over = beta[-1] * jnp.abs(inner[-1])
    largest = jnp.maximum(values[0], jnp.finfo(values.dtype).tiny)
    return jnp.clip(values, 0.0), basis.T @ inner, jnp.max(left_over) / largest


def lanczos(
    product: Callable[[Array], Array], start: Float[Array, " P"], steps: int
) -> tuple[Float[Array, "m P"], Float[Array, " m"], Float[Array, " m"]]:
    """Orthonormal vectors, diagonal and off-diagonal of the tridiagonal form.

    Each vector is orthogonalized twice. Where the space is exhausted (an eigenvalue of
    zero, up to rounding) the rest stays zero: one pass alone would make copies of the
    leading eigenvectors out of rounding errors.
    """
    size, eps = start.size, jnp.finfo(start.dtype).eps
    first = start / jnp.linalg.norm(start)
    basis = jnp.zeros((steps, size), start.dtype).at[0].set(first)
    zeros = jnp.zeros(steps, start.dtype)

    def step(k, state):
        basis, alpha, beta = state
        w = product(basis[k])
        alpha = alpha.at[k].set(basis[k] @ w)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        norm = jnp.linalg.norm(w)
        enough = norm > size**0.5 * eps * jnp.max(jnp.abs(alpha))
        beta = beta.at[k].set(jnp.where(enough, norm, 0.0))
        following = jnp.where(enough, w / jnp.where(enough, norm, 1.0), 0.0)
        # the last step has no place for a further vector
        basis = basis.at[k + 1].set(following, mode="drop")
        return basis, alpha, beta

    return jax.lax.fori_loop(0, steps, step, (basis, zeros, zeros))

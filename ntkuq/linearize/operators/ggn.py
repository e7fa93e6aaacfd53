"""Gauss-Newton and Fisher matrices: Jᵀ S Sᵀ J over the parameters."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.curvature import AbstractFisher
from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.operators.jacobian import (
    JacobianOperator,
    Local,
    gram_diagonal,
    gram_matrix,
    gram_product,
)
from ntkuq.models import AbstractLikelihood


class GGNOperator(lx.AbstractLinearOperator):
    r"""$R^\top R = J^\top S S^\top J$ for a weighted Jacobian $R = S^\top J$, (P, P).

    With $S S^\top = H$ it is the generalized Gauss-Newton matrix (`ggn_operator`), with
    scores in S a Fisher matrix (`fisher_operator`). Sums over the examples, no means. A
    product is one forward-mode and one backward pass at the same activations; see
    `JacobianOperator` on batches and `lineax.linearise`.

    Args:
        root: R.
    """

    root: JacobianOperator

    def mv(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        return gram_product(self.root, vector)

    def as_matrix(self) -> Float[Array, "P P"]:
        return gram_matrix(self.root)

    def diagonal(self) -> Float[Array, " P"]:
        """The exact diagonal, K backward passes an example."""
        return gram_diagonal(self.root)

    def transpose(self) -> GGNOperator:
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.root.in_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.root.in_structure()


class KeptGGN(lx.AbstractLinearOperator):
    """A Gauss-Newton or Fisher matrix whose forward pass is done, (P, P).

    What `lineax.linearise` makes of a `GGNOperator`: a product is one pass of tangents
    and one of cotangents at the activations kept. A compiled function takes another
    one, of the same shapes, without compiling again.

    Args:
        local: all examples linearized.
    """

    local: Local

    def mv(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        return self.local.pull(self.local.push(vector))

    def as_matrix(self) -> Float[Array, "P P"]:
        unit = jnp.eye(self.in_size(), dtype=self._dtype)
        return jax.lax.map(self.mv, unit, batch_size=32)

    def transpose(self) -> KeptGGN:
        return self

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.result_type(*(leaf.dtype for leaf in self.local.like))

    def in_structure(self) -> jax.ShapeDtypeStruct:
        size = sum(leaf.size for leaf in self.local.like)
        return jax.ShapeDtypeStruct((size,), self._dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


def ggn_operator(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    y: PyTree | None = None,
    *,
    batch_size: int | None = None,
) -> GGNOperator:
    r"""The generalized Gauss-Newton matrix $\sum_n J_n^\top H_n J_n$, matrix-free.

    Args:
        jacobian: where to linearize, and the leaves that vary.
        likelihood: gives H, the Hessian of minus its log over the outputs.
        x: inputs (N, …).
        y: targets (N, …), for likelihoods whose H depends on them.
        batch_size: examples at a time; `None`: what fits into 128 MiB.

    References: Schraudolph 2002; Martens 2020 (arXiv 1412.1193).

    >>> import equinox as eqx, jax, jax.numpy as jnp, lineax as lx
    >>> from ntkuq.linearize import Diagonal, Jacobian
    >>> from ntkuq.models import Gaussian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> ggn = ggn_operator(Jacobian.at(line, x[0]), Gaussian(scale=0.5), x)
    >>> ggn.mv(jnp.ones(1))
    Array([20.], dtype=float32)
    >>> posterior = ggn + Diagonal(jnp.ones(1))
    >>> lx.linear_solve(posterior, jnp.ones(1), lx.CG(rtol=1e-5, atol=0.0)).value
    Array([0.04761905], dtype=float32)
    """
    root = root_of_hessian(jacobian, likelihood, x, y, batch_size=batch_size)
    return GGNOperator(root)


def fisher_operator(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    y: PyTree,
    fisher: AbstractFisher,
    *,
    batch_size: int | None = None,
) -> GGNOperator:
    r"""A Fisher matrix $\sum_n J_n^\top S_n S_n^\top J_n$, matrix-free.

    `SampledFisher(key)` draws targets from the likelihood: an unbiased estimate of
    `ggn_operator` for the built-in likelihoods, of rank at most N times its samples.
    Its draws are the same in every product and for every batch size.
    `EmpiricalFisher()` takes the gradients at the observed targets.

    Args:
        jacobian: where to linearize, and the leaves that vary.
        likelihood: of the targets.
        x, y: inputs and targets, (N, …).
        fisher: what stands in S: `SampledFisher`, `EmpiricalFisher`, `ExactFisher`.
        batch_size: examples at a time; `None`: what fits into 128 MiB.

    References: Kunstner, Balles, Hennig 2019 (arXiv 1905.12558).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import EmpiricalFisher, Jacobian
    >>> from ntkuq.models import Gaussian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x, at = jnp.array([[1.0], [2.0]]), Jacobian.at(line, jnp.ones(1))
    >>> y = jax.vmap(line)(x) + 3.0
    >>> fisher_operator(at, Gaussian(), x, y, EmpiricalFisher()).as_matrix()
    Array([[45.]], dtype=float32)
    """
    extra = fisher.extras(y, 0)
    seed = _Weights(fisher, likelihood)
    root = JacobianOperator(jacobian, x, seed, *extra, batch_size=batch_size)
    return GGNOperator(root)


class _Weights(eqx.Module):
    """The weights S of one likelihood, as a seed of `JacobianOperator`."""

    fisher: AbstractFisher
    likelihood: AbstractLikelihood

    def __call__(self, latent: Float[Array, " C"], *extra: PyTree) -> Array:
        return self.fisher.weights(self.likelihood, latent, *extra)


def root_of_hessian(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    y: PyTree | None,
    *,
    batch_size: int | None,
) -> JacobianOperator:
    """Sᵀ J with S Sᵀ = H at the targets, where they are known."""
    extra = () if y is None else (y,)
    return JacobianOperator(
        jacobian, x, likelihood.hessian_sqrt, *extra, batch_size=batch_size
    )

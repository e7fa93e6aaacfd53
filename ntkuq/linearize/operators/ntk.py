"""Neural tangent kernels and the dual of the Gauss-Newton matrix: J Σ Jᵀ."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.operators.base import Diagonal
from ntkuq.linearize.operators.ggn import root_of_hessian
from ntkuq.linearize.operators.jacobian import JacobianOperator, map_examples
from ntkuq.models import AbstractLikelihood


class NTKOperator(lx.AbstractLinearOperator):
    r"""$J \Sigma J^\top$ of N examples, the full NC × NC kernel, on arrays (N, K).

    The prior covariance of the linearized network. With a weighted Jacobian
    $S^\top J$ it is the dual of the Gauss-Newton matrix (`dual_ggn_operator`), with
    `seed=lambda f: e` for a unit vector e (C, 1) the kernel of one output. The kernel
    between two sets of inputs is the product `J1 @ covariance @ J2.T`.

    A product costs one backward and one forward-mode pass through all examples; see
    `JacobianOperator` on batches and `lineax.linearise`. To have the kernel as an
    array, `ntk` is far cheaper than `as_matrix`.

    Args:
        jacobian: J, or Sᵀ J.
        covariance: Σ over the parameters, (P,) to (P,), positive semi-definite.
    """

    jacobian: JacobianOperator
    covariance: lx.AbstractLinearOperator

    def mv(self, vector: Float[Array, "N K"]) -> Float[Array, "N K"]:
        return self.jacobian.mv(self.covariance.mv(self.jacobian.pull(vector)))

    def as_matrix(self) -> Float[Array, "NK NK"]:
        j = self.jacobian.as_matrix()
        return j @ jax.vmap(self.covariance.mv)(j).T

    def diagonal(self) -> Float[Array, " NK"]:
        """The exact diagonal, K backward passes an example."""

        def squares(j: Float[Array, "B K P"]) -> Float[Array, "B K"]:
            flat = j.reshape(-1, j.shape[-1])
            spread = jax.vmap(self.covariance.mv)(flat)
            return jnp.sum(flat * spread, axis=-1).reshape(j.shape[:2])

        return map_examples(self.jacobian, squares).reshape(-1)

    def transpose(self) -> NTKOperator:
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.jacobian.out_structure()


class TraceNTKOperator(lx.AbstractLinearOperator):
    r"""$\sum_c J_c \Sigma J_c^\top$ of N examples, on (N,): traced over the outputs.

    A product costs K products of `NTKOperator`, one after the other.

    Args:
        jacobian: J, or Sᵀ J.
        covariance: Σ over the parameters, (P,) to (P,), positive semi-definite.
    """

    jacobian: JacobianOperator
    covariance: lx.AbstractLinearOperator

    def mv(self, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        return _trace(self, vector)

    def as_matrix(self) -> Float[Array, "N N"]:
        j = self.jacobian.examples()
        spread = jax.vmap(jax.vmap(self.covariance.mv))(j)
        return jnp.einsum("nkp,mkp->nm", j, spread)

    def diagonal(self) -> Float[Array, " N"]:
        """The exact diagonal, K backward passes an example."""
        full = NTKOperator(self.jacobian, self.covariance).diagonal()
        return jnp.sum(full.reshape(-1, self.jacobian.outputs), axis=1)

    def transpose(self) -> TraceNTKOperator:
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        like = self.jacobian.out_structure()
        return jax.ShapeDtypeStruct(like.shape[:1], like.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


@eqx.filter_jit
def _trace(operator: TraceNTKOperator, vector: Array) -> Array:
    j = operator.jacobian
    return trace_product(j.mv, j.pull, operator, vector)


def trace_product(
    push: Callable, pull: Callable, operator: TraceNTKOperator, vector: Array
) -> Float[Array, " N"]:
    """One output after the other, with these products by J and its transpose."""

    def output(e: Float[Array, " K"]) -> Float[Array, " N"]:
        return push(operator.covariance.mv(pull(vector[:, None] * e))) @ e

    basis = jnp.eye(operator.jacobian.outputs, dtype=vector.dtype)
    return jnp.sum(jax.lax.map(output, basis), axis=0)


def per_leaf(jacobian: Jacobian, values: list[Array]) -> Diagonal:
    """A diagonal matrix over the parameters with one number a leaf, as priors have.

    Args:
        jacobian: whose `subset` gives the leaves.
        values: one number, (), for each leaf: variances or precisions.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> per_leaf(Jacobian.at(line, jnp.zeros(2)), [jnp.ones(()), jnp.zeros(())]).values
    Array([1., 1., 0.], dtype=float32)
    """
    parts = [
        jnp.broadcast_to(value, (size,))
        for value, size in zip(values, jacobian.sizes, strict=True)
    ]
    return Diagonal(jnp.concatenate(parts))


def ntk_operator(
    jacobian: Jacobian,
    x: PyTree,
    variances: list[Array],
    *,
    batch_size: int | None = None,
) -> NTKOperator:
    r"""The empirical NTK $J \Sigma_0 J^\top$ with the prior's variances, matrix-free.

    Args:
        jacobian: where to linearize, and the leaves that vary.
        x: inputs (N, …).
        variances: one number, (), for each leaf.
        batch_size: examples at a time; `None`: what fits into 128 MiB.

    References: Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> ntk_operator(Jacobian.at(line, x[0]), x, [jnp.ones(())]).mv(jnp.ones((2, 1)))
    Array([[3.],
           [6.]], dtype=float32)
    """
    operator = JacobianOperator(jacobian, x, batch_size=batch_size)
    return NTKOperator(operator, per_leaf(jacobian, variances))


def dual_ggn_operator(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    x: PyTree,
    variances: list[Array],
    y: PyTree | None = None,
    *,
    batch_size: int | None = None,
) -> NTKOperator:
    r"""The dual of the Gauss-Newton matrix, $S^\top J \Sigma_0 J^\top S$, matrix-free.

    $H = S S^\top$, so that it has the nonzero eigenvalues of $\Sigma_0^{1/2} J^\top H J
    \Sigma_0^{1/2}$; it acts on arrays (N, C).

    Args:
        jacobian: where to linearize, and the leaves that vary.
        likelihood: gives S, the square root of its Hessian.
        x: inputs (N, …).
        variances: one number, (), for each leaf.
        y: targets (N, …), for likelihoods whose H depends on them.
        batch_size: examples at a time; `None`: what fits into 128 MiB.
    """
    root = root_of_hessian(jacobian, likelihood, x, y, batch_size=batch_size)
    return NTKOperator(root, per_leaf(jacobian, variances))

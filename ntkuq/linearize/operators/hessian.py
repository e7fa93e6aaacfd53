"""The Hessian of the negative log likelihood or log joint."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.chunks import fitting, rows
from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.operators.base import AbstractPSD
from ntkuq.linearize.operators.jacobian import (
    network,
    ravel,
    unravel,
    vector_type,
)
from ntkuq.linearize.operators.scan import sum_rows
from ntkuq.models import AbstractLikelihood


class HessianOperator(lx.AbstractLinearOperator):
    r"""$-\nabla^2 [\sum_n \log p(y_n \mid f(x_n, \theta)) + \log p(\theta)]$, (P, P).

    Symmetric, not positive semi-definite: it is the Gauss-Newton matrix (with H at y)
    plus the curvature of the network. A product differentiates the gradient once,
    forward over reverse, in batches; `lineax.linearise` keeps the activations where
    all examples fit into one.

    Args:
        jacobian: where to differentiate, and the leaves that vary.
        likelihood: of the targets.
        x, y: inputs and targets, (N, …).
        precision: of the Gaussian prior, `per_leaf(jacobian, precisions)`; `None`
            leaves the prior out.
        batch_size: examples at a time; `None`: what fits into 128 MiB.

    References: Pearlmutter 1994.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.models import Gaussian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x = jnp.array([[1.0], [2.0]])
    >>> HessianOperator(Jacobian.at(line, x[0]), Gaussian(), x, x).mv(jnp.ones(1))
    Array([5.], dtype=float32)
    """

    jacobian: Jacobian
    likelihood: AbstractLikelihood
    x: PyTree
    y: PyTree
    precision: AbstractPSD | None
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        jacobian: Jacobian,
        likelihood: AbstractLikelihood,
        x: PyTree,
        y: PyTree,
        precision: AbstractPSD | None = None,
        *,
        batch_size: int | None = None,
    ):
        if jacobian.shift is not None:
            raise ValueError(
                "HessianOperator: expected the Jacobian of a network, got that of a "
                "linearized one (it has a shift), whose Hessian is its Gauss-Newton "
                "matrix: use ggn_operator"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(
                f"HessianOperator: expected batch_size >= 1 or None, got {batch_size}"
            )
        self.jacobian, self.likelihood = jacobian, likelihood
        self.x, self.y, self.precision = x, y, precision
        # twice the activations: the backward pass is differentiated too
        numbers = 2 * jacobian.plan.activations
        fits = fitting(numbers, vector_type(jacobian).itemsize)
        self.batch_size = fits if batch_size is None else batch_size

    @property
    def whole(self) -> bool:
        """Do all examples fit into one batch?"""
        return rows(self.x) <= self.batch_size

    def mv(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        return _product(self, vector)

    def as_matrix(self) -> Float[Array, "P P"]:
        return _matrix(self)

    def transpose(self) -> HessianOperator:
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.jacobian.size,), vector_type(self.jacobian))

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


def _tangent(operator: HessianOperator, data: PyTree):
    """Leaves -> Hessian times leaves, of minus the log likelihood of a batch (x, y)."""
    x, y = data

    def loss(leaves: list[Array]) -> Float[Array, ""]:
        f = network(operator.jacobian, x)(leaves)
        return -jnp.sum(jax.vmap(operator.likelihood.log_prob)(f, y))

    return jax.linearize(jax.grad(loss), operator.jacobian.leaves)[1]


@eqx.filter_jit
def _product(operator: HessianOperator, vector: Array) -> Array:
    leaves = unravel(vector, operator.jacobian.leaves)

    def batch(data: PyTree) -> Array:
        return ravel(_tangent(operator, data)(leaves))

    total = sum_rows(batch, (operator.x, operator.y), operator.batch_size)
    if operator.precision is None:
        return total
    return total + operator.precision.mv(vector)


@eqx.filter_jit
def _matrix(operator: HessianOperator) -> Float[Array, "P P"]:
    columns = jnp.eye(operator.jacobian.size, dtype=operator.in_structure().dtype)
    return jax.lax.map(operator.mv, columns)


@eqx.filter_jit
def kept_hessian(operator: HessianOperator):
    """The gradient linearized for all examples, the activations kept."""
    return _tangent(operator, (operator.x, operator.y))

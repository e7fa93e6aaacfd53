"""The posterior covariance of outputs across inputs as a linear operator."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize import AbstractCovariance, Jacobian
from ntkuq.linearize.operators import JacobianOperator


def joint_operator(
    jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree
) -> lx.FunctionLinearOperator:
    """J Sigma J^T at inputs x (N, …): vectors (N C,), rows ordered (n, c).

    A product is one backward pass, one product with Sigma, one forward-mode pass.
    """
    operator = JacobianOperator(jacobian, x)
    shape = operator.out_structure()
    size = shape.shape[0] * shape.shape[1]

    def product(u: Float[Array, " NC"]) -> Float[Array, " NC"]:
        flat = operator.pull(u.reshape(shape.shape))
        # a last layer has its covariance in float64, the network in its own type
        wide = jnp.promote_types(flat.dtype, jnp.zeros(()).dtype)
        leaves = [leaf.reshape(-1).astype(wide) for leaf in jacobian.unravel(flat)]
        moved = jnp.concatenate(covariance.apply(leaves))
        return operator.mv(moved.astype(flat.dtype)).reshape(-1)

    structure = jax.ShapeDtypeStruct((size,), shape.dtype)
    return lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag)

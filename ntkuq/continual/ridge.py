"""Ridge regression on the kernel of a linearized network, (Theta + beta I)^-1 r."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.data import Dataset
from ntkuq.linearize import Factors, gram
from ntkuq.models import BNN


#: Largest side of a kernel matrix: 8 GiB in float64.
LARGEST = 2**15


def need_room(who: str, bnn: BNN, data: Dataset) -> None:
    """Raise `ValueError` where the kernel matrix of these data is too large to hold."""
    side = len(data) * bnn.outputs(data)
    if side > LARGEST:
        raise ValueError(
            f"{who}: the kernel matrix is {side:,} x {side:,} "
            f"({8 * side**2 / 2**30:.0f} GiB), more than the {LARGEST:,} allowed: take "
            "fewer examples of a task"
        )


def dual(
    factors: Factors, residual: Float[Array, "N C"], ridge: Float[Array, ""]
) -> Float[Array, "N C"]:
    r"""$(J J^T + \beta I)^{-1} r$ with J at N inputs, by Cholesky.

    Args:
        factors: of the Jacobian at the inputs.
        residual: r, what is to be fitted there.
        ridge: beta.

    >>> import equinox as eqx
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    >>> x = jnp.array([[2.0]])
    >>> factors = Jacobian.at(line, x[0]).factors(x)
    >>> dual(factors, jnp.array([[10.0]]), jnp.asarray(1.0)).tolist()  # 10 / (4 + 1)
    [[2.0]]
    """
    ones = [jnp.ones((), ridge.dtype) for _ in factors.leaves]
    side = residual.size
    kernel = gram(factors, factors, ones).reshape(side, side)
    kernel = kernel + ridge * jnp.eye(side, dtype=kernel.dtype)
    lower = jnp.linalg.cholesky(kernel)
    found = jax.scipy.linalg.cho_solve((lower, True), residual.reshape(-1))
    return found.reshape(residual.shape)

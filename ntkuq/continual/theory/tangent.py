"""How much two tasks use the same directions of parameter space."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.linearize import Factors, gram


def overlap(first: Factors, second: Factors) -> Float[Array, ""]:
    r"""Cosine between the tangent features of two tasks.

    $\frac{\|J_1 J_2^T\|_F^2}{\|J_1 J_1^T\|_F\,\|J_2 J_2^T\|_F} =
    \cos(J_1^T J_1,\, J_2^T J_2)$, from 0 (orthogonal: to first order, fitting one task
    does not move the other's outputs) to 1 (the same). It does not depend on the scale
    of either Jacobian, and no P-sized matrix is formed. Pure; may be called inside
    `jit`.

    Args:
        first: the Jacobian at inputs of one task (`Jacobian.factors`), (N, C, P).
        second: at inputs of the other, of the same network and parameters.

    Returns:
        A number from 0 to 1; NaN where a Jacobian is zero.

    References: Doan et al. 2021 (arXiv 2010.04003), who use the singular vectors.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(2, 1, use_bias=False, key=jax.random.key(0))
    >>> at = Jacobian.at(line, jnp.zeros(2))
    >>> one, two = at.factors(jnp.eye(2)[:1]), at.factors(jnp.eye(2)[1:])
    >>> float(overlap(one, one)), float(overlap(one, two))
    (1.0, 0.0)
    """
    ones = [jnp.ones((), first.outputs.dtype) for _ in first.leaves]
    cross = jnp.linalg.norm(gram(first, second, ones).reshape(-1))
    left = jnp.linalg.norm(gram(first, first, ones).reshape(-1))
    right = jnp.linalg.norm(gram(second, second, ones).reshape(-1))
    # divided one by one: the products of norms may leave the range of float32
    return (cross / left) * (cross / right)


def subspace_overlap(first: Factors, second: Factors, rank: int) -> Float[Array, ""]:
    r"""Mean squared cosine of the principal angles between two tasks' tangent spaces.

    $\tfrac1r \|V_1^T V_2\|_F^2$ with the r leading right singular vectors of each
    task's Jacobian: 0 where the tasks use orthogonal directions of the parameters, 1
    where one space holds the other. Unlike `overlap` it does not depend on the
    spectrum. By the Gram matrices, no P-sized object.

    Args:
        first, second: the Jacobians, (N, C, P) and (M, C, P).
        rank: r, at most N C and M C.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: for another rank.

    References: Doan et al. 2021 (arXiv 2010.04003).

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from ntkuq.linearize import Jacobian
    >>> line = eqx.nn.Linear(2, 1, use_bias=False, key=jax.random.key(0))
    >>> at = Jacobian.at(line, jnp.zeros(2))
    >>> one, both = at.factors(jnp.eye(2)[:1]), at.factors(jnp.eye(2))
    >>> round(float(subspace_overlap(both, both, 2)), 6)
    1.0
    """
    ones = [jnp.ones((), first.outputs.dtype) for _ in first.leaves]
    sizes = [math.prod(f.outputs.shape) for f in (first, second)]
    if not 1 <= rank <= min(sizes):
        raise ValueError(
            f"subspace_overlap: expected rank from 1 to {min(sizes)}, got {rank}"
        )

    def leading(one: Factors, size: int) -> Float[Array, "NC r"]:
        kernel = gram(one, one, ones).reshape(size, size)
        values, vectors = jnp.linalg.eigh(kernel)
        tiny = jnp.finfo(values.dtype).eps * jnp.maximum(values[-1], 0.0)
        scale = jnp.sqrt(jnp.maximum(values[-rank:], tiny))
        return vectors[:, -rank:] / scale

    cross = gram(first, second, ones).reshape(*sizes)
    inner = leading(first, sizes[0]).T @ cross @ leading(second, sizes[1])
    return jnp.sum(inner**2) / rank

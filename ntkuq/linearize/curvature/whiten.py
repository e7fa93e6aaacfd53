"""Gradients weighted by the likelihood: R = S^T J with H = S S^T, so G = R^T R."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntkuq.linearize.jacobian import Dense, Factors, Outer
from ntkuq.models import AbstractLikelihood


def whiten(factors: Factors, likelihood: AbstractLikelihood) -> Factors:
    """Factors of R = S^T J: the same leaves with g replaced by S^T g."""
    root = jax.vmap(likelihood.hessian_sqrt)(factors.outputs)

    def turn(leaf: Outer | Dense) -> Outer | Dense:
        if isinstance(leaf, Dense):
            return Dense(jnp.einsum("ncd,ncp->ndp", root, leaf.j))
        g = jnp.einsum("ncd,ncto->ndto", root, leaf.g)
        return Outer(leaf.a, g, leaf.output_first)

    return Factors(factors.outputs, tuple(turn(leaf) for leaf in factors.leaves))

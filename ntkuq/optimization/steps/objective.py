"""What a second-order step looks at: minus log posterior on a batch of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize import Factors, Jacobian
from ntkuq.models import AbstractLikelihood, Gaussian, forward


class Whitened(NamedTuple):
    """The Gauss-Newton model of the log-likelihood as least squares, |A s - u|^2 / 2.

    Args:
        factors: of A = S^T J, with H = S S^T the Hessian of an example.
        target: u, (N, K), with A^T u the gradient of the log-likelihood.
    """

    factors: Factors
    target: Float[Array, "N K"]


class Along(NamedTuple):
    """The quadratic model along some directions.

    Args:
        slopes: the directional derivatives g^T s_i, (k,).
        curvature: s_i^T (G + prior precision) s_j, (k, k).
        lengths: s_i^T s_j, (k, k).
    """

    slopes: Float[Array, " k"]
    curvature: Float[Array, "k k"]
    lengths: Float[Array, "k k"]


class Objective(eqx.Module):
    r"""Minus log likelihood plus the quadratic form of the prior.

    $L(\theta) = -\sum_n w_n \log p(y_n | f_n) + \frac12 \sum_l \tau_l |\theta_l -
    m_l|^2$: a sum over examples, not a mean; the weights make a batch stand for all.

    Args:
        jacobian: the network where it stands, and the leaves that vary.
        likelihood: of the targets, in the network's units.
        x, y: examples, (B, …) each.
        weight: w, (B,), how many examples each stands for.
        precision: of the prior, () for each leaf; zeros for none.
        center: m, the mean of the prior, raveled leaves.
    """

    jacobian: Jacobian
    likelihood: AbstractLikelihood
    x: PyTree
    y: PyTree
    weight: Float[Array, " B"]
    precision: list[Array]
    center: list[Array]

    @property
    def leaves(self) -> list[Array]:
        """The parameters that vary, raveled."""
        return [leaf.reshape(-1) for leaf in self.jacobian.leaves]

    def value(self, leaves: list[Array]) -> Float[Array, ""]:
        """L at these raveled leaves."""
        shapes = [leaf.shape for leaf in self.jacobian.leaves]
        shaped = [a.reshape(s) for a, s in zip(leaves, shapes, strict=True)]
        model = self.jacobian.replace(shaped)
        f = jax.vmap(lambda a: forward(model, a))(self.x)
        fit = jax.vmap(self.likelihood.log_prob)(f, self.y)
        # a row that counts nothing may be padding: its value is no number
        fit = jnp.where(self.weight > 0, fit, 0.0)
        pull = [
            0.5 * precision * jnp.sum((leaf - center) ** 2)
            for leaf, center, precision in zip(
                leaves, self.center, self.precision, strict=True
            )
        ]
        return sum(pull) - jnp.dot(fit, self.weight)

    def whitened(self) -> Whitened:
        """The log-likelihood as least squares in the step."""
        root = jnp.sqrt(self.weight)

        def seed(latent: Array, y: PyTree, scale: Array) -> Array:
            return scale * self.likelihood.hessian_sqrt(latent, y)

        factors = self.jacobian.factors(self.x, seed, self.y, root)
        target = _target(self.likelihood, factors.outputs, self.y)
        return Whitened(factors, root[:, None] * target)

    def along(self, steps: list[list[Array]]) -> Along:
        """The quadratic model along directions, by one forward-mode pass for each.

        steps: raveled leaves, one list a direction.
        """
        # one pass after the other: the outputs are computed once all the same, and a
        # batch of directions would transpose all that lies between the layers
        passes = [self.jacobian.push(self.x, step) for step in steps]
        f, moved = passes[0][0], [each for _, each in passes]
        residual = jax.vmap(self.likelihood.residual)(f, self.y)
        residual = jnp.where((self.weight > 0)[:, None], residual, 0.0)
        bent = [jax.vmap(self.hessian_times)(f, self.y, each) for each in moved]

        def summed(one: Array, two: Array) -> Array:
            return jnp.dot(jnp.sum(one * two, axis=-1), self.weight)

        slopes = -jnp.stack([summed(each, residual) for each in moved])
        curvature = _symmetric(summed, moved, bent)
        lengths = jnp.zeros_like(curvature)
        here = zip(
            zip(*steps, strict=True),
            self.leaves,
            self.center,
            self.precision,
            strict=True,
        )
        for parts, leaf, center, precision in here:
            product = _symmetric(jnp.dot, parts, parts)
            pull = jnp.stack([jnp.dot(part, leaf - center) for part in parts])
            slopes = slopes + precision * pull
            curvature = curvature + precision * product
            lengths = lengths + product
        return Along(slopes, curvature, lengths)

    def hessian_times(
        self, latent: Float[Array, " C"], y: PyTree, vector: Float[Array, " C"]
    ) -> Float[Array, " C"]:
        """H v of one example, without its C x C matrix where that can be."""
        likelihood = self.likelihood
        if not likelihood.canonical:
            return likelihood.hessian(latent, y) @ vector

        def residual(f: Array) -> Array:
            return likelihood.residual(f, y)

        return -jax.jvp(residual, (latent,), (vector,))[1]


def _symmetric(
    product: Callable[[Array, Array], Array],
    left: Sequence[Array],
    right: Sequence[Array],
) -> Float[Array, "k k"]:
    """A few products of pairs that are known to be symmetric."""
    rows = [
        [product(left[max(i, j)], right[min(i, j)]) for j in range(len(left))]
        for i in range(len(left))
    ]
    return jnp.array(rows)


def _target(
    likelihood: AbstractLikelihood, outputs: Float[Array, "N C"], y: PyTree
) -> Float[Array, "N K"]:
    """u with S u = d log p / df (the gradient lies in the range of S)."""
    gradient = jax.vmap(likelihood.residual)(outputs, y)
    root = jax.vmap(likelihood.hessian_sqrt)(outputs, y)
    if isinstance(likelihood, Gaussian) or root.shape[1:] == (1, 1):
        # S is diagonal
        return gradient / jnp.diagonal(root, axis1=1, axis2=2)
    return jnp.einsum("ncd,nd->nc", jnp.linalg.pinv(root), gradient)


def sizes(objective: Objective) -> tuple[int, int]:
    """Rows N K of the least-squares problem, and parameters P."""
    y = jax.tree.map(lambda a: a[0], objective.y)
    x = jax.tree.map(lambda a: a[0], objective.x)
    f = jax.eval_shape(lambda a: forward(objective.jacobian.model, a), x)
    root = jax.eval_shape(objective.likelihood.hessian_sqrt, f, y)
    rows = jax.tree.leaves(objective.x)[0].shape[0]
    return rows * math.prod(root.shape[1:]), objective.jacobian.size

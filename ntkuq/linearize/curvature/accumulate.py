"""One pass over the data: a sum over chunks, and how well the network fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.curvature.fisher import (
    AbstractFisher,
    EmpiricalFisher,
    ExactFisher,
)
from ntkuq.linearize.examples import AbstractExamples
from ntkuq.linearize.jacobian import Factors, Jacobian
from ntkuq.linearize.products import pull
from ntkuq.models import AbstractLikelihood, Gaussian


class Summary(NamedTuple):
    """How well the network fits, summed over the data.

    Of a Jacobian with a `shift`: how well the linearized network does.

    log_likelihood: sum of log p(y | f).
    misfit: sum of ((y - f) / scale)^2 for Gaussian noise, else 0.
    gradient: of the log-likelihood, raveled leaves of the subset.
    """

    log_likelihood: Float[Array, ""]
    misfit: Float[Array, ""]
    gradient: list[Array]


class Hessians(eqx.Module):
    """Minus the second derivatives of the log-likelihood in the outputs, of a chunk."""

    likelihood: AbstractLikelihood
    latent: Float[Array, "N C"]
    y: PyTree

    def each(self) -> Float[Array, "N C C"]:
        """Of each example."""
        return jax.vmap(self.likelihood.hessian)(self.latent, self.y)

    def summed(self, weights: Float[Array, " N"]) -> Float[Array, "C C"]:
        """sum_n w_n H_n."""
        return self.likelihood.hessian_sum(self.latent, self.y, weights)


class Seen(NamedTuple):
    """Sums over a data set: what was asked for, the fit, and the number of examples."""

    total: Any
    summary: Summary
    examples: int


def accumulate(
    step: Callable[..., Any],
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    size: int,
    fisher: AbstractFisher | None = None,
) -> Seen:
    """Sum `step(factors)` over the data in chunks of at most `size` examples.

    Args:
        step: from the factors of S^T J of a chunk to arrays that add up. Where
            `jacobian.is_readout`, from the factors of J and the `Hessians`.
        jacobian: at the trained parameters.
        likelihood: of the targets.
        examples: the data, seen once.
        size: examples of a chunk.
        fisher: weights of the output gradients; `None` for `ExactFisher()`.
    """
    fisher = ExactFisher() if fisher is None else fisher
    total: Any = None
    count = 0
    for x, y in examples.chunks(size):
        extra = fisher.extras(y, count)
        new = _chunk(step, jacobian, likelihood, fisher, x, y, extra)
        total = new if total is None else _add(total, new)
        count += jax.tree.leaves(x)[0].shape[0]
    if total is None:
        raise ValueError("expected at least one example, got none")
    if not np.isfinite(float(total[1].log_likelihood)):
        raise ValueError(
            "expected a finite log-likelihood of the training data, got "
            f"{float(total[1].log_likelihood)}: check the network's outputs at these "
            "inputs, and the likelihood's scale"
        )
    return Seen(total[0], total[1], count)


@eqx.filter_jit
def _add(one: Any, two: Any) -> Any:
    return jax.tree.map(jnp.add, one, two)


@eqx.filter_jit
def _chunk(step, jacobian, likelihood, fisher, x, y, extra):
    if jacobian.is_readout and isinstance(fisher, ExactFisher):
        factors = jacobian.factors(x)
        score = jax.vmap(likelihood.residual)(factors.outputs, y)
        summary = _summary(likelihood, factors.outputs, y, pull(factors, score))
        return step(factors, Hessians(likelihood, factors.outputs, y)), summary
    factors, summary = fitted(jacobian, likelihood, fisher, x, y, extra)
    return step(factors), summary


def fitted(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    fisher: AbstractFisher,
    x: PyTree,
    y: PyTree,
    extra: tuple[PyTree, ...],
) -> tuple[Factors, Summary]:
    """Factors of S^T J, and how well the network fits: one forward pass for both."""

    def root(latent, _, *more):
        return fisher.weights(likelihood, latent, *more)

    factors, gradient = jacobian.weighed(x, (root, _score(likelihood)), y, *extra)
    return factors, _of_score(likelihood, gradient, y)


def summarize(
    jacobian: Jacobian,
    likelihood: AbstractLikelihood,
    examples: AbstractExamples,
    size: int,
) -> Summary:
    """How well the network fits, and nothing else; arguments as in `accumulate`."""
    # of one weight, the cheapest: that of the summary itself
    fisher = EmpiricalFisher()
    return accumulate(_nothing, jacobian, likelihood, examples, size, fisher).summary


def _nothing(factors: Factors) -> tuple[()]:
    del factors
    return ()


def _score(likelihood: AbstractLikelihood) -> Callable[..., Array]:
    """The gradient of the log-likelihood in the outputs, as a weight, (C, 1)."""
    return lambda latent, y, *_: likelihood.residual(latent, y)[:, None]


def _of_score(likelihood: AbstractLikelihood, gradient: Factors, y: PyTree) -> Summary:
    f = gradient.outputs
    return _summary(likelihood, f, y, pull(gradient, jnp.ones((len(f), 1), f.dtype)))


def _summary(
    likelihood: AbstractLikelihood,
    f: Float[Array, "N C"],
    y: PyTree,
    gradient: list[Array],
) -> Summary:
    value = jnp.sum(jax.vmap(likelihood.log_prob)(f, y))
    misfit = jnp.zeros((), value.dtype)
    if isinstance(likelihood, Gaussian):
        misfit = jnp.sum(((y - f) / likelihood.scale) ** 2)
    return Summary(value, misfit, gradient)

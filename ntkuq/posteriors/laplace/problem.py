"""A network linearized on training data: curvature, and how well it fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, Dataset
from ntkuq.linearize import (
    AbstractCurvature,
    AbstractExamples,
    Examples,
    Jacobian,
    Summary,
)
from ntkuq.models import (
    BNN,
    AbstractPrior,
    Gaussian,
    as_arrays,
    check_finite,
    parameters,
)
from ntkuq.posteriors.laplace.evidence import Fit, normalizer
from ntkuq.posteriors.laplace.structures import AbstractStructure, Problem
from ntkuq.posteriors.laplace.subsets import AbstractSubset


class Gradient(NamedTuple):
    """Of the log joint: raveled leaves, and the Euclidean norm of all."""

    leaves: list[Array]
    norm: Array


class Linearized(NamedTuple):
    """A network linearized on training data: curvature, and how well it fits.

    Args:
        jacobian: at the trained parameters, of the uncertain leaves.
        curvature: the Gauss-Newton matrix.
        summary: sums over the data.
        precisions: of the prior, (), one for each leaf.
        fit: what the evidence needs.
        double: is it computed in float64?
    """

    jacobian: Jacobian
    curvature: AbstractCurvature
    summary: Summary
    precisions: list[Array]
    fit: Fit
    double: bool

    def gradient(self, tau: float, noise: float) -> Gradient:
        """Of the log joint at the trained parameters."""
        with jax.enable_x64(self.double):
            return _gradient(
                self.summary.gradient,
                self.precisions,
                self.jacobian.leaves,
                float(tau),
                float(noise) ** -2,
            )


class Held(AbstractExamples):
    """Arrays of data, whose inputs are brought to the network's units chunk by chunk.

    A chunk stays in the cache; the whole in float64 would be a copy of all data.
    """

    bnn: BNN
    given: Examples
    dtype: np.dtype = eqx.field(static=True)

    def __len__(self) -> int:
        return len(self.given)

    def chunks(self, size: int) -> Iterator[tuple[PyTree, PyTree]]:
        for x, y in self.given.chunks(size):
            yield self.bnn.inputs(x, self.dtype), y

    def whole(self) -> tuple[PyTree, PyTree]:
        x, y = self.given.whole()
        return self.bnn.inputs(x, self.dtype), y


class Streamed(AbstractExamples):
    """Batches of data, brought to the network's units one at a time."""

    bnn: BNN
    batches: Batches = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def __len__(self) -> int:
        return len(self.batches)

    def chunks(self, size: int) -> Iterator[tuple[PyTree, PyTree]]:
        for x, y in self.batches.rechunk(size):
            part = Dataset(x, y, _part=True)
            yield self.bnn.inputs(x, self.dtype), self.bnn.targets(part, self.dtype)

    def whole(self) -> tuple[PyTree, PyTree]:
        data = self.batches.to_dataset()
        return self.bnn.inputs(data.x, self.dtype), self.bnn.targets(data, self.dtype)


def examples(bnn: BNN, data: Dataset | Batches, dtype: np.dtype) -> AbstractExamples:
    """The data in the network's units, chunk by chunk."""
    if isinstance(data, Batches):
        return Streamed(bnn, data, dtype)
    return Held(bnn, Examples(data.x, bnn.targets(data, dtype)), dtype)


def _example(bnn: BNN, data: Dataset | Batches) -> PyTree:
    return bnn.example((data.take_first(1) if isinstance(data, Batches) else data).x)


def linearized_problem(
    bnn: BNN,
    data: Dataset | Batches,
    structure: AbstractStructure,
    subset: AbstractSubset,
) -> Linearized:
    """One pass over the data: all that the evidence and the predictions need."""
    check_finite(bnn.model)
    double = structure.double or bnn.dtype == np.float64
    outputs = bnn.outputs(data)
    with jax.enable_x64(double):
        # the network too: rounded inputs of a last layer alone cost 8e-3 of a variance
        dtype = np.dtype(np.float64) if double else bnn.dtype
        jacobian = Jacobian.at(bnn.model, _example(bnn, data), subset).cast(dtype)
        likelihood = as_arrays(bnn.likelihood, dtype)
        seen = examples(bnn, data, dtype)
        precisions = subset_precisions(bnn.prior, jacobian)
        variances = inverse(precisions)
        problem = Problem(jacobian, likelihood, seen, variances, outputs)
        curvature, summary = structure.curvature(problem)
        fit = fit_of(bnn, jacobian, precisions, summary, len(seen) * outputs)
        return Linearized(jacobian, curvature, summary, precisions, fit, double)


def fit_of(
    bnn: BNN,
    jacobian: Jacobian,
    precisions: list[Array],
    summary: Summary,
    count: int,
) -> Fit:
    """What the evidence needs of the sums over the data.

    With part of the network held fixed the evidence would credit its misfit to the data
    alone and shrink the noise: a subset keeps the noise of the `BNN`.
    """
    whole = len(jacobian.subset) == jacobian.plan.leaves
    squares = np.asarray(_squares(jacobian.leaves), np.float64)
    value = float(summary.log_likelihood)
    if not np.isfinite(value):
        raise ValueError(
            f"expected a finite log-likelihood of the training data, got {value}: "
            "check the network's outputs at these inputs, and the likelihood's scale"
        )
    constant, misfit = value, None
    if isinstance(bnn.likelihood, Gaussian) and whole:
        constant = normalizer(bnn.likelihood.scale, count)
        misfit = float(summary.misfit)
    return Fit(
        constant,
        misfit,
        count,
        float(squares @ np.asarray(jax.device_get(precisions), np.float64)),
        tuple(squares),
    )


@jax.jit
def inverse(values: list[Array]) -> list[Array]:
    """1 / value of each."""
    return [1.0 / value for value in values]


@jax.jit
def _gradient(gradient, precisions, leaves, tau, factor) -> Gradient:
    found = [
        g.astype(p.dtype) * factor - tau * p * leaf.reshape(-1).astype(p.dtype)
        for g, p, leaf in zip(gradient, precisions, leaves, strict=True)
    ]
    return Gradient(found, jnp.sqrt(jnp.sum(_squares(found))))


@jax.jit
def _squares(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.sum(leaf**2) for leaf in leaves])


def subset_precisions(prior: AbstractPrior, jacobian: Jacobian) -> list[Array]:
    """The prior precision of each leaf in the subset, (), in its dtype."""
    every = jax.tree.leaves(prior.precisions(parameters(jacobian.model)))
    chosen = [every[n] for n in jacobian.subset]
    if any(np.ndim(precision) for precision in chosen):
        raise ValueError(
            "expected one prior precision for each parameter array, got arrays of "
            f"shapes {[np.shape(precision) for precision in chosen]}"
        )
    return chosen

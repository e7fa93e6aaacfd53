"""Function-space regularization with a small memory: FROMP."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining, Seen
from ntkuq.continual.strategies.ewc import need_strength
from ntkuq.continual.strategies.memory import AbstractSelection, UncertainPoints
from ntkuq.models import AbstractLikelihood, Train, forward, parameters
from ntkuq.models.train import AbstractPenalty, Job
from ntkuq.posteriors.laplace.problem import linearized_problem
from ntkuq.posteriors.laplace.structures import Diagonal
from ntkuq.posteriors.laplace.subsets import All


#: Added to the diagonal of a kernel matrix, as a share of its mean.
JITTER = 1e-3


class Functions(NamedTuple):
    """Kept inputs of each task, (T, M, …), and the function there.

    inputs: with room for further tasks.
    means: class probabilities, or outputs, of the last network, (T, M, C).
    inverses: of the kernel matrices of its posterior, (T, C, M, M); zeros for no task.
    """

    inputs: PyTree
    means: Float[Array, "T M C"]
    inverses: Float[Array, "T C M M"]


class Memorable(NamedTuple):
    """What FROMP keeps: the inputs, and the diagonal of all tasks' Gauss-Newton."""

    inputs: PyTree
    tasks: int
    diagonal: list[Float[Array, " _"]]


class FunctionDistance(AbstractPenalty):
    r"""$\tfrac{s}{2N} \sum_{t,c} (m - m_t)_c^T K_{t,c}^{-1} (m - m_t)_c$.

    Args:
        functions: inputs, means and inverses.
        strength: s.
    """

    functions: Functions
    strength: Float[Array, ""]

    def __call__(self, model, at):
        inputs, means, inverses = self.functions

        def task(x: PyTree, mean: Array, inverse: Array) -> Array:
            now = jax.vmap(lambda a: values(model, at.likelihood, a))(x)
            off = (now - mean).T
            return jnp.einsum("cm,cmn,cn->", off, inverse, off)

        total = jnp.sum(jax.vmap(task)(inputs, means, inverses))
        return 0.5 * self.strength * total / at.size


def values(model: PyTree, likelihood: AbstractLikelihood, x: PyTree) -> Array:
    """Class probabilities of one example, or its outputs for regression."""
    outputs = forward(model, x)
    if likelihood.classes and outputs.shape[-1] > 1:
        return jax.nn.softmax(outputs)
    return jax.nn.sigmoid(outputs) if likelihood.classes else outputs


class FROMP(AbstractTraining):
    r"""Functional regularization of the memorable past.

    $\tfrac{s}{2N} \sum_t \sum_c (m - m_t)_c^T K_{t,c}^{-1} (m - m_t)_c$ is added, with
    m the class probabilities at the kept inputs of task t, $m_t$ those of the last
    network, and $K = J \Sigma J^T$ their covariance under its diagonal Laplace
    posterior. Kept are inputs alone, no labels.

    Args:
        memory: which inputs of each task; those the network is least sure of unless
            told otherwise.
        strength: s. A kept input stands for all of its task that are not kept, so that
            it is far above 1.
        train: how to train on one task.

    References: Pan et al. 2020 (arXiv 2004.14070).

    >>> FROMP(memory=UncertainPoints(40)).strength
    100.0
    """

    memory: AbstractSelection = UncertainPoints()
    strength: float = 100.0
    train: Train = Train()

    def __check_init__(self):
        need_strength("FROMP", self.strength)

    def job(self, state, seen, *, key):
        job = Job(seen.bnn, seen.model, seen.x, seen.y, key)
        if state.memory is None:
            return job
        functions = remembered(state.memory, seen)
        strength = jnp.asarray(self.strength, seen.bnn.dtype)
        return eqx.tree_at(
            lambda job: job.penalty,
            job,
            FunctionDistance(functions, strength),
            is_leaf=lambda leaf: leaf is None,
        )

    def learned(self, state, seen, trained, *, key):
        rows = self.memory.rows(seen, key=jax.random.fold_in(key, 1))
        size = self.memory.points
        # a task with fewer examples repeats its own: one more time the same function
        rows = np.resize(rows, size)
        new = jax.tree.map(lambda a: a[rows][None], seen.x)
        found = linearized_problem(seen.bnn, seen.data, Diagonal(), All())
        blocks = found.curvature.blocks  # pyright: ignore[reportAttributeAccessIssue]
        diagonal = [jnp.clip(block.values, 0.0) for block in blocks]
        if state.memory is not None:
            old = state.memory
            new = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old.inputs, new)
            diagonal = [a + b for a, b in zip(old.diagonal, diagonal, strict=True)]
        memory = Memorable(new, state.tasks + 1, diagonal)
        return Learned.of(point(seen.bnn, trained.losses), memory, state.tasks + 1)


def remembered(memory: Memorable, seen: Seen) -> Functions:
    """The function of the last network at the kept inputs, with room for more tasks."""
    tasks = jax.tree.leaves(memory.inputs)[0].shape[0]
    room = 1 << (tasks - 1).bit_length()
    precisions = jax.tree.leaves(seen.bnn.prior.precisions(parameters(seen.bnn.model)))
    variances = [
        1.0 / (d + p) for d, p in zip(memory.diagonal, precisions, strict=True)
    ]
    means, inverses = [], []
    for task in range(tasks):
        x = jax.tree.map(lambda a, k=task: a[k], memory.inputs)
        mean, inverse = _function(seen.bnn.model, seen.bnn.likelihood, x, variances)
        means.append(mean)
        inverses.append(inverse)

    def roomy(stacked: Array) -> Array:
        pad = [(0, room - tasks)] + [(0, 0)] * (stacked.ndim - 1)
        return jnp.pad(stacked, pad)

    return Functions(
        jax.tree.map(roomy, memory.inputs),
        roomy(jnp.stack(means)),
        roomy(jnp.stack(inverses)),
    )


@eqx.filter_jit
def _function(
    model: PyTree, likelihood: AbstractLikelihood, x: PyTree, variances: list[Array]
) -> tuple[Float[Array, "M C"], Float[Array, "C M M"]]:
    """Values at x, and the inverse of each one's kernel matrix."""
    params = parameters(model)

    def all_values(now: PyTree) -> Array:
        combined = eqx.combine(now, model)
        return jax.vmap(lambda a: values(combined, likelihood, a))(x)

    means = all_values(params)
    roots = [jnp.sqrt(v) for v in variances]

    def one(number: Array) -> Array:
        def gradient(a: PyTree) -> Array:
            def value(now: PyTree) -> Array:
                return values(eqx.combine(now, model), likelihood, a)[number]

            leaves = jax.tree.leaves(jax.grad(value)(params))
            scaled = [g.reshape(-1) * r for g, r in zip(leaves, roots, strict=True)]
            return jnp.concatenate(scaled)

        rows = jax.vmap(gradient)(x)
        kernel = rows @ rows.T
        jitter = JITTER * jnp.mean(jnp.diagonal(kernel)) + 1e-10
        eye = jnp.eye(kernel.shape[0], dtype=kernel.dtype)
        factor = jnp.linalg.cholesky(kernel + jitter * eye)
        return jax.scipy.linalg.cho_solve((factor, True), eye)

    return means, jax.lax.map(one, jnp.arange(means.shape[1]))

"""Elastic weight consolidation, as published and online."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining, Seen
from ntkuq.continual.strategies.quadratic import raveled
from ntkuq.data import Dataset
from ntkuq.linearize import AbstractFisher, ExactFisher
from ntkuq.models import BNN, Train
from ntkuq.models.train import AbstractPenalty, Job
from ntkuq.posteriors.laplace.problem import linearized_problem
from ntkuq.posteriors.laplace.structures import Diagonal
from ntkuq.posteriors.laplace.subsets import All


class DiagonalPenalty(AbstractPenalty):
    r"""$\tfrac{\lambda}{2} \sum_t \sum_i F_{t,i} (\theta_i - \theta^*_{t,i})^2$.

    The sum over tasks is kept as three sums, $\sum F$, $\sum F \theta^*$,
    $\sum F \theta^{*2}$; its gradient is $\lambda(\theta\sum F - \sum F\theta^*)$.

    Args:
        weights: sum of F over the tasks, one array a leaf.
        shifted: sum of F theta*.
        square: sum of F theta*^2 over tasks and parameters.
        strength: lambda.
    """

    weights: list[Float[Array, " _"]]
    shifted: list[Float[Array, " _"]]
    square: Float[Array, ""]
    strength: Float[Array, ""]

    def __call__(self, model, at):
        value = self.square
        for theta, f, fc in zip(
            raveled(model), self.weights, self.shifted, strict=True
        ):
            value = value + jnp.vdot(theta, f * theta - 2.0 * fc)
        return 0.5 * self.strength * value


def importance(
    bnn: BNN, data: Dataset, fisher: AbstractFisher, examples: int | None, *, key: Array
) -> list[Float[Array, " _"]]:
    r"""The diagonal of the mean Fisher information, $\tfrac1n \sum_n F_n$.

    Args:
        bnn: the problem with the trained network.
        data: of the task.
        fisher: exact, sampled or empirical.
        examples: how many of the data, drawn without replacement; `None` for all.
        key: chooses them.
    """
    if examples is not None and examples < len(data):
        rows = jax.random.choice(key, len(data), (examples,), replace=False)
        data = data.take(rows)
    found = linearized_problem(bnn, data, Diagonal(fisher), All())
    blocks = found.curvature.blocks  # pyright: ignore[reportAttributeAccessIssue]
    return _means([block.values for block in blocks], len(data))


class AbstractConsolidation(AbstractTraining):
    """A quadratic penalty from the Fisher information at the end of each task."""

    strength: eqx.AbstractVar[float]
    fisher: eqx.AbstractVar[AbstractFisher]
    #: Of each task, drawn without replacement; `None` for all.
    examples: eqx.AbstractVar[int | None]

    @abc.abstractmethod
    def sums(self, state: Learned, leaves: list[Array]) -> tuple:
        """The three sums of the penalty, when `leaves` are the last task's weights."""

    @abc.abstractmethod
    def consolidated(
        self, state: Learned, found: list[Array], leaves: list[Array]
    ) -> PyTree:
        """What is kept after a task with this Fisher information and these weights."""

    def penalty(self, state: Learned, seen: Seen) -> DiagonalPenalty:
        """What the next training adds to its loss."""
        leaves = raveled(seen.model)
        strength = jnp.asarray(self.strength, leaves[0].dtype)
        weights, shifted, square = self.sums(state, leaves)
        return DiagonalPenalty(weights, shifted, square, strength)

    def job(self, state, seen, *, key):
        penalty = self.penalty(state, seen)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        now = jax.random.fold_in(key, 1)
        found = importance(seen.bnn, seen.data, self.fisher, self.examples, key=now)
        memory = self.consolidated(state, found, raveled(seen.model))
        return Learned.of(point(seen.bnn, trained.losses), memory, state.tasks + 1)


class EWC(AbstractConsolidation):
    r"""Elastic weight consolidation: a quadratic penalty for each earlier task.

    $\tfrac{\lambda}{2} \sum_{t<T} (\theta - \theta^*_t)^T \mathrm{diag}(F_t)
    (\theta - \theta^*_t)$ is added to the mean loss, with F the mean Fisher information
    of an example at the end of task t. Memory: two numbers a parameter, however many
    tasks.

    Args:
        strength: λ. The sum of the tasks' Fisher matrices over all examples, as Laplace
            has it, is λ = N examples a task.
        fisher: `ExactFisher()`, `SampledFisher(key)` or, in many implementations,
            `EmpiricalFisher()`.
        examples: how many of the task the Fisher information is taken over; `None` for
            all.
        train: how to train on one task.

    References: Kirkpatrick et al. 2017 (arXiv 1612.00796); Huszár 2018 (arXiv
    1712.03847) on one penalty a task.

    >>> EWC(strength=100.0).strength
    100.0
    """

    strength: float = 1_000.0
    fisher: AbstractFisher = ExactFisher()
    examples: int | None = 2_000
    train: Train = Train()

    def __check_init__(self):
        need_strength("EWC", self.strength)

    def sums(self, state, leaves):
        return _none(leaves) if state.memory is None else state.memory

    def consolidated(self, state, found, leaves):
        return _plus(self.sums(state, leaves), found, leaves)


class OnlineEWC(AbstractConsolidation):
    r"""One quadratic penalty around the last task's weights, whose past fades.

    $\tfrac{\lambda}{2} (\theta - \theta^*_{T-1})^T \mathrm{diag}(\tilde F)
    (\theta - \theta^*_{T-1})$ with $\tilde F \leftarrow \gamma \tilde F + F_t$.

    Args:
        strength: λ, as for `EWC`.
        decay: γ from 0 to 1; 1 keeps all.
        fisher, examples, train: as for `EWC`.

    Raises:
        ValueError: for γ outside 0 to 1, or a negative strength.

    References: Schwarz et al. 2018 (arXiv 1805.06370).

    >>> OnlineEWC(decay=0.95).decay
    0.95
    """

    strength: float = 1_000.0
    decay: float = 1.0
    fisher: AbstractFisher = ExactFisher()
    examples: int | None = 2_000
    train: Train = Train()

    def __check_init__(self):
        need_strength("OnlineEWC", self.strength)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"OnlineEWC: expected decay from 0 to 1, got {self.decay}")

    def sums(self, state, leaves):
        # one penalty, around the weights that the last task left
        none = _none(leaves)
        return none if state.memory is None else _plus(none, state.memory, leaves)

    def consolidated(self, state, found, leaves):
        if state.memory is None:
            return found
        decay = jnp.asarray(self.decay, found[0].dtype)
        return [decay * old + new for old, new in zip(state.memory, found, strict=True)]


def need_strength(name: str, strength: float) -> None:
    """Raise `ValueError` for a negative strength, or none."""
    if not strength >= 0:
        raise ValueError(f"{name}: expected strength >= 0, got {strength}")


@jax.jit
def _means(sums: list[Array], count: ArrayLike) -> list[Array]:
    return [value / jnp.asarray(count, value.dtype) for value in sums]


@jax.jit
def _none(leaves: list[Array]) -> tuple:
    """The three sums over no task."""
    zeros = [jnp.zeros_like(leaf) for leaf in leaves]
    return zeros, zeros, jnp.zeros((), leaves[0].dtype)


@jax.jit
def _plus(memory: tuple, fisher: list[Array], leaves: list[Array]) -> tuple:
    weights, shifted, square = memory
    for f, theta in zip(fisher, leaves, strict=True):
        square = square + jnp.vdot(theta, f * theta)
    return (
        [a + f for a, f in zip(weights, fisher, strict=True)],
        [a + f * t for a, f, t in zip(shifted, fisher, leaves, strict=True)],
        square,
    )

"""Elastic weight consolidation, as published and online."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    return [block.values / len(data) for block in blocks]


class EWC(AbstractTraining):
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

    def penalty(self, state: Learned, seen: Seen) -> DiagonalPenalty:
        """What the next training adds to its loss."""
        leaves = raveled(seen.model)
        weights, shifted, square = _memory(state, leaves)
        strength = jnp.asarray(self.strength, leaves[0].dtype)
        return DiagonalPenalty(weights, shifted, square, strength)

    def job(self, state, seen, *, key):
        penalty = self.penalty(state, seen)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        now = jax.random.fold_in(key, 1)
        found = importance(seen.bnn, seen.data, self.fisher, self.examples, key=now)
        leaves = raveled(seen.model)
        memory = _plus(_memory(state, leaves), found, leaves)
        return Learned.of(point(seen.bnn, trained.losses), memory, state.tasks + 1)


class OnlineEWC(AbstractTraining):
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

    def penalty(self, state: Learned, seen: Seen) -> DiagonalPenalty:
        """What the next training adds to its loss."""
        leaves = raveled(seen.model)
        zeros = [jnp.zeros_like(leaf) for leaf in leaves]
        weights = zeros if state.memory is None else state.memory
        none = (zeros, zeros, jnp.zeros((), leaves[0].dtype))
        weights, shifted, square = _plus(none, weights, leaves)
        strength = jnp.asarray(self.strength, leaves[0].dtype)
        return DiagonalPenalty(weights, shifted, square, strength)

    def job(self, state, seen, *, key):
        penalty = self.penalty(state, seen)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        now = jax.random.fold_in(key, 1)
        found = importance(seen.bnn, seen.data, self.fisher, self.examples, key=now)
        if state.memory is not None:
            decay = jnp.asarray(self.decay, found[0].dtype)
            found = [decay * old + new for old, new in zip(state.memory, found)]
        return Learned.of(point(seen.bnn, trained.losses), found, state.tasks + 1)


def need_strength(name: str, strength: float) -> None:
    """Raise `ValueError` for a negative strength, or none."""
    if not strength >= 0:
        raise ValueError(f"{name}: expected strength >= 0, got {strength}")


def _memory(state: Learned, leaves: list[Array]) -> tuple:
    """The three sums over the tasks so far."""
    if state.memory is not None:
        return state.memory
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

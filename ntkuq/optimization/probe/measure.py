"""The numbers: every step on every batch, with its time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ntkuq.models.train.lazy import made
from ntkuq.optimization.probe.attempt import (
    Attempt,
    attempt,
    decrease,
    fit,
    rounding,
    toward,
)
from ntkuq.optimization.probe.batches import TUNING
from ntkuq.optimization.probe.program import prepared
from ntkuq.optimization.probe.steps import AbstractStep, how
from ntkuq.optimization.steps.objective import Objective
from ntkuq.optimization.steps.transform import AbstractDirection


#: A step is timed so often on a batch, or until this many seconds are spent.
REPEATS, PATIENCE = 5, 1.0
#: Steps that count as taken before: running means are past their beginning.
SEEN = 20

#: Seconds since some moment.
Clock = Callable[[], float]


class Measured(NamedTuple):
    """One way to step, on K pairs of batches; decreases in nats an example.

    Args:
        name: of the step.
        how: its directions are found.
        damping: chosen, in the units of a prior precision.
        at_end: is it the largest or smallest that could be chosen?
        predicted, realized, elsewhere: decreases by the model, on the batch, and on
            the other batch of the pair, (K,).
        seconds: a step takes, (K,).
        halvings: of the length that the model asked for, (K,).
        finite: was the direction finite? (K,)
    """

    name: str
    how: str
    damping: float
    at_end: bool
    predicted: Float[np.ndarray, " K"]
    realized: Float[np.ndarray, " K"]
    elsewhere: Float[np.ndarray, " K"]
    seconds: Float[np.ndarray, " K"]
    halvings: Int[np.ndarray, " K"]
    finite: Bool[np.ndarray, " K"]


class _Ready(NamedTuple):
    """A step whose damping is chosen."""

    step: AbstractStep
    finder: AbstractDirection
    damping: float
    at_end: bool
    state: PyTree


type Pair = tuple[Objective, Objective]


def measure(
    steps: Sequence[AbstractStep], pairs: Sequence[Pair], *, clock: Clock, key: Array
) -> list[Measured]:
    """Every step on every pair but the first `TUNING`, on which dampings are chosen."""
    keys = jax.random.split(key, len(steps))
    scale = _scale(pairs[0][0])
    ready = [
        _tune(step, pairs, scale, one) for step, one in zip(steps, keys, strict=True)
    ]
    judged = pairs[TUNING:]
    found: list[list[tuple]] = [[] for _ in steps]
    for number, pair in enumerate(judged):
        # whoever comes first would always meet the caches of the last
        for turn in range(len(steps)):
            at = (number + turn) % len(steps)
            found[at].append(_judge(ready[at], pair, 2 * TUNING + number, clock))
    return [
        Measured(
            one.step.name,
            how(one.finder),
            one.damping,
            one.at_end,
            *(np.asarray(column) for column in zip(*rows, strict=True)),
        )
        for one, rows in zip(ready, found, strict=True)
    ]


class Standing(NamedTuple):
    """Where a network stands on a batch.

    Args:
        loss: minus the log-likelihood, in nats an example.
        rounding: a decrease below this is rounding, in nats an example.
        curvature: along the gradient, of the sum over all examples; NaN where there is
            no gradient.
    """

    loss: float
    rounding: float
    curvature: float


def standing(objective: Objective) -> Standing:
    """Where the network stands on this batch."""
    return Standing(*(float(value) for value in prepared(_standing, objective)()))


def _standing(objective: Objective) -> tuple[Array, Array, Array]:
    leaves = objective.leaves
    before = fit(objective, leaves)
    loss = -jnp.dot(before, objective.weight) / jnp.sum(objective.weight)
    gradient = jax.grad(objective.value)(leaves)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient))
    unit = [leaf / size for leaf in gradient]
    curvature = objective.along([unit]).curvature[0, 0]
    return loss, rounding(objective, before), curvature


def _scale(objective: Objective) -> float:
    """The unit of the dampings; 1 where there is no gradient."""
    value = standing(objective).curvature
    return value if np.isfinite(value) and value > 0 else 1.0


def _tune(
    step: AbstractStep, pairs: Sequence[Pair], scale: float, key: Array
) -> _Ready:
    """The damping whose steps gain most on the other batches of the tuning pairs."""
    finder = step.finder(pairs[0][0], key=key)
    state = _warmed(finder, [pair[0] for pair in pairs], scale)
    values = [scale * float(value) for value in step.dampings]
    ready = [_Ready(step, finder, value, False, state) for value in values]
    gains = [_gain(one, pairs[:TUNING]) for one in ready]
    # of dampings that are as good the largest
    best = len(values) - 1 - int(np.argmax(np.nan_to_num(gains[::-1], nan=-np.inf)))
    at_end = len(values) > 1 and best in (0, len(values) - 1) and values[best] > 0
    return ready[best]._replace(at_end=at_end)


def _warmed(
    finder: AbstractDirection, batches: Sequence[Objective], scale: float
) -> PyTree:
    """The state of what finds the directions, after it has seen all the batches."""
    first = batches[0]
    damping = jnp.asarray(scale, first.weight.dtype)

    def after(state: PyTree) -> PyTree:
        zeros = [jnp.zeros_like(leaf) for leaf in first.leaves]
        pull, count = toward(first, damping), jnp.zeros((), jnp.int32)
        return finder(first, zeros, pull, zeros, state, count).state

    state = made(finder.init(first.leaves), after)
    if not jax.tree.leaves(state):
        return state
    for number, batch in enumerate(batches):
        count = jnp.asarray(number, jnp.int32)
        state = prepared(attempt, finder, batch, damping, state, count)().state
    return state


def _call(ready: _Ready, objective: Objective, number: int, later: int) -> Callable:
    """The step on this batch, as a call without arguments; `later` in its period."""
    period = ready.step.period
    # the first of a period, another one for each batch, so that draws differ
    count = period * (-(-SEEN // period) + number) + later
    return prepared(
        attempt,
        ready.finder,
        objective,
        jnp.asarray(ready.damping, objective.weight.dtype),
        ready.state,
        jnp.asarray(count, jnp.int32),
    )


def _elsewhere(objective: Objective, step: list[Array]) -> Array:
    return decrease(objective, fit(objective, objective.leaves), step)


def _gain(ready: _Ready, pairs: Sequence[Pair]) -> float:
    """What the step from each of these batches gains on all the others."""
    batches = [batch for pair in pairs for batch in pair]
    total = 0.0
    for number, own in enumerate(batches):
        found: Attempt = _call(ready, own, number, 0)()
        others = [batch for batch in batches if batch is not own]
        total += sum(
            float(prepared(_elsewhere, other, found.step)()) for other in others
        )
    return total


def _judge(ready: _Ready, pair: Pair, number: int, clock: Clock) -> tuple:
    """Columns of `Measured` for one pair."""
    calls = [_call(ready, pair[0], number, n) for n in range(ready.step.period)]
    found: Attempt = jax.block_until_ready(calls[0]())
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < PATIENCE:
        begin = clock()
        for call in calls:
            jax.block_until_ready(call())
        times.append(clock() - begin)
    return (
        float(found.predicted),
        float(found.realized),
        float(prepared(_elsewhere, pair[1], found.step)()),
        statistics.median(times) / len(calls),
        int(found.halvings),
        bool(found.finite),
    )

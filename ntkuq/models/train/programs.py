"""The compiled programs of training, of one network or of several at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ntkuq.models.train.problem import Carry, Examples, Problem, pick
from ntkuq.models.train.stop import Best, improved, validation_score


class State(NamedTuple):
    """Everything that an interrupted training needs to go on.

    step: updates made. loss: before the last of them. diverged: after which update
    the loss or a parameter was first not finite, -1 for none.
    """

    carry: Carry
    step: Int[Array, ""]
    loss: Array
    diverged: Int[Array, ""]
    best: Best | None


class Work(NamedTuple):
    """What a training works on: the problem and its examples, those held out aside."""

    problem: Problem
    examples: Examples
    held: Examples | None
    patience: Array
    key: Array


def advance(
    work: Work, static: PyTree, state: State, rows: Array | None, length: int
) -> State:
    """`length` updates in one loop on the device."""

    def one(carry: tuple[Carry, Array], rows: Array | None):
        carry, step = carry
        key = jax.random.fold_in(work.key, step)
        examples = pick(work.examples, rows)
        carry, loss = work.problem.update(carry, static, examples, key)
        return (carry, step + 1), loss

    start = (state.carry, state.step)
    (carry, step), losses = jax.lax.scan(one, start, rows, length=length)
    return _checked(state, carry, step, losses)


def update(
    work: Work, static: PyTree, state: State, rows: Array | None, length: int
) -> State:
    """One update without a loop."""
    del length
    key = jax.random.fold_in(work.key, state.step)
    examples = pick(work.examples, rows)
    carry, loss = work.problem.update(state.carry, static, examples, key)
    return _checked(state, carry, state.step + 1, loss[None])


def evaluate(work: Work, static: PyTree, state: State, score: Any) -> State:
    """Compare the parameters with the best so far."""
    assert work.held is not None and state.best is not None  # noqa: S101, PT018
    params = state.carry.parameters
    value = validation_score(work.problem, score, params, static, work.held)
    best = improved(state.best, value, params, state.step, work.patience)
    return state._replace(best=best)


def _evaluate(
    work: Work, static: PyTree, state: State, rows: Array | None, score: Any
) -> State:
    """`evaluate` as the others are called."""
    del rows
    return evaluate(work, static, state, score)


def _checked(state: State, carry: Carry, step: Array, losses: Array) -> State:
    """The state after some updates, with the first that was not finite."""
    bad = ~jnp.isfinite(losses)
    sums = [jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(carry.parameters)]
    whole = jnp.isfinite(sum(sums))
    # the loss is that before an update: a bad one shows what the update before it did
    index = jnp.argmax(bad).astype(step.dtype)
    first = jnp.maximum(jnp.where(jnp.any(bad), state.step + index, step), 1)
    now = jnp.where(jnp.any(bad) | ~whole, first, -1)
    diverged = jnp.where(state.diverged < 0, now, state.diverged)
    return State(carry, step, losses[-1], diverged.astype(jnp.int32), state.best)


class Programs(NamedTuple):
    """Compiled `advance`, `update`, `evaluate`."""

    advance: Any
    update: Any
    evaluate: Any


ONE = Programs(
    eqx.filter_jit(advance), eqx.filter_jit(update), eqx.filter_jit(evaluate)
)


def _several(function: Any) -> Any:
    """Over a leading axis of the mapped part of `work`, of states and rows."""

    def call(mapped: PyTree, shared: PyTree, static: PyTree, state, rows, last):
        def one(mapped: PyTree, state: State, rows: Array | None) -> State:
            work, arrays = eqx.combine(mapped, shared)
            return function(work, eqx.combine(arrays, static), state, rows, last)

        return jax.vmap(one)(mapped, state, rows)

    return eqx.filter_jit(call)


SEVERAL = Programs(
    _several(advance),
    _several(update),
    _several(_evaluate),
)

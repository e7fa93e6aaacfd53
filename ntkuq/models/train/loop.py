"""Running one training, or several at a time, to the end."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ntkuq.data import Checkpoint, StoreError
from ntkuq.models.train.programs import ONE, SEVERAL, State, Work


#: Seconds between checkpoints.
SECONDS = 5.0


class Schedule(NamedTuple):
    """How many updates there are, and how they are run.

    Args:
        steps: updates in all.
        part: updates between reports (and evaluations).
        patience: evaluations without a better score; `None` without early stopping.
        stepwise: whether each update is a call from the host.
        score: of the validation.
    """

    steps: int
    part: int
    patience: int | None = None
    stepwise: bool = False
    score: Any = None

    def lengths(self, done: int) -> Iterator[int]:
        """Updates of each part after the first `done`."""
        while done < self.steps:
            left = self.steps - done
            # so that at most two lengths compile
            length = self.part if left >= 2 * self.part else left
            if self.patience is not None:
                length = min(self.part, left)
            yield length
            done += length


class Progress(NamedTuple):
    """The state of a training, and its losses so far: (T,) or (T, M)."""

    state: State
    losses: list[np.ndarray]


class AbstractTraining(abc.ABC):
    """One or several networks with the programs that advance them."""

    @abc.abstractmethod
    def advance(
        self, schedule: Schedule, state: State, start: int, length: int
    ) -> State:
        """The state after the updates start, …, start + length - 1."""

    @abc.abstractmethod
    def evaluate(self, schedule: Schedule, state: State) -> State:
        """The state after comparing it with the best so far."""


class One(AbstractTraining):
    """One training with its programs."""

    def __init__(self, work: Work, static: PyTree, rows: Callable | None):
        self.work, self.static, self.rows = work, static, rows

    def advance(self, schedule: Schedule, state: State, start: int, length: int):
        rows = self._rows(start, start + length)
        if not schedule.stepwise:
            return self._call(ONE.advance, state, rows, length)
        for number in range(length):
            now = None if rows is None else rows[number]
            before, state = state, self._call(ONE.update, state, now, 1)
            if number % 16 == 15:
                # not too many updates ahead of the device
                jax.block_until_ready(before.loss)
        return state

    def evaluate(self, schedule: Schedule, state: State) -> State:
        return ONE.evaluate(self.work, self.static, state, schedule.score)

    def _rows(self, start: int, stop: int):
        return None if self.rows is None else jnp.asarray(self.rows(start, stop))

    def _call(self, program: Any, state: State, rows, length: int) -> State:
        return program(self.work, self.static, state, rows, length)


class Several(AbstractTraining):
    """Several trainings in one program, mapped over a leading axis."""

    def __init__(
        self, mapped: PyTree, shared: PyTree, static: PyTree, rows: list | None
    ):
        self.mapped, self.shared, self.static = mapped, shared, static
        self.rows = rows

    def advance(self, schedule: Schedule, state: State, start: int, length: int):
        rows = None
        if self.rows is not None:
            each = [one(start, start + length) for one in self.rows]
            rows = jnp.asarray(np.stack(each))
        if not schedule.stepwise:
            return self._call(SEVERAL.advance, state, rows, length)
        for number in range(length):
            now = None if rows is None else rows[:, number]
            state = self._call(SEVERAL.update, state, now, 1)
        return state

    def evaluate(self, schedule: Schedule, state: State) -> State:
        return self._call(SEVERAL.evaluate, state, None, schedule.score)

    def _call(self, program: Any, state: State, rows, last: Any) -> State:
        return program(self.mapped, self.shared, self.static, state, rows, last)


def run(
    training: AbstractTraining,
    state: State,
    schedule: Schedule,
    *,
    report: Callable[[int, float], None],
    checkpoint: Checkpoint | None,
) -> Progress:
    """Train to the end, or until no network gets better.

    Args:
        training: what is advanced.
        state: where it starts.
        schedule: its parts.
        report: called as report(steps, loss) after each part.
        checkpoint: where the state is kept; read first.
    """
    progress = Progress(state, [])
    if checkpoint is not None:
        progress = _restored(checkpoint, progress)
        if progress.losses:
            report(_done(progress.state), _mean(progress.losses[-1]))
    state, losses = progress
    written = time.monotonic()
    try:
        for length in schedule.lengths(_done(state)):
            if _over(state, schedule.patience):
                break
            state = training.advance(schedule, state, _done(state), length)
            if schedule.patience is not None:
                state = training.evaluate(schedule, state)
            losses = [*losses, np.asarray(state.loss)]
            progress = Progress(state, losses)
            if checkpoint is not None and time.monotonic() - written > SECONDS:
                _write(checkpoint, progress)
                written = time.monotonic()
            report(_done(state), _mean(losses[-1]))
    finally:
        # after an interruption too
        if checkpoint is not None and progress.losses:
            _write(checkpoint, progress)
    return progress


def _mean(loss: np.ndarray) -> float:
    return float(np.mean(loss))


def _done(state: State) -> int:
    return int(np.max(np.asarray(state.step)))


def _over(state: State, patience: int | None) -> bool:
    """Whether there is nothing more to gain."""
    diverged = np.asarray(state.diverged) >= 0
    if patience is None or state.best is None:
        return bool(np.all(diverged))
    waited = np.asarray(state.best.since) >= patience
    return bool(np.all(diverged | waited))


def _write(checkpoint: Checkpoint, progress: Progress) -> None:
    leaves = jax.tree.leaves(eqx.filter(progress.state, eqx.is_array))
    arrays = {f"state {n}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    checkpoint.write({**arrays, "losses": np.stack(progress.losses)})


def _restored(checkpoint: Checkpoint, progress: Progress) -> Progress:
    """The state that was written last, where there is one."""
    found = checkpoint.read()
    if found is None:
        return progress
    arrays, rest = eqx.partition(progress.state, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    names = [f"state {n}" for n in range(len(leaves))]
    fits = set(found) == {*names, "losses"} and all(
        found[name].shape == leaf.shape and found[name].dtype == leaf.dtype
        for name, leaf in zip(names, leaves, strict=True)
    )
    if not fits:
        raise StoreError(
            f"{checkpoint.path}: expected the arrays of this training, came others; "
            "remove the file to begin anew"
        )
    new = jax.tree.unflatten(structure, [jnp.asarray(found[name]) for name in names])
    return Progress(eqx.combine(new, rest), list(map(np.asarray, found["losses"])))

"""Run a strategy over a stream and fill the accuracy matrix, resumably."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.continual.kept import Kept
from ntkuq.continual.learned import Learned
from ntkuq.continual.measures import measured
from ntkuq.continual.results import Results
from ntkuq.continual.strategies.base import AbstractStrategy
from ntkuq.continual.streams import Met, Stream, Task, as_stream
from ntkuq.data import Dataset, digest
from ntkuq.models import BNN, Identity, constructor, parameters


#: Told a line after each task.
Say = Callable[[str], None]


def run(
    strategy: AbstractStrategy,
    bnn: BNN,
    stream: Sequence[Task],
    *,
    seeds: int = 1,
    out: str | Path | None = None,
    say: Say | None = None,
    callback: Callable[[int, float], None] | None = None,
    key: Array,
) -> Results:
    """Learn the tasks of a stream in turn; after each, test on all of them.

    The scaling of the `BNN` is fitted on the first task, as nothing else is known then.
    Seeds differ in initialization, batches and whatever the strategy draws; they learn
    the same tasks and share the machine.

    Args:
        strategy: how a posterior is updated, such as `FineTuning()`.
        bnn: the problem, with a builder; of a multi-head stream its network is
            `multi_head(build, stream.heads)`.
        stream: the tasks in order.
        seeds: how often it is done.
        out: a directory: the state after each task and seed is kept there, and a run
            that was interrupted goes on from it.
        say: told a line after each task.
        callback: told updates and loss while a task is learned.
        key: initializes and trains.

    Returns:
        The accuracy matrix of each seed, calibration, and what follows from them.

    Raises:
        ValueError: for an empty stream or no seed; where a task does not fit the
            network; where an input that varies in a later task is lost because the
            scaling saw it constant in the first.
        StoreError: where `out` holds something else.
        TrainingError: where training diverges.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.continual import FineTuning
    >>> from ntkuq.models import Categorical, Train
    >>> x = np.eye(4, dtype=np.float32)[[0, 1] * 8]
    >>> data = Dataset(x, [0, 1] * 8)
    >>> bnn = BNN(lambda key: eqx.nn.Linear(4, 2, key=key), Categorical())
    >>> strategy = FineTuning(Train(1e-1, steps=20))
    >>> task = Task(0, data, data, name="one")
    >>> run(strategy, bnn, [task], key=jax.random.key(0)).average_accuracy.value
    1.0
    """
    if not len(stream):
        raise ValueError("run: expected at least one task, got an empty stream")
    if seeds < 1:
        raise ValueError(f"run: expected seeds >= 1, got {seeds}")
    tasks = as_stream(stream)
    met = Met(tasks)
    bnn = bnn.prepare(met.task(0).train)
    keys = [jax.random.fold_in(key, seed) for seed in range(seeds)]
    kept = Kept.open(out, strategy, bnn, tasks, key=key)
    tests = []
    for number in range(len(tasks)):
        task = met.task(number)
        _check(bnn, task)
        tests.append(task.test)
    begun = [_begin(strategy, bnn, tests, key=one) for one in keys]
    starts = [parameters(state.bnn.network.trained) for state, _ in begun]
    states: list[Learned] = [state for state, _ in begun]
    rows: list[list[dict]] = [[] for _ in keys]
    seconds = []
    chain = ""
    for number in range(len(tasks)):
        began = time.perf_counter()
        task = met.last(number)
        if kept is not None:
            chain = digest([chain, task.train.fingerprint(), task.test.fingerprint()])
        records = [
            None if kept is None else kept.read(seed, number, chain)
            for seed in range(seeds)
        ]
        missing = [seed for seed in range(seeds) if records[seed] is None]
        if missing:
            for seed in missing:
                if kept is not None and number and states[seed].tasks < number:
                    states[seed] = kept.state(seed, number - 1, bnn)
            found = strategy.update_many(
                [states[seed] for seed in missing],
                task.train,
                callback=callback,
                keys=[jax.random.fold_in(keys[seed], number + 1) for seed in missing],
            )
            trained = time.perf_counter() - began
            for seed, state in zip(missing, found, strict=True):
                states[seed] = state
                record = _record(state, starts[seed], tests, trained)
                records[seed] = record
                if kept is not None:
                    kept.write(seed, number, chain, state, record)
        spent = time.perf_counter() - began
        for seed, record in enumerate(records):
            assert record is not None  # noqa: S101
            rows[seed].append(record)
        seconds.append(max(one[number]["seconds"] for one in rows))
        if say is not None:
            say(_line(tasks, rows, number, spent, seeds - len(missing)))
    names = list(rows[0][0]["measures"])
    return Results(
        measures={
            name: np.array([[r["measures"][name] for r in one] for one in rows], float)
            for name in names
        },
        baseline={
            name: np.array([before[name] for _, before in begun], float)
            for name in names
        },
        tasks=tasks.names,
        setting=tasks.setting,
        strategy=constructor(strategy),
        distance=np.array([[r["distance"] for r in one] for one in rows], float),
        seconds=np.asarray(seconds),
        keeps=rows[0][-1]["keeps"],
    )


def _begin(
    strategy: AbstractStrategy, bnn: BNN, tests: Sequence[Dataset], *, key: Array
) -> tuple[Learned, dict[str, list[float]]]:
    """The state before the first task, and what it knows."""
    state = strategy.init(bnn, key=jax.random.fold_in(key, 0))
    return state, _tested(state, tests)


def _tested(state: Learned, tests: Sequence[Dataset]) -> dict[str, list[float]]:
    found = [measured(state, test) for test in tests]
    return {name: [one[name] for one in found] for name in found[0]}


def _record(
    state: Learned, start: Any, tests: Sequence[Dataset], seconds: float
) -> dict[str, Any]:
    moved = float(_distance(parameters(state.bnn.network.trained), start))
    leaves = [leaf for leaf in jax.tree.leaves(state.memory) if hasattr(leaf, "nbytes")]
    return {
        "measures": _tested(state, tests),
        "distance": moved,
        "seconds": seconds,
        "keeps": int(sum(leaf.nbytes for leaf in leaves)),
    }


@jax.jit
def _distance(now: Any, start: Any) -> Array:
    """Of the parameters from where they started, over the size of these."""

    def norm(tree: Any) -> Array:
        return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))

    return norm(jax.tree.map(jnp.subtract, now, start)) / jnp.maximum(
        norm(start), 1e-30
    )


def _line(tasks: Stream, rows: list, number: int, spent: float, stored: int) -> str:
    """What is known after a task, in a line."""
    measures = rows[0][number]["measures"]
    main = "accuracy" if "accuracy" in measures else "r2"
    values = np.array([one[number]["measures"][main] for one in rows], float)
    met = values[:, : number + 1].mean()
    parts = [
        f"task {number + 1} of {len(tasks)}",
        f"{tasks.names[number]}:",
        f"{main} {values[:, number].mean():.3f}, on tasks so far {met:.3f}",
        f"({spent:.1f} s" + (f", {stored} seeds stored)" if stored else ")"),
    ]
    return " ".join(parts)


def _check(bnn: BNN, task: Task) -> None:
    """The network takes the task, and the scaling keeps what varies in its inputs."""
    name = task.name or str(task.index)
    for part in (task.train, task.test):
        if not len(part):
            raise ValueError(f"run: task {name!r} has no example")
        try:
            bnn.check_outputs(part)
        except ValueError as error:
            raise ValueError(f"run: task {name!r} does not fit: {error}") from error
    if isinstance(bnn.scaling, Identity):
        return
    pairs = zip(
        jax.tree.leaves(task.train.x),
        jax.tree.leaves(bnn.inputs(task.train.x)),
        strict=True,
    )
    for raw, scaled in pairs:
        lost = np.flatnonzero(
            (np.ptp(raw, 0) > 0) & (np.ptp(np.asarray(scaled), 0) == 0)
        )
        if lost.size:
            raise ValueError(
                f"run: {lost.size} input(s) of task {name!r}, the first at position "
                f"{lost[0]}, vary there but were constant in the first task, so the "
                "scaling fitted on it sets them to zero: scale the inputs beforehand "
                "and use scaling=None"
            )

"""`Train`: minimize minus log posterior by an optax optimizer."""

from __future__ import annotations

import dataclasses
import functools as ft
import threading
import warnings
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, Checkpoint, Dataset
from ntkuq.models.bnn import BNN
from ntkuq.models.train.assemble import (
    Ready,
    Recipe,
    divide,
    fitting,
    one_static,
    ready,
    row,
    rows_of,
    stack,
)
from ntkuq.models.train.convolutions import slow_in_loops
from ntkuq.models.train.jobs import Job, Trained, record_of
from ntkuq.models.train.loop import One, Progress, Schedule, Several, run
from ntkuq.models.train.plans import (
    AbstractPlan,
    Gate,
    Threads,
    Vectorized,
    default_plan,
    in_threads,
)
from ntkuq.models.train.problem import Call, Examples, TrainingError, without_noise
from ntkuq.models.train.stop import EarlyStopping
from ntkuq.models.train.stream import Stream, moved


#: Updates where neither steps nor epochs are given.
STEPS = 3_000
#: Share of the memory that networks trained together may take.
MEMORY = 0.25


class Train(eqx.Module):
    """Minimize -1/N [sum_n log p(y_n | f(x_n)) + log p(theta)].

    Args:
        optimizer: an optax transformation, or a number: the peak learning rate of Adam
            with cosine decay to zero over the steps.
        steps: number of updates; 3 000 where `epochs` is not given either.
        batch: examples an update, shuffled anew in every pass; `None` for all of them,
            or of `Batches` for one batch as it comes.
        epochs: passes over the examples, instead of `steps`.
        stop: `EarlyStopping`: keep the best parameters by a validation score.
        clip: largest norm of the gradient over all parameters, larger ones are scaled
            down; `None` for no limit.
        adversarial: train on adversarial examples too, a fast gradient sign step away
            by this share of each input's range (0.01 in the original deep ensembles);
            `None` for none.
        plan: how several networks are trained: `Threads` or `Vectorized`; `None`
            for what suits the device.

    References: Kingma and Ba 2015 (arXiv 1412.6980); Goodfellow, Shlens, Szegedy 2015
        (arXiv 1412.6572).

    >>> Train(1e-2, steps=100).updates(927), Train(epochs=10, batch=100).updates(927)
    (100, 93)
    """

    optimizer: optax.GradientTransformation | float = 1e-2
    steps: int | None = None
    batch: int | None = None
    epochs: int | None = None
    stop: EarlyStopping | None = None
    clip: float | None = None
    adversarial: float | None = None
    plan: AbstractPlan | None = None

    def __check_init__(self):
        if isinstance(self.optimizer, float | int) and not self.optimizer > 0:
            raise ValueError(
                f"Train: expected a learning rate > 0, got {self.optimizer}"
            )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"Train: expected steps or epochs, got both: steps={self.steps}, "
                f"epochs={self.epochs}"
            )
        for name in ("steps", "batch", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Train: expected {name} >= 1, got {name}={value}")
        for name in ("clip", "adversarial"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Train: expected {name} > 0, got {name}={value}")

    def updates(self, size: int) -> int:
        """The number of updates on so many examples, if nothing stops it early."""
        if self.epochs is None:
            return STEPS if self.steps is None else self.steps
        return max(round(self.epochs * size / min(self.batch or size, size)), 1)

    def fit(
        self,
        bnn: BNN,
        model: PyTree,
        data: Dataset | Batches,
        *,
        call: Call = without_noise,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: Checkpoint | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on data in their own units.

        As `attempt`, but a training that diverged is an error.

        Raises:
            TrainingError: when the loss or a parameter is not finite.
            BatchesChanged: when a pass over the batches differs from the first.
        """
        found = self.attempt(
            bnn,
            model,
            data,
            call=call,
            callback=callback,
            checkpoint=checkpoint,
            key=key,
        )
        return _whole(found, self.updates(len(data)))

    def attempt(
        self,
        bnn: BNN,
        model: PyTree,
        data: Dataset | Batches,
        *,
        call: Call = without_noise,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: Checkpoint | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on data in their own units; the result says if it diverged.

        A `Dataset` is moved to the device whole, as `run` takes it. `Batches` are read
        pass after pass in their order, one update a batch, and no more than three of
        them are on the device. With `batch` their rows are regrouped, so that every
        update sees exactly so many; a group may reach into the next pass.

        Args:
            bnn: the prepared problem.
            model: where to start, as in `run`.
            data: all examples.
            call, callback, checkpoint: as in `run`.
            key: chooses the rows of a `Dataset`; `Batches` keep their order.

        Raises:
            BatchesChanged: when a pass over the batches differs from the first.
        """
        # the network's dtype is known once there is one
        bnn = bnn.with_model(model)
        if isinstance(data, Dataset):
            x, y = bnn.inputs(data.x), bnn.targets(data)
            job = Job(bnn, model, x, y, key, call=call)
            return self.run_many([job], callback=callback, checkpoint=checkpoint)[0]
        if self.adversarial is not None or (self.stop and self.stop.data is None):
            raise ValueError(
                "Train: expected a Dataset for adversarial examples, whose size is a "
                "share of the inputs' range, and for EarlyStopping without data=…; got "
                "Batches, which are read one at a time"
            )
        size, one = len(data), data.take_first(1)
        batch = min(self.batch or len(next(iter(data))[1]), size)
        job = Job(bnn, model, bnn.inputs(one.x), bnn.targets(one), key, call=call)
        steps = dataclasses.replace(self, batch=batch).updates(size)
        slow = slow_in_loops(job.model, job.x)
        made = ready(
            job,
            self._recipe()._replace(products=slow),
            steps=steps,
            size=1,
            weighted=False,
            held=self._held(bnn),
        )
        total = jnp.asarray(size, made.state.loss.dtype)
        problem = eqx.tree_at(lambda p: p.size, made.work.problem, total)
        work = made.work._replace(problem=problem)
        stream = Stream(work, made.static, moved(bnn, data, self.batch))
        progress = run(
            stream,
            made.state,
            self._schedule(steps, batch, size, stepwise=True),
            report=callback or _silent,
            checkpoint=checkpoint,
        )
        return self._trained(progress, made.static)

    def run(
        self,
        bnn: BNN,
        model: PyTree,
        x: PyTree,
        y: PyTree,
        *,
        call: Call = without_noise,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: Checkpoint | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on scaled inputs x (N, …) and targets y.

        Args:
            bnn: gives likelihood and prior.
            model: where to start; the network is called as `model(x)` and without a
                key, so that layers that need one (dropout) must be off.
            x, y: `bnn.inputs` and `bnn.targets`.
            call: another forward pass of one example, such as `with_dropout`.
            callback: called as `callback(steps, loss)` on the host after each tenth
                of the steps.
            checkpoint: where the state is kept while it runs; where it is found the
                training goes on from it, with the same result.
            key: chooses the batches.

        Raises:
            TrainingError: when the loss or a parameter is not finite.
        """
        job = Job(bnn, model, x, y, key, call=call)
        (found,) = self.run_many([job], callback=callback, checkpoint=checkpoint)
        return _whole(found, self.updates(_size(job)))

    def run_many(
        self,
        jobs: Sequence[Job],
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[Trained]:
        """Train several networks of one architecture, as `plan` says.

        They may differ in everything that is a number: data (smaller sets are padded),
        prior, likelihood, start, batches. One program is compiled for all.

        Args:
            jobs: what to train. The number of updates is that of the largest data set.
            callback: called as `callback(steps, loss)`, steps counted over all jobs.
            checkpoint: as in `run`; each network has its own file beside it.

        Returns:
            The networks in the order of the jobs. One that diverged says so and the
            others are not touched.
        """
        if not jobs:
            raise ValueError("Train.run_many: expected at least one job, got none")
        size = max(map(_size, jobs))
        steps = self.updates(size)
        stepwise = slow_in_loops(jobs[0].model, jobs[0].x)
        plan = self.plan or default_plan()
        alone = len(jobs) == 1 or not isinstance(plan, Vectorized)
        recipe = self._recipe()._replace(products=stepwise and alone)
        batch = None if self.batch is None or self.batch >= size else self.batch
        parted = self.stop is not None and self.stop.data is None
        uneven = any(job.counts is not None or _size(job) < size for job in jobs)
        all_ready = [
            ready(
                job,
                recipe,
                steps=steps,
                size=size,
                weighted=batch is None and (parted or uneven),
                held=self._held(job.bnn),
            )
            for job in jobs
        ]
        statics = one_static([each.static for each in all_ready])
        all_ready = [
            each._replace(static=static)
            for each, static in zip(all_ready, statics, strict=True)
        ]
        schedule = self._schedule(steps, batch, size, stepwise=stepwise)
        rows = None
        if batch is not None:
            rows = [
                rows_of(job, each.counts, batch)
                for job, each in zip(jobs, all_ready, strict=True)
            ]
        report = _Total(callback, len(jobs))
        if isinstance(plan, Vectorized) and not alone:
            chunk = plan.chunk or _chunk(jobs, batch or size)
            return self._together(
                all_ready, rows, schedule, chunk, report=report, checkpoint=checkpoint
            )
        workers = plan.workers if isinstance(plan, Threads) else 1

        def task(number: int, gate: Gate) -> Trained:
            each = all_ready[number]

            def heard(done: int, loss: float) -> None:
                gate.ready.set()
                gate.check()
                report(number, done, loss)

            now = None if rows is None else rows[number]
            progress = run(
                One(each.work, each.static, now),
                each.state,
                schedule,
                report=heard,
                checkpoint=numbered(checkpoint, number, len(jobs)),
            )
            return self._trained(progress, each.static)

        return in_threads(task, len(jobs), workers)

    def _together(
        self,
        all_ready: Sequence[Ready],
        rows: list | None,
        schedule: Schedule,
        chunk: int,
        *,
        report: _Total,
        checkpoint: Checkpoint | None,
    ) -> list[Trained]:
        """All networks of a chunk in one program."""
        found: list[Trained] = []
        for start in range(0, len(all_ready), chunk):
            numbers = range(start, min(start + chunk, len(all_ready)))
            # the last chunk as large as the others, so that nothing compiles anew
            filled = [*numbers, *[start] * (min(chunk, len(all_ready)) - len(numbers))]
            each = [all_ready[number] for number in filled]
            mapped, shared = divide([one.work for one in each])
            arrays, fixed = eqx.partition([one.static for one in each], eqx.is_array)
            static_mapped, static_shared = divide(arrays)
            training = Several(
                _sharded((mapped, static_mapped)),
                (shared, static_shared),
                fixed[0],
                None if rows is None else [rows[number] for number in filled],
            )
            progress = run(
                training,
                _sharded(stack([one.state for one in each])),
                schedule,
                report=ft.partial(report.several, numbers),
                checkpoint=numbered(checkpoint, start, len(all_ready)),
            )
            for place, one in enumerate(each[: len(numbers)]):
                single = Progress(
                    row(progress.state, place),
                    [losses[place] for losses in progress.losses],
                )
                found.append(self._trained(single, one.static))
        return found

    def _recipe(self) -> Recipe:
        number = isinstance(self.optimizer, float | int)
        return Recipe(
            rate=float(self.optimizer) if number else None,  # pyright: ignore[reportArgumentType]
            optimizer=None if number else self.optimizer,
            clip=self.clip,
            adversarial=self.adversarial,
            stop=self.stop,
        )

    def _held(self, bnn: BNN) -> Examples | None:
        """Validation data of the user's, scaled."""
        if self.stop is None or self.stop.data is None:
            return None
        data = self.stop.data
        return Examples(bnn.inputs(data.x), bnn.targets(data))

    def _schedule(
        self, steps: int, batch: int | None, size: int, *, stepwise: bool
    ) -> Schedule:
        if self.stop is None:
            return Schedule(steps, max(steps // 10, 1), stepwise=stepwise)
        return Schedule(
            steps,
            self.stop.interval(steps, batch, size),
            self.stop.patience,
            stepwise,
            self.stop.score,
        )

    def _trained(self, progress: Progress, static: PyTree) -> Trained:
        state = progress.state
        params, steps, score = state.carry.parameters, int(state.step), None
        if state.best is not None:
            params, steps = state.best.parameters, int(state.best.step)
            score = float(state.best.score)
        diverged = int(state.diverged)
        # what was best before a divergence is still good
        lost = diverged >= 0 and not (score is not None and np.isfinite(score))
        record = record_of(state.carry.optimizer)
        note = None if record is None or lost else record.note()
        if note is not None:
            warnings.warn(f"Train: {note}", stacklevel=2)
        return Trained(
            eqx.combine(params, static),
            np.asarray(progress.losses),
            steps,
            diverged if lost else None,
            score,
            record,
        )


def numbered(
    checkpoint: Checkpoint | None, number: int, count: int
) -> Checkpoint | None:
    """The checkpoint of one of several computations, in a file of its own."""
    if checkpoint is None or count == 1:
        return checkpoint
    path = checkpoint.path
    return Checkpoint(
        path.with_name(f"{path.stem}-{number}{path.suffix}"),
        f"{checkpoint.identity} {number}",
    )


class _Total:
    """Counts updates over all jobs; `callback` is called by one thread at a time."""

    def __init__(self, callback: Callable[[int, float], None] | None, count: int):
        self.callback, self.done = callback, [0] * count
        self.lock = threading.Lock()

    def __call__(self, number: int, done: int, loss: float) -> None:
        with self.lock:
            self.done[number] = done
            if self.callback is not None:
                self.callback(sum(self.done), loss)

    def several(self, numbers: range, done: int, loss: float) -> None:
        """All of some jobs have come so far."""
        with self.lock:
            for number in numbers:
                self.done[number] = done
            if self.callback is not None:
                self.callback(sum(self.done), loss)


def _silent(steps: int, loss: float) -> None:
    del steps, loss


def _whole(found: Trained, steps: int) -> Trained:
    if found.diverged is not None:
        raise TrainingError(diverged(found.diverged, steps))
    return found


def diverged(step: int, steps: int) -> str:
    """What to say of a training that diverged."""
    return (
        "training diverged: the loss or a parameter is not finite after "
        f"step {step} of {steps}; lower the learning rate, or check "
        "the scaling of inputs and targets"
    )


def _size(job: Job) -> int:
    return jax.tree.leaves(job.x)[0].shape[0]


def _chunk(jobs: Sequence[Job], batch: int) -> int:
    """How many networks of these fit into the memory at a time."""
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit", 8 * 2**30)
    devices = len(jax.devices())
    found = devices * fitting(jobs[0], batch, MEMORY * limit, count=len(jobs))
    return min(found, len(jobs))


def _sharded(tree: PyTree) -> PyTree:
    """Arrays with their leading axis divided among the devices, where that works."""
    devices = jax.devices()
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    if len(devices) == 1 or not leaves or leaves[0].shape[0] % len(devices):
        return tree
    mesh = jax.sharding.Mesh(np.asarray(devices), ("networks",))
    spec = jax.sharding.PartitionSpec("networks")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, sharding), rest)

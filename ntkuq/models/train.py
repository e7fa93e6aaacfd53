"""The training loop: minimize minus log posterior by an optax optimizer."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, Dataset
from ntkuq.models.bnn import BNN
from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.models.network import cast, forward, parameters, trainable
from ntkuq.models.priors import AbstractPrior


class TrainingError(FloatingPointError):
    """Training diverged: the loss or a parameter is not finite."""


class Trained(NamedTuple):
    """A trained module and the mean loss after each tenth of the steps."""

    model: PyTree
    losses: np.ndarray


def _cosine(peak: float, steps: int) -> Callable[[Any], Array]:
    """The learning rate after a number of steps: from `peak` to zero."""

    def rate(count: Any) -> Array:
        share = jnp.minimum(jnp.asarray(count, jnp.float32) / steps, 1.0)
        return 0.5 * peak * (1.0 + jnp.cos(jnp.pi * share))

    return rate


class Train(eqx.Module):
    """Minimize -1/N [sum_n log p(y_n | f(x_n)) + log p(theta)].

    Args:
        optimizer: an optax transformation, or a number: the peak learning rate of Adam
            with cosine decay to zero over the steps.
        steps: number of updates.
        batch: examples an update; `None` for all of them, or of `Batches` for one batch
            as it comes.

    >>> Train(1e-2, steps=100).steps
    100
    """

    optimizer: optax.GradientTransformation | float = 1e-2
    steps: int = 3_000
    batch: int | None = None

    def __check_init__(self):
        if isinstance(self.optimizer, float | int) and not self.optimizer > 0:
            raise ValueError(
                f"Train: expected a learning rate > 0, got {self.optimizer}"
            )
        if self.steps < 1 or (self.batch is not None and self.batch < 1):
            raise ValueError(
                f"Train: expected steps >= 1 and batch >= 1, got steps={self.steps}, "
                f"batch={self.batch}"
            )

    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation."""
        if isinstance(self.optimizer, float | int):
            return optax.adam(_cosine(self.optimizer, self.steps))
        return self.optimizer

    def fit(
        self,
        bnn: BNN,
        model: PyTree,
        data: Dataset | Batches,
        *,
        callback: Callable[[int, float], None] | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on data in their own units.

        A `Dataset` is moved to the device whole, as `run` takes it. `Batches` are read
        pass after pass in their order, one update a batch, and no more than three of
        them are on the device. With `batch` their rows are regrouped, so that every
        update sees exactly so many; a group may reach into the next pass.

        Args:
            bnn: the prepared problem.
            model: where to start, as in `run`.
            data: all examples.
            callback: as in `run`.
            key: chooses the rows of a `Dataset`; `Batches` keep their order.

        Raises:
            TrainingError: when the loss or a parameter is not finite.
            BatchesChanged: when a pass over the batches differs from the first.
        """
        # the network's dtype is known once there is one
        bnn = bnn.with_model(model)
        if isinstance(data, Dataset):
            x, y = bnn.inputs(data.x), bnn.targets(data)
            return self.run(bnn, model, x, y, callback=callback, key=key)
        problem = _Problem.of(self, bnn, model, len(data))
        steps = _Steps(problem, _moved(bnn, data, self.batch))
        return self._loop(steps, model, callback)

    def run(
        self,
        bnn: BNN,
        model: PyTree,
        x: PyTree,
        y: PyTree,
        *,
        callback: Callable[[int, float], None] | None = None,
        key: Array,
    ) -> Trained:
        """Train `model` on scaled inputs x (N, …) and targets y.

        Args:
            bnn: gives likelihood and prior.
            model: where to start; the network is called as `model(x)` and without a
                key, so that layers that need one (dropout) must be off.
            x, y: `bnn.inputs` and `bnn.targets`.
            callback: called as `callback(steps, loss)` on the host after each tenth
                of the steps.
            key: chooses the batches.

        Raises:
            TrainingError: when the loss or a parameter is not finite.
        """
        size = jax.tree.leaves(x)[0].shape[0]
        batch = None if self.batch is None or self.batch >= size else self.batch
        problem = _Problem.of(self, bnn, model, size)
        keys = _keys(key)
        if _slow_in_loops(model, x):
            every = itertools.chain.from_iterable(
                jax.random.split(now, length)
                for now, length in zip(keys, self._lengths(), strict=False)
            )
            batches = (_rows(x, y, batch, size, now) for now in every)
            return self._loop(_Steps(problem, batches), model, callback)

        def advance(carry: _Carry, length: int) -> tuple[_Carry, Array, Array]:
            return _chunk(problem, length, batch, carry, x, y, next(keys))

        return self._loop(advance, model, callback)

    def _lengths(self) -> Iterator[int]:
        """Steps between reports: tenths, of which the last takes what is left."""
        chunk, done = max(self.steps // 10, 1), 0
        while done < self.steps:
            # so that at most two lengths compile
            length = chunk if self.steps - done >= 2 * chunk else self.steps - done
            yield length
            done += length

    def _loop(
        self,
        advance: Callable[[_Carry, int], tuple[_Carry, Array, Any]],
        model: PyTree,
        callback: Callable[[int, float], None] | None,
    ) -> Trained:
        carry = _Carry(model, self.transformation().init(parameters(model)))
        losses, done = [], 0
        for length in self._lengths():
            carry, loss, finite = advance(carry, length)
            finite = np.asarray(finite)
            if not finite.all():
                step = done + int(np.argmin(finite)) + 1
                raise TrainingError(
                    "training diverged: the loss or a parameter is not finite after "
                    f"step {step} of {self.steps}; lower the learning rate, or check "
                    "the scaling of inputs and targets"
                )
            done += length
            losses.append(float(loss))
            if callback is not None:
                callback(done, losses[-1])
        return Trained(carry.model, np.asarray(losses))


class _Carry(NamedTuple):
    """What changes from step to step."""

    model: PyTree
    state: PyTree


class _Problem(eqx.Module):
    """What stays: the loss -1/N [sum_n log p(y_n | f_n) + log p(theta)]."""

    train: Train
    likelihood: AbstractLikelihood
    prior: AbstractPrior
    size: int = eqx.field(static=True)

    @staticmethod
    def of(train: Train, bnn: BNN, model: PyTree, size: int) -> _Problem:
        dtype = jax.tree.leaves(parameters(model))[0].dtype
        likelihood = as_arrays(bnn.likelihood, dtype)
        return _Problem(train, likelihood, as_arrays(bnn.prior, dtype), size)

    def loss(self, params: PyTree, static: PyTree, x: PyTree, y: PyTree) -> Array:
        model = eqx.combine(params, static)
        fit = log_likelihoods(self.likelihood, model, x, y)
        return -jnp.mean(fit) - self.prior.log_prob(params) / self.size

    def step(
        self, carry: _Carry, static: PyTree, x: PyTree, y: PyTree
    ) -> tuple[_Carry, tuple[Array, Array]]:
        """One update of the parameters (`carry.model` without the static part)."""
        params, state = carry
        loss, grad = jax.value_and_grad(self.loss)(params, static, x, y)
        # optax's schedules rely on the standard rules of promotion
        with jax.numpy_dtype_promotion("standard"):
            updates, state = self.train.transformation().update(grad, state, params)
        params = optax.apply_updates(params, updates)
        size_now = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))
        finite = jnp.isfinite(loss) & jnp.isfinite(size_now)
        return _Carry(params, state), (loss, finite)


@eqx.filter_jit
def _chunk(problem, length, batch, carry, x, y, key):
    """`length` steps in one loop on the device."""
    params, static = eqx.partition(carry.model, trainable(carry.model))

    def step(carry, key):
        rows = (x, y) if batch is None else _pick(x, y, batch, problem.size, key)
        return problem.step(carry, static, *rows)

    carry, (losses, finite) = jax.lax.scan(
        step, _Carry(params, carry.state), jax.random.split(key, length)
    )
    return _Carry(eqx.combine(carry.model, static), carry.state), losses[-1], finite


class _Steps:
    """One step for each batch, called from the host."""

    def __init__(self, problem: _Problem, batches: Iterator[tuple[PyTree, PyTree]]):
        self.problem, self.batches = problem, batches

    def __call__(self, carry: _Carry, length: int) -> tuple[_Carry, Array, np.ndarray]:
        loss, finite, waiting = jnp.zeros(()), [], deque()
        for x, y in itertools.islice(self.batches, length):
            carry, loss, now = _step(self.problem, carry, x, y)
            waiting.append(now)
            # no more than two steps wait: their batches take memory on the device
            if len(waiting) > 2:
                finite.append(bool(waiting.popleft()))
        return carry, loss, np.asarray([*finite, *map(bool, waiting)])


@eqx.filter_jit
def _step(problem, carry, x, y):
    params, static = eqx.partition(carry.model, trainable(carry.model))
    carry, (loss, finite) = problem.step(_Carry(params, carry.state), static, x, y)
    return _Carry(eqx.combine(carry.model, static), carry.state), loss, finite


def _moved(
    bnn: BNN, data: Batches, batch: int | None
) -> Iterator[tuple[PyTree, PyTree]]:
    """Batches without end, scaled and on the device."""
    # traces the network, which takes longer than a small step: once is enough, since
    # all rows have one shape
    types = jax.tree.map(lambda leaf: leaf.dtype, bnn.inputs(data.take_first(1).x))
    for x, y in data.cycle(None if batch is None else min(batch, len(data))):
        yield (
            jax.tree.map(jnp.asarray, bnn.scaling.inputs(x), types),
            bnn.targets(Dataset(x, y)),
        )


def _keys(key: Array) -> Iterator[Array]:
    """A key for each chunk of steps."""
    while True:
        key, now = jax.random.split(key)
        yield now


def _rows(x, y, batch, size, key):
    """The rows of one step, the same that `_chunk` picks."""
    return (x, y) if batch is None else _picked(x, y, batch, size, key)


def _pick(x, y, batch, size, key):
    rows = jax.random.randint(key, (batch,), 0, size)
    return jax.tree.map(lambda a: a[rows], (x, y))


_picked = eqx.filter_jit(_pick)


def _slow_in_loops(model: PyTree, x: PyTree) -> bool:
    """Whether a loop on the device would cost more than one call for each step.

    On a CPU, XLA runs convolutions inside a loop without threads.
    """
    # the kernel of a convolution has three axes or more; looking further takes a trace
    flat = all(leaf.ndim < 3 for leaf in jax.tree.leaves(parameters(model)))
    if flat or jax.default_backend() != "cpu":
        return False
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    program, *_ = eqx.filter_make_jaxpr(forward)(model, example)
    return "conv_general_dilated" in str(program)


def as_arrays[Tree](module: Tree, dtype: DTypeLike | None = None) -> Tree:
    """The module with its numbers as arrays: a new value does not compile anew.

    Args:
        module: a likelihood or prior.
        dtype: floating-point type of the arrays; `None` for the default.

    >>> from ntkuq.models import NormalPrior
    >>> as_arrays(NormalPrior(2.0)).precision.shape
    ()
    """
    dtype = np.dtype(dtype or jnp.zeros(()).dtype)
    real = jax.tree.map(lambda a: np.float64(a) if isinstance(a, float) else a, module)
    return cast(real, dtype)


def log_likelihoods(
    likelihood: AbstractLikelihood, model: PyTree, x: PyTree, y: PyTree
) -> Float[Array, " N"]:
    """log p(y_n | f(x_n)) of each example."""
    return jax.vmap(lambda a, b: likelihood.log_prob(forward(model, a), b))(x, y)

"""Replay of kept examples, with their labels or with the outputs they had."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining, Seen
from ntkuq.continual.strategies.ewc import need_strength
from ntkuq.continual.strategies.memory import AbstractSelection, Buffer, RandomPoints
from ntkuq.models import Train, forward
from ntkuq.models.train import AbstractPenalty, Job


class Rehearsal(AbstractPenalty):
    r"""$\beta\, \ell(y, f(x)) + \tfrac{\alpha}{C} \|f(x) - z\|^2$, means over batches.

    Two batches are drawn from the memory, one for each term.

    Args:
        buffer: examples with the outputs z that they had.
        labels, outputs: β and α.
        batch: examples of each draw.
    """

    buffer: Buffer
    labels: Float[Array, ""]
    outputs: Float[Array, ""]
    batch: int = eqx.field(static=True)

    def __call__(self, model, at):
        one, two = jax.random.split(at.key)
        x, y, _ = self.buffer.draw(self.batch, key=one)

        def loss(a: PyTree, b: PyTree) -> Array:
            return -at.likelihood.log_prob(forward(model, a), b)

        value = self.labels * jnp.mean(jax.vmap(loss)(x, y))
        if self.buffer.extra is not None:
            x, _, z = self.buffer.draw(self.batch, key=two)
            found = jax.vmap(lambda a: forward(model, a))(x)
            value = value + self.outputs * jnp.mean((found - z) ** 2)
        return value * self.buffer.any.astype(value.dtype)


class Replay(AbstractTraining):
    r"""Every update sees a batch of kept examples beside the new ones.

    The loss is the mean over the batch of the task plus β times the mean over a batch
    from the memory, with the labels that were kept.

    Args:
        memory: what is kept of each task.
        weight: β.
        batch: examples from the memory an update.
        train: how to train on one task.

    References: Ratcliff 1990; Chaudhry et al. 2019 (arXiv 1902.10486).

    >>> Replay(memory=RandomPoints(20)).memory.points
    20
    """

    memory: AbstractSelection = RandomPoints()
    weight: float = 1.0
    batch: int = 64
    train: Train = Train()

    def __check_init__(self):
        need_strength("Replay", self.weight)
        need_batch("Replay", self.batch)

    def job(self, state, seen, *, key):
        dtype = seen.bnn.dtype
        buffer = state.memory
        if buffer is None:
            buffer = Buffer.like(seen.x, seen.y, None, self.memory.points)
        weight = jnp.asarray(self.weight, dtype)
        penalty = Rehearsal(buffer, weight, jnp.zeros((), dtype), self.batch)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        buffer = kept(state, seen, self.memory, None, key=key)
        return Learned.of(point(seen.bnn, trained.losses), buffer, state.tasks + 1)


class DarkReplay(AbstractTraining):
    r"""DER++: kept examples with their labels, and with the outputs they had.

    $\alpha \|f(x) - z\|^2 / C + \beta\, \ell(y, f(x))$ is added, each term over a batch
    of its own from the memory, with z the network's outputs when the example was kept:
    at the end of its task (as published, during it).

    Args:
        memory: what is kept of each task.
        outputs, labels: α and β; β = 0 is DER.
        batch: examples from the memory an update and term.
        train: how to train on one task.

    References: Buzzega et al. 2020 (arXiv 2004.07211).

    >>> DarkReplay(outputs=0.5).outputs
    0.5
    """

    memory: AbstractSelection = RandomPoints()
    outputs: float = 0.5
    labels: float = 0.5
    batch: int = 64
    train: Train = Train()

    def __check_init__(self):
        need_strength("DarkReplay", min(self.outputs, self.labels))
        need_batch("DarkReplay", self.batch)

    def job(self, state, seen, *, key):
        dtype = seen.bnn.dtype
        buffer = state.memory
        if buffer is None:
            one = jax.tree.map(lambda a: a[:1], seen.x)
            outputs = outputs_of(seen.bnn.model, one)
            buffer = Buffer.like(seen.x, seen.y, outputs, self.memory.points)
        labels, outputs = (jnp.asarray(w, dtype) for w in (self.labels, self.outputs))
        penalty = Rehearsal(buffer, labels, outputs, self.batch)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, penalty=penalty)

    def learned(self, state, seen, trained, *, key):
        buffer = kept(state, seen, self.memory, outputs_of, key=key)
        return Learned.of(point(seen.bnn, trained.losses), buffer, state.tasks + 1)


@eqx.filter_jit
def outputs_of(model: PyTree, x: PyTree) -> Float[Array, "N C"]:
    """The network's outputs for inputs (N, …)."""
    return jax.lax.map(lambda a: forward(model, a), x, batch_size=1024)


def kept(
    state: Learned, seen: Seen, memory: AbstractSelection, extra, *, key: Array
) -> Buffer:
    """The buffer with the examples of this task that are kept."""
    rows = memory.rows(seen, key=jax.random.fold_in(key, 1))
    x, y = jax.tree.map(lambda a: a[rows], (seen.x, seen.y))
    more = None if extra is None else extra(seen.bnn.model, x)
    buffer = state.memory
    if buffer is None:
        buffer = Buffer.like(x, y, more, memory.points)
    return buffer.plus(x, y, more)


def need_batch(name: str, batch: int) -> None:
    """Raise `ValueError` for a batch of less than one example."""
    if batch < 1:
        raise ValueError(f"{name}: expected batch >= 1, got {batch}")

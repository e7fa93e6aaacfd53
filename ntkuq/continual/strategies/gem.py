"""A-GEM: no update that would raise the loss of the memory."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining
from ntkuq.continual.strategies.memory import AbstractSelection, Buffer, RandomPoints
from ntkuq.continual.strategies.replay import kept, need_batch
from ntkuq.models import Train, forward
from ntkuq.models.train import AbstractWrapper, Given, Job


class Guard(AbstractWrapper):
    r"""Projects gradients that point against that of the memory.

    $g \leftarrow g - \frac{g^T r}{r^T r} r$ where $g^T r < 0$, with r the gradient of
    the mean loss over a batch from the memory.

    Args:
        buffer: the memory.
        key: draws the batches.
        batch: examples of each.
    """

    buffer: Buffer
    key: Array
    batch: int = eqx.field(static=True)

    def __call__(self, optimizer):
        begin: Any = eqx.Partial(_begin, optimizer)
        step: Any = eqx.Partial(_guarded, self, optimizer)
        return optax.GradientTransformationExtraArgs(begin, step)


def _begin(optimizer: Any, params: PyTree) -> tuple:
    return optimizer.init(params), jnp.asarray(0, jnp.int32)


def _guarded(guard: Guard, optimizer: Any, updates, state, params=None, **extra):
    inner, count = state
    given: Given = extra["problem"]
    now = jax.random.fold_in(guard.key, count)
    x, y, _ = guard.buffer.draw(guard.batch, key=now)

    def loss(parameters: PyTree) -> Array:
        model = eqx.combine(parameters, given.model)
        each = jax.vmap(lambda a, b: given.likelihood.log_prob(forward(model, a), b))
        return -jnp.mean(each(x, y))

    reference = jax.grad(loss)(params)
    along = _dot(updates, reference)
    size = _dot(reference, reference)
    share = jnp.minimum(along, 0.0) / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    share = share * guard.buffer.any.astype(share.dtype)
    grad = jax.tree.map(lambda g, r: g - share * r, updates, reference)
    updates, inner = optimizer.update(grad, inner, params, **(extra | {"grad": grad}))
    return updates, (inner, count + 1)


def _dot(one: PyTree, two: PyTree) -> Array:
    parts = jax.tree.map(jnp.vdot, one, two)
    return jax.tree.reduce(jnp.add, parts)


class AGEM(AbstractTraining):
    r"""Averaged gradient episodic memory: updates that do not harm the memory.

    Where the gradient points against that of a batch of kept examples, its part along
    that gradient is taken out.

    Args:
        memory: what is kept of each task.
        batch: examples from the memory an update.
        train: how to train on one task.

    References: Chaudhry et al. 2019 (arXiv 1812.00420).

    >>> AGEM(batch=256).batch
    256
    """

    memory: AbstractSelection = RandomPoints()
    batch: int = 128
    train: Train = Train()

    def __check_init__(self):
        need_batch("AGEM", self.batch)

    def job(self, state, seen, *, key):
        buffer = state.memory
        if buffer is None:
            buffer = Buffer.like(seen.x, seen.y, None, self.memory.points)
        guard = Guard(buffer, jax.random.fold_in(key, 2), self.batch)
        return Job(seen.bnn, seen.model, seen.x, seen.y, key, wrapper=guard)

    def learned(self, state, seen, trained, *, key):
        buffer = kept(state, seen, self.memory, None, key=key)
        return Learned.of(point(seen.bnn, trained.losses), buffer, state.tasks + 1)

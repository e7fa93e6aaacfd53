"""Nothing against forgetting, and everything: the two ends of every table."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.base import AbstractTraining
from ntkuq.models import Train
from ntkuq.models.train import Job


class FineTuning(AbstractTraining):
    """Go on training on each new task, with nothing done against forgetting.

    Minimizes the minus log posterior of the new data alone, starting from the weights
    that the last task left; the prior stays that of the `BNN`, centered at zero. The
    baseline that every other strategy has to beat.

    Args:
        train: how to train on one task; the optimizer starts afresh.

    >>> FineTuning(Train(1e-2, steps=100)).train.steps
    100
    """

    train: Train = Train()

    def job(self, state, seen, *, key):
        return Job(seen.bnn, seen.model, seen.x, seen.y, key)

    def learned(self, state, seen, trained, *, key):
        return Learned.of(point(seen.bnn, trained.losses), None, state.tasks + 1)


class Joint(AbstractTraining):
    """Train on the data of all tasks so far: the upper bound.

    All data are kept. Training starts from the weights that the last task left; with
    `Train(epochs=…)` the number of updates grows with the data.

    Args:
        train: how to train on all data so far.

    >>> Joint(Train(epochs=1, batch=32)).train.epochs
    1
    """

    train: Train = Train()

    def job(self, state, seen, *, key):
        x, y = seen.x, seen.y
        if state.memory is not None:
            x, y = jax.tree.map(
                lambda old, new: jnp.concatenate([old, new]), state.memory, (x, y)
            )
        return Job(seen.bnn, seen.model, x, y, key)

    def learned(self, state, seen, trained, *, key):
        kept = (seen.x, seen.y)
        if state.memory is not None:
            kept = jax.tree.map(
                lambda old, new: jnp.concatenate([old, new]), state.memory, kept
            )
        return Learned.of(point(seen.bnn, trained.losses), kept, state.tasks + 1)

"""Training on a task in rounds, until it is fitted."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import AbstractStrategy
from ntkuq.continual.strategies.finetuning import FineTuning
from ntkuq.data import Dataset
from ntkuq.models import Train, forward


class UntilFitted(AbstractStrategy):
    """Fine-tuning in rounds until a task's training accuracy is reached.

    What forgetting is like when training is *not* stopped early. The optimizer starts
    afresh in each round: for plain gradient descent nothing is lost by that.

    Args:
        train: one round, such as one epoch.
        accuracy: on the training data of the task, from 0 to 1.
        most: rounds at most.

    Raises:
        ValueError: for another accuracy, or fewer than one round.
        TypeError: for a likelihood without classes.

    >>> UntilFitted(Train(epochs=1), accuracy=0.999, most=40).most
    40
    """

    train: Train
    accuracy: float = 0.999
    most: int = 40

    def __check_init__(self):
        if not 0 < self.accuracy <= 1 or self.most < 1:
            raise ValueError(
                "UntilFitted: expected accuracy above 0 up to 1 and most >= 1, got "
                f"{self.accuracy} and {self.most}"
            )

    def update_many(self, states, data, *, callback=None, keys):
        if not states[0].bnn.likelihood.classes:
            raise TypeError(
                "UntilFitted: expected a likelihood of classes, got "
                f"{type(states[0].bnn.likelihood).__name__}, without an accuracy"
            )
        inner, now = FineTuning(self.train), list(states)
        left = list(range(len(now)))
        for number in range(self.most):
            found = inner.update_many(
                [now[n] for n in left],
                data,
                callback=callback,
                keys=[jax.random.fold_in(keys[n], number) for n in left],
            )
            for n, state in zip(left, found, strict=True):
                now[n] = state
            left = [n for n in left if training_accuracy(now[n], data) < self.accuracy]
            if not left:
                break
        return [
            Learned.of(state.posterior, None, before.tasks + 1)
            for state, before in zip(now, states, strict=True)
        ]


def training_accuracy(state: Learned, data: Dataset) -> float:
    """The share of these data whose label has the largest output."""
    bnn = state.bnn
    return float(
        np.mean(
            np.asarray(_labels(bnn.model, bnn.inputs(data.x))) == np.asarray(data.y)
        )
    )


@eqx.filter_jit
def _labels(model: PyTree, x: PyTree) -> Array:
    return jax.vmap(lambda a: jnp.argmax(forward(model, a)))(x)

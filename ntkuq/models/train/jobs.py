"""One training among several, and what comes out of it."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.models.bnn import BNN
from ntkuq.models.train.problem import (
    AbstractPenalty,
    AbstractWrapper,
    Call,
    without_noise,
)


class Job(eqx.Module):
    """One training: where it starts, on what, and towards what the prior pulls.

    Args:
        bnn: the prepared problem; gives likelihood and prior.
        model: where to start.
        x, y: `bnn.inputs` and `bnn.targets`, leading axis N.
        key: chooses the batches and the examples that are held out.
        center: the mean of the prior, like the parameters of `model`; `None` for zero.
        counts: how often each example counts, (N,) whole numbers; `None` for once.
        penalty: what is added to the loss.
        wrapper: an optimizer around that of the training.
        call: the forward pass of one example, call(model, x, key).
    """

    bnn: BNN
    model: PyTree
    x: PyTree
    y: PyTree
    key: Array
    center: PyTree | None = None
    counts: np.ndarray | None = None
    penalty: AbstractPenalty | None = None
    wrapper: AbstractWrapper | None = None
    call: Call = eqx.field(static=True, default=without_noise)


class AbstractRecord(eqx.Module):
    """A part of an optimizer's state that a training hands back when it ends."""

    @abc.abstractmethod
    def note(self) -> str | None:
        """What a user has to know about the training; `None` for nothing."""


class Trained(NamedTuple):
    """A trained module and how the training went.

    Args:
        model: with the last parameters, or with `EarlyStopping` the best.
        losses: the loss after each part of the training (a tenth, or an evaluation).
        steps: updates until `model`.
        diverged: after which update the loss or a parameter was not finite; `None`
            where all were.
        score: the best validation score with `EarlyStopping`.
        record: the part of the optimizer's last state that is an `AbstractRecord`;
            `None` for optimizers without one.
    """

    model: PyTree
    losses: np.ndarray
    steps: int
    diverged: int | None = None
    score: float | None = None
    record: AbstractRecord | None = None


def record_of(optimizer: PyTree) -> AbstractRecord | None:
    """The record in the state of an optimizer, where there is one."""

    def is_record(node: PyTree) -> bool:
        return isinstance(node, AbstractRecord)

    parts = jax.tree.leaves(optimizer, is_leaf=is_record)
    return next(filter(is_record, parts), None)

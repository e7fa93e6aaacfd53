"""One training among several, and what comes out of it."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.models.bnn import BNN
from ntkuq.models.train.problem import Call, without_noise


class Job(eqx.Module):
    """One training: where it starts, on what, and towards what the prior pulls.

    Args:
        bnn: the prepared problem; gives likelihood and prior.
        model: where to start.
        x, y: `bnn.inputs` and `bnn.targets`, leading axis N.
        key: chooses the batches and the examples that are held out.
        center: the mean of the prior, like the parameters of `model`; `None` for zero.
        counts: how often each example counts, (N,) whole numbers; `None` for once.
        call: the forward pass of one example, call(model, x, key).
    """

    bnn: BNN
    model: PyTree
    x: PyTree
    y: PyTree
    key: Array
    center: PyTree | None = None
    counts: np.ndarray | None = None
    call: Call = eqx.field(static=True, default=without_noise)


class Trained(NamedTuple):
    """A trained module and how the training went.

    Args:
        model: with the last parameters, or with `EarlyStopping` the best.
        losses: the loss after each part of the training (a tenth, or an evaluation).
        steps: updates until `model`.
        diverged: after which update the loss or a parameter was not finite; `None`
            where all were.
        score: the best validation score with `EarlyStopping`.
    """

    model: PyTree
    losses: np.ndarray
    steps: int
    diverged: int | None = None
    score: float | None = None

"""The state of active learning: arrays, replaced and never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.data import Dataset
from ntkuq.decisions.active.result import chosen_calibration
from ntkuq.models import BNN


ARRAYS = ("rows", "y", "round", "center", "spread", "pending", "labels", "scores")


@dataclasses.dataclass(frozen=True)
class ActiveState:
    """Everything that active learning knows; replaced and never changed.

    Args:
        bnn: the problem that the method solves.
        key: random key of it all.
        pool_x: inputs of the pool, leading axis N.
        rows: (n,) rows of the pool with labels, in the order of labeling.
        y: (n,) their labels.
        round: (n,) the number of `tell`s before.
        center, spread: (n,) predictions before the label came, NaN for first ones. For
            regression mean and standard deviation of the observation; for classes
            whether the most probable class was right (1 or 0), and its probability.
        pending: (q, 1 + W) rows asked for, and mean and std, or class probabilities.
        labels, scores: (R,) and (R, K) of `run`: labels and test scores after each
            round.
    """

    bnn: BNN
    key: Array
    pool_x: PyTree
    rows: Int[np.ndarray, " n"]
    y: np.ndarray
    round: Int[np.ndarray, " n"]
    center: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]
    pending: Float[np.ndarray, "q W"]
    labels: Int[np.ndarray, " R"]
    scores: Float[np.ndarray, "R K"]

    @property
    def unlabeled(self) -> Int[np.ndarray, " m"]:
        """Rows of the pool without a label, in order."""
        total = jax.tree.leaves(self.pool_x)[0].shape[0]
        return np.setdiff1d(np.arange(total), self.rows)

    @property
    def data(self) -> Dataset:
        """The labeled points."""
        return Dataset(take(self.pool_x, self.rows), self.y)

    @property
    def calibration(self):
        """Predictions at the points that were chosen, against their labels."""
        return chosen_calibration(self)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `with_arrays` takes, for a `Checkpoint`."""
        return {name: np.asarray(getattr(self, name)) for name in ARRAYS}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> ActiveState:
        """The state whose `arrays()` these are."""
        return dataclasses.replace(
            self, **{name: np.asarray(arrays[name]) for name in ARRAYS}
        )


class AskedRows(NamedTuple):
    """Rows of the pool to label next, and the state that remembers them."""

    rows: Int[np.ndarray, " n"]
    state: ActiveState


def take(x: PyTree, rows: np.ndarray) -> PyTree:
    """Rows of inputs."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], x)

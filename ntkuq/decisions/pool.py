"""One step of active learning: which points of a pool to observe next."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from ntkuq.decisions.acquisition import AbstractAcquisition
from ntkuq.posteriors.base import AbstractPosterior


class Selection(NamedTuple):
    """Points chosen from a pool, the best first.

    Args:
        indices: their rows in the pool, (n,).
        values: their acquisition values, (n,).
    """

    indices: np.ndarray
    values: np.ndarray


def select(
    acquisition: AbstractAcquisition,
    posterior: AbstractPosterior,
    pool_x: PyTree,
    n: int,
    *,
    best: ArrayLike | None = None,
    key: Array,
) -> Selection:
    """The n points of a pool with the largest acquisition.

    The points are scored one by one: neighbors that tell the same may be chosen
    together. Equal values keep the order of the pool.

    Args:
        acquisition: what a point is worth, such as `BALD()`.
        posterior: any posterior.
        pool_x: inputs of the candidates, leading axis N.
        n: how many to choose, 1 to N.
        best: the incumbent, where the acquisition asks for it.
        key: random key for acquisitions that draw.

    Returns:
        Rows and values of the chosen points.

    Raises:
        ValueError: for n outside 1 to N, or an acquisition value that is NaN.
        TypeError: where the acquisition does not fit the task.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.data import Dataset
    >>> from ntkuq.models import BNN, Gaussian, NormalPrior
    >>> from ntkuq.posteriors.laplace import Laplace
    >>> line = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    >>> data = Dataset(np.linspace(-1, 1, 9)[:, None], np.linspace(-1, 1, 9))
    >>> posterior = Laplace().fit(
    ...     BNN(line, Gaussian(0.1), NormalPrior()), data, key=jax.random.key(1)
    ... )
    >>> from ntkuq.decisions import BALD
    >>> pool = np.array([[0.0], [5.0], [1.0]])
    >>> select(BALD(), posterior, pool, 2, key=jax.random.key(2)).indices.tolist()
    [1, 2]
    """
    total = jax.tree.leaves(pool_x)[0].shape[0]
    if not 1 <= n <= total:
        raise ValueError(f"select: expected n from 1 to {total} points, got {n}")
    scores = np.asarray(acquisition(posterior.predict(pool_x), best=best, key=key))
    bad = np.flatnonzero(np.isnan(scores))
    if bad.size:
        raise ValueError(
            f"select: {type(acquisition).__name__} is NaN at {bad.size} of {total} "
            f"points, first at row {bad[0]}: look for inputs there that are not finite"
        )
    order = np.argsort(-scores, kind="stable")[:n]
    return Selection(order, scores[order])

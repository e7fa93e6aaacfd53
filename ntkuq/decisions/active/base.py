"""What a query is, and what all queries check and return."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.decisions.pool import Selection
from ntkuq.posteriors.base import AbstractPosterior


class AbstractQuery(eqx.Module):
    """A choice of points to label."""

    @abc.abstractmethod
    def __call__(
        self,
        posterior: AbstractPosterior,
        pool_x: PyTree,
        n: int,
        *,
        labeled_x: PyTree | None = None,
        key: Array,
    ) -> Selection:
        """n points of the pool, the first chosen first.

        Args:
            posterior: given the labels so far.
            pool_x: candidates, leading axis N.
            n: how many, 1 to N.
            labeled_x: inputs with labels; used by `CoreSet` only.
            key: random key for what draws.

        Returns:
            Rows of the pool, and what each was worth when it was chosen.

        Raises:
            ValueError: for n outside 1 to N.
            TypeError: where posterior or task do not fit.
        """


def rows(x: PyTree) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(x)[0].shape[0]


def few(x: PyTree, n: int) -> PyTree:
    """The first n."""
    return jax.tree.map(lambda a: a[:n], x)


def need_number(n: int, total: int) -> None:
    """Refuse a number of points that the pool does not have."""
    if not 1 <= n <= total:
        raise ValueError(f"query: expected n from 1 to {total} points, got {n}")


def best(values: Array, n: int) -> Selection:
    """The n largest values; equal ones in the order of the pool."""
    found = np.asarray(values)
    if np.isnan(found).any():
        raise ValueError(
            f"query: expected values, got NaN at row {int(np.isnan(found).argmax())}: "
            "look for inputs there that are not finite"
        )
    order = np.argsort(-found, kind="stable")[:n]
    return Selection(order, found[order])


def selection(rows: Array, values: Array) -> Selection:
    """What a greedy program chose."""
    return Selection(np.asarray(rows), np.asarray(values))

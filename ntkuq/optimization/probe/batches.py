"""Pairs of batches: one that the steps are made from, and another to judge them on."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int


#: Rows of a batch unless given, and pairs on which the dampings are chosen.
ROWS, TUNING = 256, 2


class Pairs(NamedTuple):
    """Rows of the data.

    Args:
        rows: (pairs, 2, B); the first `TUNING` pairs are for the choice of damping.
        shared: the correlation of two pairs, for the intervals: 0 where all batches
            are disjoint, else at most this share of the variance is common.
    """

    rows: Int[np.ndarray, "pairs 2 B"]
    shared: float

    @property
    def size(self) -> int:
        """Rows of a batch, B."""
        return self.rows.shape[2]


def batch_size(total: int, batch: int | None, batches: int) -> int:
    """Rows of a batch.

    Raises:
        ValueError: for fewer than 2 batches, no row in one, or too few rows.
    """
    if batches < 2:
        raise ValueError(f"probe: expected batches >= 2 for an interval, got {batches}")
    if batch is None:
        batch = min(ROWS, total // _needed(batches))
        if batch < 1:
            raise ValueError(
                f"probe: expected at least {_needed(batches)} rows for {batches} "
                f"pairs of batches and {TUNING} more for the damping, got {total}: "
                "take fewer batches"
            )
    elif batch < 1 or 3 * batch > total:
        raise ValueError(
            f"probe: expected a batch of 1 to {total // 3} rows, a third of the "
            f"{total} rows, so that there are others to judge the step on; got {batch}"
        )
    return batch


def pairs_of(total: int, size: int, batches: int, *, key: Array) -> Pairs:
    """Disjoint batches where there are enough rows, else pairs drawn anew each time.

    Two pairs that were drawn from the same N rows share 2 B / N of them on average,
    which bounds the correlation of means over them (compare Nadeau and Bengio 2003).

    >>> pairs_of(100, 5, 8, key=jax.random.key(0)).rows.shape
    (10, 2, 5)
    """
    count = batches + TUNING
    if size * _needed(batches) <= total:
        order = np.asarray(jax.random.permutation(key, total))
        rows = order[: 2 * count * size].reshape(count, 2, size)
        return Pairs(rows, 0.0)
    rows = [
        np.asarray(jax.random.permutation(one, total))[: 2 * size].reshape(2, size)
        for one in jax.random.split(key, count)
    ]
    return Pairs(np.stack(rows), 2.0 * size / total)


def _needed(batches: int) -> int:
    return 2 * (batches + TUNING)

"""Which examples each update sees: pass after pass, each in an order of its own."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Int


class Rows:
    """Batches of row numbers, drawn without replacement within a pass.

    The orders of all passes form one stream, which is cut into batches: every update
    sees exactly `batch` rows, no row is left out, and a batch may reach into the next
    pass. Any part of the stream can be had without what is before it, so that an
    interrupted training goes on with the rows it would have seen.

    Args:
        key: decides the orders.
        size: number of examples, or how often each of them counts, (N,).
        batch: rows an update.
    """

    def __init__(self, key: Array, size: int | np.ndarray, batch: int):
        self.seed = np.ravel(jax.random.key_data(key)).tolist()
        counts = np.ones(size, int) if isinstance(size, int) else size
        self.pool = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.batch = batch

    def __call__(self, start: int, stop: int) -> Int[np.ndarray, "T B"]:
        """The rows of the updates start, …, stop - 1."""
        size, first, last = len(self.pool), start * self.batch, stop * self.batch
        passes = range(first // size, -(-last // size))
        stream = np.concatenate([self._order(number) for number in passes])
        skipped = first - passes.start * size
        found = stream[skipped : skipped + last - first]
        return found.reshape(stop - start, self.batch)

    def _order(self, number: int) -> Int[np.ndarray, " N"]:
        return np.random.default_rng([*self.seed, number]).permutation(self.pool)

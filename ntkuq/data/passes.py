"""One pass over batches: what is counted and check-summed, and what is kept of it."""

import dataclasses
import hashlib
import zlib
from typing import Any

import jax
import numpy as np

from ntkuq.data.dataset import Dataset
from ntkuq.data.moments import Moments


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one pass found. Arrays go by name: "x", "x['image']", …, last "y"."""

    rows: int
    batches: int
    kinds: dict[str, tuple[str, tuple[int, ...]]]
    check: dict[str, int]
    digests: dict[str, str]
    moments: dict[str, Moments]
    counts: dict[int, int] | None
    extremes: np.ndarray
    head: Dataset


class Seen:
    """Running sums of one pass: what was seen, and in the first pass what it holds."""

    def __init__(self, *, hashed: bool = False):
        self.rows = self.batches = 0
        self.check: dict[str, int] = {}
        self.hashes: dict[str, Any] | None = {} if hashed else None
        self.moments: dict[str, Moments] = {}
        self.counts: dict[int, int] = {}
        self.extremes: np.ndarray | None = None

    def add(self, batch: Dataset) -> None:
        """Count the rows and check-sum the bytes, whatever the batch size."""
        self.rows += len(batch)
        self.batches += 1
        for what, array in arrays(batch):
            content = _bytes(array)
            self.check[what] = zlib.crc32(content, self.check.get(what, 0))
            if self.hashes is not None:
                self.hashes.setdefault(what, hashlib.sha256()).update(content)

    def summarize(self, batch: Dataset) -> None:
        """Moments of all arrays, counts of labels or the range of float targets."""
        for what, array in arrays(batch):
            now = Moments.of(array)
            before = self.moments.get(what)
            self.moments[what] = now if before is None else before.merge(now)
        if batch.y.dtype.kind in "iu":
            codes, numbers = np.unique(batch.y, return_counts=True)
            for code, number in zip(codes.tolist(), numbers.tolist()):
                self.counts[code] = self.counts.get(code, 0) + number
        else:
            parts = [] if self.extremes is None else [self.extremes]
            self.extremes = _extremes(np.concatenate([*parts, batch.y]))

    def facts(self, head: Dataset) -> Facts:
        hashes = self.hashes or {}
        return Facts(
            rows=self.rows,
            batches=self.batches,
            kinds=kinds(head),
            check=self.check,
            digests={what: found.hexdigest() for what, found in hashes.items()},
            moments=self.moments,
            counts=self.counts if self.extremes is None else None,
            extremes=head.y if self.extremes is None else self.extremes,
            head=head,
        )


def arrays(batch: Dataset) -> list[tuple[str, np.ndarray]]:
    """The arrays of x by name, then y."""
    leaves = jax.tree_util.tree_leaves_with_path(batch.x)
    inputs = [(f"x{jax.tree_util.keystr(path)}", leaf) for path, leaf in leaves]
    return [*inputs, ("y", batch.y)]


def kinds(batch: Dataset) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of one example of each array."""
    return {what: (a.dtype.name, a.shape[1:]) for what, a in arrays(batch)}


def shown(kinds: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    """The kinds as text."""
    return ", ".join(
        f"{what}: {dtype} {shape}" for what, (dtype, shape) in kinds.items()
    )


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, little-endian and in C order."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8)


def _extremes(y: np.ndarray) -> np.ndarray:
    """(3, …): of each column the smallest, the largest and the least whole value."""
    columns = y.reshape(len(y), -1)
    least = np.abs(columns - np.round(columns)).argmax(axis=0)
    picked = columns[least, np.arange(columns.shape[1])]
    found = np.stack([columns.min(axis=0), columns.max(axis=0), picked])
    return found.reshape(3, *y.shape[1:])

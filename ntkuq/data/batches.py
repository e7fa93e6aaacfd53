"""`Batches`: data that come batch by batch and are never held whole."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ntkuq.data.dataset import Dataset, Split, is_one_hot, refuse_one_hot
from ntkuq.data.errors import DataError
from ntkuq.data.moments import Moments
from ntkuq.data.passes import Facts, Seen, arrays, kinds, shown


#: `to_dataset` holds at most this many bytes unless asked for more: 2 GiB.
_MOST_BYTES = 2**31


class BatchesChanged(DataError):
    """A later pass over batches gave other data than the first."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Batches:
    """Examples that come in batches `(x, y)`, as often as asked; none is kept.

    `source` is any re-iterable: a list of pairs, a data loader, an object whose
    `__iter__` starts anew. It is read once when the object is made, one batch at a
    time, which checks every batch as `Dataset` does and finds what does not need the
    data again: number of rows, moments, counts of labels, fingerprint. Every later
    pass is compared with the first. Immutable as long as its source is.

    Args:
        source: yields pairs of x, an array or pytree of arrays with a leading axis, and
            y, as in `Dataset`; whatever `numpy.asarray` takes. Batches may differ in
            their number of rows.
        features: names of the columns of a two-dimensional `x`. Keyword-only, as all
            that follow.
        target: name of the target.
        classes: names of the classes; code k is `classes[k]`.
        units: units of the target.
        name: name of the data set, for reports.

    Raises:
        DataError: for an iterator that can be read only once, for no batches, for a
            batch that `Dataset` would refuse or that differs from the first in the
            shape or type of an example.
        BatchesChanged: by any later pass that gives fewer rows, more, or others.

    >>> pairs = [(np.ones((4, 3)), np.zeros(4)), (np.ones((2, 3)), np.ones(2))]
    >>> data = Batches(pairs)
    >>> len(data), [len(y) for _, y in data], [len(y) for _, y in data.rechunk(3)]
    (6, [4, 2], [3, 3])
    """

    source: Any
    _: dataclasses.KW_ONLY
    features: Sequence[str] | None = None
    target: str | None = None
    classes: Sequence[str] | None = None
    units: str | None = None
    name: str = ""
    _facts: "Facts" = dataclasses.field(init=False)

    def __post_init__(self):
        _check_source(self.source)
        for names in ("features", "classes"):
            value = getattr(self, names)
            object.__setattr__(self, names, None if value is None else tuple(value))
        object.__setattr__(self, "_facts", self._first_pass())

    @staticmethod
    def of(data: Dataset, *, size: int) -> "Batches":
        """The rows of a `Dataset` in batches of `size`, with its names.

        Raises:
            DataError: where it has noise scales or weights, which batches do not have.

        >>> len(Batches.of(Dataset(np.zeros((5, 2)), np.zeros(5)), size=2))
        5
        """
        for extra in ("noise_scale", "weight"):
            if getattr(data, extra) is not None:
                raise DataError(
                    f"Batches: expected a Dataset without {extra}, which batches (x, "
                    f"y) cannot carry, came one with it; leave {extra} out, or give "
                    "the Dataset itself"
                )
        return Batches(
            _Slices(data, _whole(size)),
            features=data.features,
            target=data.target,
            classes=data.classes,
            units=data.units,
            name=data.name,
        )

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        return f"Batches({label}{len(self)} rows in {self._facts.batches} batches)"

    def __len__(self) -> int:
        """The number of examples N in one pass."""
        return self._facts.rows

    def __iter__(self) -> Iterator[tuple[PyTree, np.ndarray]]:
        """One pass: pairs of NumPy arrays, as the source batches them."""
        facts, seen = self._facts, Seen()
        for number, item in enumerate(self.source):
            batch = self._read(item, number)
            seen.add(batch)
            if kinds(batch) != facts.kinds:
                raise _changed(
                    f"examples like {shown(facts.kinds)}, came {shown(kinds(batch))}"
                )
            if seen.rows > facts.rows:
                raise _changed(f"{facts.rows} rows, came {seen.rows} or more")
            # copies: a loader may fill the same buffer again for its next batch
            yield jax.tree.map(np.array, (batch.x, batch.y))
        if seen.rows < facts.rows:
            raise _changed(f"{facts.rows} rows, came {seen.rows}")
        other = [
            what for what, check in facts.check.items() if seen.check[what] != check
        ]
        if other:
            raise _changed(
                "the same content, came other values, or another order, of "
                f"{', '.join(other)}"
            )

    def rechunk(self, size: int) -> Iterator[tuple[PyTree, np.ndarray]]:
        """One pass in chunks of at most `size` rows, whatever the source's batches.

        All chunks have one size, but the last may be smaller: the fewest chunks that
        are needed, as even as can be. At most one chunk and one batch are held.
        """
        return _regroup(iter(self), _even(len(self), _whole(size)))

    def cycle(self, size: int | None = None) -> Iterator[tuple[PyTree, np.ndarray]]:
        """Pass after pass without end, in order.

        Args:
            size: rows of every chunk, which may reach into the next pass (no row is
                left out or favored); `None` for the batches as they come.
        """
        return (
            _forever(self) if size is None else _regroup(_forever(self), _whole(size))
        )

    def example(self) -> PyTree:
        """The input of the first row, without the leading axis."""
        return jax.tree.map(lambda leaf: leaf[0], self._facts.head.x)

    def take_first(self, n: int) -> Dataset:
        """The first `n` rows as a `Dataset` with the same names.

        Raises:
            DataError: where there are fewer.
        """
        if not 1 <= n <= len(self):
            raise DataError(f"take_first: expected n from 1 to {len(self)}, came {n}")
        if n == 1:
            return self._facts.head
        return self._dataset(*next(_regroup(iter(self), n)))

    def moments(self) -> tuple[PyTree, Moments]:
        """Mean and variance over all rows of each array of x, and of y.

        Returns:
            x with `Moments` in place of arrays, and the `Moments` of y.

        >>> y = Batches([(np.ones(1), [1.0]), (np.ones(1), [3.0])]).moments()[1]
        >>> y.mean.item(), y.variance.item()
        (2.0, 1.0)
        """
        leaves = list(self._facts.moments.values())
        structure = jax.tree.structure(self._facts.head.x)
        return jax.tree.unflatten(structure, leaves[:-1]), leaves[-1]

    def label_counts(self) -> dict[int, int]:
        """How often each whole-number target occurs, in their order.

        Raises:
            DataError: for float targets.

        >>> Batches([(np.ones(2), [3, 1]), (np.ones(1), [3])]).label_counts()
        {1: 1, 3: 2}
        """
        if self._facts.counts is None:
            raise DataError(
                "label_counts: expected class codes, came float targets; give y as "
                "integers"
            )
        return dict(sorted(self._facts.counts.items()))

    def outline(self) -> Dataset:
        """A few rows that stand for all in checks of shapes and of the targets' range.

        Returns:
            The first input, repeated, with every distinct whole-number target; or, for
            float targets, of each column the smallest, the largest, and the one
            farthest from a whole number.

        >>> Batches([(np.ones(4), [2.0, -1.0, 0.5, 3.0])]).outline().y.tolist()
        [-1.0, 3.0, 0.5]
        """
        head, values = self._facts.head, self._facts.extremes
        if self._facts.counts is not None:
            codes = np.asarray(sorted(self._facts.counts), head.y.dtype)
            shape = (len(codes), *head.y.shape[1:])
            values = np.broadcast_to(codes.reshape(-1, *[1] * (len(shape) - 1)), shape)
        x = jax.tree.map(lambda leaf: np.repeat(leaf, len(values), axis=0), head.x)
        return self._dataset(x, values)

    def fingerprint(self) -> str:
        """SHA-256 over shapes, dtypes and bytes of all arrays, as hex digits.

        The same for the same rows in other batches; not the `Dataset`'s.
        """
        facts = self._facts
        parts = [
            f"{what}|{dtype}|{(facts.rows, *shape)}|{facts.digests[what]}"
            for what, (dtype, shape) in facts.kinds.items()
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def to_dataset(self, *, most: int = _MOST_BYTES) -> Dataset:
        """All rows in one `Dataset`.

        Args:
            most: bytes that the arrays may take.

        Raises:
            DataError: where they take more.
        """
        bytes_ = len(self) * sum(leaf.nbytes for _, leaf in arrays(self._facts.head))
        if bytes_ > most:
            raise DataError(
                f"to_dataset: expected at most {most:,} bytes, came {len(self):,} rows "
                f"that take {bytes_:,}; allow them with most={bytes_}, take_first(n), "
                "or choose a method that reads batches"
            )
        return self._dataset(*next(_regroup(iter(self), len(self) + 1)))

    def _dataset(self, x: Any, y: Any) -> Dataset:
        return Dataset(
            x,
            y,
            features=self.features,
            target=self.target,
            classes=self.classes,
            units=self.units,
            name=self.name,
            _part=True,
        )

    def _read(self, item: Any, number: int) -> Dataset:
        """One item of the source, checked."""
        if not isinstance(item, tuple | list) or len(item) != 2:
            kind = type(item).__name__
            size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise DataError(
                f"batch {number}: expected a pair (x, y), came {kind}{size}; yield "
                "(inputs, targets), or give arrays that hold all examples as "
                "Dataset(x, y)"
            )
        try:
            return self._dataset(*item)
        except DataError as error:
            raise DataError(f"batch {number} (counted from 0): {error}") from error

    def _first_pass(self) -> "Facts":
        seen, first = Seen(hashed=True), None
        # slices are of data that were checked as a whole
        one_hot = not isinstance(self.source, _Slices)
        for number, item in enumerate(self.source):
            batch = self._read(item, number)
            first = batch.take([0]) if first is None else first
            expected, came = kinds(first), kinds(batch)
            if came != expected:
                raise DataError(
                    f"batch {number} (counted from 0): expected examples like those of "
                    f"batch 0, {shown(expected)}, came {shown(came)}; give every "
                    "batch the same arrays, shapes and types"
                )
            one_hot = one_hot and is_one_hot(batch.y)
            seen.add(batch)
            seen.summarize(batch)
        if first is None:
            raise DataError(
                "Batches: expected at least one batch (x, y), came none; give a list, "
                "or an object whose __iter__ starts anew each time"
            )
        if one_hot:
            refuse_one_hot(first.y, seen.rows)
        return seen.facts(first)


@dataclasses.dataclass(frozen=True, eq=False)
class _Slices:
    """A `Dataset` as a re-iterable of batches."""

    data: Dataset
    size: int

    def __iter__(self) -> Iterator[tuple[PyTree, np.ndarray]]:
        for start in range(0, len(self.data), self.size):
            yield _rows(self.data.x, self.data.y, start, start + self.size)


#: What methods are fitted on: either form, or a plain re-iterable of `(x, y)` batches.
DataLike = Dataset | Batches | Iterable[Any]


def as_data(value: Any) -> Dataset | Batches:
    """What a method is fitted on: a `Dataset` or `Batches`, made where needed.

    Args:
        value: a `Dataset`, `Batches`, or any re-iterable of `(x, y)` batches.

    Raises:
        DataError: for anything else.

    >>> as_data([(np.ones((4, 3)), np.zeros(4))])
    Batches(4 rows in 1 batches)
    """
    if isinstance(value, Dataset | Batches):
        return value
    if isinstance(value, Split):
        raise DataError(
            "expected a Dataset or batches of (x, y), came a Split; choose a part, "
            "such as split.train"
        )
    if isinstance(value, tuple) and len(value) == 2 and hasattr(value[1], "shape"):
        raise DataError(
            "expected a Dataset or batches of (x, y), came one pair of arrays; give "
            "Dataset(x, y)"
        )
    return Batches(value)


def as_dataset(value: Any) -> Dataset:
    """All of the data at once, for a method that needs it so.

    Args:
        value: what `as_data` takes.

    Raises:
        DataError: where `Batches.to_dataset` refuses, or `as_data` does.

    >>> as_dataset([(np.ones((4, 3)), np.zeros(4))]).x.shape
    (4, 3)
    """
    data = as_data(value)
    return data if isinstance(data, Dataset) else data.to_dataset()


def chunks(data: Dataset | Batches, size: int) -> Iterator[tuple[PyTree, np.ndarray]]:
    """One pass over the data in chunks of at most `size` rows.

    The fewest chunks that are needed, all of one size but the last, as even as can be.

    Args:
        data: either form.
        size: most rows at a time.

    Returns:
        Pairs (x, y) of NumPy arrays.

    Raises:
        BatchesChanged: at the end of the pass, where batches changed.

    >>> data = Dataset(np.zeros((7, 2)), np.arange(7.0))
    >>> [y.tolist() for _, y in chunks(data, 5)]
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    """
    if isinstance(data, Batches):
        return data.rechunk(size)
    return iter(_Slices(data, _even(len(data), _whole(size))))


def _check_source(source: Any) -> None:
    if isinstance(source, Dataset):
        raise DataError(
            "Batches: expected a re-iterable of (x, y), came a Dataset; use "
            "Batches.of(dataset, size=), or the Dataset itself"
        )
    if not isinstance(source, Iterable) or isinstance(source, str | bytes | dict):
        raise DataError(
            "Batches: expected a re-iterable of pairs (x, y), came "
            f"{type(source).__name__}; give a list of pairs, a data loader, or a "
            "Dataset"
        )
    if isinstance(source, Iterator):
        raise DataError(
            f"Batches: expected batches that can be read again, came the one-shot "
            f"iterator {type(source).__name__}, which is empty after one pass; give a "
            "list, a Dataset, or an object whose __iter__ starts anew"
        )


def _whole(size: int) -> int:
    if size < 1:
        raise DataError(f"expected a size of 1 row or more, came {size}")
    return size


def _even(rows: int, size: int) -> int:
    return math.ceil(rows / math.ceil(rows / size))


def _rows(x: PyTree, y: np.ndarray, start: int, stop: int) -> tuple[PyTree, np.ndarray]:
    return jax.tree.map(lambda leaf: leaf[start:stop], x), y[start:stop]


def _forever(batches: Batches) -> Iterator[tuple[PyTree, np.ndarray]]:
    while True:
        yield from batches


def _regroup(
    batches: Iterable[tuple[PyTree, np.ndarray]], size: int
) -> Iterator[tuple[PyTree, np.ndarray]]:
    """The same rows in chunks of `size`; the last may be smaller."""
    held: list[tuple[PyTree, np.ndarray]] = []
    room = size
    for x, y in batches:
        start = 0
        while len(y) - start >= room:
            held.append(_rows(x, y, start, start + room))
            yield _joined(held)
            start += room
            held, room = [], size
        if start < len(y):
            held.append(_rows(x, y, start, len(y)))
            room -= len(y) - start
    if held:
        yield _joined(held)


def _joined(parts: list[tuple[PyTree, np.ndarray]]) -> tuple[PyTree, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _changed(difference: str) -> BatchesChanged:
    return BatchesChanged(
        f"batches: expected in every pass what the first pass gave, {difference}; give "
        "batches that repeat: a list, a Dataset, an object whose __iter__ starts anew, "
        "a loader with shuffle=False and without random augmentation"
    )

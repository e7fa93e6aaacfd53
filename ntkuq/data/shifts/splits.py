"""Splits along one feature: a gap in the middle, or the tails, held out for testing."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import final

import jax
import numpy as np

from ntkuq.data.dataset import Dataset, Split
from ntkuq.data.errors import DataError, listing, nearest


class AbstractCut(abc.ABC):
    """Where the sorted values of a feature are cut, and what happens to ties."""

    @abc.abstractmethod
    def middle(self, values: np.ndarray, start: int, stop: int) -> np.ndarray | str:
        """A mask of the rows in the middle, (N,), or why there is no such part.

        Args:
            values: the feature, (N,).
            start, stop: ranks of the middle part, first and one past the last.
        """


@final
@dataclasses.dataclass(frozen=True)
class ByRank(AbstractCut):
    """Cut at ranks, as published: parts have the exact sizes, ties may be cut apart.

    Equal values are ranked in the order of the rows, so some of them may be trained on
    and others tested on; `FeatureSplits.tied` says how many.
    """

    def middle(self, values: np.ndarray, start: int, stop: int) -> np.ndarray | str:
        mask = np.zeros(len(values), dtype=bool)
        mask[np.argsort(values, kind="stable")[start:stop]] = True
        return mask


@final
@dataclasses.dataclass(frozen=True)
class ByValue(AbstractCut):
    """Cut between values: ties stay together, so the middle part may be larger.

    No value of the feature is in both parts. A feature without rows on both sides of
    the middle is left out.
    """

    def middle(self, values: np.ndarray, start: int, stop: int) -> np.ndarray | str:
        ordered = np.sort(values)
        low, high = ordered[start], ordered[stop - 1]
        below, above = (values < low).any(), (values > high).any()
        if not (below and above):
            side = "below" if not below else "above"
            return f"no values {side} the middle part, {low:g} to {high:g}"
        return (values >= low) & (values <= high)


@final
@dataclasses.dataclass(frozen=True)
class FeatureSplits(Mapping[str, Split]):
    """A split for each feature, by its name; read like a dict.

    Args:
        splits: the splits by name of the feature.
        omitted: features without a split, with the reason.
        tied: for each split, the share of test rows whose value of the feature is also
            in the training part.
    """

    splits: Mapping[str, Split]
    omitted: Mapping[str, str]
    tied: Mapping[str, float]

    def __getitem__(self, name: str) -> Split:
        if name in self.omitted:
            raise KeyError(f"{name} was left out: {self.omitted[name]}")
        if name not in self.splits:
            raise KeyError(
                f"there is no split {name!r}{nearest(name, self.splits)}; there are "
                f"{listing(self.splits)}"
            )
        return self.splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)


def gap_splits(
    data: Dataset | Split,
    *,
    features: Sequence[str] | None = None,
    cut: AbstractCut = ByRank(),
) -> FeatureSplits:
    r"""For each feature, train on its low and high values and test in between.

    With the rows sorted by the feature, ranks $\lfloor N/3 \rfloor$ to
    $\lfloor 2N/3 \rfloor - 1$ (from 0) are the test part. Features with fewer than
    three values have no middle and are left out. The published splits also leave out
    the features that their authors hold to be categories: name the others.

    Args:
        data: all rows; the parts of a `Split` are joined.
        features: names of the features; all by default. `"column 3"` where `data`
            names none.
        cut: what happens to ties, `ByRank()` or `ByValue()`.

    Returns:
        `FeatureSplits`; every `Split` has the rows in their order and no `calibrate`.

    Raises:
        DataError: when `x` is not (N, D), a name is unknown, or no feature is left.

    >>> data = Dataset(np.arange(9.0)[:, None], np.zeros(9), features=("age",))
    >>> split = gap_splits(data)["age"]
    >>> split.train.x[:, 0].tolist(), split.test.x[:, 0].tolist()
    ([0.0, 1.0, 2.0, 6.0, 7.0, 8.0], [3.0, 4.0, 5.0])

    References:
        Foong, Li, Hernández-Lobato and Turner, 2019, 'In-between' uncertainty in
        Bayesian neural networks, arXiv 1906.11537.
    """
    n = len(_whole(data))
    return _splits(data, features, cut, (n // 3, 2 * n // 3), middle_is_test=True)


def tail_splits(
    data: Dataset | Split,
    *,
    features: Sequence[str] | None = None,
    cut: AbstractCut = ByRank(),
) -> FeatureSplits:
    r"""For each feature, train on its middle values and test on both tails.

    With the rows sorted by the feature, ranks $\lceil N/6 \rceil$ to
    $\lfloor 5N/6 \rfloor - 1$ (from 0) are the training part, the sixths on both
    sides the test part. Otherwise as `gap_splits`.

    Args:
        data: all rows; the parts of a `Split` are joined.
        features: names of the features; all by default.
        cut: what happens to ties, `ByRank()` or `ByValue()`.

    Returns:
        `FeatureSplits`.

    Raises:
        DataError: as `gap_splits`.

    >>> data = Dataset(np.arange(6.0)[:, None], np.zeros(6))
    >>> tail_splits(data)["column 0"].test.x[:, 0].tolist()
    [0.0, 5.0]
    """
    n = len(_whole(data))
    return _splits(data, features, cut, (-(-n // 6), 5 * n // 6), middle_is_test=False)


def _splits(
    data: Dataset | Split,
    features: Sequence[str] | None,
    cut: AbstractCut,
    ranks: tuple[int, int],
    *,
    middle_is_test: bool,
) -> FeatureSplits:
    data = _whole(data)
    columns = _columns(data, features)
    splits, omitted, tied = {}, {}, {}
    for name, values in columns.items():
        distinct = len(np.unique(values))
        if distinct < 3:
            omitted[name] = f"{distinct} distinct values, at least 3 are needed"
            continue
        middle = cut.middle(values, *ranks)
        if isinstance(middle, str):
            omitted[name] = middle
            continue
        test = middle if middle_is_test else ~middle
        splits[name] = Split(data.take(~test), None, data.take(test))
        tied[name] = float(np.isin(values[test], values[~test]).mean())
    if not splits:
        reasons = "; ".join(f"{name}: {why}" for name, why in omitted.items())
        raise DataError(f"splits: expected a feature to split along, came {reasons}")
    return FeatureSplits(splits, omitted, tied)


def _columns(data: Dataset, features: Sequence[str] | None) -> dict[str, np.ndarray]:
    x = data.x
    if not isinstance(x, np.ndarray) or x.ndim > 2 or len(x) < 3:
        shape = x.shape if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(
            f"splits: expected x of shape (N, D) with three rows or more, came {shape}"
        )
    x = x.reshape(len(x), -1)
    names = data.features or tuple(f"column {j}" for j in range(x.shape[1]))
    columns = dict(zip(names, x.T, strict=True))
    if features is None:
        return columns
    for name in features:
        if name not in columns:
            raise DataError(
                f"features: expected names of features, came {name!r}"
                f"{nearest(name, columns)}; there are {listing(columns)}"
            )
    return {name: columns[name] for name in features}


def _whole(data: Dataset | Split) -> Dataset:
    """All rows of a split in one data set: train, calibrate, test."""
    if isinstance(data, Dataset):
        return data
    parts = [p for p in (data.train, data.calibrate, data.test) if p is not None]

    def joined(name: str) -> np.ndarray | None:
        pieces = [getattr(part, name) for part in parts]
        if any(piece is None for piece in pieces):
            return None
        return np.concatenate(pieces)

    first = data.train
    group, groups = joined("group"), first.groups
    if group is not None and any(part.groups != groups for part in parts):
        # The same code may stand for another name in another part.
        group, groups = np.concatenate([_labels(part) for part in parts]), None
    return Dataset(
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *(p.x for p in parts)),
        np.concatenate([part.y for part in parts]),
        noise_scale=joined("noise_scale"),
        group=group,
        groups=groups,
        weight=joined("weight"),
        features=first.features,
        target=first.target,
        classes=first.classes,
        units=first.units,
        name=first.name,
    )


def _labels(part: Dataset) -> np.ndarray:
    """The names of the groups as text, (N,); their codes where they have no names."""
    if part.groups is None:
        return np.asarray(part.group).astype(str)
    return np.array(part.groups)[part.group]

"""`Dataset` and `Split`: arrays on the host, checked once, never changed."""

import hashlib
import numbers
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PRNGKeyArray, PyTree

from ntkuq.data.arrays import (
    as_array,
    check_finite,
    is_floating,
    is_real,
    named_leaves,
    whole_lists,
)
from ntkuq.data.errors import DataError, listing


#: Fewer rows may be one-hot by chance: two fair labels have a single 1 in every second
#: row, in twenty rows with a probability of one in a million.
ROWS_TO_TELL = 20


def is_one_hot(y: np.ndarray) -> bool:
    """Rows of two or more whole numbers, each row a single 1 among zeros."""
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind not in "iu":
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def refuse_one_hot(y: np.ndarray, rows: int) -> None:
    """Raise `DataError` where the one-hot rows, like these, are enough to tell."""
    if rows >= ROWS_TO_TELL:
        raise DataError(
            f"y: expected class codes of shape (N,), came {y.dtype} of shape "
            f"{(rows, *y.shape[1:])} with a single 1 in each row; for one-hot rows "
            "give y.argmax(axis=1), for a label at each position give shape "
            "(N, T, 1), for regression on several outputs give floats"
        )


def _as_groups(group: Any) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Codes of the groups, and their names where they were text."""
    if group is None:
        return None, None
    group = as_array(group, "group")
    if group.dtype.kind not in "US":
        return group, None
    names, codes = np.unique(group, return_inverse=True)
    return codes.astype(np.int64), tuple(str(name) for name in names)


class Dataset(eqx.Module):
    """Inputs and targets of N examples, with what is known about their noise.

    Immutable. Arrays are NumPy arrays on the host; nothing is moved to a device here.

    Args:
        x: inputs; an array, or a pytree of arrays, with leading axis N.
        y: targets; floats `(N,)` or `(N, C)` for regression (and counts), integer
            class codes `(N,)` in 0..K-1 for classification. Images, sequences and the
            like keep their axes: floats `(N, H, W)`, codes `(N, T)`.
        noise_scale: known standard deviation of the observation noise of every
            target, `(N,)` or the shape of `y`, in the units of `y`. Keyword-only, as
            all that follow.
        group: `(N,)` integers or text; rows of one group are not independent (one
            site, one patient). Text is replaced by codes, and kept in `groups`.
        weight: `(N,)` non-negative weight of every row in the likelihood.
        features: names of the columns of a two-dimensional `x`.
        target: name of the target.
        classes: names of the classes; code k is `classes[k]`.
        groups: names of the groups; code k is `groups[k]`.
        units: units of the target.
        name: name of the data set, for reports.

    Raises:
        DataError: when the leading axes differ or are empty, when an entry is not
            finite (the first offending row and column are named), when a noise scale is
            not positive or a weight is negative.

    >>> data = Dataset([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.7], features=("a", "b"))
    >>> len(data), data.x.shape
    (2, (2, 2))
    """

    x: PyTree
    y: np.ndarray
    noise_scale: np.ndarray | None
    group: np.ndarray | None
    weight: np.ndarray | None
    features: tuple[str, ...] | None = eqx.field(static=True)
    target: str | None = eqx.field(static=True)
    classes: tuple[str, ...] | None = eqx.field(static=True)
    groups: tuple[str, ...] | None = eqx.field(static=True)
    units: str | None = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __init__(
        self,
        x: Any,
        y: npt.ArrayLike | float,
        *,
        noise_scale: npt.ArrayLike | float | None = None,
        group: npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        features: Sequence[str] | None = None,
        target: str | None = None,
        classes: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        units: str | None = None,
        name: str = "",
        _part: bool = False,
    ):
        self.x = jax.tree.map(lambda leaf: as_array(leaf, "x"), whole_lists(x))
        y = as_array(y, "y")
        self.y = y.astype(np.int64) if y.dtype == np.bool_ else y
        self.noise_scale = (
            None if noise_scale is None else as_array(noise_scale, "noise_scale")
        )
        self.group, labels = _as_groups(group)
        self.weight = None if weight is None else as_array(weight, "weight")
        self.features = None if features is None else tuple(features)
        self.target = target
        self.classes = None if classes is None else tuple(classes)
        groups = labels if groups is None else groups
        self.groups = None if groups is None else tuple(groups)
        self.units = units
        self.name = name
        # a part of data that were checked as a whole may be one-hot by chance
        if not _part and is_one_hot(self.y):
            refuse_one_hot(self.y, len(self.y))

    def __check_init__(self):
        self._check_targets()
        self._check_inputs()
        self._check_extras()

    def _check_targets(self) -> None:
        y = self.y
        if y.dtype.kind in "US":
            raise DataError(
                f"y: expected numbers, came text ({y.ravel()[:1].tolist()}); give "
                "integer class codes 0..K-1 and their names as classes="
            )
        if y.ndim < 1 or not is_real(y):
            raise DataError(
                "y: expected floats of shape (N,) or (N, …), or integer class codes "
                f"of shape (N,) or (N, …); came {y.dtype} of shape {y.shape}"
            )
        if y.size == 0:
            raise DataError(f"y: expected at least one row, came shape {y.shape}")
        if is_floating(y):
            columns = None if self.target is None or y.ndim > 1 else (self.target,)
            check_finite(y, "y", columns)
            if self.classes is not None:
                raise DataError(
                    f"y: expected integer class codes, since classes are named; came "
                    f"{y.dtype}; convert with y.astype(int), or leave classes= out"
                )
            return
        if y.min() < 0:
            raise DataError(
                f"y: expected class codes from 0, came {y.min()} in row "
                f"{int(y.argmin()) // (y.size // len(y))}; renumber the classes "
                "0..K-1, or give floats for regression"
            )
        if self.classes is not None and y.max() >= len(self.classes):
            raise DataError(
                f"y: expected class codes below {len(self.classes)}, the number of "
                f"names in classes, came {y.max()} in row "
                f"{int(y.argmax()) // (y.size // len(y))}; name all "
                "classes or correct the codes"
            )

    def _check_inputs(self) -> None:
        leaves = named_leaves(self.x)
        if not leaves:
            raise DataError("x: expected at least one array, came an empty pytree")
        bare = isinstance(self.x, np.ndarray)
        if self.features is not None:
            if not bare or self.x.ndim > 2:
                raise DataError(
                    "features: expected only with x of shape (N, D), since they name "
                    "its columns; leave features= out for other inputs"
                )
            width = self.x.shape[1] if self.x.ndim == 2 else 1
            if len(self.features) != width:
                raise DataError(
                    f"features: expected {width} names, one for each column of x, came "
                    f"{len(self.features)}: {listing(self.features)}"
                )
            if len(set(self.features)) != len(self.features):
                raise DataError(
                    "features: expected different names, came "
                    f"{listing(self.features)}; rename the columns"
                )
        for what, leaf in leaves:
            if leaf.ndim == 0 or not is_real(leaf):
                raise DataError(
                    f"{what}: expected numbers with leading axis {len(self)}, came "
                    f"{leaf.dtype} of shape {leaf.shape}; encode text as numbers"
                )
            if leaf.shape[0] != len(self):
                raise DataError(
                    f"{what}: expected {len(self)} rows, as y has, came "
                    f"{leaf.shape[0]}; give one row of x for each target"
                )
            if leaf.size == 0:
                raise DataError(
                    f"{what}: expected at least one column, came shape {leaf.shape}"
                )
            check_finite(leaf, what, self.features)

    def _check_extras(self) -> None:
        n = len(self)
        if self.noise_scale is not None:
            scale = self.noise_scale
            if not is_floating(self.y):
                raise DataError(
                    "noise_scale: expected only with float targets, came with class "
                    "codes; leave it out"
                )
            if scale.shape not in ((n,), self.y.shape) or not is_real(scale):
                raise DataError(
                    f"noise_scale: expected numbers of shape ({n},) or {self.y.shape}, "
                    f"came {scale.dtype} of shape {scale.shape}; a scale common to all "
                    "rows belongs to the likelihood, Gaussian(scale=)"
                )
            check_finite(scale, "noise_scale")
            if not (scale > 0).all():
                row = int(np.argwhere(~(scale > 0))[0][0])
                raise DataError(
                    f"noise_scale: expected standard deviations above 0, came "
                    f"{scale[row]} in row {row}; correct it or remove the row"
                )
        if self.group is not None and (
            self.group.shape != (n,) or self.group.dtype.kind not in "iub"
        ):
            raise DataError(
                f"group: expected integers or text of shape ({n},), came "
                f"{self.group.dtype} of shape {self.group.shape}"
            )
        if self.group is not None and self.groups is not None:
            low, high = int(self.group.min()), int(self.group.max())
            if low < 0 or high >= len(self.groups):
                raise DataError(
                    f"groups: expected a name for each code, 0 to {high}, came "
                    f"{len(self.groups)} names and codes from {low}"
                )
        if self.weight is not None:
            weight = self.weight
            if weight.shape != (n,) or not is_real(weight):
                raise DataError(
                    f"weight: expected numbers of shape ({n},), came {weight.dtype} "
                    f"of shape {weight.shape}"
                )
            check_finite(weight, "weight")
            if (weight < 0).any():
                row = int(np.argmax(weight < 0))
                raise DataError(
                    f"weight: expected weights of 0 or more, came {weight[row]} in "
                    f"row {row}; set it to 0 to leave the row out"
                )
            if not (weight > 0).any():
                raise DataError("weight: expected a positive weight, came only zeros")

    def __len__(self) -> int:
        """The number of examples N."""
        return self.y.shape[0]

    def take(self, indices: npt.ArrayLike) -> "Dataset":
        """The chosen rows, in the order given.

        Args:
            indices: `(M,)` row numbers, or an `(N,)` boolean mask.

        Returns:
            a `Dataset` of M rows with the same names.

        Raises:
            DataError: for numbers out of range or an empty choice.

        >>> Dataset([0.0, 1.0, 2.0], [5.0, 6.0, 7.0]).take([2, 0]).y.tolist()
        [7.0, 5.0]
        """
        rows, n = np.asarray(indices), len(self)
        if rows.dtype == np.bool_ and rows.shape == (n,):
            rows = np.flatnonzero(rows)
        if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu":
            raise DataError(
                f"indices: expected at least one row number, or a mask of shape ({n},) "
                f"that keeps a row; came {rows.dtype} of shape {rows.shape}"
            )
        if rows.min() < -n or rows.max() >= n:
            raise DataError(
                f"indices: expected row numbers below {n}, came "
                f"{rows.min()} to {rows.max()}"
            )

        def pick(array):
            return None if array is None else array[rows]

        return Dataset(
            jax.tree.map(pick, self.x),
            self.y[rows],
            noise_scale=pick(self.noise_scale),
            group=pick(self.group),
            groups=self.groups,
            weight=pick(self.weight),
            features=self.features,
            target=self.target,
            classes=self.classes,
            units=self.units,
            name=self.name,
            _part=True,
        )

    def with_inputs(
        self,
        x: Any,
        *,
        features: Sequence[str] | None = None,
        name: str | None = None,
    ) -> "Dataset":
        """The same targets, with what is known of them, and other inputs.

        Args:
            x: inputs of the same examples, leading axis N.
            features: names of the columns of x; the old ones are dropped.
            name: of the new data set; `None` for the same.

        Raises:
            DataError: as for a new `Dataset`.

        >>> data = Dataset([[1.0, 2.0]], [5.0], features=("a", "b"), units="m")
        >>> new = data.with_inputs([[3.0]])
        >>> new.x.tolist(), new.y.tolist(), new.features, new.units
        ([[3.0]], [5.0], None, 'm')
        """
        return Dataset(
            x,
            self.y,
            noise_scale=self.noise_scale,
            group=self.group,
            groups=self.groups,
            weight=self.weight,
            features=features,
            target=self.target,
            classes=self.classes,
            units=self.units,
            name=self.name if name is None else name,
            _part=True,
        )

    def split(
        self,
        *,
        train: float | int,
        calibrate: float | int = 0.0,
        test: float | int,
        key: PRNGKeyArray,
    ) -> "Split":
        """Random disjoint parts that together hold every row once.

        The parts are drawn row by row. `group` is carried along but does not steer
        the draw: rows of one group may fall into different parts. For whole groups
        in one part choose rows with `take` and make the `Split` from the pieces.

        Args:
            train, calibrate, test: fractions that sum to 1, or numbers of rows
                that sum to N. Fractions are rounded to whole rows, `train` takes the
                rest.
            key: a JAX random key; the same key gives the same parts.

        Returns:
            a `Split`; its `calibrate` is `None` when no row was asked for.

        Raises:
            DataError: when the sizes do not sum up or a part would be empty.

        >>> data = Dataset(np.arange(10.0), np.arange(10.0))
        >>> parts = data.split(train=0.7, test=0.3, key=jax.random.key(0))
        >>> len(parts.train), parts.calibrate, len(parts.test)
        (7, None, 3)
        """
        n_train, n_calibrate, n_test = _sizes(len(self), train, calibrate, test)
        rows = np.asarray(jax.random.permutation(key, len(self)))
        cut = n_train + n_calibrate
        return Split(
            self.take(rows[:n_train]),
            self.take(rows[n_train:cut]) if n_calibrate else None,
            self.take(rows[cut : cut + n_test]),
        )

    def fingerprint(self) -> str:
        """SHA-256 over the shapes, dtypes and bytes of all arrays, as hex digits.

        Names and units do not enter; one changed bit of any array does. Independent
        of the byte order and the memory layout of the machine.

        >>> a, b = Dataset([0.0, 1.0], [2.0, 3.0]), Dataset([0.0, 1.0], [2.0, 4.0])
        >>> a.fingerprint() == a.take([0, 1]).fingerprint() != b.fingerprint()
        True
        """
        digest = hashlib.sha256()
        extras = {"group": self.group, "noise": self.noise_scale, "weight": self.weight}
        named = [*named_leaves(self.x), ("y", self.y), *extras.items()]
        for what, array in named:
            if array is None:
                continue
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            digest.update(f"{what}|{array.dtype.name}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(little).tobytes())
        return digest.hexdigest()


class Split(eqx.Module):
    """Data for fitting, for calibrating (or `None`) and for testing.

    Args:
        train: what a method is fitted on.
        calibrate: held back for recalibration and conformal sets, or `None`.
        test: what scores are computed on.

    Raises:
        DataError: when the parts differ in the shape of one example, in the kind of
            target, or in their names.

    >>> data = Dataset(np.arange(4.0), np.arange(4.0))
    >>> len(Split(data.take([0, 1, 2]), None, data.take([3])).train)
    3
    """

    train: Dataset
    calibrate: Dataset | None
    test: Dataset

    def __check_init__(self):
        for what, part in (("calibrate", self.calibrate), ("test", self.test)):
            if part is None:
                continue
            for trait, expected in _traits(self.train).items():
                came = _traits(part)[trait]
                if came != expected:
                    raise DataError(
                        f"{what}: expected the {trait} of train, {expected}, came "
                        f"{came}; make all parts from the same columns"
                    )

    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the parts, as hex digits."""
        parts = (self.train, self.calibrate, self.test)
        text = "|".join("none" if p is None else p.fingerprint() for p in parts)
        return hashlib.sha256(text.encode()).hexdigest()


def _traits(data: Dataset) -> dict[str, Any]:
    return {
        "input shapes": {k: leaf.shape[1:] for k, leaf in named_leaves(data.x)},
        "target shape": data.y.shape[1:],
        "kind of target": "numbers" if is_floating(data.y) else "class codes",
        "feature names": data.features,
        "class names": data.classes,
    }


def _sizes(
    n: int, train: float | int, calibrate: float | int, test: float | int
) -> tuple[int, int, int]:
    """Rows for the three parts, from fractions or from numbers of rows."""
    asked = (train, calibrate, test)
    shown = f"train={train}, calibrate={calibrate}, test={test}"
    if any(not np.isfinite(a) or a < 0 for a in asked):
        raise DataError(f"split: expected sizes of 0 or more, came {shown}")
    if all(isinstance(a, numbers.Integral) or a == 0 for a in asked):
        sizes = (int(train), int(calibrate), int(test))
        if sum(sizes) != n:
            raise DataError(
                f"split: expected numbers of rows that sum to {n}, came {shown}, sum "
                f"{sum(sizes)}; give fractions, or drop rows with take first"
            )
    else:
        if abs(sum(asked) - 1) > 1e-6:
            raise DataError(
                f"split: expected fractions that sum to 1, or whole numbers of rows "
                f"that sum to {n}; came {shown}, sum {sum(asked):g}"
            )
        n_calibrate, n_test = round(calibrate * n), round(test * n)
        sizes = (n - n_calibrate - n_test, n_calibrate, n_test)
    empty_calibrate = calibrate > 0 and sizes[1] == 0
    if sizes[0] < 1 or sizes[2] < 1 or empty_calibrate:
        raise DataError(
            f"split: expected a row for train, for test, and for calibrate where asked "
            f"for; came {shown} of {n} rows, which gives {sizes}; choose larger parts"
        )
    return sizes


def constant_features(data: Dataset) -> tuple[str, ...]:
    """Columns of the inputs that do not vary beyond rounding: they carry nothing.

    A column counts as constant when max - min <= 8 eps max|value|, with eps the
    spacing of its dtype, or 1e-10 where that is larger. Inputs with more than two axes
    (images) are not looked at.

    Args:
        data: any `Dataset`.

    Returns:
        their names; `"column 3"` where no names are known.

    >>> data = Dataset([[1.0, 5.0], [2.0, 5.0]], [0.0, 1.0], features=("age", "site"))
    >>> constant_features(data)
    ('site',)
    """
    found = []
    for what, leaf in named_leaves(data.x):
        if leaf.ndim > 2:
            continue
        columns = leaf.reshape(len(data), -1)
        low, high = columns.min(axis=0), columns.max(axis=0)
        same = low == high
        if is_floating(leaf):
            rounding = max(8 * float(jnp.finfo(leaf.dtype).eps), 1e-10)
            low, high = low.astype(np.float64), high.astype(np.float64)
            same = high - low <= rounding * np.maximum(abs(low), abs(high))
        for j in np.flatnonzero(same):
            if data.features is not None:
                found.append(data.features[j])
            else:
                found.append(f"column {j}" if what == "x" else f"{what} column {j}")
    return tuple(found)


def as_classes(data: Dataset) -> Dataset:
    """The same rows with a whole-number target read as class labels.

    The distinct values, sorted, become the classes: 3, 5, 9 turn into codes 0, 1, 2
    named "3", "5", "9". Data that hold class codes already are returned as they are.

    Args:
        data: a `Dataset` with one float target.

    Returns:
        a `Dataset` with integer `y` and `classes`.

    Raises:
        DataError: when `y` has several columns, values that are not whole numbers,
            fewer than two distinct values, or a noise scale.

    >>> coded = as_classes(Dataset([0.0, 1.0, 2.0], [5.0, 3.0, 5.0]))
    >>> coded.y.tolist(), coded.classes
    ([1, 0, 1], ('3', '5'))
    """
    if not is_floating(data.y):
        return data
    if data.y.ndim != 1:
        raise DataError(
            f"y: expected one column of class labels, came shape {data.y.shape}"
        )
    fractional = data.y != np.round(data.y)
    if fractional.any():
        row = int(np.argmax(fractional))
        raise DataError(
            f"y: expected whole numbers as class labels, came {data.y[row]} in row "
            f"{row}; this target is a measurement, fit it as regression"
        )
    values, codes = np.unique(data.y, return_inverse=True)
    if len(values) < 2:
        raise DataError(
            f"y: expected at least two classes, came only {values[0]:g}; check that "
            "this is the target"
        )
    return Dataset(
        data.x,
        codes.astype(np.int64),
        noise_scale=data.noise_scale,
        group=data.group,
        groups=data.groups,
        weight=data.weight,
        features=data.features,
        target=data.target,
        classes=[str(int(value)) for value in values],
        name=data.name,
    )

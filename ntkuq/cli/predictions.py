"""Files of predictions that were made elsewhere."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ntkuq.cli.errors import UsageError
from ntkuq.cli.parquet import as_csv
from ntkuq.data import DataError, read_predictions
from ntkuq.data.errors import listing, nearest
from ntkuq.data.npz import unpack
from ntkuq.posteriors import Predictive


if TYPE_CHECKING:
    from ntkuq.cli.commands.score import Score

#: The arrays of an .npz file, for each kind of predictions, most complete first.
KINDS = {
    "probabilities": ("probabilities",),
    "samples": ("samples",),
    "quantiles": ("quantiles", "levels"),
    "mean and std": ("mean", "std"),
}
_LEVEL = re.compile(r"(?:^|[^\d.])(0?\.\d+)$")


class Made(NamedTuple):
    """Predictions with their outcomes.

    Args:
        predictive: the predictions.
        y: (N,) outcomes, or class codes.
        group: (N,) labels, or `None`.
        classes: names of the classes, where they are known.
    """

    predictive: Predictive
    y: np.ndarray
    group: np.ndarray | None = None
    classes: tuple[str, ...] | None = None


def read_made(path: str, flags: Score) -> Made:
    """The predictions of one file.

    Raises:
        DataError: for a defect of the file.
        UsageError: for flags that do not go together.
    """
    file = Path(path)
    if file.suffix.lower() == ".npz":
        return _from_arrays(file, flags)
    _one_kind(flags)
    with as_csv(file) as table:
        return _from_table(table, flags)


def _one_kind(flags: Score) -> None:
    ways = [flags.mean is not None or flags.std is not None]
    ways += [w is not None for w in (flags.samples, flags.quantiles, flags.prob)]
    if sum(ways) != 1:
        raise UsageError(
            "expected one kind of prediction for a table: --mean with --std, or "
            "--samples, or --quantiles, or --prob"
        )
    if (flags.mean is None) != (flags.std is None):
        missing = "--std" if flags.std is None else "--mean"
        raise UsageError(f"--mean and --std go together; {missing} is missing")


def _from_table(path: Path, flags: Score) -> Made:
    if flags.quantiles is not None:
        names, levels = _quantile_columns(path, flags.quantiles, flags.y)
        found = read_predictions(path, y=flags.y, samples=names)
    else:
        found = read_predictions(
            path,
            y=flags.y,
            mean=flags.mean,
            std=flags.std,
            samples=_columns(flags.samples),
            prob=_columns(flags.prob),
        )
        levels = None
    classes = None
    try:
        if levels is not None:
            predictive = Predictive.quantiles(levels, found["samples"])
        elif "prob" in found:
            predictive = Predictive.probabilities(found["prob"])
            classes = tuple(str(name) for name in found["classes"])
        elif "samples" in found:
            predictive = Predictive.samples(found["samples"])
        else:
            predictive = Predictive.normal(found["mean"], found["std"])
    except ValueError as error:
        raise DataError(f"{path}: {error} (rows counted from 0)") from error
    group = None
    if flags.group is not None:
        group = _labels(path, flags.group, len(found["y"]))
    return Made(predictive, found["y"], group, classes)


def _quantile_columns(path: Path, text: str, y: str) -> tuple[list[str], np.ndarray]:
    """Columns of quantiles with their levels, lowest first."""
    header = _rows(path)[0]
    listed = _columns(text)
    names = [name for name in header if name.startswith(text) and name != y]
    names = listed if isinstance(listed, list) else names
    if len(names) < 2:
        raise DataError(
            f"{path}: expected two or more columns of quantiles, came {len(names)} for "
            f"{text!r}; the columns are {listing(header)}"
        )
    levels = {}
    for name in names:
        found = _LEVEL.search(name)
        if found is None or not 0 < float(found[1]) < 1:
            raise DataError(
                f"{path}: expected names of quantile columns that end in the level, "
                f"such as q0.05 and q0.95, came {name!r}; rename it"
            )
        levels[name] = float(found[1])
    names = sorted(names, key=lambda name: levels[name])
    return names, np.asarray([levels[name] for name in names])


def _labels(path: Path, name: str, n: int) -> np.ndarray:
    """A column of labels, from a file whose other columns have been read."""
    header, *rows = _rows(path)
    if name not in header:
        raise DataError(
            f"{path}: expected the group column {name!r}, came no such column"
            f"{nearest(name, header)}; the columns are {listing(header)}"
        )
    place = header.index(name)
    labels = [row[place].strip() for row in rows if any(c.strip() for c in row)]
    if len(labels) != n or not all(labels):
        raise DataError(
            f"{path}: expected a label in every row of the group column {name!r}, came "
            "an empty cell; fill it, or leave out the row"
        )
    return np.asarray(labels)


def _rows(path: Path) -> list[list[str]]:
    """The cells of a table, names first; separators found as the reader does."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: expected a file, came {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected text in UTF-8; save it as CSV in UTF-8"
        ) from error
    tables = []
    for delimiter in (",", ";", "\t"):
        source = io.StringIO(text, newline="")
        reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True)
        try:
            tables.append([row for row in reader if row])
        except csv.Error:
            tables.append([])
    best = max(tables, key=lambda rows: len(rows[0]) if rows else 0)
    if not best:
        raise DataError(f"{path}: expected a table, came an empty file")
    return [[name.strip() for name in best[0]], *best[1:]]


def _columns(text: str | None) -> str | list[str] | None:
    if text is None or "," not in text:
        return text
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name.strip() for name in names]


# ---- arrays -------------------------------------------------------------------------


def _from_arrays(path: Path, flags: Score) -> Made:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, came nothing there; check the path")
    arrays = unpack(path, str(path))
    y = _array(path, arrays, flags.y, "y")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    group = None
    if flags.group is not None:
        group = _array(path, arrays, flags.group, "--group")
        if group.shape != (len(y),):
            raise DataError(
                f"{path}: expected {flags.group!r} of shape ({len(y)},) like y, came "
                f"{group.shape}"
            )
    classes = None
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
    try:
        predictive = _predictive(path, arrays, y, flags)
    except (ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: {error} (rows counted from 0)") from error
    return Made(predictive, y, group, classes)


def _predictive(
    path: Path, arrays: dict[str, np.ndarray], y: np.ndarray, flags: Score
) -> Predictive:
    named = {
        "probabilities": flags.prob,
        "samples": flags.samples,
        "quantiles": flags.quantiles,
        "mean": flags.mean,
        "std": flags.std,
    }
    # what a flag names is what is meant, whatever else the file holds
    asked = [kind for kind, keys in KINDS.items() if any(named.get(k) for k in keys)]
    held = [
        kind
        for kind, keys in KINDS.items()
        if all((named.get(key) or key) in arrays for key in keys)
    ]
    kinds = asked or held
    classes = np.issubdtype(y.dtype, np.integer) and "mean" in arrays
    classes = classes and arrays["mean"].ndim == 2
    if classes and not asked and kinds[:1] in ([], ["mean and std"]):
        # the predictions of a run: the mean of a class prediction is its probabilities
        return Predictive.probabilities(arrays["mean"])
    if not kinds:
        raise DataError(
            f"{path}: expected arrays {flags.y!r} and mean and std, or samples, or "
            f"quantiles and levels, or probabilities, came {listing(arrays)}"
        )
    keys = KINDS[kinds[0]]
    values = [_array(path, arrays, named.get(key) or key, key) for key in keys]
    if kinds[0] == "probabilities":
        return Predictive.probabilities(values[0])
    if kinds[0] == "mean and std":
        shaped = (_like(path, value, y, keys[i]) for i, value in enumerate(values))
        return Predictive.normal(*shaped)
    rows = values[0]
    if rows.ndim >= 2 and rows.shape[1] != len(y) and rows.shape[0] == len(y):
        raise DataError(
            f"{path}: expected {kinds[0]} of shape (…, {len(y)}), the points last, "
            f"came {rows.shape}; store them transposed"
        )
    if kinds[0] == "samples":
        return Predictive.samples(rows)
    return Predictive.quantiles(values[1], rows)


def _like(path: Path, value: np.ndarray, y: np.ndarray, name: str) -> np.ndarray:
    value = value[:, 0] if value.ndim == 2 and value.shape[1:] == (1,) else value
    if value.shape != y.shape:
        raise DataError(
            f"{path}: expected {name} of shape {y.shape} like y, came {value.shape}"
        )
    return value


def _array(
    path: Path, arrays: dict[str, np.ndarray], name: str, role: str
) -> np.ndarray:
    if name not in arrays:
        raise DataError(
            f"{path}: expected an array {name!r} for {role}, came no such array"
            f"{nearest(name, arrays)}; the arrays are {listing(arrays)}"
        )
    value = arrays[name]
    if role != "--group" and value.dtype.kind not in "iufb":
        raise DataError(
            f"{path}: expected numbers in {name!r}, came {value.dtype}; store class "
            "codes 0..K-1 for labels of text"
        )
    return value

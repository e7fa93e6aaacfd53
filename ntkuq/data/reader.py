"""Files of the user, `.csv` and `.npz`, read into a `Dataset` or refused with a reason.

Everything here treats the file as data from outside: no pickle, bounded sizes, and
one message for each defect, with the column and the line where it was found.
"""

import csv
import io
import itertools
import math
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ntkuq.data.dataset import Dataset, Split
from ntkuq.data.errors import DataError, DataWarning, listing, nearest
from ntkuq.data.npz import MAX_BYTES, unpack


_DELIMITERS = (",", ";", "\t")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "?", "-nan"})
_SAMPLE = 1 << 16
_PARTS = {"train": "", "calibrate": "_calibrate", "test": "_test"}
_ROW_KEYS = ("x", "y", "noise_scale", "group", "weight")
_NOTE_KEYS = ("features", "target", "classes", "units")


def read(
    path: str | Path,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    group: str | None = None,
) -> Dataset:
    """A `.csv` or `.npz` file as a `Dataset`.

    CSV: UTF-8 (with or without a byte order mark), names in the first row, columns
    separated by commas, semicolons or tabs (found from the first row), decimals with
    a point, fields quoted where needed. Empty lines, and rows of empty cells at the
    end, are passed over. A target of text becomes class codes in the sorted order of
    its labels; a target of numbers stays float (see `as_classes`).

    NPZ: arrays `x` and `y`; optionally `noise_scale`, `group`, `weight`, `features`,
    `target`, `classes`, `units`.

    Args:
        path: the file.
        target: the column to predict; required for CSV. For NPZ the name of `y`.
        features: the columns to predict from, in this order; all others without it.
        group: column of group labels, numbers or text (NPZ: name of the array,
            `"group"` without it); it is then not a feature unless named as one.

    Returns:
        A `Dataset` named after the file.

    Raises:
        DataError: with one message that names the file, the column and the line, says
            what was expected, what came, and what to do.

    >>> read("absent.csv", target="price")
    Traceback (most recent call last):
    ...
    ntkuq.data.errors.DataError: absent.csv: expected a file, came nothing there; ...
    """
    path = Path(path)
    if _suffix(path) == ".npz":
        arrays = _unpack_file(path)
        held = [p for p, end in _PARTS.items() if end and f"x{end}" in arrays]
        if held:
            raise DataError(
                f"{path}: expected one set of rows, came a file that is split already "
                f"(it holds x{_PARTS[held[0]]}); open it with ntkuq.data.read_split"
            )
        return _from_arrays(path, arrays, target, features, group)["train"]
    table = _Table(path)
    return _from_table(table, target, features, group)


def has_split(path: str | Path) -> bool:
    """Whether a file brings its own test rows, so that `read_split` opens it.

    Args:
        path: a `.csv` or `.npz` file.

    Returns:
        True for an `.npz` that holds `x_test`.

    Raises:
        DataError: when the file is absent or of another kind.
    """
    path = Path(path)
    return _suffix(path) == ".npz" and "x_test" in _unpack_file(path)


def read_split(
    path: str | Path,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    group: str | None = None,
) -> Split:
    """An `.npz` file that brings its own test rows as a `Split`.

    Arrays `x`, `y`, `x_test`, `y_test`, optionally `x_calibrate`, `y_calibrate`; all
    that `read` takes besides, with the same endings for the other parts
    (`group_test`).

    Args:
        path: the file.
        target: name of `y`.
        features: names of the columns of `x` to keep; the file must name its columns.
        group: name of the array of groups, `"group"` without it.

    Returns:
        A `Split`; its `calibrate` is `None` when the file has no such rows.

    Raises:
        DataError: as `read`, and when the file holds no test rows.
    """
    path = Path(path)
    if _suffix(path) == ".csv":
        raise DataError(
            f"{path}: expected an .npz file with x_test and y_test, came a .csv file; "
            "open it with ntkuq.data.read(path, target=...).split(...)"
        )
    arrays = _unpack_file(path)
    if "x_test" not in arrays:
        raise DataError(
            f"{path}: expected arrays x_test and y_test, came {listing(arrays)}; open "
            "it with ntkuq.data.read(path).split(...)"
        )
    parts = _from_arrays(path, arrays, target, features, group)
    return Split(parts["train"], parts.get("calibrate"), parts["test"])


def read_predictions(
    path: str | Path,
    *,
    y: str,
    mean: str | None = None,
    std: str | None = None,
    samples: str | Sequence[str] | None = None,
    prob: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Predictions made elsewhere, with the truth, from a `.csv` file.

    Give one of the three forms: `mean` and `std`, `samples`, or `prob`. Columns of
    samples and probabilities are a list of names, or the text they all begin with.
    With `prob` the truth is a class: the rest of a column name (`p_cat` → `cat`) or,
    where these are not all whole numbers, the position of the column from 0.
    Probabilities may be rounded: rows that sum to 1 within 0.005 are divided by
    their sum.

    Args:
        path: the file.
        y: column of the truth.
        mean: column of predicted means.
        std: column of predicted standard deviations of a new observation.
        samples: columns of draws from the predictive.
        prob: columns of class probabilities, in the order of the classes.

    Returns:
        Arrays `y` `(N,)` with `mean` and `std` `(N,)`, or `samples` `(S, N)`, or
        `prob` `(N, C)` and `classes` `(C,)`; `y` then holds class codes.

    Raises:
        DataError: for a defect of the file, a standard deviation that is not above 0,
            probabilities outside 0..1 or that do not sum to 1, an unknown class.
        TypeError: when not exactly one of the forms is given.
    """
    forms = ((mean, std), (samples,), (prob,))
    begun = [form for form in forms if any(part is not None for part in form)]
    if len(begun) != 1 or any(part is None for part in begun[0]):
        raise TypeError(
            "expected one form of prediction: mean= and std=, or samples=, or prob=; "
            f"came mean={mean!r}, std={std!r}, samples={samples!r}, prob={prob!r}"
        )
    path = Path(path)
    if _suffix(path) != ".csv":
        raise DataError(
            f"{path}: expected a .csv file of predictions, came {path.suffix!r}; for "
            "arrays in memory use ntkuq.Predictive"
        )
    table = _Table(path)
    truth = table.find(y, "y")
    if mean is not None and std is not None:
        places = {
            "y": truth,
            "mean": table.find(mean, "mean"),
            "std": table.find(std, "std"),
        }
        values, _ = table.columns(list(places.values()), [])
        result = dict(zip(places, values, strict=True))
        if not (result["std"] > 0).all():
            row = int(np.argmax(result["std"] <= 0))
            raise DataError(
                f"{path}: column {std!r}, line {table.lines[row]}: expected a standard "
                f"deviation above 0, came {result['std'][row]:g}; a variance is not a "
                "standard deviation, and 0 claims certainty"
            )
        return result
    if samples is not None:
        chosen = table.several(samples, "samples", truth)
        values, _ = table.columns([truth, *chosen], [])
        return {"y": values[0], "samples": np.stack(values[1:])}
    if prob is None:
        raise AssertionError("one form is given")
    chosen = table.several(prob, "prob", truth)
    values, texts = table.columns(chosen, [truth])
    start = len(prob) if isinstance(prob, str) else 0
    given = {table.header[j] for j in chosen}
    if not isinstance(prob, str) and not given.issuperset(texts[0]):
        start = _shared_start(given)
    labels = [table.header[j][start:].strip(" _-:") for j in chosen]
    probabilities = _probabilities(table, np.stack(values, axis=1))
    codes = _match_labels(table, texts[0], labels, y)
    return {"y": codes, "prob": probabilities, "classes": np.array(labels)}


# ---- tables -------------------------------------------------------------------------


class _Table:
    """A CSV file with its header read; the columns are parsed on request."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: array = array("q")
        _check_file(path)
        sample = self._text(_SAMPLE)
        widths = {d: self._width(sample, d) for d in _DELIMITERS}
        self.delimiter = max(_DELIMITERS, key=lambda d: widths[d])
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            raise DataError(
                f"{path}: expected names of columns in the first line, came an empty "
                "file; export the table again"
            )
        self.header = [name.strip() for name in first[1]]
        self._check_header()

    def _text(self, size: int) -> str:
        with self.path.open("rb") as file:
            head = file.read(size)
        if b"\0" in head:
            raise DataError(
                f"{self.path}: expected a text file, came binary data or UTF-16; save "
                "it as CSV in UTF-8"
            )
        return head.decode("utf-8-sig", errors="replace")

    @staticmethod
    def _width(sample: str, delimiter: str) -> int:
        reader = csv.reader(
            io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True
        )
        try:
            return len(next((row for row in reader if row), []))
        except csv.Error:
            return 0

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """`(line, cells)` of all rows that are not empty lines."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(
                file, delimiter=self.delimiter, skipinitialspace=True, strict=True
            )
            try:
                for row in reader:
                    if row and not (len(row) == 1 and not row[0].strip()):
                        yield reader.line_num, row
            except csv.Error as error:
                raise DataError(
                    f"{self.path}: line {reader.line_num}: expected cells with closed "
                    f"quotes, came {error}; repair the quotes of this line"
                ) from error
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}: expected text in UTF-8, came byte "
                    f"0x{error.object[error.start]:02x} near line "
                    f"{reader.line_num + 1}; save it as CSV in UTF-8"
                ) from error

    def _check_header(self) -> None:
        named = [name for name in self.header if name]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise DataError(
                f"{self.path}: expected different names of columns, came {twice[0]!r} "
                f"{named.count(twice[0])} times; rename the columns"
            )
        if len(self.header) < 2:
            raise DataError(
                f"{self.path}: expected at least two columns separated by commas, "
                f"semicolons or tabs, came one: {listing(self.header)}; export the "
                "table again with such a separator"
            )
        if named and all(_number(name) is not None for name in named):
            raise DataError(
                f"{self.path}: expected names of columns in the first line, came "
                f"numbers: {listing(named, 5)}; add a line of names at the top"
            )

    def find(self, name: str, role: str) -> int:
        """The position of a column."""
        if name not in self.header:
            raise DataError(
                f"{self.path}: expected the {role} column {name!r}, came no such "
                f"column{nearest(name, self.header)}; the columns are "
                f"{listing(self.header)}"
            )
        return self.header.index(name)

    def several(self, names: str | Sequence[str], role: str, truth: int) -> list[int]:
        """Positions of the columns listed, or of all that begin with a text."""
        if not isinstance(names, str):
            chosen = [self.find(name, role) for name in names]
        else:
            chosen = [
                j
                for j, name in enumerate(self.header)
                if name.startswith(names) and j != truth
            ]
        if len(chosen) < 2:
            raise DataError(
                f"{self.path}: expected two or more {role} columns, came "
                f"{len(chosen)} for {names!r}; the columns are {listing(self.header)}"
            )
        return chosen

    def columns(
        self, numeric: Sequence[int], text: Sequence[int]
    ) -> tuple[list[np.ndarray], list[list[str]]]:
        """Parse the file once: columns of finite numbers and columns of text."""
        numbers = [array("d") for _ in numeric]
        texts: list[list[str]] = [[] for _ in text]
        appends = [(j, column.append) for j, column in zip(numeric, numbers)]
        known: dict[str, str] = {}
        self.lines = array("q")
        rows = self._rows()
        next(rows)
        empty = None  # the first of a run of rows with empty cells only
        for line, row in rows:
            if not any(cell and not cell.isspace() for cell in row):
                empty = empty or (line, row)
                continue
            if empty is not None:
                self._take(*empty, appends, text, texts, known)
                empty = None
            self._take(line, row, appends, text, texts, known)
        if len(self.lines) < 2:
            came = "only the line of names" if not self.lines else "one row"
            raise DataError(
                f"{self.path}: expected at least two rows below the names of the "
                f"columns, came {came}; export the table again"
            )
        return [np.array(column) for column in numbers], texts

    def _take(
        self,
        line: int,
        row: list[str],
        appends: list[tuple[int, Callable[[float], None]]],
        text: Sequence[int],
        texts: list[list[str]],
        known: dict[str, str],
    ) -> None:
        if len(row) != len(self.header):
            raise DataError(
                f"{self.path}: line {line}: expected {len(self.header)} cells, as in "
                f"the first line, came {len(row)}; put cells that contain "
                f"{self.delimiter!r} in quotes, or complete the line"
            )
        for j, append in appends:
            value = _number(row[j])
            if value is None or not math.isfinite(value):
                raise self.bad_cell(j, line, row[j])
            append(value)
        for j, column in zip(text, texts):
            cell = row[j].strip()
            column.append(known.setdefault(cell, cell))
        self.lines.append(line)

    def bad_cell(self, j: int, line: int, cell: str) -> DataError:
        """The error for a cell that is not a finite number."""
        cell = cell.strip()
        came = f"came {cell[:40]!r}" if cell else "came an empty cell"
        advice = (
            "correct the cell; if the column holds text, encode it as numbers, or "
            "choose other columns"
        )
        if cell.casefold() in _MISSING:
            advice = "fill the gap, or leave out the row, or leave out the column"
        elif _number(cell) is not None:
            advice = "correct the value, or leave out the row"
        elif _separated(cell):
            advice = "write decimals with a point, and no separator of thousands"
        return DataError(
            f"{self.path}: column {self.header[j]!r}, line {line}: expected a finite "
            f"number, {came}; {advice}"
        )


def _separated(cell: str) -> bool:
    """Is it a number with a decimal comma, or with separators of thousands?"""
    return "," in cell and any(
        _number(cell.replace(",", by)) is not None for by in (".", "")
    )


def _number(cell: str) -> float | None:
    """The number that a cell holds, or `None`."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _from_table(
    table: _Table,
    target: str | None,
    features: Sequence[str] | None,
    group: str | None,
) -> Dataset:
    if target is None:
        raise DataError(
            f"{table.path}: expected target=, the column to predict, came none; the "
            f"columns are {listing(table.header)}"
        )
    goal = table.find(target, "target")
    by = None if group is None else table.find(group, "group")
    if by == goal:
        raise DataError(
            f"{table.path}: expected a group column other than the target, came "
            f"{group!r} for both; choose another"
        )
    chosen = _choose_features(table, goal, by, features)
    text = [goal] if by is None else [goal, by]
    values, texts = table.columns(chosen, text)
    names = [table.header[j] for j in chosen]
    y, classes = _target(table, goal, texts[0])
    x = np.stack(values, axis=1)
    _check_leak(str(table.path), x, y, names, target)
    return Dataset(
        x,
        y,
        group=None if by is None else _groups(table, by, texts[1]),
        features=names,
        target=target,
        classes=classes,
        name=table.path.stem,
    )


def _choose_features(
    table: _Table, goal: int, by: int | None, features: Sequence[str] | None
) -> list[int]:
    """Positions of the feature columns."""
    target = table.header[goal]
    if features is None:
        chosen = [j for j in range(len(table.header)) if j not in (goal, by)]
        unnamed = [j + 1 for j in chosen if not table.header[j]]
        if unnamed:
            raise DataError(
                f"{table.path}: expected a name for every column, came none for column "
                f"{unnamed[0]} (a row index?); export without it, name it, or choose "
                "columns with features="
            )
    else:
        if isinstance(features, str):
            raise DataError(
                f"{table.path}: expected a list of names for features, came the text "
                f"{features!r}; write features=[{features!r}]"
            )
        chosen = [table.find(name, "feature") for name in features]
        if goal in chosen:
            raise DataError(
                f"{table.path}: expected features other than the target, came "
                f"{target!r} among them; leave it out of features="
            )
        if len(set(chosen)) < len(chosen):
            raise DataError(
                f"{table.path}: expected each feature once, came {listing(features)}"
            )
    if not chosen:
        raise DataError(
            f"{table.path}: expected at least one feature besides the target "
            f"{target!r}, came none; the columns are {listing(table.header)}"
        )
    return chosen


def _target(
    table: _Table, goal: int, cells: list[str]
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Floats, or class codes and the sorted labels when no cell is a number."""
    values = [_number(cell) for cell in cells]
    name = table.header[goal]
    for row, cell in enumerate(cells):
        value = values[row]
        infinite = value is not None and not math.isfinite(value)
        if infinite or cell.casefold() in _MISSING:
            raise table.bad_cell(goal, table.lines[row], cell)
    texts = [row for row, value in enumerate(values) if value is None]
    n = len(cells)
    if 0 < len(texts) < n and len(texts) <= n / 2:
        raise table.bad_cell(goal, table.lines[texts[0]], cells[texts[0]])
    if 0 < len(texts) < n:
        row = next(row for row, value in enumerate(values) if value is not None)
        raise DataError(
            f"{table.path}: column {name!r}, line {table.lines[row]}: expected a class "
            f"label of text, as in {len(texts)} of {n} rows, came the number "
            f"{cells[row]!r}; write all labels as text or all as numbers"
        )
    if not texts:
        y = np.array(values, dtype=np.float64)
        _check_varies(str(table.path), y, name)
        return y, None
    if all(_separated(cell) for cell in cells):
        raise table.bad_cell(goal, table.lines[0], cells[0])
    labels, codes = np.unique(np.array(cells), return_inverse=True)
    if n >= 10 and len(labels) > n / 2:
        raise DataError(
            f"{table.path}: column {name!r}: expected numbers or class labels, came "
            f"{len(labels)} different texts in {n} rows, such as {cells[0][:40]!r}; "
            "choose another target"
        )
    _check_varies(str(table.path), codes, name)
    return codes.astype(np.int64), tuple(str(label) for label in labels)


def _groups(table: _Table, by: int, cells: list[str]) -> np.ndarray:
    for row, cell in enumerate(cells):
        if not cell:
            raise DataError(
                f"{table.path}: column {table.header[by]!r}, line {table.lines[row]}: "
                "expected a group label, came an empty cell; fill it, or leave out the "
                "row"
            )
    return np.array(cells)


def _check_varies(where: str, y: np.ndarray, name: str) -> None:
    low, high = y.min(axis=0), y.max(axis=0)
    # up to rounding: sums of the same numbers in another order differ
    if (high - low <= 1e-12 * np.maximum(abs(low), abs(high))).all():
        kind = "classes" if y.dtype.kind in "iu" else "values"
        raise DataError(
            f"{where}: target {name!r}: expected at least two different {kind}, came "
            "the same in every row; there is nothing to predict, choose another target"
        )


def _check_leak(
    where: str, x: np.ndarray, y: np.ndarray, names: Sequence[str], target: str
) -> None:
    for j, name in enumerate(names):
        if np.array_equal(x[:, j], y):
            raise DataError(
                f"{where}: expected features that do not contain the target, came "
                f"{name!r}, which equals {target!r} in every row; leave it out with "
                "features="
            )


def _probabilities(table: _Table, prob: np.ndarray) -> np.ndarray:
    outside = ((prob < 0) | (prob > 1)).any(axis=1)
    total = prob.sum(axis=1)
    wrong = outside | (abs(total - 1) > 0.005)
    if wrong.any():
        row = int(np.argmax(wrong))
        came = f"{prob[row].tolist()}" if outside[row] else f"a sum of {total[row]:g}"
        raise DataError(
            f"{table.path}: line {table.lines[row]}: expected probabilities from 0 to "
            f"1 that sum to 1, came {came[:200]}; give probabilities, not logits, of "
            "all classes"
        )
    return prob / total[:, None]


def _shared_start(names: Iterable[str]) -> int:
    """How many characters all names begin with."""
    columns = itertools.takewhile(
        lambda letters: len(set(letters)) == 1, zip(*names, strict=False)
    )
    return sum(1 for _ in columns)


def _match_labels(
    table: _Table, cells: list[str], labels: list[str], name: str
) -> np.ndarray:
    """Class codes of the truth: by the label in the column name, else by position."""
    codes = {label: k for k, label in enumerate(labels)}
    if not all(label.isdecimal() for label in labels):
        positions = {str(k): k for k in range(len(labels))}
        if all(cell in positions for cell in cells):
            codes = positions
    for row, cell in enumerate(cells):
        if cell not in codes:
            raise DataError(
                f"{table.path}: column {name!r}, line {table.lines[row]}: expected one "
                f"of the classes {listing(codes)}, came {cell[:40]!r}; the names of "
                "the columns of prob= end in the names of the classes"
            )
    return np.array([codes[cell] for cell in cells], dtype=np.int64)


# ---- arrays -------------------------------------------------------------------------


def _from_arrays(
    path: Path,
    arrays: dict[str, np.ndarray],
    target: str | None,
    features: Sequence[str] | None,
    group: str | None,
) -> dict[str, Dataset]:
    """The parts that an `.npz` file holds, by name."""
    keys = {
        part: {
            key: f"{group if key == 'group' and group else key}{end}"
            for key in _ROW_KEYS
        }
        for part, end in _PARTS.items()
    }
    held = {
        part: {key: arrays[name] for key, name in named.items() if name in arrays}
        for part, named in keys.items()
    }
    parts = {part: found for part, found in held.items() if found}
    for part in {"train": None, **parts}:
        for key in ("x", "y", *(["group"] if group else [])):
            if key not in held[part]:
                name = keys[part][key]
                raise DataError(
                    f"{path}: expected an array {name!r}, came no such array"
                    f"{nearest(name, arrays)}; the arrays are {listing(arrays)}"
                )
    used = {name for named in keys.values() for name in named.values()}
    extra = sorted(set(arrays) - used - set(_NOTE_KEYS))
    if extra:
        warnings.warn(
            f"{path}: these arrays were not used: {listing(extra)}",
            DataWarning,
            stacklevel=3,
        )
    names = _names(path, arrays, "features")
    kept = _kept_columns(path, held["train"]["x"], names, features)
    notes = {
        "features": features if features is not None else names,
        "target": target or (_names(path, arrays, "target") or (None,))[0],
        "units": (_names(path, arrays, "units") or (None,))[0],
        "name": path.stem,
    }
    classes = _names(path, arrays, "classes")
    coded, classes = _class_codes(path, {k: v["y"] for k, v in parts.items()}, classes)
    result = {}
    for part, found in parts.items():
        x = found["x"] if kept is None else found["x"][:, kept]
        extras = {key: found.get(key) for key in ("noise_scale", "group", "weight")}
        try:
            result[part] = Dataset(x, coded[part], **extras, classes=classes, **notes)
        except DataError as error:
            where = path if part == "train" else f"{path} ({part})"
            raise DataError(f"{where}: {error}") from error
    train = result["train"]
    if len(train) < 2:
        raise DataError(f"{path}: expected at least two rows in x, came one")
    name = train.target or "y"
    _check_varies(str(path), train.y, name)
    if train.x.ndim == 2:
        columns = train.features or [f"column {j}" for j in range(train.x.shape[1])]
        flat = train.y[:, 0] if train.y.shape[1:] == (1,) else train.y
        _check_leak(str(path), train.x, flat, columns, name)
    return result


def _names(
    path: Path, arrays: dict[str, np.ndarray], key: str
) -> tuple[str, ...] | None:
    """An array of text as a tuple of names, `None` where it is absent."""
    if key not in arrays:
        return None
    held = np.atleast_1d(arrays[key])
    if held.ndim != 1 or held.dtype.kind != "U":
        raise DataError(
            f"{path}: expected names of text in {key!r}, came {held.dtype} of shape "
            f"{held.shape}; store numpy.array of str"
        )
    return tuple(str(name) for name in held)


def _kept_columns(
    path: Path,
    x: np.ndarray,
    names: tuple[str, ...] | None,
    features: Sequence[str] | None,
) -> list[int] | None:
    """Positions of the columns to keep, `None` for all."""
    if features is None:
        return None
    if names is None or x.ndim != 2 or len(names) != x.shape[1]:
        raise DataError(
            f"{path}: expected an array 'features' with a name for each column of x, "
            f"since features= chooses among them; came x of shape {x.shape} and "
            f"{'no names' if names is None else listing(names)}"
        )
    for name in features:
        if name not in names:
            raise DataError(
                f"{path}: expected the feature column {name!r}, came no such column"
                f"{nearest(name, names)}; the columns are {listing(names)}"
            )
    return [names.index(name) for name in features]


def _class_codes(
    path: Path, targets: dict[str, np.ndarray], classes: tuple[str, ...] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Text labels of all parts as codes; integers must be codes already."""
    kinds = {y.dtype.kind for y in targets.values()}
    if kinds == {"U"}:
        labels = classes or tuple(
            str(v)
            for v in np.unique(np.concatenate([y.ravel() for y in targets.values()]))
        )
        codes = {label: k for k, label in enumerate(labels)}
        unknown = {str(v) for y in targets.values() for v in y.ravel()} - set(codes)
        if unknown:
            raise DataError(
                f"{path}: expected labels among classes, {listing(labels)}, came "
                f"{listing(sorted(unknown))}; add them to the array 'classes'"
            )
        coded = {
            part: np.array([codes[str(v)] for v in y.ravel()]).reshape(y.shape)
            for part, y in targets.items()
        }
        return coded, labels
    if kinds <= set("iu") and classes is None:
        values = np.unique(np.concatenate([y.ravel() for y in targets.values()]))
        if not np.array_equal(values, np.arange(len(values))):
            raise DataError(
                f"{path}: expected class codes 0..K-1 in an integer y, came integers "
                f"from {values[0]} to {values[-1]}; for regression store "
                "y.astype(float), for classes numpy.unique(y, return_inverse=True)[1]"
            )
    return targets, classes


# ---- files --------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    """The kind of the file, `.csv` or `.npz`, once it exists."""
    if not path.is_file():
        came = "a directory" if path.is_dir() else "nothing there"
        raise DataError(
            f"{path}: expected a file, came {came}; check the path (relative paths "
            "start at the working directory)"
        )
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise DataError(
            f"{path}: expected a .csv or .npz file, came {path.suffix or 'no ending'}; "
            "export the table as CSV, or write arrays with numpy.savez"
        )
    return suffix


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    if size == 0:
        raise DataError(
            f"{path}: expected a table or arrays, came an empty file; export it again"
        )
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_BYTES:,} bytes, came {size:,}; take fewer "
            "rows, or give batches in memory instead of a file"
        )


def _unpack_file(path: Path) -> dict[str, np.ndarray]:
    _check_file(path)
    return unpack(path, str(path))

"""From flags to data: sets by name, one file and shares, or a file for each part."""

from __future__ import annotations

import csv
import functools as ft
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import ntkuq as nq
from ntkuq.cli.commands.problem import FILES, AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.parquet import as_csv
from ntkuq.cli.parse import parse
from ntkuq.data import (
    DataError,
    Dataset,
    Split,
    as_classes,
    has_split,
    load,
    read,
    read_split,
)
from ntkuq.data.errors import listing
from ntkuq.models import AbstractLikelihood


class Parts(NamedTuple):
    """The parts of a data set that were asked for."""

    train: Dataset
    calibrate: Dataset | None = None
    test: Dataset | None = None

    def each(self, change: Callable[[Dataset], Dataset]) -> Parts:
        """The parts, each changed."""
        rest = (None if part is None else change(part) for part in self[1:])
        return Parts(change(self.train), *rest)


class Shares(NamedTuple):
    """Shares of the rows of a file."""

    train: float = 0.8
    calibrate: float = 0.0
    test: float = 0.2


def load_data(flags: AbstractProblem) -> Split:
    """Train and test parts, with class codes where the likelihood wants them.

    Raises:
        UsageError: for flags that do not go together, and where no test rows are left.
        DataError: for files that cannot be used.
    """
    parts = load_parts(flags)
    if parts.test is None:
        if flags.train is not None:
            raise UsageError("--train: expected --test beside it, got none")
        if Path(flags.source()).suffix.lower() == ".npz" and flags.split == "0":
            raise UsageError(f"{flags.source()} holds no test rows (x_test, y_test)")
        raise UsageError(
            f"--split: expected a share for the test rows, got {flags.split!r}; such "
            "as 0.8,0.2"
        )
    return Split(parts.train, parts.calibrate, parts.test)


def load_parts(flags: AbstractProblem) -> Parts:
    """The same, for a command that needs no test rows (`--split 1`)."""
    if flags.train or flags.test or flags.calibrate:
        return _from_files(flags)
    path = Path(flags.source())
    if path.suffix.lower() not in FILES:
        return _by_name(flags, path)
    options = _options(flags)
    if path.suffix.lower() == ".npz" and has_split(path):
        if flags.split != "0":
            raise UsageError(
                f"--split: {path} brings its own test rows (x_test); leave --split out"
            )
        split = read_split(path, **options)
        parts = Parts(split.train, split.calibrate, split.test)
        return _same_classes(_coded(parts, flags), str(path))
    with as_csv(path) as file:
        data = read(file, **options)
    shares = read_shares(flags.split)
    data = _coded(Parts(data), flags).train
    if shares.train == 1:
        return Parts(data)
    parts = [share for share in shares if share > 0]
    if min(parts) * len(data) < 0.5 or len(data) < len(parts) + 1:
        given = " and ".join(
            f"{100 * share:g} % for {name}"
            for name, share in zip(("training", "calibration", "testing"), shares)
            if share > 0
        )
        raise UsageError(
            f"{path}: expected enough rows for --split, got {len(data)} rows of which "
            f"{given}, so that one part is empty; add rows, or choose other shares"
        )
    key = jax.random.fold_in(jax.random.key(flags.seed), 1)
    return Parts(*_divided(data, shares, key))


def _divided(data: Dataset, shares: Shares, key: jax.Array):
    split = data.split(
        train=shares.train, calibrate=shares.calibrate, test=shares.test, key=key
    )
    return split.train, split.calibrate, split.test


def read_shares(text: str) -> Shares:
    """Shares of training, calibration and test rows; `"0"` stands for 80 and 20 %.

    >>> read_shares("0.7,0.1,0.2").calibrate, read_shares("1").train
    (0.1, 1.0)
    """
    if text == "0":
        return Shares()
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2, 3):
        raise UsageError(
            "--split: expected shares of training and test rows such as 0.8,0.2, or of "
            f"training, calibration and test rows such as 0.7,0.15,0.15, got {text!r}"
        )
    # written so that NaN fails
    if not (min(numbers) > 0 and abs(sum(numbers) - 1) < 1e-9):
        raise UsageError(
            f"--split: expected {len(numbers)} shares above 0 that sum to 1, got "
            f"{text!r}, which sum to {sum(numbers):g}"
        )
    first, *rest = numbers
    return Shares(first, rest[0] if len(rest) == 2 else 0.0, rest[-1] if rest else 0.0)


def _options(flags: AbstractProblem) -> dict[str, Any]:
    columns = None
    if flags.features is not None:
        # as a line of a CSV file, so that a name may hold a comma in quotes
        columns = next(csv.reader([flags.features], skipinitialspace=True), [])
        columns = [name.strip() for name in columns]
    return {"target": flags.target, "features": columns, "group": flags.group}


def _by_name(flags: AbstractProblem, path: Path) -> Parts:
    name = flags.source()
    if path.suffix or "/" in name or path.is_dir():
        raise UsageError(
            f"--data: expected a {', '.join(FILES[:-1])} or {FILES[-1]} file, or the "
            f"name of a data set, got {name!r}; export the table as CSV, or run `ntkuq "
            "data` for the names"
        )
    if flags.target or flags.features or flags.group:
        raise UsageError(
            f"--target, --features and --group are for a file; {name!r} is a data set "
            "by name"
        )
    text = flags.split
    if not text.lstrip("-").isdigit():
        raise UsageError(
            f"--split: expected the number of a standard split of {name}, got {text!r}"
        )
    split = load(name, split=int(text))
    return Parts(split.train, split.calibrate, split.test)


def _from_files(flags: AbstractProblem) -> Parts:
    if flags.train is None:
        given = "--calibrate" if flags.test is None else "--test"
        raise UsageError(f"{given}: expected --train beside it, got none")
    if flags.data is not None:
        raise UsageError(
            "expected --data, which --split divides, or --train with --test; got both"
        )
    if flags.split != "0":
        raise UsageError("--split is for --data; --train and --test are parts already")
    options = _options(flags)
    train = _read_part("--train", flags.train, options)
    if train.features is not None and Path(flags.train).suffix.lower() != ".npz":
        # the same columns in the same order, whatever their order in the other files
        options["features"] = list(train.features)
    others = {
        name: None if path is None else _read_part(f"--{name}", path, options)
        for name, path in (("calibrate", flags.calibrate), ("test", flags.test))
    }
    parts = _coded(Parts(train, others["calibrate"], others["test"]), flags)
    return _same_classes(parts, flags.train)


def _read_part(flag: str, path: str, options: Mapping[str, Any]) -> Dataset:
    file = Path(path)
    if file.suffix.lower() not in FILES:
        raise UsageError(f"{flag}: expected a file of {', '.join(FILES)}, got {path!r}")
    with as_csv(file) as table:
        return read(table, **options)


def _coded(parts: Parts, flags: AbstractProblem) -> Parts:
    """Class codes where the likelihood wants them, in every part."""
    if flags.likelihood is None:
        return parts
    return parts.each(ft.partial(_classes_if_asked, likelihood=flags.likelihood))


def _classes_if_asked(data: Dataset, likelihood: str) -> Dataset:
    found = parse(likelihood)
    wants = isinstance(found, nq.Categorical | nq.Bernoulli)
    if data.classes is not None and isinstance(found, AbstractLikelihood) and not wants:
        raise UsageError(
            f"--likelihood: expected Categorical() or Bernoulli(), since the target "
            f"{data.target!r} holds the classes {', '.join(data.classes[:5])}, got "
            f"{likelihood!r}; leave it out, or choose a target of numbers"
        )
    if wants and not np.issubdtype(np.asarray(data.y).dtype, np.integer):
        return as_classes(data)
    return data


def _same_classes(parts: Parts, where: str) -> Parts:
    """The same code for the same label in every part."""
    held = [part.classes for part in parts if part is not None]
    if None in held or len(set(held)) == 1:
        return parts
    known = {label for classes in held for label in classes or ()}
    whole = all(label.lstrip("-").isdigit() for label in known)
    labels = sorted(known, key=int if whole else str)
    seen = parts.train.classes or ()
    if unseen := [label for label in labels if label not in seen]:
        raise DataError(
            f"{where}: expected training rows of every class, came none of "
            f"{listing(unseen, 5)}, which the other parts hold; a network cannot "
            "predict a class that it never saw: add such rows, or leave them out there"
        )
    return parts.each(ft.partial(_recoded, labels=labels))


def _recoded(data: Dataset, labels: list[str]) -> Dataset:
    own = data.classes or ()
    codes = np.asarray([labels.index(label) for label in own])
    return Dataset(
        data.x,
        codes[data.y],
        noise_scale=data.noise_scale,
        group=data.group,
        groups=data.groups,
        weight=data.weight,
        features=data.features,
        target=data.target,
        classes=labels,
        units=data.units,
        name=data.name,
    )

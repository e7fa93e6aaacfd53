"""From flags to the problem: data, network, likelihood, prior, scaling, methods."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

import ntkuq as nq
from ntkuq.cli.errors import UsageError
from ntkuq.cli.model import check_builder, load_builder, load_weights
from ntkuq.cli.parse import parse
from ntkuq.data import (
    Dataset,
    Split,
    as_classes,
    has_split,
    info,
    load,
    names,
    read,
    read_split,
)
from ntkuq.models import (
    AbstractLikelihood,
    AbstractPrior,
    AbstractScaling,
    Identity,
    forward,
    mlp,
)
from ntkuq.posteriors import AbstractMethod


if TYPE_CHECKING:
    from ntkuq.cli.commands.compare import Compare

#: Hidden units of the network that is used where none is given, by task.
REGRESSION_WIDTH, CLASSES_WIDTH = 50, 20
#: So many different whole numbers may be classes; the user is told.
MOST_CLASSES = 10
#: The share of a target's spread that rounding may take.
LOST = 0.002
#: Shares of training and test rows of a file.
SHARES = (0.8, 0.2)


def load_data(flags: Compare) -> Split:
    """Train and test parts, with class codes where the likelihood wants them."""
    path = Path(flags.data)
    if path.suffix.lower() not in {".csv", ".npz"}:
        if path.suffix or "/" in flags.data or path.is_dir():
            raise UsageError(
                f"--data: expected a .csv or .npz file, or the name of a data set, got "
                f"{flags.data!r}; export the table as CSV, or run `ntkuq data` for the "
                "names"
            )
        if flags.target or flags.features or flags.group:
            raise UsageError(
                f"--target, --features and --group are for a file; {flags.data!r} is a "
                "data set by name"
            )
        return load(flags.data, split=_number(flags.split))
    columns = None
    if flags.features is not None:
        # as a line of a CSV file, so that a name may hold a comma in quotes
        columns = next(csv.reader([flags.features], skipinitialspace=True), [])
        columns = [name.strip() for name in columns]
    options = {"target": flags.target, "features": columns, "group": flags.group}
    if path.suffix.lower() == ".npz" and has_split(path):
        split = read_split(path, **options)
        if split.test is None:
            raise UsageError(f"{path} holds no test rows (x_test, y_test)")
        return _as_targets(split, flags.likelihood)
    data = read(path, **options)
    train, test = _shares(flags.split)
    key = jax.random.fold_in(jax.random.key(flags.seed), 1)
    if flags.likelihood is not None:
        data = _classes_if_asked(data, flags.likelihood)
    if min(train, test) * len(data) < 0.5 or len(data) < 3:
        raise UsageError(
            f"{path}: expected enough rows for --split, got {len(data)} rows of which "
            f"{100 * train:g} % are for training and {100 * test:g} % for testing, so "
            "that one part is empty; add rows, or choose other shares"
        )
    return data.split(train=train, test=test, key=key)


def _as_targets(split: Split, likelihood: str | None) -> Split:
    if likelihood is None:
        return split
    return Split(
        _classes_if_asked(split.train, likelihood),
        split.calibrate,
        _classes_if_asked(split.test, likelihood),
    )


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


def _number(text: str) -> int:
    if not text.lstrip("-").isdigit():
        raise UsageError(
            f"--split: expected the number of a standard split, got {text!r}"
        )
    return int(text)


def _shares(text: str) -> tuple[float, float]:
    if text == "0":
        return SHARES
    try:
        train, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--split: expected shares of training and test rows such as 0.8,0.2, got "
            f"{text!r}"
        ) from error
    if not (train > 0 and test > 0 and abs(train + test - 1) < 1e-9):
        raise UsageError(f"--split: expected two shares that sum to 1, got {text!r}")
    return train, test


def load_methods(flags: Compare) -> list[AbstractMethod] | None:
    """The methods that were asked for, or `None` for the default ones."""
    if not flags.method:
        return None
    found = []
    for text in flags.method:
        method = parse(text)
        if not isinstance(method, AbstractMethod):
            raise UsageError(
                f"--method: expected a method such as 'Laplace(structure=KFAC())', got "
                f"{text!r}, which is a part of one"
            )
        found.append(method)
    return found


def load_bnn(
    flags: Compare, data: Split, methods: list[AbstractMethod] | None = None
) -> tuple[nq.BNN, list[str]]:
    """The problem, and remarks on it for the report."""
    likelihood = _likelihood(flags, data.train)
    _check_digits(flags, data.train)
    notes = _target_notes(flags, data.train)
    prior = parse(flags.prior)
    if not isinstance(prior, AbstractPrior):
        raise UsageError(f"--prior: expected a prior, got {flags.prior!r}")
    if flags.model is None:
        if flags.weights is not None:
            raise UsageError("--weights needs MODEL, the builder of the network")
        network = nq.Network(_default_builder(likelihood, data.train))
        return nq.BNN(network, likelihood, prior, _scaling(flags)), notes
    build = load_builder(flags.model)
    model = check_builder(build, flags.model)
    if flags.weights is None:
        return nq.BNN(nq.Network(build), likelihood, prior, _scaling(flags)), notes
    trained = load_weights(flags.weights, model, flags.model)
    network = nq.Network(build, trained=trained)
    if any(isinstance(m, nq.MAP) and m.train is not None for m in methods or ()):
        notes.append(
            "MAP(train=...) trains anew, from the start, and the other methods use its "
            f"network: the weights in {flags.weights} go unused; MAP(train=None) keeps "
            "them"
        )
    choices = {"none": Identity(), "standardize": nq.Standardize()}
    bnns = {
        name: nq.BNN(network, likelihood, prior, scaling)
        for name, scaling in choices.items()
    }
    if flags.scaling != "auto":
        return bnns[flags.scaling], notes
    bnn, remarks = _fitting(bnns, data.train)
    return bnn, notes + remarks


def _target_notes(flags: Compare, data: Dataset) -> list[str]:
    """Remarks on a target that can be read in two ways, or that loses its digits."""
    y = np.asarray(data.y)
    if np.issubdtype(y.dtype, np.integer):
        return []
    values = np.unique(y)
    whole = bool(np.all(values == np.round(values)))
    if flags.likelihood is None and whole and len(values) <= MOST_CLASSES:
        note = (
            f"the target holds {len(values)} different whole numbers, "
            f"{values[0]:g} to {values[-1]:g}, and is taken as a measurement; for "
            "classes say --likelihood 'Categorical()'"
        )
        return [note]
    return []


def _check_digits(flags: Compare, data: Dataset) -> None:
    """Refuse a target whose spread drowns in the rounding of float32."""
    y = np.asarray(data.y, np.float64)
    if flags.x64 or np.issubdtype(np.asarray(data.y).dtype, np.integer):
        return
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(y).max())
    spread = float(np.min(y.std(axis=0)))
    if 0 < spread < rounding / LOST:
        raise UsageError(
            f"the target is about {np.abs(y).max():.3g} and varies by only "
            f"{spread:.3g}, too little for numbers in float32 (rounded to "
            f"{rounding:.2g}): subtract a constant from the target, or say --x64"
        )


def _scaling(flags: Compare) -> AbstractScaling:
    """What `--scaling` says; auto keeps features that come in one unit (pixels)."""
    if flags.scaling == "none":
        return Identity()
    if flags.scaling == "auto" and flags.data in names():
        scaled = info(flags.data).scale != 1.0
        return Identity() if scaled else nq.Standardize()
    return nq.Standardize()


def _likelihood(flags: Compare, data: Dataset) -> AbstractLikelihood:
    if flags.likelihood is not None:
        found = parse(flags.likelihood)
        if not isinstance(found, AbstractLikelihood):
            raise UsageError(
                f"--likelihood: expected a likelihood such as Gaussian(), got "
                f"{flags.likelihood!r}"
            )
        return found
    integer = np.issubdtype(np.asarray(data.y).dtype, np.integer)
    return nq.Categorical() if integer else nq.Gaussian()


def _default_builder(likelihood: AbstractLikelihood, data: Dataset):
    inputs = data.x.shape[1:]
    if len(inputs) != 1:
        raise UsageError(
            "the default network takes rows of features, got inputs of shape "
            f"{inputs}: give MODEL, or store x with the shape (rows, features)"
        )
    outputs = likelihood.outputs(data.y)
    if likelihood.classes and outputs > 1 and data.classes is not None:
        outputs = len(data.classes)
    width = CLASSES_WIDTH if likelihood.classes else REGRESSION_WIDTH
    return mlp(inputs[0], outputs, width=width, activation=jax.nn.relu)


def _fitting(bnns: dict[str, nq.BNN], data: Dataset) -> tuple[nq.BNN, list[str]]:
    """Whichever scaling fits the given weights to the training data better."""
    losses = {}
    for name, bnn in bnns.items():
        prepared = bnn.prepare(data)
        losses[name] = _error(prepared, data)
    best = min(losses, key=lambda name: losses[name])
    words = {"none": "raw columns", "standardize": "standardized columns"}
    measure = (
        "error rate"
        if bnns[best].likelihood.classes
        else "share of unexplained variance"
    )
    remark = (
        f"scaling={best}: the given weights fit the training data best with "
        f"{words[best]} ({measure} {losses[best]:.3g}; with the other choice "
        f"{max(losses.values()):.3g})"
    )
    if losses[best] > 0.9:
        remark += (
            ". They hardly fit at all: were they trained on other columns, or in "
            "another order? --features sets the order"
        )
    return bnns[best], [remark]


def _error(bnn: nq.BNN, data: Dataset) -> float:
    outputs = np.asarray(
        jax.vmap(lambda a: forward(bnn.model, a))(bnn.inputs(data.x)), np.float64
    )
    targets = np.asarray(bnn.targets(data))
    if bnn.likelihood.classes:
        if outputs.shape[1] == 1:
            return float(np.mean((outputs[:, 0] > 0) != targets))
        return float(np.mean(outputs.argmax(axis=1) != targets))
    targets = targets.reshape(len(targets), -1)
    residual = outputs[:, : targets.shape[1]] - targets
    with np.errstate(over="ignore"):
        return float(np.mean(residual**2) / np.mean((targets - targets.mean(0)) ** 2))

"""From flags to the problem: network, likelihood, prior, scaling, methods."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

import ntkuq as nq
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.model import check_builder, load_builder, load_weights
from ntkuq.cli.parse import parse
from ntkuq.data import Dataset, info, names
from ntkuq.models import (
    AbstractLikelihood,
    AbstractPrior,
    AbstractScaling,
    Identity,
    forward,
    mlp,
)
from ntkuq.posteriors import AbstractMethod


#: Hidden units of the network that is used where none is given, by task.
REGRESSION_WIDTH, CLASSES_WIDTH = 50, 20
#: So many different whole numbers may be classes; the user is told.
MOST_CLASSES = 10
#: The share of a target's spread that rounding may take.
LOST = 0.002


def load_methods(texts: Sequence[str]) -> list[AbstractMethod] | None:
    """The methods that were asked for, or `None` for the default ones."""
    return [load_method(text) for text in texts] or None


def load_method(text: str) -> AbstractMethod:
    """One method from its text."""
    method = parse(text)
    if not isinstance(method, AbstractMethod):
        raise UsageError(
            f"--method: expected a method such as 'Laplace(structure=KFAC())', got "
            f"{text!r}, which is a part of one"
        )
    return method


def load_bnn(
    flags: AbstractProblem,
    train: Dataset,
    methods: Sequence[AbstractMethod] | None,
    *,
    choose: bool = True,
) -> tuple[nq.BNN, list[str]]:
    """The problem, and remarks on it for the report."""
    likelihood = _likelihood(flags, train)
    _check_digits(flags, train)
    notes = _target_notes(flags, train)
    prior = parse(flags.prior)
    if not isinstance(prior, AbstractPrior):
        raise UsageError(f"--prior: expected a prior, got {flags.prior!r}")
    if flags.model is None:
        if flags.weights is not None:
            raise UsageError("--weights needs MODEL, the builder of the network")
        network = nq.Network(_default_builder(likelihood, train))
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
    try:
        bnn, remarks = _fitting(bnns, train)
    except ValueError:
        if choose:
            raise
        return bnns["standardize"], notes  # the misfit is for the caller to find
    return bnn, notes + remarks


def _target_notes(flags: AbstractProblem, data: Dataset) -> list[str]:
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


def _check_digits(flags: AbstractProblem, data: Dataset) -> None:
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


def _scaling(flags: AbstractProblem) -> AbstractScaling:
    """What `--scaling` says; auto keeps features that come in one unit (pixels)."""
    if flags.scaling == "none":
        return Identity()
    if flags.scaling == "auto" and flags.source() in names():
        scaled = info(flags.source()).scale != 1.0
        return Identity() if scaled else nq.Standardize()
    return nq.Standardize()


def _likelihood(flags: AbstractProblem, data: Dataset) -> AbstractLikelihood:
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

"""What a comparison is about, as plain data: description and fingerprint."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Split, constant_features, digest
from ntkuq.models import (
    BNN,
    Standardize,
    constructor,
    forward,
    identity,
    parameters,
)
from ntkuq.models.architectures import describe


def weights_digest(model: PyTree) -> str:
    """SHA-256 of all parameters of a network."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(parameters(model)):
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def problem(bnn: BNN, data: Split, warnings: tuple[str, ...]) -> dict[str, Any]:
    """The `problem` entry of a run document."""
    train = data.train
    notes = list(warnings)
    constant = constant_features(train)
    if constant:
        names = ", ".join(constant)
        zero = isinstance(bnn.scaling, Standardize)
        kept = "kept, standardized to zero" if zero else "kept"
        notes.append(
            f"constant in the training data, so it tells nothing ({kept}): {names}"
        )
    model = bnn.model if bnn.trained else _fresh(bnn)
    shape = jax.tree.leaves(train.x)[0].shape[1:]
    return {
        "task": "classification" if bnn.likelihood.classes else "regression",
        "fingerprint": fingerprint(bnn, data),
        "data": {
            "name": train.name or "data",
            "sha256": data.fingerprint(),
            "n_train": len(train),
            "n_calibrate": 0 if data.calibrate is None else len(data.calibrate),
            "n_test": len(data.test),
            "features": None if train.features is None else list(train.features),
            "target": train.target,
            "units": train.units,
            "classes": None if train.classes is None else list(train.classes),
            "warnings": notes,
        },
        "network": {
            "text": describe(model, shape),
            "parameters": bnn.size(),
            "weights": weights_digest(model) if bnn.trained else None,
        },
        "likelihood": constructor(bnn.likelihood),
        "prior": constructor(bnn.prior),
        "scaling": _scaling_text(bnn),
    }


def fingerprint(bnn: BNN, data: Split) -> str:
    """One digest of everything that all methods share."""
    return digest(description(bnn, data))


def description(bnn: BNN, data: Split) -> dict[str, Any]:
    """What tells two problems apart: data, network, likelihood, prior, scaling."""
    model = bnn.model if bnn.trained else _fresh(bnn)
    weights = "trained " if bnn.trained else "built "
    prepared = bnn.prepare(data.train)
    return {
        "data": data.train.name or "data",
        "data sha256": data.fingerprint(),
        "network": describe(model, jax.tree.leaves(data.train.x)[0].shape[1:]),
        "weights": weights + weights_digest(model)[:16],
        "program": program_digest(prepared, model, data.train.x)[:16],
        "likelihood": _brief(identity(bnn.likelihood)),
        "prior": _brief(identity(bnn.prior)),
        "scaling": _brief(identity(bnn.scaling)),
    }


def _brief(text: str) -> str:
    """A text short enough for a message; a long one ends with its digest."""
    if len(text) <= 100:
        return text
    return f"{text[:60]}… #{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def program_digest(bnn: BNN, model: PyTree, x: PyTree) -> str:
    """SHA-256 of what the network computes, whatever its parameters are.

    Two networks of the same arrays with another activation differ in their program.
    """
    one = jax.tree.map(lambda leaf: leaf[:1], x)
    example = jax.tree.map(lambda leaf: leaf[0], bnn.inputs(one))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def outputs(arrays: PyTree, x: PyTree) -> Array:
        return forward(eqx.combine(arrays, rest), x)

    program = jax.make_jaxpr(outputs)(arrays, example)
    # functions print with their address in memory
    found = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)).encode())
    for constant in program.consts:
        found.update(np.asarray(constant).tobytes())
    return found.hexdigest()


def _fresh(bnn: BNN) -> PyTree:
    # the same key always: it identifies the architecture and its initialization
    return eqx.nn.inference_mode(bnn.network.init(jax.random.key(0)))


def _scaling_text(bnn: BNN) -> str:
    return f"{type(bnn.scaling).__name__}()"

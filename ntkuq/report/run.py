"""`compare`: the same problem through every method, into one run document."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import ntkuq
from ntkuq.data import Dataset, Split, Store, digest, write_bytes, write_json
from ntkuq.kernels import Empirical
from ntkuq.models import BNN, Gaussian, identity, parameters
from ntkuq.posteriors import (
    MAP,
    NTKGP,
    AbstractMethod,
    DeepEnsemble,
    Estimate,
    Laplace,
    estimate,
)
from ntkuq.report import catalog
from ntkuq.report.comparison import Comparison, assemble
from ntkuq.report.document import Document
from ntkuq.report.problem import description, problem
from ntkuq.report.progress import AbstractProgress, Silent
from ntkuq.report.provenance import provenance
from ntkuq.report.units import Unit, empty_record, run_unit


class Limits(NamedTuple):
    """What one method may cost by its estimate; a method beyond it is skipped.

    seconds: time to fit. bytes: peak memory; `None` for four fifths of what is free.
    """

    seconds: float = 1800.0
    bytes: float | None = None


#: The limits and the listener of a comparison unless others are given.
LIMITS, SILENT = Limits(), Silent()


def compare(
    bnn: BNN,
    methods: Mapping[str, AbstractMethod] | Sequence[AbstractMethod] | None,
    data: Split,
    *,
    out: str | Path | None = None,
    limits: Limits = LIMITS,
    progress: AbstractProgress = SILENT,
    warnings: Sequence[str] = (),
    command: str = "ntkuq.compare(...)",
    fresh: bool = False,
    key: Array,
) -> Comparison:
    """Fit every method to `data.train`, score it on `data.test`, compare in pairs.

    An untrained network is trained once, by the first `MAP` among the methods (or
    `MAP()`): the methods that linearize share it, and all methods share the prior
    precision and noise that it fitted.

    Args:
        bnn: the problem.
        methods: label -> method, or methods, or `None` for `default_methods`.
        data: train and test parts.
        out: directory of the run. Finished methods are stored there; the same call
            does only what is missing. A directory of another problem is refused.
        limits: what a method may cost by its estimate.
        progress: who is told.
        warnings: remarks on the data for the report.
        command: what was typed, for the report.
        fresh: ignore what is stored.
        key: random key; a method's own key depends on it and the method alone.

    Returns:
        The comparison; print it, or write a report.

    Raises:
        ValueError: where network, likelihood and data do not fit, or `out` belongs to
            another problem.
    """
    named = _named(methods, bnn, _check_split(data).train)
    prepared = bnn.prepare(data.train)
    _check_test(prepared, data)
    seed = int(jax.random.key_data(key)[-1])
    store = _open(out, bnn, data)
    entry = problem(bnn, data, tuple(warnings))
    plan = _plan(named, prepared, data.train, limits)
    progress.plan(plan, entry)
    run = _Run(data, store, progress, fresh, seed, key)
    base, trainer = _train(run, named, prepared, plan)
    units = {}
    for name, method in named.items():
        reason = plan[name]
        status = "skipped"
        if not isinstance(reason, str) and _needs_network(method) and trainer.failure:
            reason = trainer.failure
            status = "skipped" if trainer.unit is None else "failed"
        if trainer.unit is not None and name == trainer.name:
            units[name] = trainer.unit
        elif isinstance(reason, str):
            units[name] = Unit(empty_record(name, method, seed, status, reason), {})
            progress.finish(name, units[name].record, reused=False)
        else:
            shared = trainer.text if _needs_network(method) else None
            units[name] = run.unit(name, method, base, shared)
    if not bnn.trained:
        _share_training(named, units, trainer)
    head = provenance(command=command, seed=seed, dtype=str(_dtype(base)))
    document = assemble(head, entry, units, group=data.test.group)
    comparison = Comparison(document, data.test, _pointwise(units), _folder(out))
    if out is not None:
        _write(Path(out), document, units, seed)
    return comparison


def show_plan(
    bnn: BNN,
    methods: Mapping[str, AbstractMethod] | Sequence[AbstractMethod] | None,
    data: Split,
    limits: Limits,
    progress: AbstractProgress,
    warnings: Sequence[str] = (),
) -> None:
    """Tell `progress` what `compare` would do; nothing is fitted or written."""
    named = _named(methods, bnn, data.train)
    prepared = bnn.prepare(data.train)
    _check_test(prepared, data)
    plan = _plan(named, prepared, data.train, limits)
    progress.plan(plan, problem(bnn, data, tuple(warnings)))


class _Trainer(NamedTuple):
    """The method that trained the shared network, if any did.

    failure: why there is no trained network, for the methods that need it.
    """

    name: str | None = None
    unit: Unit | None = None
    text: str | None = None
    failure: str | None = None


class _Run(NamedTuple):
    """What all units of a run share."""

    data: Split
    store: Store | None
    progress: AbstractProgress
    fresh: bool
    seed: int
    key: Array

    def unit(
        self, name: str, method: AbstractMethod, bnn: BNN, trainer: str | None = None
    ) -> Unit:
        """The stored unit, or a new one, which is stored.

        Beyond the problem a unit depends on method and seed, and on how the shared
        network was trained (`trainer`, the identity of its method).
        """
        number = digest([identity(method), self.seed, trainer, ntkuq.__version__])
        stored_as = f"{catalog.slug(name)[:60]}-{self.seed}-{number[:16]}"
        if self.store is not None and not self.fresh:
            found = self._stored(self.store, stored_as, name, bnn)
            if found is not None:
                self.progress.finish(name, found.record, reused=True)
                return found
        self.progress.start(name)
        own = jax.random.fold_in(self.key, int(number[:7], 16))

        def callback(steps: int, loss: float) -> None:
            self.progress.step(name, steps, loss)

        unit = run_unit(
            name, method, bnn, self.data, callback=callback, seed=self.seed, key=own
        )
        if self.store is not None and unit.record["status"] == "done":
            extra = {} if unit.bnn is None else _pack(unit.bnn, bnn)
            self.store.write(stored_as, unit.record, unit.arrays | extra)
        self.progress.finish(name, unit.record, reused=False)
        return unit

    def _stored(self, store: Store, stored_as: str, name: str, bnn: BNN) -> Unit | None:
        record = store.read(stored_as)
        arrays = None if record is None else store.arrays(stored_as)
        if record is None or arrays is None:
            note = store.note(stored_as)
            if note is not None:
                self.progress.note(note)
            return None
        weights = {k: v for k, v in arrays.items() if k.startswith("network.")}
        rest = {k: v for k, v in arrays.items() if k not in weights}
        trained = _unpack(weights, bnn) if weights else None
        return Unit(record | {"label": name}, rest, trained)


def _named(methods, bnn: BNN, data: Dataset) -> dict[str, AbstractMethod]:
    if methods is None:
        return catalog.default_methods(bnn, data)
    if not isinstance(methods, Mapping):
        methods = {catalog.label(method): method for method in methods}
    if not methods:
        raise ValueError("compare: expected at least one method, got none")
    for name, method in methods.items():
        if not isinstance(method, AbstractMethod):
            raise TypeError(
                f"compare: expected methods such as Laplace(), got {method!r} for "
                f"{name!r}"
            )
    return dict(methods)


def _check_split(data: Split) -> Split:
    if not isinstance(data, Split):
        raise TypeError(
            f"compare: expected a Split (train, calibrate, test), got "
            f"{type(data).__name__}; make one with data.split(train=0.8, test=0.2, "
            "key=key)"
        )
    return data


def _check_test(bnn: BNN, data: Split) -> None:
    """The test part must look like the training part."""
    shapes = [
        [leaf.shape[1:] for leaf in jax.tree.leaves(part.x)]
        for part in (data.train, data.test)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"compare: expected test inputs of shape {shapes[0]} like the training "
            f"inputs, got {shapes[1]}"
        )
    bnn.check_outputs(data.test)


def _open(out: str | Path | None, bnn: BNN, data: Split) -> Store | None:
    if out is None:
        return None
    entries = description(bnn, data)
    return Store.open(Path(out), digest(entries), entries)


def _linearizes(method: AbstractMethod) -> bool:
    """Does it start from the trained network?"""
    empirical = isinstance(method, NTKGP) and isinstance(method.kernel, Empirical)
    return isinstance(method, Laplace) or empirical


def _needs_network(method: AbstractMethod) -> bool:
    """Does it use what training finds: weights, or prior precision and noise?"""
    return isinstance(method, MAP | DeepEnsemble) or _linearizes(method)


def _share_training(
    named: Mapping[str, AbstractMethod], units: dict[str, Unit], trainer: _Trainer
) -> None:
    """Count the shared training in the cost of what uses its weights or its fit."""
    if trainer.unit is None or trainer.unit.record["cost"] is None:
        return
    training = trainer.unit.record["cost"]["fit_seconds"]
    for name, method in named.items():
        cost = units[name].record["cost"]
        if cost is None or name == trainer.name or not _needs_network(method):
            continue
        own = cost["fit_seconds"]
        shared = cost | {"fit_seconds": training + own, "after_training_seconds": own}
        units[name] = units[name]._replace(record=units[name].record | {"cost": shared})


def _train(
    run: _Run,
    named: Mapping[str, AbstractMethod],
    bnn: BNN,
    plan: Mapping[str, Estimate | str],
) -> tuple[BNN, _Trainer]:
    """Train the shared network by the first MAP, or `MAP()`."""
    if not any(_needs_network(method) for method in named.values()):
        return bnn, _Trainer()
    first = next((n for n, m in named.items() if isinstance(m, MAP)), None)
    if first is not None and isinstance(plan[first], str):
        return bnn, _Trainer(
            failure=f"needs the network that {first} trains, which is skipped"
        )
    if first is not None:
        method = named[first]
    else:
        method = MAP(train=None) if bnn.trained else MAP()
    unit = run.unit(first or "MAP (shared training)", method, bnn)
    if unit.bnn is None:
        failure = f"needs a trained network; training failed: {unit.record['reason']}"
        return bnn, _Trainer(first, unit, identity(method), failure)
    return unit.bnn, _Trainer(first, unit, identity(method))


def _dtype(bnn: BNN) -> np.dtype:
    """The type of the network's parameters, trained or not."""
    return bnn.dtype if bnn.trained else np.dtype(jnp.zeros(()).dtype)


def _plan(
    named: Mapping[str, AbstractMethod], bnn: BNN, data: Dataset, limits: Limits
) -> dict[str, Estimate | str]:
    """An estimate for each method, or why it will not be run."""
    room = 0.8 * _free_memory() if limits.bytes is None else limits.bytes
    plan: dict[str, Estimate | str] = {}
    for name, method in named.items():
        if isinstance(method, DeepEnsemble) and bnn.network.build is None:
            plan[name] = (
                "trains from scratch and needs a builder (key -> eqx.Module); got a "
                "trained network only"
            )
            continue
        need = estimate(method, bnn, data)
        plan[name] = need
        if need.bytes > room:
            plan[name] = (
                f"would need about {need.bytes / 1e9:.2g} GB of memory, "
                f"{room / 1e9:.2g} GB are allowed: use fewer training rows, a smaller "
                "structure such as KFAC(), or --max-memory"
            )
        elif need.seconds > limits.seconds:
            plan[name] = (
                f"would take about {need.seconds:.3g} s, {limits.seconds:.3g} s are "
                "allowed: use fewer training rows, or --max-time"
            )
    return plan


def _free_memory() -> float:
    """Bytes of memory that are free, where the system tells; else 8 GB."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 8e9


def _pack(fitted: BNN, bnn: BNN) -> dict[str, np.ndarray]:
    """A trained problem as arrays: weights, factor on the prior precision, noise."""
    leaves = jax.tree.leaves(parameters(fitted.network.trained))
    found = {f"network.{n:04d}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    found["network.factor"] = np.asarray(_factor(fitted, bnn), np.float64)
    if isinstance(fitted.likelihood, Gaussian):
        found["network.noise"] = np.asarray(fitted.likelihood.scale, np.float64)
    return found


def _factor(fitted: BNN, bnn: BNN) -> float:
    """By how much the precision of the prior was multiplied."""
    new, old = (
        np.float64(jax.tree.leaves(b.prior.precisions(fitted.parameters))[0].ravel()[0])
        for b in (fitted, bnn)
    )
    return float(new / old)


def _unpack(arrays: Mapping[str, np.ndarray], bnn: BNN) -> BNN:
    """The problem with stored weights, precision and noise."""
    model = bnn.network.trained
    if model is None:
        model = bnn.network.init(jax.random.key(0))
    numbers = sorted(name for name in arrays if name[-4:].isdigit())
    leaves = [jnp.asarray(arrays[name]) for name in numbers]
    tree = jax.tree.unflatten(jax.tree.structure(parameters(model)), leaves)
    trained = eqx.combine(tree, eqx.filter(model, eqx.is_inexact_array, inverse=True))
    factor = float(arrays["network.factor"])
    bnn = bnn.with_model(trained).with_prior(bnn.prior.scaled(factor))
    if "network.noise" in arrays:
        scale = arrays["network.noise"]
        bnn = bnn.with_noise(float(scale) if scale.ndim == 0 else jnp.asarray(scale))
    return bnn


def _pointwise(units: Mapping[str, Unit]) -> dict[str, dict[str, np.ndarray]]:
    return {
        name: {
            key.removeprefix("pointwise."): value
            for key, value in unit.arrays.items()
            if key.startswith("pointwise.")
        }
        for name, unit in units.items()
    }


def _folder(out: str | Path | None) -> Path | None:
    return None if out is None else Path(out)


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _write(out: Path, document: Document, units: Mapping[str, Unit], seed: int) -> None:
    """Write predictions and run.json; run.json last, since it names the others."""
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    for record in document["methods"]:
        if record["status"] != "done":
            continue
        arrays = {
            key.removeprefix("prediction."): value
            for key, value in units[record["label"]].arrays.items()
            if key.startswith("prediction.")
        }
        name = f"{catalog.slug(record['label'])}-{seed}.npz"
        write_bytes(folder / name, _npz(arrays))
        record["predictions"] = f"predictions/{name}"
    write_json(out / "run.json", document)

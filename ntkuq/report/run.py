"""`compare`: the same problem through every method, into one run document."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import ntkuq
from ntkuq.data import Dataset, Split, Store, digest, write_bytes, write_json
from ntkuq.data.npz import pack as pack_arrays
from ntkuq.kernels import Empirical
from ntkuq.models import BNN, LeaveOneOut, MarginalLikelihood, identity
from ntkuq.posteriors import GP, MAP, NNGP, NTKGP, AbstractMethod, Estimate
from ntkuq.report import catalog
from ntkuq.report.asked import Asked, need_extras
from ntkuq.report.comparison import Comparison, assemble
from ntkuq.report.document import Document
from ntkuq.report.extras import AbstractExtra
from ntkuq.report.limits import Limits, make_plan
from ntkuq.report.problem import description, problem
from ntkuq.report.progress import AbstractProgress, Silent
from ntkuq.report.provenance import provenance
from ntkuq.report.repeats import over_seeds
from ntkuq.report.stored import pack, unpack
from ntkuq.report.units import LEVELS, Unit, empty_record, run_unit


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
    extras: Sequence[AbstractExtra] = (),
    levels: Sequence[float] = LEVELS,
    seeds: int = 1,
    key: Array,
) -> Comparison:
    """Fit every method to `data.train`, score it on `data.test`, compare in pairs.

    An untrained network is trained once, by the first `MAP` among the methods (or
    `MAP()`): the methods that linearize share it, and with the ensemble they share the
    prior precision and noise that it fitted. A network that is trained already is
    used as it is; `MAP(train=None)` among the methods fits precision and noise to it.

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
        extras: more to find out, such as `KernelRegime()`, `Reference()`, `Shifts()`
            and `OutsideSets()`. Methods that were stored without them are fitted again.
        levels: kept probabilities of the intervals to check; methods that were stored
            with others are scored, so fitted, again.
        seeds: do all of it so many times. The first time with `key`, and everything in
            the report is of that; then with keys folded from it. Scores over seeds have
            a section of their own. Extras are found once.
        key: random key; a method's own key depends on it and the method alone.

    Returns:
        The comparison; print it, or write a report.

    Raises:
        ValueError: where network, likelihood and data do not fit, or `out` belongs to
            another problem, or for fewer seeds than one.
    """
    if seeds < 1:
        raise ValueError(f"compare: expected seeds >= 1, got {seeds}")
    named = _named(methods, bnn, _check_split(data).train)
    wanted = need_extras(extras)
    prepared = bnn.prepare(data.train)
    _check_test(prepared, data)
    seed = _seed(key)
    store = _open(out, bnn, data)
    entry = problem(bnn, data, tuple(warnings))
    plan = make_plan(named, prepared, data.train, limits)
    progress.plan(plan, entry)
    asked = Asked(wanted, None, data, store, progress, fresh, seed, key)
    run = _Run(data, store, progress, fresh, seed, key, asked, tuple(levels))
    units, base, asked = _all(run, named, prepared, plan, share=not bnn.trained)
    head = provenance(command=command, seed=seed, dtype=str(_dtype(base)))
    document = assemble(head, entry, units, group=data.test.group, more=asked.entries())
    if out is not None and seeds > 1:
        # an interruption of a later seed leaves the report of the first
        _write(Path(out), document, units, seed)
    repeats = [document["methods"]]
    for number in range(1, seeds):
        progress.repeat(number + 1, seeds)
        again = run.again(number)
        found = _all(again, named, prepared, plan, share=not bnn.trained)[0]
        repeats.append([unit.record for unit in found.values()])
    if seeds > 1:
        entries = over_seeds(document, repeats, trained=bnn.trained)
        document = {**document, "seeds": entries}
    comparison = Comparison(document, data.test, _pointwise(units), _folder(out))
    if out is not None:
        _write(Path(out), document, units, seed)
    return comparison


def _all(
    run: _Run,
    named: Mapping[str, AbstractMethod],
    prepared: BNN,
    plan: Mapping[str, Estimate | str],
    *,
    share: bool,
) -> tuple[dict[str, Unit], BNN, Asked]:
    """Every method's unit, the problem with the shared network, and what was asked."""
    base, trainer = _train(run, named, prepared, plan)
    asked = dataclasses.replace(run.asked, bnn=base)
    run = run._replace(asked=asked)
    units: dict[str, Unit] = {}
    for name, method in named.items():
        reason, status = plan[name], "skipped"
        if not isinstance(reason, str) and not _independent(method) and trainer.failure:
            reason = trainer.failure
            status = "skipped" if trainer.unit is None else "failed"
        if trainer.unit is not None and name == trainer.name:
            units[name] = trainer.unit
        elif isinstance(reason, str):
            record = empty_record(name, method, run.seed, status, reason)
            units[name] = Unit(record, {})
            run.progress.finish(name, units[name].record, reused=False)
        elif _independent(method):
            units[name] = run.unit(name, method, prepared)
        else:
            units[name] = run.unit(name, method, base, trainer.text)
    return _with_costs(units, named, trainer, share=share), base, asked


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
    plan = make_plan(named, prepared, data.train, limits)
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
    asked: Asked
    levels: tuple[float, ...] = LEVELS

    def again(self, number: int) -> _Run:
        """With another seed, and nothing asked beyond the scores."""
        key = jax.random.fold_in(self.key, number)
        seed = _seed(key)
        asked = dataclasses.replace(
            self.asked, extras=(), bnn=None, seed=seed, key=key, begun={}
        )
        return self._replace(key=key, seed=seed, asked=asked)

    def unit(
        self, name: str, method: AbstractMethod, bnn: BNN, trainer: str | None = None
    ) -> Unit:
        """The stored unit, or a new one, which is stored.

        Beyond the problem a unit depends on method and seed, and on how the shared
        network was trained (`trainer`, the identity of its method).
        """
        parts = [identity(method), self.seed, trainer, ntkuq.__version__]
        # what is asked about a fit does not change the fit: its key is the same
        own = jax.random.fold_in(self.key, int(digest(parts)[:7], 16))
        if self.asked.extras:
            parts.append(self.asked.text)
        if self.levels != LEVELS:
            parts.append(str(self.levels))
        number = digest(parts)
        stored_as = f"{type(method).__name__.lower()}-{number[:24]}"
        if self.store is not None and not self.fresh:
            found = self._stored(self.store, stored_as, name, bnn)
            if found is not None:
                self.progress.finish(name, found.record, reused=True)
                return found
        self.progress.start(name)

        def callback(steps: int, loss: float) -> None:
            self.progress.step(name, steps, loss)

        unit = run_unit(
            name,
            method,
            bnn,
            self.data,
            callback=callback,
            checkpoint=None if self.store is None else self.store.partial(stored_as),
            extras=self.asked.of_method,
            levels=self.levels,
            seed=self.seed,
            key=own,
        )
        if self.store is not None and unit.record["status"] == "done":
            extra = {} if unit.bnn is None else pack(unit.bnn, bnn)
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
        trained = unpack(weights, bnn) if weights else None
        return Unit(record | {"label": name}, rest, trained)


def _named(methods, bnn: BNN, data: Dataset) -> dict[str, AbstractMethod]:
    if methods is None:
        return catalog.default_methods(bnn, data)
    if not isinstance(methods, Mapping):
        methods = catalog.labelled(methods)
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


def _independent(method: AbstractMethod) -> bool:
    """Does it use nothing that training finds (weights, prior precision, noise)?"""
    if not isinstance(method, GP | NNGP | NTKGP):
        return False
    tuned = isinstance(method.tune, MarginalLikelihood | LeaveOneOut)
    return tuned and not isinstance(method.kernel, Empirical)


def _with_costs(
    units: dict[str, Unit],
    named: Mapping[str, AbstractMethod],
    trainer: _Trainer,
    *,
    share: bool,
) -> dict[str, Unit]:
    """Costs seen together: the shared training, and the cost of one network's pass.

    Where the network was trained here (`share`), its training is part of the cost of
    every method that uses its weights, or the precision and noise that it fitted.
    """
    reference = None if trainer.unit is None else trainer.unit.record["cost"]
    if reference is None:
        return units
    found = {}
    for name, unit in units.items():
        cost = unit.record["cost"]
        if cost is not None:
            passes = cost["predict_seconds"] / reference["predict_seconds"]
            cost = cost | {"relative_forward": passes}
            if share and name != trainer.name and not _independent(named[name]):
                own = cost["fit_seconds"]
                cost["after_training_seconds"] = own
                cost["fit_seconds"] = reference["fit_seconds"] + own
        found[name] = unit._replace(record=unit.record | {"cost": cost})
    return found


def _train(
    run: _Run,
    named: Mapping[str, AbstractMethod],
    bnn: BNN,
    plan: Mapping[str, Estimate | str],
) -> tuple[BNN, _Trainer]:
    """The shared network: the given one, or that of the first MAP, or of `MAP()`.

    Where the network is given, a `MAP` that trains is a method like any other; one that
    keeps the weights fits the prior precision and noise that all then share.
    """
    if all(_independent(method) for method in named.values()):
        return bnn, _Trainer()
    shared = (
        name
        for name, method in named.items()
        if isinstance(method, MAP) and (method.train is None) == bnn.trained
    )
    first = next(shared, None)
    if first is None and bnn.trained:
        return bnn, _Trainer()
    if first is not None and isinstance(plan[first], str):
        return bnn, _Trainer(
            failure=f"needs the network that {first} trains, which is skipped"
        )
    method = MAP() if first is None else named[first]
    unit = run.unit(first or "MAP (shared training)", method, bnn)
    if unit.bnn is None:
        failure = f"needs a trained network; training failed: {unit.record['reason']}"
        return bnn, _Trainer(first, unit, identity(method), failure)
    return unit.bnn, _Trainer(first, unit, identity(method))


def _seed(key: Array) -> int:
    """The number of a key."""
    return int.from_bytes(np.asarray(jax.random.key_data(key), ">u4").tobytes())


def _dtype(bnn: BNN) -> np.dtype:
    """The type of the network's parameters, trained or not."""
    return bnn.dtype if bnn.trained else np.dtype(jnp.zeros(()).dtype)


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


def _write(out: Path, document: Document, units: Mapping[str, Unit], seed: int) -> None:
    """Write predictions and run.json; run.json last, since it names the others."""
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    used: set[str] = set()
    for record in document["methods"]:
        if record["status"] != "done":
            continue
        arrays = {
            key.removeprefix("prediction."): value
            for key, value in units[record["label"]].arrays.items()
            if key.startswith("prediction.")
        }
        name = f"{catalog.slug(record['label'])}-{seed}.npz"
        if name in used:  # two labels, one slug
            name = f"{catalog.slug(record['label'])}-{len(used)}-{seed}.npz"
        used.add(name)
        write_bytes(folder / name, pack_arrays(arrays))
        record["predictions"] = f"predictions/{name}"
    write_json(out / "run.json", document)

"""Checks of the rows: finite, different, in one part only, enough of them."""

from __future__ import annotations

import jax
import numpy as np

from ntkuq.data import Dataset, constant_features
from ntkuq.models import Standardize
from ntkuq.report import formats
from ntkuq.report.checks.record import (
    Inputs,
    Outcome,
    issue,
    not_applicable,
    passed,
    tip,
)
from ntkuq.report.rules import LEVEL, SMALLEST_RANKING, points_needed


#: Share of test rows that stand in the training rows too, from which scores say
#: little about new rows.
LEAKED = 0.05
#: Training rows of a class below which little is learned about it.
FEW = 10


def remarks(inputs: Inputs) -> Outcome:
    """What was said while reading."""
    if not inputs.remarks:
        return passed("nothing was noted")
    return tip("; ".join(inputs.remarks))


def finite(inputs: Inputs) -> Outcome:
    """Every number is finite."""
    for name, part in _parts(inputs):
        for leaf in [*jax.tree.leaves(part.x), part.y]:
            bad = int(np.sum(~np.isfinite(np.asarray(leaf, np.float64))))
            if bad:
                return issue(
                    f"{formats.plural(bad, 'number')} of the {name} rows not finite: "
                    "repair or leave out these rows"
                )
    counts = ", ".join(f"{len(part):,} {name}" for name, part in _parts(inputs))
    return passed(f"every number of {counts} rows is finite")


def constant(inputs: Inputs) -> Outcome:
    """Columns that do not vary."""
    found = constant_features(inputs.data.train)
    if not found:
        return passed("every column varies in the training rows")
    scaled = isinstance(inputs.bnn.scaling, Standardize)
    kept = "kept, standardized to zero" if scaled else "kept as they are"
    return tip(
        f"{formats.plural(len(found), 'column')} without variation in the training "
        f"rows ({kept}), so a network learns nothing from them: {_listed(found)}"
    )


def repeated(inputs: Inputs) -> Outcome:
    """The same training row, target included, more than once."""
    train = inputs.data.train
    more = len(train) - len(set(_rows(train, target=True)))
    if not more:
        return passed(f"{len(train):,} training rows, all different")
    return tip(
        f"{formats.plural(more, 'training row')} of {len(train):,} repeat another, "
        "target included: they count twice in every fit; leave them out unless they "
        "were measured anew"
    )


def leaked(inputs: Inputs) -> Outcome:
    """Test rows that are training rows."""
    train, test = inputs.data.train, inputs.data.test
    known = set(_rows(train, target=True))
    same = sum(row in known for row in _rows(test, target=True))
    shown = f"{formats.plural(same, 'test row')} of {len(test):,}"
    advice = "scores look better than on new rows; drop repeated rows before the split"
    if same and same >= LEAKED * len(test):
        return issue(f"{shown} stand in the training rows, target included: {advice}")
    if same:
        return tip(f"{shown} stand in the training rows, target included: {advice}")
    known = set(_rows(train, target=False))
    same = sum(row in known for row in _rows(test, target=False))
    if same:
        return tip(
            f"{formats.plural(same, 'test row')} of {len(test):,} have the inputs of a "
            "training row, with another target: fine for repeated measurements, else "
            "split by group"
        )
    return passed(f"none of {len(test):,} test rows stands in the training rows")


def shared_groups(inputs: Inputs) -> Outcome:
    """Groups with rows in both parts."""
    train, test = inputs.data.train.group, inputs.data.test.group
    if train is None or test is None:
        return not_applicable("no groups were named (--group)")
    shared = len(np.intersect1d(train, test))
    total = len(np.unique(test))
    if not shared:
        return passed(f"{formats.plural(total, 'group')} of test rows, all unseen")
    return tip(
        f"{shared:,} of {formats.plural(total, 'group')} of test rows have training "
        "rows too: scores hold for known groups; for new ones put whole groups in one "
        "part (--train and --test)"
    )


def enough(inputs: Inputs) -> Outcome:
    """Test rows enough for a verdict."""
    n, needed = len(inputs.data.test), points_needed(LEVEL)
    if n < SMALLEST_RANKING:
        return tip(
            f"{formats.plural(n, 'test row')}: fewer than {SMALLEST_RANKING} cannot "
            f"rank methods, and about {needed:,} give a clear answer on coverage"
        )
    if n < needed:
        return tip(
            f"{n:,} test rows rank methods; about {needed:,} give a clear answer on "
            "coverage"
        )
    return passed(f"{n:,} test rows, about {needed:,} are needed for a clear answer")


def classes(inputs: Inputs) -> Outcome:
    """Every class is seen in training, often enough."""
    train, test = inputs.data.train, inputs.data.test
    if not inputs.bnn.likelihood.classes:
        return not_applicable("the target is a number")
    y = np.asarray(train.y)
    if not np.issubdtype(y.dtype, np.integer):
        return not_applicable("the target holds no class codes")
    known = max(int(y.max()), int(np.max(test.y))) + 1
    count = np.bincount(y.ravel(), minlength=known)
    names = train.classes or [str(code) for code in range(known)]
    tested = np.unique(test.y)
    unseen = [names[code] for code in tested if count[code] == 0]
    if unseen:
        return issue(
            f"test rows of {_listed(unseen)}, of which there is no training row: a "
            "network cannot predict it; split again, or leave these rows out"
        )
    rare = [f"{names[c]} ({count[c]})" for c in range(len(count)) if count[c] < FEW]
    if rare:
        return tip(
            f"classes with fewer than {FEW} training rows: {_listed(rare)}; what is "
            "said about them rests on little"
        )
    return passed(
        f"{len(count)} classes, the rarest with {int(count.min()):,} training rows"
    )


def _parts(inputs: Inputs) -> list[tuple[str, Dataset]]:
    data = inputs.data
    named = [("training", data.train), ("calibration", data.calibrate)]
    return [(n, p) for n, p in [*named, ("test", data.test)] if p is not None]


def _rows(data: Dataset, *, target: bool) -> list[bytes]:
    """Each row as bytes: inputs, and the target where asked for."""
    arrays = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(data.x)]
    if target:
        arrays.append(np.asarray(data.y, np.float64))
    # adding 0 makes -0.0 and 0.0 the same bytes
    flat = np.concatenate([a.reshape(len(data), -1) + 0.0 for a in arrays], axis=1)
    return [row.tobytes() for row in np.ascontiguousarray(flat)]


def _listed(names, most: int = 8) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown

"""`--fail-on`: conditions on a run that make the command exit with 1."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ntkuq.cli.errors import UsageError


_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*")
#: The level meant where a score is named without one, as in coverage<0.88.
USUAL = 90.0


@dataclasses.dataclass(frozen=True)
class Gate:
    """A finding of this severity, or a score on this side of a number.

    Args:
        text: as it was written.
        name: `issue`, `tip`, or a score.
        sign: how the score is compared; none for a severity.
        limit: what it is compared with.
    """

    text: str
    name: str
    sign: str | None = None
    limit: float = 0.0


def read_gates(texts: Sequence[str]) -> tuple[Gate, ...]:
    """Conditions from their texts.

    Raises:
        UsageError: for a text that is none.

    >>> read_gates(["tip", "coverage < 0.88"])[1].limit
    0.88
    """
    return tuple(_gate(text) for text in texts)


def _gate(text: str) -> Gate:
    if text in ("issue", "tip"):
        return Gate(text, text)
    found = _CONDITION.fullmatch(text)
    try:
        limit = float(found[3]) if found else float("nan")
    except ValueError:
        limit = float("nan")
    if found is None or limit != limit:
        raise UsageError(
            "--fail-on: expected issue, tip, or a score with <, <=, > or >= and a "
            f"number, such as 'coverage<0.88', got {text!r}"
        )
    return Gate(text, found[1], found[2], limit)


def check_names(gates: Sequence[Gate], names: Collection[str]) -> None:
    """Refuse a score that there is not, before anything is computed.

    Raises:
        UsageError: with the names that there are.
    """
    for gate in gates:
        if gate.sign is not None and resolved(gate.name, names) is None:
            raise UsageError(
                f"--fail-on: expected the name of a score in {gate.text!r}, got "
                f"{gate.name!r}; there are {', '.join(names)}"
            )


def resolved(name: str, names: Collection[str]) -> str | None:
    """The score that is meant: `coverage` is the one at the level nearest to 90 %.

    >>> resolved("coverage", ["nll", "coverage_50", "coverage_95"])
    'coverage_95'
    """
    if name in names:
        return name
    levels = {}
    for known in names:
        start, _, level = known.rpartition("_")
        if start == name and level.replace(".", "", 1).isdigit():
            levels[known] = abs(float(level) - USUAL)
    return min(levels, key=lambda known: levels[known], default=None)


def met(gates: Sequence[Gate], document: Mapping[str, Any]) -> list[str]:
    """What met a condition, one line each; empty where the run passes.

    Scores are compared as they are, without their intervals. A score that a finished
    method does not have meets its condition, since it cannot be judged; methods that
    did not finish are for `issue` and `tip`.
    """
    lines = []
    for gate in gates:
        found = _findings(gate, document) if gate.sign is None else []
        if gate.sign is not None:
            found = _scores(gate, document)
        lines += [f"--fail-on {gate.text}: {text}" for text in found]
    return lines


def _findings(gate: Gate, document: Mapping[str, Any]) -> list[str]:
    from ntkuq.report.audit import findings

    wanted = ("issue",) if gate.name == "issue" else ("issue", "tip")
    return [
        f"{f.severity}: {f.subject}: {f.text}"
        for f in findings(document)
        if f.severity in wanted
    ]


def _scores(gate: Gate, document: Mapping[str, Any]) -> list[str]:
    found = []
    for method in document["methods"]:
        if method["status"] != "done":
            continue
        scores = method.get("scores") or {}
        name = resolved(gate.name, scores)
        value = None if name is None else scores[name]["value"]
        if value is None:
            reason = (method.get("omitted") or {}).get(gate.name, "not available")
            found.append(f"{method['label']} has no {gate.name}: {reason}")
        elif _COMPARE[gate.sign or "<"](value, gate.limit):
            found.append(f"{method['label']} has {name} = {value:.6g}")
    return found


def score_names(task: str, levels: Sequence[float]) -> list[str]:
    """The names of the scores of a task, from predictions made up for that."""
    import numpy as np

    from ntkuq.calibration import score
    from ntkuq.posteriors import Predictive

    rows = 64
    if task == "classification":
        shares = np.linspace(0.2, 0.8, rows)
        probabilities = np.stack([shares, 1 - shares], axis=1)
        found = score(Predictive.probabilities(probabilities), np.arange(rows) % 2)
    else:
        made = Predictive.normal(np.zeros(rows), np.ones(rows))
        found = score(made, np.linspace(-2.0, 2.0, rows), levels=levels)
    return [*found.values, *found.omitted]

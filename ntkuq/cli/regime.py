"""What `ntkuq regime` computes and shows."""

from __future__ import annotations

import dataclasses
import functools as ft
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array

import ntkuq as nq
from ntkuq.calibration.claims import Claim
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.model import load_builder
from ntkuq.cli.parse import parse
from ntkuq.cli.progress import duration
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, Train, mlp
from ntkuq.optimization.kernel_regime.limit import Limit
from ntkuq.optimization.kernel_regime.method import STUDIES
from ntkuq.optimization.kernel_regime.study import AbstractStudy, Setting, decide
from ntkuq.optimization.kernel_regime.uncertainty import Uncertainty
from ntkuq.optimization.kernel_regime.width import Widths
from ntkuq.report.limits import Limits, make_plan


if TYPE_CHECKING:
    from rich.console import Console

_COLORS = {"confirmed": "green", "refuted": "red", "undecided": "cyan"}


def load_training(text: str) -> Train:
    """How to train, from its text."""
    train = parse(text)
    if not isinstance(train, Train):
        raise UsageError(
            f"--training: expected how to train, such as 'Train(0.01, steps=3000)', "
            f"got {text!r}"
        )
    return train


def need(bnn: BNN, data: Dataset, train: Train, seeds: int, limits: Limits) -> None:
    """Refuse trainings that would take too long or too much memory.

    Raises:
        UsageError: with what they would need.
    """
    method = nq.DeepEnsemble(seeds, train)
    (plan,) = make_plan({"it": method}, bnn, data, limits).values()
    if isinstance(plan, str):
        raise UsageError(f"{seeds} trainings: {plan}, or --seeds or --training")


def builders(
    flags: AbstractProblem, bnn: BNN, data: Dataset, widths: Sequence[int]
) -> dict[int, Callable[..., Any]]:
    """Width -> builder of the default network, or of one that takes `width`.

    Raises:
        UsageError: for a width below 1, or a builder that does not take it.
    """
    if any(width < 1 for width in widths):
        raise UsageError(f"--width: expected widths >= 1, got {min(widths)}")
    if not widths:
        return {}
    if flags.model is None:
        inputs, outputs = data.x.shape[1], bnn.outputs(data)
        return {
            width: mlp(inputs, outputs, width=width, activation=jax.nn.relu)
            for width in widths
        }
    build = load_builder(flags.model)
    if "width" not in inspect.signature(build).parameters:
        raise UsageError(
            f"--width: expected {flags.model} to take a width, such as def "
            f"{flags.model.partition(':')[2]}(key, width=50), got "
            f"{inspect.signature(build)}"
        )
    return {width: ft.partial(build, width=width) for width in widths}


def studies(
    names: Sequence[str],
    networks: Mapping[int, Callable[..., Any]],
    *,
    seeds: int,
    points: int | None = None,
) -> tuple[AbstractStudy, ...]:
    """The studies of these names, with so many training inputs for a kernel."""
    known: dict[str, AbstractStudy] = {}
    for study in STUDIES:
        fewer = {"points": points} if hasattr(study, "points") else {}
        known[study.name] = dataclasses.replace(study, **fewer)
    # with widths, the width that is needed is extrapolated over them
    known["limit"] = Limit(networks=dict(networks) or None)
    known["width"] = Widths(dict(networks), seeds)
    known["uncertainty"] = Uncertainty()
    return tuple(known[name] for name in names)


class Announced(AbstractStudy):
    """A study that says when it begins and what it found.

    Args:
        study: what is done.
        say: told a line.
    """

    name: ClassVar[str] = "announced"
    study: AbstractStudy
    say: Callable[[str], None] = eqx.field(static=True)

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        """Those of the study, or why they are not tested."""
        began = time.perf_counter()
        found = decide(self.study, setting, key=key)
        words = [claim.word for claim in found]
        said = ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
        spent = duration(time.perf_counter() - began)
        self.say(f"study  {self.study.name:<12} {spent:<9} {said}")
        return found


def announce_problem(
    bnn: BNN, data: Split, train: Train, names: Sequence[str], seeds: int
) -> list[str]:
    """What will be done, one line each."""
    known, text = bnn.prepare(data.train), nq.models.constructor
    rows = f"{len(data.train):,} training rows, {len(data.test):,} test rows"
    problem = f"{text(bnn.likelihood)}, {text(bnn.prior)}"
    after = ", ".join(names) or "no study"
    return [
        f"data   {data.train.name or 'data'}: {rows}",
        f"net    {known.size():,} parameters; {problem}",
        f"train  {seeds} times, {text(train)}; then {after}",
    ]


def show(entry: dict[str, Any], console: Console) -> None:
    """The claims, the verdict, what follows, and the setting."""
    claims = sorted(entry["claims"], key=lambda claim: claim["number"])
    console.print()
    if console.is_terminal:
        console.print(_table(claims))
    else:
        for claim in claims:
            line = f"{claim['word']:<11} {_statement(claim)}: {_value(claim)}"
            rule = f"confirmed {claim['confirm']}, refuted {claim['refute']}"
            console.print(f"{line}; {rule}", markup=False)
    console.print()
    for claim in claims:
        how = claim["reason"] or claim["note"]
        if how:
            console.print(f"{_statement(claim)}: {how}", markup=False, style="dim")
    console.print()
    for name, text in entry["setting"].items():
        console.print(f"{name}: {text}", markup=False)
    console.print()
    for text in (entry["verdict"], *entry["consequences"]):
        console.print(text, markup=False)


def _table(claims: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("claim", "decision", "value", "confirmed", "refuted"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        table.add_row(
            Text(_statement(claim)),
            Text(claim["word"], style=_COLORS.get(claim["word"], "dim")),
            Text(_value(claim)),
            Text(claim["confirm"]),
            Text(claim["refute"]),
        )
    return table


def _statement(claim: dict[str, Any]) -> str:
    number = f"{claim['number']}. " if claim["number"] else ""
    return number + claim["statement"]


def _value(claim: dict[str, Any]) -> str:
    score = claim["statistic"]
    if score is None:
        return "-"
    value = "not finite" if score["value"] is None else f"{score['value']:.3g}"
    ends = score["interval"]
    if ends is None or None in ends:
        return f"{value} (no interval)"
    return f"{value} ({ends[0]:.3g} to {ends[1]:.3g})"

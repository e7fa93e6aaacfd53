"""`ntkuq audit`: what can be wrong before anything is fitted."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import tyro

from ntkuq.cli.commands.problem import AbstractProblem


if TYPE_CHECKING:
    from ntkuq.report.checks import Check

_COLORS = {"issue": "red", "tip": "yellow", "passed": "green"}


@dataclasses.dataclass(frozen=True)
class Audit(AbstractProblem):
    """Check data, network, likelihood and cost in seconds; nothing is fitted.

    Exits with 1 if there is an issue.
    """

    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A method whose cost to estimate; repeat for more. Eight methods unless given."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """The code of a check to run, such as NQ005; repeat for more. All unless given."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """The code of a check to leave out; repeat for more."""

    def execute(self) -> int:
        from rich.text import Text

        from ntkuq.cli.device import choose_device
        from ntkuq.cli.setting import console_of, limits_of, load_problem
        from ntkuq.report.catalog import default_methods, labelled
        from ntkuq.report.checks import Inputs, run_checks

        limits = limits_of(self)
        only, ignore = _codes(self.only), _codes(self.ignore)
        choose_device(self)
        # what does not fit is a finding here, so no scaling is chosen by the fit
        bnn, methods, data, notes = load_problem(self, self.method, choose=False)
        named = labelled(methods) if methods else default_methods(bnn, data.train)
        checks = run_checks(
            Inputs(bnn, data, named, limits, tuple(notes)), only=only, ignore=ignore
        )
        console = console_of(self)
        for check in checks:
            color = _COLORS.get(check.severity, "dim")
            line = Text.assemble(
                f"{check.code}  ",
                (f"{check.severity:<16}", color),
                f"{check.title}: {check.text}",
            )
            console.print(line, soft_wrap=not console.is_terminal)
        count = _count(checks, "issue")
        summary = f"{_said(count, 'issue')}, {_said(_count(checks, 'tip'), 'tip')}"
        if self.json:
            print(json.dumps({"checks": [check.to_dict() for check in checks]}))
        elif self.quiet:
            print(summary)
        else:
            console.print(f"\n{summary}", markup=False)
        return 1 if count else 0


def _codes(texts: tuple[str, ...]) -> list[str]:
    """Codes that were repeated, or separated by commas."""
    return [code.strip().upper() for text in texts for code in text.split(",")]


def _count(checks: tuple[Check, ...], severity: str) -> int:
    return sum(check.severity == severity for check in checks)


def _said(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

"""Progress of a comparison on a terminal, or as plain lines when piped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ntkuq.posteriors import Estimate
from ntkuq.report import AbstractProgress


if TYPE_CHECKING:
    from rich.console import Console


class Printed(AbstractProgress):
    """The plan, a line for each finished method, and a bar where there is a terminal.

    Use it as a context manager, so that the bar is removed whatever happens.
    """

    def __init__(self, console: Console, *, bar: bool, dry_run: bool = False):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.dry_run = dry_run
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} methods"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            disable=not (bar and console.is_terminal),
        )
        self.task: Any = None
        self.began = 0.0
        self.methods = 0
        self.width = 26

    def __enter__(self) -> Printed:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def _line(self, label: str, status: str, text: str = "") -> None:
        # `markup=False`: labels and reasons come from outside
        self.console.print(
            f"{label:<{self.width}} {status:<9} {text}".rstrip(),
            markup=False,
            soft_wrap=True,
        )

    def plan(self, units: dict[str, Estimate | str], problem: dict[str, Any]) -> None:
        data, network = problem["data"], problem["network"]
        kept = data["n_calibrate"]
        known = [e for e in units.values() if isinstance(e, Estimate)]
        seconds = sum(e.seconds for e in known)
        peak = max((e.bytes for e in known), default=0.0)
        self.methods = len(units)
        self.width = max([24, *(len(name) for name in units)]) + 2
        self.console.print(
            f"data   {data['name']}: {_counted(data['n_train'], 'training row')}, "
            + (f"{_counted(kept, 'calibration row')}, " if kept else "")
            + _counted(data["n_test"], "test row"),
            markup=False,
        )
        self.console.print(
            f"net    {network['text']}, {network['parameters']:,} parameters; "
            f"{problem['likelihood']}, {problem['prior']}, {problem['scaling']}",
            markup=False,
        )
        self.console.print(
            f"plan   {_counted(len(units), 'method')}, about {duration(seconds)}, "
            f"peak about {peak / 1e9:.1f} GB",
            markup=False,
        )
        for name, value in units.items():
            if isinstance(value, str):
                self._line(f"  {name}", "skip", value)
            else:
                text = f"about {duration(value.seconds)}, {value.bytes / 1e9:.1f} GB"
                self._line(f"  {name}", "", text)
        for note in data["warnings"]:
            self.note(note)
        if not self.dry_run:
            self.task = self.bar.add_task("fitting", total=len(units), detail="")
        self.console.print()

    def repeat(self, number: int, count: int) -> None:
        self.console.print(f"seed {number} of {count}", markup=False)
        if self.task is not None:
            done = self.bar.tasks[0].completed
            self.bar.update(self.task, total=done + self.methods)

    def start(self, label: str) -> None:
        self.began = time.perf_counter()
        if self.task is not None:
            self.bar.update(self.task, description=label, detail="")

    def step(self, label: str, steps: int, loss: float) -> None:
        if self.task is not None:
            self.bar.update(self.task, detail=f"step {steps:,}, loss {loss:.4g}")

    def finish(self, label: str, record: dict[str, Any], *, reused: bool) -> None:
        if record["status"] != "done":
            self._line(label, record["status"], record["reason"] or "")
        else:
            spent = duration(record["cost"]["fit_seconds"])
            status = "stored" if reused else "done"
            self._line(label, status, f"{spent:<9} {fitted(record)}")
        if self.task is not None:
            self.bar.advance(self.task)

    def note(self, text: str) -> None:
        self.console.print(f"note   {text}", markup=False, soft_wrap=True)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.42), duration(12.0), duration(150.0)
    ('0.4 s', '12 s', '2.5 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def fitted(record: dict[str, Any]) -> str:
    """The hyper-parameters of a record in one line, the longest list cut."""
    parts = []
    # the noise first: it is what everyone asks for
    values = sorted(
        record["hyperparameters"], key=lambda h: not h["name"].startswith("noise")
    )
    for h in values[:4]:
        text = f"{h['name']} {h['value']:.3g}"
        text += f" ± {h['se']:.2g}" if h["se"] is not None else ""
        text += f" {h['unit']}" if h["unit"] else ""
        parts.append(text + (" (at a bound)" if h["at_bound"] else ""))
    more = len(record["hyperparameters"]) - 4
    evidence = record["log_marginal_likelihood"]
    if more > 0:
        parts.append(f"and {more} more")
    if evidence is not None:
        parts.append(f"log evidence {evidence:.1f}")
    return ", ".join(parts)

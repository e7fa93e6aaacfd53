"""Telling the user how a comparison gets on: one interface, silent by default."""

from __future__ import annotations

import abc
from typing import Any

from ntkuq.posteriors import Estimate


class AbstractProgress(abc.ABC):
    """Listens to `compare`; all calls come from the host, never from inside `jit`."""

    @abc.abstractmethod
    def plan(self, units: dict[str, Estimate | str], problem: dict[str, Any]) -> None:
        """What will be done: an estimate for each method, or why it is skipped."""

    def repeat(self, number: int, count: int) -> None:
        """All methods begin again with another seed, the `number`th of `count`."""
        del number, count

    @abc.abstractmethod
    def start(self, label: str) -> None:
        """A method starts."""

    @abc.abstractmethod
    def step(self, label: str, steps: int, loss: float) -> None:
        """A method that trains has done this many steps."""

    @abc.abstractmethod
    def finish(self, label: str, record: dict[str, Any], *, reused: bool) -> None:
        """A method is done, failed or skipped; `reused` where it was done before."""

    @abc.abstractmethod
    def note(self, text: str) -> None:
        """Anything else worth a line."""


class Silent(AbstractProgress):
    """Says nothing.

    >>> Silent().start("MAP")
    """

    def plan(self, units, problem):
        pass

    def start(self, label):
        pass

    def step(self, label, steps, loss):
        pass

    def finish(self, label, record, *, reused):
        pass

    def note(self, text):
        pass

"""Statements of kernel theory about one network, and the rules that decide them."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ntkuq.calibration.records import Score, finite


#: The decision on a claim.
Word = Literal["confirmed", "refuted", "undecided", "not tested"]


class AbstractRule(abc.ABC):
    """When a statistic confirms a statement, and when it refutes it."""

    @abc.abstractmethod
    def decide(self, low: float, high: float) -> Word:
        """The decision for the ends of the 95 % interval of the statistic."""

    @property
    @abc.abstractmethod
    def confirm(self) -> str:
        """When it is confirmed, such as "below 0.1"."""

    @property
    @abc.abstractmethod
    def refute(self) -> str:
        """When it is refuted, such as "above 0.3"."""


@dataclass(frozen=True)
class Below(AbstractRule):
    """Confirmed where the whole interval lies below `yes`, refuted above `no`.

    >>> Below(0.1, 0.5).decide(0.2, 0.3)
    'undecided'
    """

    yes: float
    no: float

    def decide(self, low, high):
        if high < self.yes:
            return "confirmed"
        return "refuted" if low > self.no else "undecided"

    @property
    def confirm(self):
        return f"below {self.yes:g}"

    @property
    def refute(self):
        return f"above {self.no:g}"


@dataclass(frozen=True)
class Above(AbstractRule):
    """Confirmed where the whole interval lies above `yes`, refuted at or below `no`.

    >>> Above(0.8, 0.4).decide(0.85, 0.95)
    'confirmed'
    """

    yes: float
    no: float

    def decide(self, low, high):
        if low > self.yes:
            return "confirmed"
        return "refuted" if high <= self.no else "undecided"

    @property
    def confirm(self):
        return f"above {self.yes:g}"

    @property
    def refute(self):
        return f"at most {self.no:g}"


@dataclass(frozen=True)
class Power(AbstractRule):
    """A power law: confirmed where the interval reaches `exponent` or below it.

    It has to lie below `least` as a whole as well; refuted where it lies above that.

    >>> Power(-0.5, -0.2).decide(-0.6, -0.4), Power(-0.5, -0.2).decide(-0.1, 0.1)
    ('confirmed', 'refuted')
    """

    exponent: float
    least: float

    def decide(self, low, high):
        if low > self.least:
            return "refuted"
        return (
            "confirmed" if low <= self.exponent and high < self.least else "undecided"
        )

    @property
    def confirm(self):
        return f"reaching {self.exponent:g} and below {self.least:g}"

    @property
    def refute(self):
        return f"above {self.least:g}"


@dataclass(frozen=True)
class Within(AbstractRule):
    """Confirmed where the whole interval lies inside `yes`, refuted outside `no`.

    Args:
        yes, no: two ends each; an end of `no`, and the lower one of `yes`, may be
            infinite.

    >>> rule = Within((0.2, 0.3), (0.0, 0.5))
    >>> rule.decide(0.24, 0.26), rule.decide(0.6, 0.7), rule.decide(0.1, 0.26)
    ('confirmed', 'refuted', 'undecided')
    """

    yes: tuple[float, float]
    no: tuple[float, float]

    def decide(self, low, high):
        if self.yes[0] <= low and high <= self.yes[1]:
            return "confirmed"
        outside = high < self.no[0] or low > self.no[1]
        return "refuted" if outside else "undecided"

    @property
    def confirm(self):
        low, high = self.yes
        return f"from {low:g} to {high:g}" if np.isfinite(low) else f"at most {high:g}"

    @property
    def refute(self):
        low, high = self.no
        ends = [f"below {low:g}"] if np.isfinite(low) else []
        return " or ".join([*ends, f"above {high:g}"] if np.isfinite(high) else ends)


@dataclass(frozen=True)
class Claim:
    """A statement of kernel theory about one network, decided by its interval.

    Args:
        statement: what the theory says.
        statistic: the number that decides, with its 95 % interval.
        rule: when it is confirmed and when refuted.
        number: of the claim in the list of `docs/optimization.md`; 0 for none.
        worst: the most extreme value found, where one alone refutes: a lower bound of
            what the theory bounds. It is decided like an interval of no width.
        note: how the statistic was found and under which setting.
        reason: why it was not tested.
        values: further numbers by name, for a comparison of several networks.

    >>> from ntkuq.calibration import Score
    >>> seen = Score(0.7, 0.02, 5, (0.64, 0.76))
    >>> Claim("the kernel is frozen", seen, Below(0.1, 0.5)).word
    'refuted'
    """

    statement: str
    statistic: Score | None
    rule: AbstractRule
    number: int = 0
    worst: float | None = None
    note: str = ""
    reason: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def word(self) -> Word:
        """The decision: "confirmed", "refuted", "undecided", or "not tested"."""
        if self.statistic is None or self.reason is not None:
            return "not tested"
        worst = self.worst
        if worst is not None and self.rule.decide(worst, worst) == "refuted":
            return "refuted"
        ends = self.statistic.interval
        if ends is None or not np.isfinite(ends).all():
            return "undecided"
        return self.rule.decide(*ends)

    def __str__(self) -> str:
        if self.word == "not tested":
            return f"{self.statement}: not tested ({self.reason})"
        assert self.statistic is not None  # noqa: S101
        return (
            f"{self.statement}: {self.word} ({in_words(self.statistic)}; confirmed "
            f"{self.rule.confirm}, refuted {self.rule.refute})"
        )

    def to_dict(self) -> dict:
        """As plain numbers and text for JSON."""
        return {
            "number": self.number,
            "statement": self.statement,
            "word": self.word,
            "statistic": None if self.statistic is None else self.statistic.to_dict(),
            "worst": finite(self.worst),
            "confirm": self.rule.confirm,
            "refute": self.rule.refute,
            "note": self.note,
            "reason": self.reason,
            "values": {name: finite(value) for name, value in self.values.items()},
        }


def in_words(score: Score) -> str:
    """A number and its interval.

    >>> in_words(Score(0.7, 0.02, 5, (0.64, 0.76)))
    '0.7 (0.64 to 0.76)'
    """
    if score.interval is None:
        return f"{score.value:.3g} (no interval)"
    low, high = score.interval
    return f"{score.value:.3g} ({low:.3g} to {high:.3g})"

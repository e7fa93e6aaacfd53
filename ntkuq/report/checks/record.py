"""What a check looks at, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ntkuq.data import Split
from ntkuq.models import BNN
from ntkuq.posteriors import AbstractMethod
from ntkuq.report.limits import Limits


#: What methods may cost unless told otherwise.
LIMITS = Limits()

type Severity = Literal["issue", "tip", "passed", "not applicable"]


class Outcome(NamedTuple):
    """What a check found.

    Args:
        severity: an issue makes results wrong or impossible, a tip may mislead.
        text: numbers first, then what to do.
    """

    severity: Severity
    text: str


@dataclass(frozen=True)
class Check:
    """One line of an audit.

    Args:
        code: NQ and three digits; it never changes its meaning.
        title: what was looked at.
        severity: what was found.
        text: in words, for people.
    """

    code: str
    title: str
    severity: Severity
    text: str

    def to_dict(self) -> dict[str, str]:
        """As plain text for JSON."""
        return {
            "code": self.code,
            "title": self.title,
            "severity": self.severity,
            "text": self.text,
        }


@dataclass(frozen=True)
class Inputs:
    """A problem as it stands before a comparison.

    Args:
        bnn: network, likelihood, prior, scaling.
        data: training and test rows.
        methods: label -> method that would be fitted.
        limits: what each may cost.
        remarks: what was said when the data and the network were read.
    """

    bnn: BNN
    data: Split
    methods: Mapping[str, AbstractMethod] = field(default_factory=dict)
    limits: Limits = LIMITS
    remarks: tuple[str, ...] = ()


def passed(text: str) -> Outcome:
    """Looked at, nothing found."""
    return Outcome("passed", text)


def tip(text: str) -> Outcome:
    """Something that may mislead."""
    return Outcome("tip", text)


def issue(text: str) -> Outcome:
    """Something that makes results wrong or impossible."""
    return Outcome("issue", text)


def not_applicable(text: str) -> Outcome:
    """Nothing to look at."""
    return Outcome("not applicable", text)

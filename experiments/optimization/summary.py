"""What the study of conditions found: by group of seeds, as claims, as a table."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ntkuq.optimization import Claim, Outcome, link
from ntkuq.optimization.kernel_regime.points import geometric_score
from ntkuq.optimization.kernel_regime.rates import CLOSE


Row = dict[str, Any]
METHODS = ("natural gradient, η = 1", "KFAC", "Adam", "SGD", "gradient descent")


class Group(NamedTuple):
    """The seeds of one network, on one set of data."""

    network: str
    data: str
    parametrization: str
    width: int
    rows: list[Row]

    @property
    def known(self) -> list[Row]:
        """The seeds whose smallest eigenvalue is more than rounding."""
        return [row for row in self.rows if row["sure"]]

    def steps(self, method: str) -> list[float]:
        """Steps to a thousandth of the residual by seed, infinite for not reached."""
        # infinities are null in a document
        found = [row["curves"][method]["reached"] for row in self.known]
        return [math.inf if value is None else value for value in found]

    def tried(self, method: str) -> int:
        """How many steps there were at most."""
        return max(row["curves"][method]["tried"] for row in self.known)

    def outcome(self) -> Outcome | None:
        """As one network of `link`: the seeds are no networks of their own."""
        rows = self.known
        if not rows:
            return None
        kept = [
            abs(value - (1 - float(rate)) ** 2) < CLOSE
            for row in rows
            for rate, value in row["contractions"].items()
        ]
        ratios = [_ratio(row) for row in rows]
        return Outcome(
            max(row["constant"] for row in rows),
            all(kept),
            float(np.median([row["most"] / row["least"] for row in rows])),
            float(np.median(ratios)),
            any(row["descent_steps"] is None for row in rows),
        )


def _ratio(row: Row) -> float:
    """Steps of gradient descent over those of natural gradient, at least so many."""
    natural, descent = row["natural_steps"], row["descent_steps"]
    if natural is None:
        return math.nan
    return (row["steps"] if descent is None else descent) / natural


def groups(rows: list[Row]) -> list[Group]:
    """Rows of equal network, data, parametrization and width."""
    found: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        key = (row["network"], row["data"], row["parametrization"], row["width"])
        found.setdefault(key, []).append(row)
    return [Group(*key, some) for key, some in found.items()]


def outcomes(found: list[Group]) -> list[Outcome]:
    """Of the groups that have one."""
    return [one for one in (group.outcome() for group in found) if one is not None]


def claims(rows: list[Row]) -> list[dict[str, Any]]:
    """Does C′ < 1/2 tell who keeps the rate, and κ how much natural gradient gains?"""
    return [_document(claim) for claim in link(outcomes(groups(rows)))]


def _document(claim: Claim) -> dict[str, Any]:
    score = claim.statistic
    return {
        "number": claim.number,
        "statement": claim.statement,
        "word": claim.word,
        "value": None if score is None else score.value,
        "interval": None if score is None else score.interval,
        "note": claim.note,
        "reason": claim.reason,
    }


def claims_markdown(found: list[dict[str, Any]]) -> str:
    """One row a claim."""
    lines = ["| # | claim | number | word | note |", "|---" * 5 + "|"]
    for claim in found:
        number = "–" if claim["value"] is None else f"{claim['value']:.2f}"
        if claim["interval"] is not None:
            number += " ({:.2f} to {:.2f})".format(*claim["interval"])
        cells = [str(claim["number"]), claim["statement"], number, claim["word"]]
        lines.append("| " + " | ".join([*cells, claim["note"]]) + " |")
    return "\n".join(lines)


def limit_of(limits: list[Row], group: Group) -> Row:
    """The kernel of infinite width of a group."""
    names = ("network", "data", "parametrization", "width")
    return next(
        row
        for row in limits
        if all(row[name] == getattr(group, name) for name in names)
    )


def markdown(rows: list[Row], limits: list[Row]) -> str:
    """One row a network: the conditions, then what happened.

    The limit of C′ for infinite width is 0 in the standard and NTK parametrizations.
    Steps are medians over seeds, with the least and most.
    """
    short = {"natural gradient, η = 1": "NGD"}
    titles = [
        "network",
        "data",
        "parametrization",
        "width",
        "λ_min (95 %)",
        "λ_min of infinite width",
        "C′ (seeds)",
        "rate at η = 1/2 (lazy: 0.25)",
        *(f"{short.get(name, name)}, steps" for name in METHODS),
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    lines += ["| " + " | ".join(_cells(group, limits)) + " |" for group in groups(rows)]
    return "\n".join(lines)


def _cells(group: Group, limits: list[Row]) -> list[str]:
    known = group.known
    start = [group.network, group.data, group.parametrization, str(group.width)]
    reference = f"{limit_of(limits, group)['least']:.3g}"
    if not known:
        return [*start, "below rounding", reference, *["–"] * (2 + len(METHODS))]
    score = geometric_score(np.array([row["least"] for row in known]))
    least = f"{score.value:.3g}"
    if score.interval is not None:
        least += " ({:.3g} to {:.3g})".format(*score.interval)
    return [
        *start,
        least,
        reference,
        _spread([row["constant"] for row in known]),
        _spread([row["contractions"]["0.5"] for row in known]),
        *(_spread(group.steps(method), group.tried(method)) for method in METHODS),
    ]


def _spread(values: list[float], cap: int | None = None) -> str:
    """The median, the least and the most; beyond `cap` nothing was tried."""

    def said(value: float) -> str:
        return f"> {cap}" if math.isinf(value) else f"{value:.3g}"

    # of an even number the upper middle, since one may be infinite
    middle = sorted(values)[len(values) // 2]
    if min(values) == max(values):
        return said(middle)
    return f"{said(middle)} ({said(min(values))} to {said(max(values))})"

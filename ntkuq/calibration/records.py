"""The records that scoring returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Score:
    """One number about predictions, with its uncertainty.

    Args:
        value: the number.
        se: its standard error, or None where n or the values do not allow one.
        n: how many points it rests on.
        interval: 95 % interval for the number, or None like `se`.
        hits: for shares of points, how many points count.
        level: for coverage and width, the kept probability.
        p: for tests, the p-value.

    >>> Score(0.9, 0.03, 100, (0.82, 0.95), hits=90, level=0.9).to_dict()["hits"]
    90
    """

    value: float
    se: float | None
    n: int
    interval: tuple[float, float] | None
    hits: int | None = None
    level: float | None = None
    p: float | None = None

    def to_dict(self) -> dict:
        """As plain numbers for JSON; what is not finite becomes None."""
        ends = self.interval
        record = {
            "value": finite(self.value),
            "se": finite(self.se),
            "n": self.n,
            "interval": None if ends is None else [finite(end) for end in ends],
        }
        for name in ("hits", "level", "p"):
            if getattr(self, name) is not None:
                record[name] = finite(getattr(self, name))
        return record


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions.

    Args:
        task: "regression" or "classification".
        n: number of points.
        units: units of the observations, where known.
        values: scores by name.
        pointwise: per-point values by name, shape (n,); they feed `paired`.
        curves: calibration curves by name, each columns of numbers by name.
        omitted: scores left out, with the reason.
    """

    task: str
    n: int
    units: str | None
    values: Mapping[str, Score]
    pointwise: Mapping[str, np.ndarray] = field(repr=False)
    curves: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)
    omitted: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Score:
        if name in self.values:
            return self.values[name]
        if name in self.omitted:
            raise KeyError(f"{name} was left out: {self.omitted[name]}")
        known = ", ".join(self.values)
        raise KeyError(f"there is no score {name!r}; there are {known}")

    def __str__(self) -> str:
        head = ("score", "value", "se", "95 % interval", "n")
        rows = [head, *(_row(name, score) for name, score in self.values.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            row[0].ljust(widths[0])
            + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))
            for row in rows
        ]
        left_out = [f"{name}: {reason}" for name, reason in self.omitted.items()]
        return "\n".join(lines + left_out)

    def to_dict(self) -> dict:
        """As plain numbers for JSON, without the per-point values."""
        return {
            "task": self.task,
            "n": self.n,
            "units": self.units,
            "scores": {name: score.to_dict() for name, score in self.values.items()},
            "curves": {
                name: {
                    column: [finite(v) for v in values.tolist()]
                    for column, values in curve.items()
                }
                for name, curve in self.curves.items()
            },
            "omitted": dict(self.omitted),
        }


def finite(value: float | int | None) -> float | int | None:
    """The number itself, or None where it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def decimals(se: float | None) -> int:
    """How many decimals show two significant digits of the standard error.

    >>> decimals(0.023), decimals(3.1), decimals(0.0)
    (3, 1, 4)
    """
    if se is None or not math.isfinite(se) or se <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(se)), 0), 10)


def _row(name: str, score: Score) -> tuple[str, ...]:
    places = decimals(score.se)
    se = "-" if score.se is None else f"{score.se:.{places}f}"
    interval = "-"
    if score.interval is not None:
        low, high = score.interval
        interval = f"{low:.{places}f} to {high:.{places}f}"
    return name, f"{score.value:.{places}f}", se, interval, str(score.n)

"""The record of scores by shift and severity, ready for a figure or a table."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .records import Score, decimals, finite


MEAN = "mean"
"""The name of the rows that hold means over the shifts."""


@dataclasses.dataclass(frozen=True)
class SeverityTable:
    """Scores by shift and severity, and their means over the shifts.

    Args:
        task: "regression" or "classification".
        n: number of points, the same ones at every shift and severity.
        level: kept probability of the intervals behind the coverage.
        severities: as asked for, increasing; 0 is the data as they are.
        shifts: names of the shifts, in order.
        values: scores by name for each shift and severity.
        mean: scores by name for each severity, averaged over the shifts.
        omitted: scores left out, with the reason.
    """

    task: str
    n: int
    level: float
    severities: tuple[int, ...]
    shifts: tuple[str, ...]
    values: Mapping[tuple[str, int], Mapping[str, Score]]
    mean: Mapping[int, Mapping[str, Score]]
    omitted: Mapping[str, str]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.mean[self.severities[0]])

    def __getitem__(self, cell: tuple[str, int]) -> Mapping[str, Score]:
        """The scores by name at a shift, or `"mean"`, and a severity."""
        shift, severity = cell
        if severity not in self.severities or shift not in (*self.shifts, MEAN):
            raise KeyError(
                f"there are no scores for {shift!r} at severity {severity}; there are "
                f"shifts {', '.join(self.shifts)}, {MEAN} and severities "
                f"{', '.join(map(str, self.severities))}"
            )
        return self.mean[severity] if shift == MEAN else self.values[cell]

    def columns(self) -> dict[str, list[Any]]:
        """A long table: one entry per shift (the mean last), severity and score.

        Columns `shift`, `severity`, `score`, `value`, `se`, `lower`, `upper` (95 %
        interval) and `n`; what is not known is `None`.
        """
        table: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for shift, severity, name, found in self._entries():
            low, high = found.interval or (None, None)
            row = (shift, severity, name, found.value, found.se, low, high, found.n)
            for column, entry in zip(_COLUMNS, row, strict=True):
                table[column].append(entry)
        return table

    def curve(self, name: str, shift: str = MEAN) -> dict[str, np.ndarray]:
        """One score against severity, ready to be drawn.

        Args:
            name: the score.
            shift: the shift, by default the mean over all.

        Returns:
            Columns `severity`, `value`, `lower` and `upper`, NaN where there is no
            interval.

        Raises:
            KeyError: for an unknown score or shift.
        """
        if name in self.omitted:
            raise KeyError(f"{name} was left out: {self.omitted[name]}")
        if name not in self.scores:
            raise KeyError(f"there is no score {name!r}; there are {self.scores}")
        found = [self[shift, severity][name] for severity in self.severities]
        ends = [one.interval or (np.nan, np.nan) for one in found]
        return {
            "severity": np.array(self.severities),
            "value": np.array([one.value for one in found]),
            "lower": np.array([low for low, _ in ends]),
            "upper": np.array([high for _, high in ends]),
        }

    def entries(self) -> list[dict[str, Any]]:
        """For the run document: `shift`, `severity` and `scores` of each cell."""
        return [
            {
                "shift": shift,
                "severity": severity,
                "scores": {name: one.to_dict() for name, one in found.items()},
            }
            for (shift, severity), found in self.values.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers for JSON; what is not finite becomes None."""
        table = self.columns()
        for column in ("value", "se", "lower", "upper"):
            table[column] = [finite(entry) for entry in table[column]]
        return {
            "task": self.task,
            "n": self.n,
            "level": self.level,
            "severities": list(self.severities),
            "shifts": list(self.shifts),
            "scores": list(self.scores),
            "table": table,
            "omitted": dict(self.omitted),
        }

    def __str__(self) -> str:
        width = max(len(name) for name in (*self.shifts, MEAN))
        blocks = [_block(self, name, width) for name in self.scores]
        left_out = [f"{name}: {reason}" for name, reason in self.omitted.items()]
        return "\n\n".join([*blocks, *left_out])

    def _entries(self) -> Iterator[tuple[str, int, str, Score]]:
        for shift in (*self.shifts, MEAN):
            for severity in self.severities:
                for name, found in self[shift, severity].items():
                    yield shift, severity, name, found


_COLUMNS = ("shift", "severity", "score", "value", "se", "lower", "upper", "n")


def _block(table: SeverityTable, name: str, width: int) -> str:
    """One score: a line per shift, a column per severity."""
    places = max(
        decimals(table[shift, severity][name].se)
        for shift in (*table.shifts, MEAN)
        for severity in table.severities
    )
    rows = [
        [
            f"{table[shift, severity][name].value:.{min(places, 4)}f}"
            for severity in table.severities
        ]
        for shift in (*table.shifts, MEAN)
    ]
    head = [str(severity) for severity in table.severities]
    size = max(len(cell) for row in (head, *rows) for cell in row)
    lines = [
        " ".join([first.ljust(width), *(cell.rjust(size) for cell in row)])
        for first, row in zip((*table.shifts, MEAN), rows, strict=True)
    ]
    title = f"{name} at severity"
    return "\n".join(
        [title, " ".join([" " * width, *(h.rjust(size) for h in head)]), *lines]
    )

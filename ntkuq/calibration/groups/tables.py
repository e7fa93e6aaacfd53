"""A table of groups, with intervals that hold for all of them together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ntkuq.calibration.coverage import exact_interval
from ntkuq.calibration.records import Score, decimals, finite


SMALL = 30  # points below which a group is marked

POWER = 0.8


@dataclass(frozen=True)
class GroupRow:
    """One group.

    Args:
        name: the group.
        n: its points.
        small: whether it has fewer than 30 of them; it is shown all the same.
        value: the share of points that are covered, or right, with its own 95 %
            interval.
        target: what the share should be: the level, or the mean confidence.
        simultaneous: interval for the true share; those of all groups hold together
            with 95 % probability. None where a single point allows none.
        detectable: the smallest shortfall below the target that would be shown with
            80 % chance (upper end of `simultaneous` below the target), or None where
            even a share of 0 would not be.
        others: further means over the group by name.
    """

    name: str
    n: int
    small: bool
    value: Score
    target: float
    simultaneous: tuple[float, float] | None
    detectable: float | None
    others: Mapping[str, Score] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """The share less its target; negative where predictions are too sure."""
        return self.value.value - self.target

    @property
    def gap_interval(self) -> tuple[float, float] | None:
        """The simultaneous interval of the gap."""
        if self.simultaneous is None:
            return None
        low, high = self.simultaneous
        return low - self.target, high - self.target

    def to_dict(self) -> dict:
        """As plain numbers for JSON."""
        ends = self.simultaneous
        return {
            "name": self.name,
            "n": self.n,
            "small": self.small,
            "value": self.value.to_dict(),
            "target": finite(self.target),
            "gap": finite(self.gap),
            "simultaneous": None if ends is None else [finite(end) for end in ends],
            "detectable": finite(self.detectable),
            "others": {name: score.to_dict() for name, score in self.others.items()},
        }


@dataclass(frozen=True)
class GroupTable:
    """The groups of one set of predictions.

    Args:
        measure: "coverage" or "accuracy".
        by: what the points are grouped by.
        level: the kept probability for coverage, else None.
        rows: the groups, in the order to show them.
    """

    measure: str
    by: str
    level: float | None
    rows: tuple[GroupRow, ...]

    @property
    def weakest(self) -> GroupRow:
        """The group with the strongest sign of a shortfall.

        That is the smallest upper end of the gap, not the smallest share, which often
        belongs to a group of few points. There is a shortfall where the end is below 0.
        """

        def end(row: GroupRow) -> float:
            ends = row.gap_interval
            return np.inf if ends is None else ends[1]

        return min(self.rows, key=end)

    @property
    def detectable(self) -> float | None:
        """The smallest shortfall that could have been shown in any of the groups."""
        known = [row.detectable for row in self.rows if row.detectable is not None]
        return min(known) if known else None

    def columns(self) -> dict[str, np.ndarray]:
        """One array a column, (groups,); what is missing is NaN."""
        missing = (np.nan, np.nan)
        own = [row.value.interval or missing for row in self.rows]
        both = [row.simultaneous or missing for row in self.rows]
        out = {
            "name": np.asarray([row.name for row in self.rows]),
            "n": np.asarray([row.n for row in self.rows]),
            "small": np.asarray([row.small for row in self.rows]),
            self.measure: np.asarray([row.value.value for row in self.rows]),
            "target": np.asarray([row.target for row in self.rows]),
            "lower": np.asarray([ends[0] for ends in both]),
            "upper": np.asarray([ends[1] for ends in both]),
            "lower_alone": np.asarray([ends[0] for ends in own]),
            "upper_alone": np.asarray([ends[1] for ends in own]),
        }
        for name in self.rows[0].others:
            scores = [row.others[name] for row in self.rows]
            out[name] = np.asarray([score.value for score in scores])
        return out

    def to_dict(self) -> dict:
        """As plain numbers for JSON."""
        return {
            "measure": self.measure,
            "by": self.by,
            "level": self.level,
            "weakest": self.weakest.name,
            "detectable": finite(self.detectable),
            "rows": [row.to_dict() for row in self.rows],
        }

    def __str__(self) -> str:
        others = list(self.rows[0].others)
        head = (self.by, "n", self.measure, "95 % for all groups", "target", *others)
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            line[0].ljust(widths[0])
            + "".join("  " + cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))
            for line in lines
        )


def simultaneous_level(groups: int) -> float:
    r"""The level of each of several independent intervals that hold together at 95 %.

    $0.95^{1/G}$: the groups share no points.

    >>> round(simultaneous_level(5), 4)
    0.9898

    References:
        Šidák, 1967, Journal of the American Statistical Association 62, 626-633.
    """
    return float(0.95 ** (1 / groups))


def detectable_gap(n: int, target: float, level: float) -> float | None:
    r"""The smallest shortfall of a share that n points would show with 80 % chance.

    It is shown by h hits or fewer, h the largest count with an upper end below the
    target, and $P(\mathrm{Binomial}(n, p) \le h) = 0.8$ gives the share p.

    Args:
        n: number of points.
        target: what the share should be.
        level: level of the exact interval.

    >>> f"{detectable_gap(160, 0.9, 0.95):.3f}"
    '0.079'
    """
    from scipy import special

    low, high = -1, n  # the upper end grows with the hits
    while high - low > 1:
        middle = (low + high) // 2
        if exact_interval(middle, n, level)[1] < target:
            low = middle
        else:
            high = middle
    if low < 0:
        return None
    return float(target - special.betaincinv(low + 1, n - low, 1 - POWER))


def _cells(row: GroupRow) -> tuple[str, ...]:
    places = decimals(row.value.se)
    ends = row.simultaneous
    shown = "-" if ends is None else f"{ends[0]:.{places}f} to {ends[1]:.{places}f}"
    return (
        row.name,
        f"{row.n}" + (" (small)" if row.small else ""),
        f"{row.value.value:.{places}f}",
        shown,
        f"{row.target:.{places}f}",
        *(f"{score.value:.{decimals(score.se)}f}" for score in row.others.values()),
    )

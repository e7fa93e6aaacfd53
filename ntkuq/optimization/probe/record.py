"""The record of a probe: what each step gained, and whether it was worth its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ntkuq.calibration.claims import in_words
from ntkuq.calibration.records import Score, finite


#: The decision on a step against the first one.
Word = Literal["worth it", "not worth it", "no difference", "cannot tell"]

#: What one step cannot say.
NOTE = (
    "One step from here says nothing about the end of training: a method that gains "
    "more at first may stop sooner, or end elsewhere."
)


@dataclass(frozen=True)
class StepRow:
    """What one way to step gains, means over pairs of batches.

    Args:
        name: of the step.
        how: its directions are found.
        damping: chosen on batches of its own, in the units of a prior precision.
        predicted: decrease on its batch by the quadratic model at the length that the
            damped model asks for, in nats an example.
        realized: decrease there of minus the log posterior.
        elsewhere: decrease on another batch.
        seconds: a step takes, compiled.
        predicted_per_second, realized_per_second, per_second: the three decreases over
            the seconds; the last one, on another batch, decides.
        remarks: what went wrong with the steps.
    """

    name: str
    how: str
    damping: float
    predicted: Score
    realized: Score
    elsewhere: Score
    seconds: Score
    predicted_per_second: Score
    realized_per_second: Score
    per_second: Score
    remarks: tuple[str, ...] = ()

    @property
    def scores(self) -> Mapping[str, Score]:
        """All numbers by name."""
        names = ("predicted", "realized", "elsewhere", "seconds")
        rates = ("predicted_per_second", "realized_per_second", "per_second")
        return {name: getattr(self, name) for name in (*names, *rates)}

    def to_dict(self) -> dict:
        """As plain numbers and text for JSON."""
        return {
            "name": self.name,
            "how": self.how,
            "damping": finite(self.damping),
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class Against:
    """A step against the first one, on the same batches.

    Args:
        name: of the step.
        word: worth its time?
        per_second: the difference of decreases elsewhere per second; its interval holds
            for all steps together and decides.
        times: as much a step, on another batch; `None` where the decrease of the
            first step is not told from 0.
        times_per_second: as much a second.
    """

    name: str
    word: Word
    per_second: Score
    times: Score | None
    times_per_second: Score | None

    def to_dict(self) -> dict:
        """As plain numbers and text for JSON."""
        return {
            "name": self.name,
            "word": self.word,
            "per_second": self.per_second.to_dict(),
            "times": None if self.times is None else self.times.to_dict(),
            "times_per_second": (
                None
                if self.times_per_second is None
                else self.times_per_second.to_dict()
            ),
        }


@dataclass(frozen=True)
class Probe:
    """Would a second-order step help this network, from where it stands?

    Args:
        rows: one for each step, the first is what the others are held against.
        against: the others against the first.
        answer: "yes" where one of them is worth its time, "no" where none is or nothing
            is left to gain, else "cannot tell".
        verdict: the same in plain words.
        setting: what the numbers depend on.

    >>> import equinox as eqx, jax, numpy as np
    >>> from ntkuq.data import Dataset
    >>> from ntkuq.models import BNN, Gaussian
    >>> from ntkuq.optimization.probe import GradientStep, probe
    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> line = BNN(eqx.nn.Linear(1, 1, key=jax.random.key(0)), Gaussian())
    >>> data = Dataset(x, 2 * x[:, 0])
    >>> steps = (GradientStep(),)
    >>> found = probe(line, data, steps=steps, batches=4, key=jax.random.key(1))
    >>> found.rows[0].realized.value > 0
    True
    """

    rows: tuple[StepRow, ...]
    against: tuple[Against, ...]
    answer: Literal["yes", "no", "cannot tell"]
    verdict: str
    setting: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = (
            "step",
            "predicted",
            "realized",
            "on another batch",
            "seconds",
            "per second",
        )
        names = ("predicted", "realized", "elsewhere", "seconds", "per_second")
        rows = [head]
        rows += [
            (row.name, *(in_words(row.scores[name]) for name in names))
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
            for row in rows
        ]
        lines += [
            f"{row.name}: {remark}" for row in self.rows for remark in row.remarks
        ]
        lines += [f"{name}: {text}" for name, text in self.setting.items()]
        return "\n".join([*lines, self.verdict])

    def to_dict(self) -> dict:
        """As plain numbers and text for JSON."""
        return {
            "answer": self.answer,
            "verdict": self.verdict,
            "rows": [row.to_dict() for row in self.rows],
            "against": [one.to_dict() for one in self.against],
            "setting": dict(self.setting),
        }

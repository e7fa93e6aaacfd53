"""What active learning found: label curves, and calibration where it chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from ntkuq.decisions.search.calibration import ChosenCalibration, calibration


if TYPE_CHECKING:
    from ntkuq.decisions.active.state import ActiveState


SCHEMA = "ntkuq/active/1"


@dataclasses.dataclass(frozen=True)
class ChosenClasses:
    """Confidence and accuracy of class predictions at the chosen points, by round.

    Args:
        round: (B,) rounds.
        confidence: (B,) mean probability of the most probable class, before the label.
        accuracy: (B,) how often it was the label.
        count: (B,) labels of the round.
    """

    round: Int[np.ndarray, " B"]
    confidence: Float[np.ndarray, " B"]
    accuracy: Float[np.ndarray, " B"]
    count: Int[np.ndarray, " B"]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            field.name: getattr(self, field.name).tolist()
            for field in dataclasses.fields(self)
        }


def chosen_calibration(state: ActiveState) -> ChosenCalibration | ChosenClasses:
    """Of the labels that were asked for."""
    told = np.isfinite(state.center)
    if not np.issubdtype(state.y.dtype, np.integer):
        rounds = int(np.unique(state.round[told]).size)
        y = np.asarray(state.y, np.float64)
        return calibration(y, state.center, state.spread, blocks=max(rounds, 1))
    numbers, at = np.unique(state.round[told], return_inverse=True)
    count = np.bincount(at, minlength=len(numbers))
    spread, center = state.spread[told], state.center[told]
    return ChosenClasses(
        numbers,
        np.bincount(at, spread, len(numbers)) / np.maximum(count, 1),
        np.bincount(at, center, len(numbers)) / np.maximum(count, 1),
        count,
    )


@dataclasses.dataclass(frozen=True)
class ActiveResult:
    """One run of active learning.

    Args:
        state: at the end.
        labels: (R,) labels at each score.
        scores: by name, (R,) on the test set.
    """

    state: ActiveState
    labels: Int[np.ndarray, " R"]
    scores: dict[str, Float[np.ndarray, " R"]]

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON, schema `ntkuq/active/1`."""
        return {
            "schema": SCHEMA,
            "labels": self.labels.tolist(),
            "scores": {name: value.tolist() for name, value in self.scores.items()},
            "rows": self.state.rows.tolist(),
            "round": self.state.round.tolist(),
            "calibration": self.state.calibration.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class LabelCurve:
    """A score against labels over seeds: mean with a Student-t interval.

    Args:
        name: of the score.
        labels: (R,).
        values: (S, R), one row a seed.
    """

    name: str
    labels: Int[np.ndarray, " R"]
    values: Float[np.ndarray, "S R"]

    @staticmethod
    def of(results: Sequence[ActiveResult], name: str) -> LabelCurve:
        """The curve of runs with the same numbers of labels.

        Raises:
            ValueError: where these differ, or a score is missing.
        """
        first = results[0]
        for result in results:
            if name not in result.scores:
                known = ", ".join(result.scores)
                raise ValueError(f"name: expected one of {known}, got {name}")
            if not np.array_equal(result.labels, first.labels):
                raise ValueError(
                    f"results: expected labels {first.labels.tolist()} in all runs, "
                    f"got {result.labels.tolist()}"
                )
        return LabelCurve(
            name, first.labels, np.stack([result.scores[name] for result in results])
        )

    @property
    def mean(self) -> Float[np.ndarray, " R"]:
        """Over seeds."""
        return self.values.mean(axis=0)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the interval of the mean; NaN with fewer than two seeds."""
        return _interval(self.values, level)

    def difference(self, other: LabelCurve, level: float) -> dict[str, Any]:
        """The mean over all labels minus that of another curve, seeds paired."""
        if self.values.shape != other.values.shape:
            raise ValueError(
                f"other: expected values of shape {self.values.shape}, got "
                f"{other.values.shape}: run both with the same seeds and rounds"
            )
        gap = (self.values - other.values).mean(axis=1)[:, None]
        lower, upper = _interval(gap, level)
        return {
            "mean": float(gap.mean()),
            "lower": float(lower[0]),
            "upper": float(upper[0]),
        }

    def to_dict(self, level: float) -> dict[str, Any]:
        """The curve with its interval, for JSON."""
        lower, upper = self.interval(level)
        return {
            "name": self.name,
            "labels": self.labels.tolist(),
            "mean": self.mean.tolist(),
            "lower": lower.tolist(),
            "upper": upper.tolist(),
            "level": level,
            "seeds": len(self.values),
        }


def _interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    size, mean = len(values), values.mean(axis=0)
    if size < 2:
        return np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    half = stats.t.ppf(0.5 + level / 2, size - 1)
    half = half * values.std(axis=0, ddof=1) / np.sqrt(size)
    return mean - half, mean + half

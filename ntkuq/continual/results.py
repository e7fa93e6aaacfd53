"""What was known of each task after each task, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ntkuq.calibration import Score
from ntkuq.calibration.claims import in_words
from ntkuq.calibration.means import mean_score
from ntkuq.continual import metrics


@dataclass(frozen=True)
class Results:
    """What was known of each task after each task, for each seed.

    Args:
        measures: name -> (S, T, T): on the test data of task j (column) after training
            on task k (row), for S seeds; above the diagonal, tasks not met yet.
        baseline: name -> (S, T): on each task before any training.
        tasks: names of the tasks.
        setting: what changes from task to task, and how many heads there are.
        strategy: its text.
        distance: (S, T), the distance of the weights from where they started, over
            their norm there, after each task.
        seconds: (T,), time to learn each task, all seeds together, without the tests.
        keeps: what the strategy keeps of earlier tasks, in bytes for one seed.

    >>> r = np.array([[[0.9, 0.3], [0.7, 0.8]]])
    >>> print(Results({"accuracy": r}, {"accuracy": np.full((1, 2), 0.1)}, ("a", "b")))
    accuracy after      a      b
    a               0.900  0.300
    b               0.700  0.800
    average accuracy 0.75 (one seed)
    forgetting 0.2, backward transfer -0.2, forward transfer 0.2 (one seed)
    """

    measures: Mapping[str, Float[np.ndarray, "S T T"]]
    baseline: Mapping[str, Float[np.ndarray, "S T"]]
    tasks: tuple[str, ...]
    setting: str = "as given"
    strategy: str = ""
    distance: Float[np.ndarray, "S T"] | None = None
    seconds: Float[np.ndarray, " T"] | None = None
    keeps: int = 0

    @property
    def main(self) -> str:
        """What forgetting is measured in: accuracy, or R² for regression."""
        return "accuracy" if "accuracy" in self.measures else "r2"

    @property
    def performance(self) -> Float[np.ndarray, "S T T"]:
        """The accuracy matrix of each seed; of R² for regression."""
        return self.measures[self.main]

    @property
    def accuracy(self) -> Float[np.ndarray, "S T T"]:
        """The accuracy matrix of each seed.

        Raises:
            KeyError: for regression, which has none: see `performance`.
        """
        return self.measures["accuracy"]

    @property
    def nll(self) -> Float[np.ndarray, "S T T"]:
        """Mean minus log probability, in nats."""
        return self.measures["nll"]

    @property
    def average_accuracy(self) -> Score:
        """`average_accuracy` over the seeds."""
        return self._score(metrics.average_accuracy(self.performance))

    @property
    def learning_accuracy(self) -> Score:
        """Mean over tasks of the accuracy right after learning each."""
        diagonal = np.diagonal(self.performance, axis1=-2, axis2=-1)
        return self._score(diagonal.mean(axis=-1))

    @property
    def forgetting(self) -> Score:
        """`forgetting`, over the T − 1 earlier tasks, over the seeds."""
        return self._score(metrics.forgetting(self.performance))

    @property
    def relative_forgetting(self) -> Score:
        """Forgetting over the accuracy right after learning, over the seeds."""
        diagonal = np.diagonal(self.performance, axis1=-2, axis2=-1)
        lost = np.asarray(metrics.forgetting(self.performance), np.float64)
        return self._score(lost / diagonal.mean(axis=-1))

    @property
    def backward_transfer(self) -> Score:
        """`backward_transfer` over the seeds."""
        return self._score(metrics.backward_transfer(self.performance))

    @property
    def forward_transfer(self) -> Score:
        """`forward_transfer` over the baseline, over the seeds."""
        baseline = self.baseline[self.main]
        return self._score(metrics.forward_transfer(self.performance, baseline))

    @property
    def uncertainty_growth(self) -> Score:
        """How far mean epistemic uncertainty on earlier tasks grows with forgetting.

        The rank correlation, over earlier tasks and later rows, of what was lost since
        a task was learned and of the growth of epistemic uncertainty on it, over seeds.
        """
        return self._score(
            np.array(
                [
                    _growth(one, two)
                    for one, two in zip(
                        self.performance, self.measures["epistemic"], strict=True
                    )
                ]
            )
        )

    def over_time(self, name: str) -> list[Score]:
        """A measure on the tasks met so far, after each task, over the seeds."""
        values = self.measures[name]
        return [
            mean_score(values[:, k, : k + 1].mean(axis=-1))
            for k in range(len(self.tasks))
        ]

    def scores(self) -> dict[str, Score]:
        """All summaries by name."""
        found = {
            "average accuracy": self.average_accuracy,
            "accuracy when learned": self.learning_accuracy,
        }
        if len(self.tasks) > 1:
            found |= {
                "forgetting": self.forgetting,
                "relative forgetting": self.relative_forgetting,
                "backward transfer": self.backward_transfer,
                "forward transfer": self.forward_transfer,
            }
            if "epistemic" in self.measures:
                found["uncertainty grows where forgotten"] = self.uncertainty_growth
        for name, values in self.measures.items():
            if name != self.main:
                found[f"final {name}"] = self._score(values[:, -1].mean(axis=-1))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, as the run document has them."""
        return {
            "strategy": self.strategy,
            "setting": self.setting,
            "tasks": list(self.tasks),
            "seeds": int(self.performance.shape[0]),
            "main": self.main,
            "measures": {name: v.tolist() for name, v in self.measures.items()},
            "baseline": {name: v.tolist() for name, v in self.baseline.items()},
            "distance": None if self.distance is None else self.distance.tolist(),
            "seconds": None if self.seconds is None else self.seconds.tolist(),
            "keeps": self.keeps,
            "scores": {name: s.to_dict() for name, s in self.scores().items()},
        }

    def _score(self, values: Any) -> Score:
        return mean_score(np.asarray(values, np.float64).reshape(-1))

    def __str__(self) -> str:
        head = f"{self.main} after"
        first = max(len(head), *map(len, self.tasks))
        width = max(5, *map(len, self.tasks))
        lines = [head.ljust(first) + "".join(f"  {t:>{width}}" for t in self.tasks)]
        for name, row in zip(self.tasks, self.performance.mean(axis=0), strict=True):
            cells = "".join(f"  {value:{width}.3f}" for value in row)
            lines.append(name.ljust(first) + cells)
        seeds = len(self.performance)
        over = "one seed" if seeds == 1 else f"{seeds} seeds"

        def text(score: Score) -> str:
            return f"{score.value:.3g}" if score.interval is None else in_words(score)

        what = "accuracy" if self.main == "accuracy" else "R²"
        lines.append(f"average {what} {text(self.average_accuracy)} ({over})")
        if len(self.tasks) > 1:
            lines.append(
                f"forgetting {text(self.forgetting)}, backward transfer "
                f"{text(self.backward_transfer)}, forward transfer "
                f"{text(self.forward_transfer)} ({over})"
            )
        return "\n".join(lines)


def _growth(performance: np.ndarray, epistemic: np.ndarray) -> float:
    """Rank correlation of what was lost and of how uncertainty grew, one seed."""
    from scipy.stats import spearmanr

    size = len(performance)
    pairs = [
        (performance[j, j] - performance[k, j], epistemic[k, j] - epistemic[j, j])
        for j in range(size)
        for k in range(j + 1, size)
    ]
    lost, grew = np.array(pairs).T
    if len(pairs) < 3 or np.ptp(lost) == 0 or np.ptp(grew) == 0:
        return float("nan")
    return float(spearmanr(lost, grew).statistic)

"""What every recalibration is, before and after it has seen the calibrate part."""

import abc
from dataclasses import dataclass

from jax.typing import ArrayLike

from ntkuq.calibration.overlap import rows, warn_overlap
from ntkuq.calibration.records import Score
from ntkuq.posteriors.predictive import Predictive

from .seen import Seen, need_like


@dataclass(frozen=True)
class Diagnostics:
    """How a recalibration went.

    Args:
        objective: what was minimized, "nll" (nats) or "crps" (units of the data).
        before: its mean over the calibrate points as they came.
        after: its mean on the same points, recalibrated. These points were fitted, so
            new points gain less; score a part of its own to learn how much.
        gain: before less after, point by point.
        at_bound: parameters that ended at an end of their range.
        notes: what else is to be known.
    """

    objective: str
    before: Score
    after: Score
    gain: Score
    at_bound: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class AbstractRecalibrated(abc.ABC):
    """A map of predictions, fitted on the calibrate part."""

    diagnostics: Diagnostics
    seen: Seen

    def predict(self, p: Predictive) -> Predictive:
        """The recalibrated predictions of new points.

        Args:
            p: predictions of the kind that the map was fitted on, at any N points.

        Returns:
            New predictions of the same batch shape and precision.

        Raises:
            TypeError: for predictions of another kind.
            ValueError: for another number of classes or outputs.

        Warns:
            OverlapWarning: when p holds points of the calibrate part.
        """
        need_like(p, self.seen)
        warn_overlap(self.seen.rows, rows(p), self.seen.name)
        return self._mapped(p)

    @abc.abstractmethod
    def _mapped(self, p: Predictive) -> Predictive:
        """The map itself, for predictions that were checked."""


class AbstractRecalibration(abc.ABC):
    """A way to recalibrate predictions after the fact."""

    @abc.abstractmethod
    def fit(self, p: Predictive, y: ArrayLike) -> AbstractRecalibrated:
        """Learn the map from the calibrate part, which no model was trained on.

        Args:
            p: predictions at its points.
            y: what was observed there, as for `score`.

        Returns:
            The fitted map; `predict` applies it to other predictions.

        Raises:
            TypeError: for predictions of another kind.
            ValueError: when shapes do not fit, y is not finite, or the points are too
                few or too uniform to determine the map.
        """

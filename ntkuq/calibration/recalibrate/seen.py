"""What a calibration was fitted on: enough to know it again."""

from dataclasses import dataclass, field

import numpy as np

from ntkuq.posteriors.predictive import Predictive, current


@dataclass(frozen=True)
class Seen:
    """The calibrate part of a method.

    Args:
        name: of the method, for messages.
        rows: `overlap.rows` of the points, (N,).
        classes: whether they were predictions of classes.
        shape: classes (K,), or outputs () or (C,).
    """

    name: str
    rows: np.ndarray = field(repr=False)
    classes: bool
    shape: tuple[int, ...]


def need_kind(p: Predictive, classes: bool, name: str) -> None:
    """Refuse predictions on a scale where classes are meant, and the reverse."""
    if p.is_classification == classes:
        return
    if classes:
        raise TypeError(
            f"{name}: expected predictions of classes, got "
            f"{type(p.observed).__name__}; use ScaleCalibration or "
            "IsotonicRecalibration for a regression"
        )
    raise TypeError(
        f"{name}: expected predictions on a scale, got classes; use "
        "TemperatureScaling or another map of class probabilities"
    )


def need_like(p: Predictive, seen: Seen) -> None:
    """Refuse predictions of another kind, or of other classes or outputs."""
    need_kind(p, seen.classes, seen.name)
    if seen.classes:
        what, got = "classes", (p.observed.probs.shape[-1],)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        what, got = "outputs", tuple(current(p.observed).batch_shape[1:])
    if got != seen.shape:
        raise ValueError(
            f"{seen.name}: expected the {what} that it was fitted on, shape "
            f"{seen.shape} after the axis of points, got {got}"
        )

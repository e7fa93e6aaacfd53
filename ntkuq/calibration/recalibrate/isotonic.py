"""Any map of a class probability that does not decrease."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.posteriors.predictive import Predictive

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .estimates import compared
from .inputs import (
    classes,
    log_probabilities,
    need_both,
    precision,
)
from .seen import Seen


NAME = "IsotonicCalibration"


@dataclass(frozen=True)
class IsotonicCalibration(AbstractRecalibration):
    r"""The non-decreasing map of the class probability with the least squared error.

    For two classes one map of the probability of class 1, by pooling adjacent
    violators; it also has the largest likelihood. Between calibrate points it is
    linear, beyond them flat. For K > 2 classes one map of each class against the rest,
    and the results divided by their sum; where all are zero the row stays as it was.
    That step is a convention: the maps are best one by one, not together.

    A map made of n points cannot know a probability below about 1/n, and a 0 that is
    wrong costs an infinite likelihood: its values are kept within
    $[\tfrac{c}{n + 2c}, 1 - \tfrac{c}{n + 2c}]$.

    Args:
        pseudocount: c, at least 0; 0 is the plain isotonic regression.

    Raises:
        ValueError: for another pseudocount.

    >>> import numpy as np
    >>> p = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    >>> y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])
    >>> plain = IsotonicCalibration(pseudocount=0)
    >>> fitted = plain.fit(Predictive.probabilities(np.c_[1 - p, p]), y)
    >>> fitted.curves[0]["value"].round(2)
    array([0.  , 0.  , 0.33, 0.33, 0.5 , 0.5 , 1.  , 1.  ])

    References:
        Zadrozny and Elkan, 2002, KDD, 694-699.
    """

    pseudocount: float = 1.0

    def __post_init__(self):
        if not 0 <= self.pseudocount < np.inf:
            raise ValueError(
                f"{NAME}: expected pseudocount >= 0, got {self.pseudocount}"
            )

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedIsotonic":
        data = classes(p, y, NAME, 10)
        need_both(data.codes, NAME)
        probs = np.exp(data.logs)
        size = probs.shape[1]
        mapped = [1] if size == 2 else list(range(size))
        least = self.pseudocount / (data.codes.size + 2 * self.pseudocount)
        curves = tuple(
            _curve(probs[:, k], (data.codes == k).astype(np.float64), least)
            for k in mapped
        )
        absent = [str(k) for k in range(size) if not (data.codes == k).any()]
        note = "no calibrate point of class " + ", ".join(absent)

        def losses(q: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore"):
                hit = np.take_along_axis(q, data.codes[:, None], axis=1)[:, 0]
                return data.by_point(-np.log(hit))

        record = compared(
            "nll",
            losses(probs),
            losses(_mapped(curves, probs)),
            notes=(note,) if absent else (),
        )
        return FittedIsotonic(curves, record, data.seen)


@dataclass(frozen=True)
class FittedIsotonic(AbstractRecalibrated):
    """Fitted monotone maps.

    Args:
        curves: the map of class 1, or of each class where there are more than two:
            columns `probability` (increasing), `value`, `se` (binomial, of the pooled
            points) and `count` (points pooled), one entry a corner.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    curves: tuple[dict[str, np.ndarray], ...] = field(repr=False)
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        q = _mapped(self.curves, np.exp(log_probabilities(p, NAME)))
        return Predictive(None, dist.CategoricalProbs(q.astype(precision(p))))


def _curve(x: np.ndarray, hit: np.ndarray, least: float) -> dict[str, np.ndarray]:
    """The isotonic regression of `hit` on `x`, at the ends of its flat pieces."""
    from scipy import optimize

    at, place, count = np.unique(x, return_inverse=True, return_counts=True)
    mean = np.bincount(place, hit) / count
    found = optimize.isotonic_regression(mean, weights=count.astype(np.float64))
    blocks = found.blocks.astype(np.int64)
    first, last = blocks[:-1], blocks[1:] - 1
    pooled = np.add.reduceat(count, first)
    value = np.clip(found.x[first], least, 1 - least)
    se = np.sqrt(value * (1 - value) / pooled)
    corner = np.stack([first, last], axis=1).reshape(-1)
    keep = np.r_[True, np.diff(corner) > 0]  # a piece of one point has one corner
    columns = {"value": value, "se": se, "count": pooled}
    curve = {"probability": at[corner][keep]}
    curve |= {name: np.repeat(a, 2)[keep] for name, a in columns.items()}
    for column in curve.values():
        column.setflags(write=False)
    return curve


def _mapped(curves: tuple[dict[str, np.ndarray], ...], probs: np.ndarray) -> np.ndarray:
    """New probabilities of the same shape (..., K)."""
    if len(curves) == 1:
        up = np.interp(probs[..., 1], curves[0]["probability"], curves[0]["value"])
        return np.stack([1 - up, up], axis=-1)
    each = [
        np.interp(probs[..., k], curve["probability"], curve["value"])
        for k, curve in enumerate(curves)
    ]
    q = np.stack(each, axis=-1)
    total = q.sum(axis=-1, keepdims=True)
    return np.where(total > 0, q / np.where(total > 0, total, 1.0), probs)

"""Whether an uncertainty tells data from outside from the data of the task."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.predictive import Predictive

from .bootstrap import SEED
from .means import mean_score
from .ranking import (
    TARGET,
    area_score,
    average_precision,
    false_rate,
    false_rate_score,
    logit_score,
    rates,
)
from .records import Score, finite
from .uncertainty import AbstractUncertainty, Epistemic, MaxProbability


CELLS = 1000  # cells of neighboring scores that are resampled

DRAWS = 1000

POINTS = 200  # most points of a curve


@dataclass(frozen=True)
class Detection:
    """How well a score tells outside points (positive) from inside ones.

    Args:
        score: name of the score; larger is taken for outside.
        n_inside: points of the task.
        n_outside: points from outside.
        auroc: the probability that an outside point has the larger score, ties half.
        aupr_outside: average precision with the outside points as positives; by
            chance it is their share.
        aupr_inside: the same with the inside points as positives and the score
            reversed.
        fpr95: the share of inside points taken for outside at the largest threshold
            (score at or above it) that finds at least 95 % of the outside points.
        mean_inside: mean score of the inside points.
        mean_outside: mean score of the outside points.
        curve: columns `fpr`, `tpr`, `lower`, `upper` (of `tpr`; pointwise, 95 %, by
            bootstrap), at most 200 points.
    """

    score: str
    n_inside: int
    n_outside: int
    auroc: Score
    aupr_outside: Score
    aupr_inside: Score
    fpr95: Score
    mean_inside: Score
    mean_outside: Score
    curve: Mapping[str, np.ndarray] = field(repr=False)

    def to_dict(self) -> dict:
        """As plain numbers for JSON."""
        names = ("auroc", "aupr_outside", "aupr_inside", "fpr95")
        return {
            "score": self.score,
            "n_inside": self.n_inside,
            "n_outside": self.n_outside,
            **{
                name: getattr(self, name).to_dict()
                for name in (*names, "mean_inside", "mean_outside")
            },
            "curve": {
                name: [finite(v) for v in column.tolist()]
                for name, column in self.curve.items()
            },
        }


def detection(
    inside: Predictive | ArrayLike,
    outside: Predictive | ArrayLike,
    *,
    score: AbstractUncertainty | None = None,
) -> Detection:
    r"""Tell outside data from the test data by their uncertainty.

    $\mathrm{AUROC} = P(s_\mathrm{out} > s_\mathrm{in}) + \frac12 P(s_\mathrm{out} =
    s_\mathrm{in})$, with the standard error of DeLong and an interval on the logit
    scale (Newcombe's where the sets are told apart without error). Average precision
    is $\sum_k (R_k - R_{k-1}) P_k$ over the distinct scores, its interval on the logit
    scale. Standard errors of it and of `fpr95` are by bootstrap of both sets with a
    fixed seed. The interval of `fpr95` holds for any distribution: it joins that of
    the threshold, from the order statistics of the outside scores, with the exact
    binomial one of the rate; it is wide below about 100 outside points.

    The conclusion holds for this score and these outside data only.

    Args:
        inside: predictions at test points, or their scores, (N,).
        outside: predictions at outside points, or their scores, (M,).
        score: what to tell them by; by default `MaxProbability()` for classes and
            `Epistemic()` else. Not with arrays.

    Raises:
        ValueError: for an empty set, NaN, or predictions without the part that the
            score needs.
        TypeError: when predictions and arrays or two kinds of predictions are mixed.

    >>> d = detection(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.5]))
    >>> print(f"{d.auroc.value:.3f} {d.fpr95.value:.3f}")
    0.917 0.333

    References:
        Hendrycks and Gimpel, 2017, ICLR (arXiv 1610.02136). DeLong, DeLong and
        Clarke-Pearson, 1988, Biometrics 44, 837-845. Sun and Xu, 2014, IEEE Signal
        Processing Letters 21, 1389-1393. Newcombe, 2006, Statistics in Medicine 25,
        559-573. Boyd, Eng and Page, 2013, ECML PKDD.
    """
    name, ins, outs = _scores(inside, outside, score)
    auroc = area_score(ins, outs)
    draws = _replicates(ins, outs)
    fpr, tpr = rates(*_counts(ins, outs))
    grid = np.linspace(0, 1, POINTS)
    lower, upper = np.quantile(draws["tpr"], [0.025, 0.975], axis=0)
    seen = np.interp(grid, fpr[0], tpr[0])
    n = ins.size + outs.size
    precision = {
        "aupr_outside": average_precision(*_counts(ins, outs)),
        "aupr_inside": average_precision(*_counts(-outs, -ins)),
    }
    known = min(ins.size, outs.size) > 1
    return Detection(
        score=name,
        n_inside=ins.size,
        n_outside=outs.size,
        auroc=auroc,
        fpr95=false_rate_score(ins, outs, draws["fpr95"] if known else None),
        mean_inside=mean_score(ins),
        mean_outside=mean_score(outs),
        curve={
            "fpr": grid,
            "tpr": seen,
            "lower": np.minimum(lower, seen),
            "upper": np.maximum(upper, seen),
        },
        **{
            key: logit_score(
                float(value[0]), float(np.std(draws[key])) if known else None, n
            )
            for key, value in precision.items()
        },
    )


def _scores(
    inside: Predictive | ArrayLike,
    outside: Predictive | ArrayLike,
    rule: AbstractUncertainty | None,
) -> tuple[str, np.ndarray, np.ndarray]:
    if isinstance(inside, Predictive) and isinstance(outside, Predictive):
        if inside.is_classification != outside.is_classification:
            raise TypeError(
                "expected inside and outside of one kind, got classes and regression"
            )
        if rule is None:
            rule = MaxProbability() if inside.is_classification else Epistemic()
        return rule.name, rule.values(inside), rule.values(outside)
    if isinstance(inside, Predictive) or isinstance(outside, Predictive):
        raise TypeError(
            "expected two Predictives or two arrays of scores, got one of each"
        )
    if rule is not None:
        raise TypeError(
            f"expected Predictives to compute {rule.name!r} from, got arrays of "
            "scores; leave `score` out"
        )
    return "given", _array("inside", inside), _array("outside", outside)


def _array(name: str, values: ArrayLike) -> np.ndarray:
    out = np.asarray(values, np.float64)
    if out.ndim != 1 or out.size == 0:
        raise ValueError(
            f"expected scores of at least one point, shape (N,), for {name}, got "
            f"{out.shape}"
        )
    if np.isnan(out).any():
        raise ValueError(
            f"expected a score for every point of {name}, got NaN at row "
            f"{int(np.argmax(np.isnan(out)))}"
        )
    return out


def _counts(ins: np.ndarray, outs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of both sets at each distinct score, largest first, (1, K) each."""
    levels, code = np.unique(np.r_[ins, outs], return_inverse=True)
    size = levels.size
    inside = np.bincount(code[: ins.size], minlength=size)[None, ::-1]
    return inside, np.bincount(code[ins.size :], minlength=size)[None, ::-1]


def _replicates(ins: np.ndarray, outs: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers on resamples of both sets.

    Above 1000 distinct scores neighbors are joined to cells and count as ties, which
    moves the numbers a little but not their spread; `fpr95` is then interpolated within
    its cell.
    """
    inside, outside = (a[0] for a in _counts(ins, outs))
    joined = inside.size > CELLS
    if joined:
        place = np.cumsum(inside + outside) - 1
        cell = place * CELLS // (place[-1] + 1)
        cell = np.unique(cell, return_inverse=True)[1]
        inside = np.bincount(cell, inside).astype(np.int64)
        outside = np.bincount(cell, outside).astype(np.int64)
    rng = np.random.default_rng(SEED)
    inside = rng.multinomial(ins.size, inside / ins.size, size=DRAWS)
    outside = rng.multinomial(outs.size, outside / outs.size, size=DRAWS)
    fpr, tpr = rates(inside, outside)
    grid = np.linspace(0, 1, POINTS)
    return {
        "aupr_outside": average_precision(inside, outside),
        "aupr_inside": average_precision(outside[:, ::-1], inside[:, ::-1]),
        "fpr95": false_rate(inside, outside)
        if not joined
        else np.array([np.interp(TARGET, t, x) for x, t in zip(fpr, tpr)]),
        "tpr": np.stack([np.interp(grid, x, t) for x, t in zip(fpr, tpr)]),
    }

"""The scores of class probabilities, point by point and in the mean."""

from dataclasses import replace

import numpy as np

from ntkuq.posteriors.predictive import Predictive

from .bands import ConsistencyBand
from .binned import Chance, binned_error, class_error
from .binning import EqualCount, EqualWidth
from .blocks import Blocks, blocks, means
from .coverage import share
from .decomposition import class_decomposition, reliability
from .isotonic import isotonic
from .proper import brier
from .records import Score, Scores
from .reliability import curve_of_bins
from .smooth import smooth_error
from .top_label import at_class, entropy, log_probabilities, top_label


def classification(
    p: Predictive, y: np.ndarray, group: np.ndarray | None = None
) -> Scores:
    """All scores of class probabilities, from float64 predictions on the host.

    Args:
        p: predictions with NumPy parameters.
        y: class codes of the shape of the batch.
        group: points with the same value depend on each other, (n,): whole groups are
            resampled for standard errors, intervals and what chance would show.
    """
    n = y.shape[0]
    logs, table = log_probabilities(p.observed)
    codes = y.reshape(-1)
    probs = table.reshape(-1, table.shape[-1])
    confidence, correct = top_label(probs, codes)

    def by_point(a: np.ndarray) -> np.ndarray:
        return a.reshape(n, -1).mean(axis=1) if y.ndim > 1 else a

    nll = _nll(probs if logs is None else logs, codes, logged=logs is not None)
    pointwise = {
        "nll": nll.reshape(n, -1).sum(axis=1) if y.ndim > 1 else nll,
        "brier": by_point(brier(probs, codes)),
        "error": by_point(1.0 - correct),
        "confidence": by_point(confidence),
        "entropy": by_point(entropy(probs)),
    }
    for name in ("epistemic", "aleatoric"):
        part = getattr(p, name)
        if part is not None:
            pointwise[name] = by_point(np.asarray(part, np.float64).reshape(-1))
    values = _means(pointwise, group)
    if y.ndim > 1:
        reason = "The positions of one point are not independent."
        omitted = dict.fromkeys(CALIBRATION, reason)
        return Scores("classification", n, None, values, pointwise, {}, omitted)
    if group is None:
        values["accuracy"] = share(int(correct.sum()), n)
    dealt = blocks(n, group)
    right = correct.astype(float)
    columns = np.ascontiguousarray(probs.T)
    values |= _distances(columns, codes, confidence, right, dealt)
    parts, by_chance = class_decomposition(
        columns, codes, pointwise["brier"], dealt, group
    )
    values |= {
        "miscalibration": parts.miscalibration,
        "miscalibration_chance": by_chance,
        "discrimination": parts.discrimination,
    }
    band = ConsistencyBand(0.95)
    fit = isotonic(confidence, right)
    curves = {
        "reliability": curve_of_bins(confidence, right, dealt),
        "pav": reliability(confidence, right, fit, dealt, band)[0],
    }
    return Scores("classification", n, None, values, pointwise, curves)


#: Scores of calibration. Those with a name in `_chance` are what a calibrated model
#: would show on the same points: the distances before them are biased upwards.
CALIBRATION = (
    *("ece", "ece_chance", "ece_equal_count", "ece_equal_count_chance"),
    *("class_ece", "class_ece_chance", "smooth_ece", "smooth_ece_chance"),
    *("miscalibration", "miscalibration_chance", "discrimination"),
)


def _distances(
    columns: np.ndarray,
    codes: np.ndarray,
    confidence: np.ndarray,
    right: np.ndarray,
    dealt: Blocks,
) -> dict[str, Score]:
    found: dict[str, tuple[Score, Chance]] = {
        "ece": binned_error(confidence, right, dealt, EqualWidth(15)),
        "ece_equal_count": binned_error(confidence, right, dealt, EqualCount(15)),
        "class_ece": class_error(columns, codes, dealt, EqualWidth(15)),
        "smooth_ece": smooth_error(confidence, right, dealt),
    }
    values = {}
    for name, (score, chance) in found.items():
        values |= {name: score, f"{name}_chance": chance.score}
    return values


def _means(
    pointwise: dict[str, np.ndarray], group: np.ndarray | None
) -> dict[str, Score]:
    accuracy = 1.0 - pointwise["error"]
    columns = {
        "nll": pointwise["nll"],
        "brier": pointwise["brier"],
        "accuracy": accuracy,
        "overconfidence": pointwise["confidence"] - accuracy,
    }
    for name in ("entropy", "epistemic", "aleatoric"):
        if name in pointwise:
            columns[name] = pointwise[name]
    found = means(columns, group)
    within = found["accuracy"].interval
    if within is not None:
        ends = max(within[0], 0.0), min(within[1], 1.0)
        found["accuracy"] = replace(found["accuracy"], interval=ends)
    return found


def _nll(table: np.ndarray, codes: np.ndarray, *, logged: bool) -> np.ndarray:
    hit = at_class(table, codes)
    if logged:
        return -hit
    # A class held impossible costs inf; 0 - log so that certainty costs 0, not -0.
    with np.errstate(divide="ignore"):
        return 0.0 - np.log(hit)

"""The scores of class probabilities, point by point and in the mean."""

import numpy as np

from ntkuq.posteriors.predictive import Predictive

from .coverage import share
from .means import mean_score
from .proper import brier
from .records import Scores
from .reliability import expected_calibration_error, reliability_curve, top_label


def classification(p: Predictive, y: np.ndarray) -> Scores:
    """All scores of class probabilities, from float64 predictions on the host."""
    nll = -np.asarray(p.log_prob(y))
    codes = y.reshape(-1)
    probs = np.asarray(p.mean)
    probs = probs.reshape(-1, probs.shape[-1])
    confidence, correct = top_label(probs, codes)

    def by_point(a: np.ndarray) -> np.ndarray:
        return a.reshape(y.shape[0], -1).mean(axis=1) if y.ndim > 1 else a

    pointwise = {
        "nll": nll,
        "brier": by_point(brier(probs, codes)),
        "error": by_point(1.0 - correct),
        "confidence": by_point(confidence),
    }
    values = {"nll": mean_score(nll), "brier": mean_score(pointwise["brier"])}
    n = y.shape[0]
    if y.ndim > 1:
        values["accuracy"] = mean_score(1.0 - pointwise["error"])
        omitted = {"ece": "The positions of one point are not independent."}
        return Scores("classification", n, None, values, pointwise, {}, omitted)
    values |= {
        "accuracy": share(int(correct.sum()), n),
        "ece": expected_calibration_error(confidence, correct),
    }
    curves = {"reliability": reliability_curve(confidence, correct)}
    return Scores("classification", n, None, values, pointwise, curves)

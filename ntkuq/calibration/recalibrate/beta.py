"""The map between two beta laws of the probability of class 1."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.records import Score
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .inputs import classes, log_probabilities
from .logistic import fit_logistic, two_classes, with_logit
from .seen import Seen


NAME = "BetaCalibration"


@dataclass(frozen=True)
class BetaCalibration(AbstractRecalibration):
    r"""For two classes, $\operatorname{logit} q = a \ln p - b \ln(1 - p) + c$.

    p is the probability of class 1. This is the right map when p follows a beta law in
    either class; a = b is `PlattScaling`. With $0 \le a, b \le 100$ it never decreases.
    Minimizes the negative log-likelihood of the calibrate part under these bounds,
    exactly. Where a threshold separates the classes no minimum exists, and Platt's
    smoothed targets are used, which `diagnostics` tells.

    >>> import numpy as np
    >>> p = np.array([0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9])
    >>> y = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 1])
    >>> fitted = BetaCalibration().fit(Predictive.probabilities(np.c_[1 - p, p]), y)
    >>> print(f"{fitted.a.value:.3f} {fitted.b.value:.3f} {fitted.c.value:.3f}")
    0.760 0.000 1.196
    >>> fitted.diagnostics.at_bound
    ('b',)

    References:
        Kull, Silva Filho and Flach, 2017, AISTATS.
    """

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedBeta":
        data = classes(p, y, NAME, 10)
        two_classes(data.logs, NAME)
        result = fit_logistic(
            data,
            np.stack(
                [data.logs[:, 1], -data.logs[:, 0], np.ones(len(data.logs))], axis=1
            ),
            ("a", "b", "c"),
            np.array([0.0, 0.0, -1e3]),
            np.array([100.0, 100.0, 1e3]),
            np.array([1.0, 1.0, 0.0]),
            who=NAME,
            smooth=False,
        )
        a, b, c = result.parameters
        return FittedBeta(a, b, c, result.diagnostics, data.seen)


@dataclass(frozen=True)
class FittedBeta(AbstractRecalibrated):
    """A fitted map between beta laws.

    Args:
        a: slope on ln p, with standard error.
        b: slope on -ln(1 - p), with standard error.
        c: offset, with standard error.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    a: Score
    b: Score
    c: Score
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        logs = log_probabilities(p, NAME)
        with np.errstate(invalid="ignore"):  # 0 times infinity: such rows stay
            logit = self.a.value * logs[..., 1] - self.b.value * logs[..., 0]
        return with_logit(p, logs, logit + self.c.value)

"""A line through the logit of two classes."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.records import Score
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .inputs import classes, log_probabilities
from .logistic import fit_logistic, two_classes, with_logit
from .seen import Seen


NAME = "PlattScaling"


@dataclass(frozen=True)
class PlattScaling(AbstractRecalibration):
    r"""For two classes, $\operatorname{logit} q = a \operatorname{logit} p + b$.

    p is the probability of class 1, with $0 \le a \le 100$. Minimizes the negative
    log-likelihood of the calibrate part, exactly. Where a threshold separates the
    classes no minimum exists, and the smoothed targets are used, which `diagnostics`
    tells.

    Args:
        smooth_targets: fit Platt's targets $(n_+ + 1)/(n_+ + 2)$ and $1/(n_- + 2)$
            instead of 1 and 0; the likelihood of the calibrate part may get worse then.

    >>> import numpy as np
    >>> p = np.array([0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])
    >>> y = np.array([0, 0, 0, 1, 1, 1, 0, 1, 0, 0])
    >>> fitted = PlattScaling().fit(Predictive.probabilities(np.c_[1 - p, p]), y)
    >>> print(f"{fitted.slope.value:.3f} {fitted.offset.value:.3f}")
    0.396 -0.549

    References:
        Platt, 1999, Advances in Large Margin Classifiers, 61-74.
    """

    smooth_targets: bool = False

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedPlatt":
        data = classes(p, y, NAME, 10)
        two_classes(data.logs, NAME)
        logit = data.logs[:, 1] - data.logs[:, 0]
        result = fit_logistic(
            data,
            np.stack([logit, np.ones_like(logit)], axis=1),
            ("slope", "offset"),
            np.array([0.0, -1e3]),
            np.array([100.0, 1e3]),
            np.array([1.0, 0.0]),
            who=NAME,
            smooth=self.smooth_targets,
        )
        slope, offset = result.parameters
        return FittedPlatt(slope, offset, result.diagnostics, data.seen)


@dataclass(frozen=True)
class FittedPlatt(AbstractRecalibrated):
    """A fitted line through the logit.

    Args:
        slope: a, with standard error.
        offset: b, with standard error.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    slope: Score
    offset: Score
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        logs = log_probabilities(p, NAME)
        with np.errstate(invalid="ignore"):  # 0 times infinity: such rows stay
            logit = self.slope.value * (logs[..., 1] - logs[..., 0])
        return with_logit(p, logs, logit + self.offset.value)

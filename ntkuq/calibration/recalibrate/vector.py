"""A slope and an offset for each class."""

from dataclasses import dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.calibration.records import Score
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .estimates import compared, estimate
from .inputs import classes, log_probabilities, with_logits
from .newton import minimize, standard_errors
from .seen import Seen


NAME = "VectorScaling"

FLATTEST, STEEPEST, FARTHEST = 1e-3, 100.0, 1e3


@dataclass(frozen=True)
class VectorScaling(AbstractRecalibration):
    r"""A slope and an offset for each class: $\mathrm{softmax}(w \odot \log p + b)$.

    Minimizes $\sum_i -\log q_i(y_i) + \tfrac{\rho}{2}
    \left(\sum_k (w_k - 1)^2 + b_k^2\right)$, exactly. The second term, for
    $\rho = 1$ a standard normal prior around "no change", makes the minimum unique and
    finite also where a class is rare or absent or the classes are separable. The
    likelihood of the calibrate part never gets worse; the predicted class may change.
    There are 2K parameters: prefer `TemperatureScaling` below some 50 K points.

    Args:
        ridge: $\rho$, above 0.

    Raises:
        ValueError: for another ridge.

    >>> import numpy as np
    >>> p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.2, 0.5]] * 10)
    >>> y = np.array([0, 1, 1] * 10)
    >>> fitted = VectorScaling().fit(Predictive.probabilities(p), y)
    >>> [f"{offset.value:.1f}" for offset in fitted.offsets]
    ['0.4', '0.9', '-1.3']

    References:
        Guo, Pleiss, Sun and Weinberger, 2017, ICML, arXiv 1706.04599.
    """

    ridge: float = 1.0

    def __post_init__(self):
        if not 0 < self.ridge < np.inf:
            raise ValueError(f"{NAME}: expected ridge > 0, got {self.ridge}")

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedVector":
        data = classes(p, y, NAME, 5)
        logs, codes, size = data.logs, data.codes, data.logs.shape[1]
        ok = np.isfinite(np.take_along_axis(logs, codes[:, None], axis=1)[:, 0])
        if not ok.all():
            raise ValueError(
                f"{NAME}: the class observed at row {first_bad(ok)} was given "
                "probability 0, which no slope mends; give logits instead of rounded "
                "probabilities, or use IsotonicCalibration"
            )
        finite = np.where(np.isfinite(logs), logs, 0.0)
        hit = codes[:, None] == np.arange(size)
        start = np.r_[np.ones(size), np.zeros(size)]

        def objective(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            losses, q = _losses(logs, codes, x)
            gap = q - hit
            slope = np.r_[(gap * finite).sum(axis=0), gap.sum(axis=0)]
            inputs = np.concatenate([finite * q, q], axis=1)
            bend = -inputs.T @ inputs
            second = [finite**2 * q, finite * q, q]
            both = [column.sum(axis=0) for column in second]
            at = np.arange(size)
            bend[at, at] += both[0]
            bend[at, size + at] += both[1]
            bend[size + at, at] += both[1]
            bend[size + at, size + at] += both[2]
            away = x - start
            value = losses.sum() + self.ridge / 2 * away @ away
            return (
                float(value),
                slope + self.ridge * away,
                bend + self.ridge * np.eye(2 * size),
            )

        low = np.r_[np.full(size, FLATTEST), np.full(size, -FARTHEST)]
        high = np.r_[np.full(size, STEEPEST), np.full(size, FARTHEST)]
        best = minimize(objective, start, low, high)
        after, q = _losses(logs, codes, best.at)
        gap = q - hit
        gradients = data.by_point(np.concatenate([gap * finite, gap], axis=1))
        errors = standard_errors(best, gradients)
        numbers = tuple(
            estimate(value, se, data.points) for value, se in zip(best.at, errors)
        )
        names = [
            *(f"slope {k}" for k in range(size)),
            *(f"offset {k}" for k in range(size)),
        ]
        absent = [str(k) for k in range(size) if not hit[:, k].any()]
        note = "no calibrate point of class " + ", ".join(absent)
        before = _losses(logs, codes, start)[0]
        return FittedVector(
            slopes=numbers[:size],
            offsets=numbers[size:],
            diagnostics=compared(
                "nll",
                data.by_point(before),
                data.by_point(after),
                tuple(n for n, free in zip(names, best.free) if not free),
                (note,) if absent else (),
            ),
            seen=data.seen,
        )


@dataclass(frozen=True)
class FittedVector(AbstractRecalibrated):
    """Fitted slopes and offsets.

    Args:
        slopes: w, one of each class, with standard errors.
        offsets: b, one of each class, with standard errors; they add up to 0.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    slopes: tuple[Score, ...]
    offsets: tuple[Score, ...]
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        slopes = np.array([score.value for score in self.slopes])
        offsets = np.array([score.value for score in self.offsets])
        return with_logits(p, slopes * log_probabilities(p, NAME) + offsets)


def _losses(
    logs: np.ndarray, codes: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihoods (M,) and probabilities (M, K)."""
    slopes, offsets = np.split(x, 2)
    logits = slopes * logs + offsets
    logits = logits - logits.max(axis=1, keepdims=True)
    q = np.exp(logits)
    total = q.sum(axis=1, keepdims=True)
    hit = np.take_along_axis(logits, codes[:, None], axis=1)
    return (np.log(total) - hit)[:, 0], q / total

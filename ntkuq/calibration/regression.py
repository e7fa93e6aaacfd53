"""The scores of a regression, point by point and in the mean."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive

from .coverage import coverage_curve
from .ence import ence
from .energy import energy_score
from .interval_score import interval_score, weighted_interval_score
from .laws import AbstractLaw, law
from .miscalibration import (
    calibration_error,
    miscalibration_area,
    quantile_calibration_error,
    rms_calibration_error,
)
from .pit import ks_test, pit_curve
from .records import Score, Scores
from .resampled import HUNDRED, LEVELS, Resampled
from .sampling import AbstractSampling, sampling
from .sharpness import sharpness
from .transform import Pit


def regression(
    p: Predictive,
    y: np.ndarray,
    levels: tuple[float, ...],
    group: np.ndarray | None = None,
) -> Scores:
    """All scores of a regression, from float64 predictions on the host."""
    ok = np.isfinite(y)
    if not ok.all():
        raise ValueError(
            f"expected finite y, got a non-finite one at row {first_bad(ok)}"
        )
    if not y.size:
        raise ValueError(f"expected at least one observation, got y of shape {y.shape}")
    table = _Table(law(p), p, y, sampling(y.shape[0], group))
    table.densities()
    table.errors()
    table.intervals(tuple(dict.fromkeys(levels)))
    table.transform()
    table.parts()
    order = [name for name in _order(levels) if name in table.values]
    values = {name: table.values[name] for name in order}
    return Scores(
        "regression",
        y.shape[0],
        None,
        values,
        table.pointwise,
        table.curves,
        table.omitted,
    )


@dataclass
class _Table:
    """The scores as they come; what cannot be had goes to `omitted` with the reason."""

    law: AbstractLaw
    predictive: Predictive
    y: np.ndarray
    sampling: AbstractSampling
    values: dict[str, Score] = field(default_factory=dict)
    pointwise: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)

    def densities(self) -> None:
        """Scores of the whole distribution."""
        y = self.y
        self._mean("nll", lambda: self.law.nll(y))
        self._mean("crps", lambda: self.law.crps(y))
        self._mean("pinball", lambda: self.law.pinball(y))
        if y.ndim == 2 and y.shape[1] > 1:
            observed = self.predictive.observed
            self._mean("energy_score", lambda: energy_score(self.law, y, observed))

    def errors(self) -> None:
        """Errors of the predicted mean, and how they compare with its variance."""
        mean = self._try(lambda: self.law.mean, "rmse", "mae", "ence")
        if mean is None:
            return
        error = squeeze(self.y - mean)
        if error.ndim == 1:
            self.pointwise["error"] = error
        squares = error**2
        self.pointwise["squared_error"] = by_point(squares)
        self.values["rmse"] = self.sampling.root_mean_square(by_point(squares))
        self._mean("mae", lambda: np.abs(error), "absolute_error")
        variance = self._try(lambda: squeeze(self.law.variance), "ence", "sharpness")
        if variance is None:
            return
        self.values["sharpness"] = sharpness(variance, self.sampling)
        found = self._try(lambda: ence(squares, variance, self.sampling), "ence")
        if found is not None:
            self.values["ence"] = found

    def intervals(self, levels: tuple[float, ...]) -> None:
        """Central intervals at the levels."""
        scores = []
        for level, ends in self._ends(levels).items():
            name = f"{100 * level:g}"
            if isinstance(ends, str):
                kinds = ("coverage", "width", "interval_score")
                self.omitted |= {f"{kind}_{name}": ends for kind in kinds}
                continue
            lower, upper = ends
            inside = squeeze((lower <= self.y) & (self.y <= upper))
            self.pointwise[f"covered_{name}"] = by_point(inside.astype(float))
            self.values[f"coverage_{name}"] = self.sampling.share(inside, level)
            width = by_point(squeeze(upper - lower))
            self.values[f"width_{name}"] = self.sampling.mean(width, level)
            scores.append(squeeze(interval_score(lower, upper, self.y, level)))
            each = self.pointwise[f"interval_score_{name}"] = by_point(scores[-1])
            self.values[f"interval_score_{name}"] = self.sampling.mean(each, level)
        name = "weighted_interval_score"
        if not levels:
            self.omitted[name] = "It needs the levels of one interval at least."
        elif len(scores) < len(levels):
            missing = next(key for key in self.omitted if key.startswith("width_"))
            self.omitted[name] = self.omitted[missing]
        else:
            half = self._try(lambda: self.law.quantiles(np.array([0.5]))[0], name)
            if half is None:
                return
            median, y = squeeze(half), squeeze(self.y)
            self._mean(name, lambda: weighted_interval_score(median, scores, y, levels))

    def transform(self) -> None:
        """What the probability integral transform says."""
        names = (*_CENTRAL, "quantile_calibration_error", "pit_ks")
        values = self._try(lambda: squeeze(self.law.pit(self.y)), *names)
        if values is None:
            return
        if values.ndim == 1:
            self.pointwise["pit"] = values
        reach, pit = self.law.reach, Pit(values)
        resampled = Resampled(pit, self.sampling)
        independent = self.sampling.effective
        steps, fine = LEVELS[reach >= LEVELS], HUNDRED[reach >= HUNDRED]
        if steps.size:
            self.values |= {
                "calibration_error": calibration_error(pit, steps, resampled),
                "rms_calibration_error": rms_calibration_error(pit, fine, resampled),
                "miscalibration_area": miscalibration_area(pit, fine, resampled),
            }
            percent = np.arange(1, 100) / 100
            self.curves["coverage"] = coverage_curve(
                pit, percent[percent <= reach], independent
            )
        else:
            reason = "The quantile table reaches no central level."
            self.omitted |= dict.fromkeys(_CENTRAL, reason)
        edge = (1 - min(reach, 1.0)) / 2
        inner = HUNDRED[(edge <= HUNDRED) & (1 - edge >= HUNDRED)]
        self.values["quantile_calibration_error"] = quantile_calibration_error(
            pit, inner if inner.size else HUNDRED, resampled
        )
        self.values["pit_ks"] = ks_test(pit, resampled)
        self.curves["pit"] = pit_curve(pit, independent)

    def parts(self) -> None:
        """Where uncertainty comes from, where the predictions tell."""
        for name in ("epistemic", "aleatoric"):
            known = getattr(self.predictive, name)
            if known is not None:
                each = np.broadcast_to(np.asarray(known, np.float64), self.y.shape)
                self.pointwise[name] = by_point(squeeze(each))
                self.values[name] = self.sampling.mean(self.pointwise[name])

    def _mean(
        self, name: str, values: Callable[[], np.ndarray], key: str | None = None
    ) -> None:
        found = self._try(values, name)
        if found is None:
            return
        each = by_point(squeeze(found))
        self.pointwise[key or name] = each
        self.values[name] = self.sampling.mean(each)

    def _try[T](self, values: Callable[[], T], *names: str) -> T | None:
        """What the law allows; otherwise the names are left out with its reason."""
        try:
            return values()
        except NotImplementedError as reason:
            known = {name: str(reason) for name in names if name not in self.values}
            self.omitted |= known
            return None

    def _ends(
        self, levels: tuple[float, ...]
    ) -> dict[float, tuple[np.ndarray, np.ndarray] | str]:
        """Both ends of the central interval at each level, or why there is none."""
        reach = self.law.reach
        told = [level for level in levels if level <= reach]
        reason = f"The quantile table reaches only the central {100 * reach:.4g} %."
        out: dict = dict.fromkeys(levels, reason)
        if not told:
            return out
        tails = np.asarray([[(1 - level) / 2, (1 + level) / 2] for level in told])
        try:
            ends = self.law.quantiles(tails.reshape(-1))
        except NotImplementedError as none:
            return out | dict.fromkeys(told, str(none))
        return out | {
            level: (ends[2 * i], ends[2 * i + 1]) for i, level in enumerate(told)
        }


_CENTRAL = ("calibration_error", "rms_calibration_error", "miscalibration_area")


def _order(levels: tuple[float, ...]) -> list[str]:
    names = [f"{100 * level:g}" for level in levels]
    return [
        *("nll", "crps", "rmse", "mae"),
        *(f"coverage_{name}" for name in names),
        *(f"width_{name}" for name in names),
        *(f"interval_score_{name}" for name in names),
        *("weighted_interval_score", "pinball", "energy_score", "calibration_error"),
        *("rms_calibration_error", "quantile_calibration_error"),
        *("miscalibration_area", "ence", "pit_ks", "sharpness"),
        *("epistemic", "aleatoric"),
    ]


def squeeze(a: np.ndarray) -> np.ndarray:
    """A single output as (N,)."""
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def by_point(a: np.ndarray) -> np.ndarray:
    """The mean over the outputs of each point, (N,)."""
    return a.mean(axis=1) if a.ndim == 2 else a

"""The scores of a regression, point by point and in the mean."""

import numpy as np

from ntkuq.posteriors.distributions import QuantileTable, first_bad
from ntkuq.posteriors.predictive import Predictive

from .coverage import coverage, coverage_curve
from .means import mean_score, root_mean_square
from .pit import LEVELS, calibration_error, ks_test, pit_curve, pit_values
from .proper import crps
from .records import Scores


def regression(p: Predictive, y: np.ndarray, levels: tuple[float, ...]) -> Scores:
    """All scores of a regression, from float64 predictions on the host."""
    ok = np.isfinite(y)
    if not ok.all():
        raise ValueError(
            f"expected finite y, got a non-finite one at row {first_bad(ok)}"
        )
    n = y.shape[0]
    values, pointwise, curves, omitted = {}, {}, {}, {}
    try:
        pointwise["nll"] = -np.asarray(p.log_prob(y))
        values["nll"] = mean_score(pointwise["nll"])
    except NotImplementedError as reason:
        omitted["nll"] = str(reason)
    try:
        pointwise["crps"] = by_point(crps(p.observed, y))
        values["crps"] = mean_score(pointwise["crps"])
    except NotImplementedError as reason:
        omitted["crps"] = str(reason)
    try:
        error = squeeze(y - np.asarray(p.mean))
    except NotImplementedError as reason:
        # neither mean nor quantiles: a density alone
        left = [name for name in _order(levels) if name not in values]
        omitted = dict.fromkeys(left, str(reason))
        return Scores("regression", n, None, values, pointwise, curves, omitted)
    pointwise["squared_error"] = by_point(error**2)
    values["rmse"] = root_mean_square(pointwise["squared_error"])

    reach = _reach(p)
    for level, ends in _intervals(p, levels, reach).items():
        name = f"{100 * level:g}"
        if isinstance(ends, str):
            omitted[f"coverage_{name}"] = omitted[f"width_{name}"] = ends
            continue
        lower, upper = ends
        inside = squeeze((lower <= y) & (y <= upper))
        pointwise[f"covered_{name}"] = by_point(inside.astype(float))
        values[f"coverage_{name}"] = coverage(inside, level)
        values[f"width_{name}"] = mean_score(by_point(upper - lower), level=level)

    pit = squeeze(pit_values(p, y))
    if pit.ndim == 1:
        pointwise |= {"error": error, "pit": pit}
    steps = LEVELS[reach >= LEVELS]
    if steps.size:
        values["calibration_error"] = calibration_error(pit, steps)
        fine = np.arange(1, 100) / 100
        curves["coverage"] = coverage_curve(pit, fine[fine <= reach])
    else:
        omitted["calibration_error"] = "The quantile table reaches no central level."
    values["pit_ks"] = ks_test(pit)
    curves["pit"] = pit_curve(pit)
    order = [name for name in _order(levels) if name in values]
    values = {name: values[name] for name in order}
    return Scores("regression", n, None, values, pointwise, curves, omitted)


def _intervals(
    p: Predictive, levels: tuple[float, ...], reach: float
) -> dict[float, tuple[np.ndarray, np.ndarray] | str]:
    """Both ends of the central interval at each level, or why there is none."""
    told = [level for level in levels if level <= reach]
    out: dict = dict.fromkeys(
        levels, f"The quantile table reaches only the central {100 * reach:.4g} %."
    )
    if not told:
        return out
    tails = np.asarray([[(1 - level) / 2, (1 + level) / 2] for level in told])
    try:
        ends = np.asarray(p.quantile(tails.reshape(-1)))
    except NotImplementedError:
        kind = type(p.observed).__name__
        return out | dict.fromkeys(told, f"{kind} has no quantile function.")
    return out | {level: (ends[2 * i], ends[2 * i + 1]) for i, level in enumerate(told)}


def _order(levels: tuple[float, ...]) -> list[str]:
    names = [f"{100 * level:g}" for level in levels]
    return [
        *("nll", "crps", "rmse"),
        *(f"coverage_{name}" for name in names),
        *(f"width_{name}" for name in names),
        *("calibration_error", "pit_ks"),
    ]


def squeeze(a: np.ndarray) -> np.ndarray:
    """A single output as (N,)."""
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def by_point(a: np.ndarray) -> np.ndarray:
    """The mean over the outputs of each point, (N,)."""
    return a.mean(axis=1) if a.ndim == 2 else a


def _reach(p: Predictive) -> float:
    """The largest central level that the predictions speak about."""
    if not isinstance(p.observed, QuantileTable):
        return 1.0
    levels = np.asarray(p.observed.levels)
    return float(1 - 2 * max(levels.min(), 1 - levels.max())) + 1e-9

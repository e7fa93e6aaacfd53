"""Score predictions: every number with its standard error, n and interval."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.distributions import QuantileTable, first_bad
from ntkuq.posteriors.join import flattened
from ntkuq.posteriors.predictive import Predictive, current

from .coverage import coverage, coverage_curve, share
from .means import mean_score, root_mean_square
from .pit import LEVELS, calibration_error, ks_test, pit_curve, pit_values
from .proper import brier, crps
from .records import Scores
from .reliability import expected_calibration_error, reliability_curve, top_label


def score(
    predictive: Predictive,
    y: ArrayLike,
    *,
    levels: Sequence[float] = (0.5, 0.9, 0.95),
) -> Scores:
    """Score predictions against what was observed.

    Regression: `nll` (nats), `crps` and `rmse` (units of the data), `coverage_90` and
    `width_90` for each level, `calibration_error` and `pit_ks`. Classes: `nll` (nats),
    `brier` (0 to 2), `accuracy` and `ece`. Points are taken to be independent. A score
    that the kind of prediction does not allow is listed in `omitted` with the reason.
    With several outputs or positions (images, sequences) `nll` adds those of a point up
    and the other scores average over them; `ece` is left out there, since the positions
    of one point are not independent. Everything is computed in float64.

    Args:
        predictive: predictions at N points.
        y: shape of the predictions, an axis of length 1 at the end aside; in the units
            of the data, or class codes.
        levels: kept probabilities of the intervals to check.

    Returns:
        The scores, the per-point values behind them, and calibration curves.

    Raises:
        ValueError: when shapes do not fit, y is not finite, or a level is outside
            (0, 1).

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=500)
    >>> s = score(Predictive.normal(np.zeros(500), np.ones(500)), y)
    >>> print(f"{s['coverage_90'].value:.2f} of {s['coverage_90'].n}")
    0.92 of 500
    """
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"expected levels between 0 and 1, got {level}")
    with jax.enable_x64(True):
        exact = _double(predictive)
        y = np.asarray(exact.matched(y))
        if exact.is_classification:
            return _classification(exact, y)
        if y.ndim > 2:
            exact, y = flattened(exact), y.reshape(len(y), -1)
        return _regression(exact, y, tuple(levels))


def _regression(p: Predictive, y: np.ndarray, levels: tuple[float, ...]) -> Scores:
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
        pointwise["crps"] = _by_point(crps(p.observed, y))
        values["crps"] = mean_score(pointwise["crps"])
    except NotImplementedError as reason:
        omitted["crps"] = str(reason)
    try:
        error = _squeeze(y - np.asarray(p.mean))
    except NotImplementedError as reason:
        # neither mean nor quantiles: a density alone
        left = [name for name in _order(levels) if name not in values]
        omitted = dict.fromkeys(left, str(reason))
        return Scores("regression", n, None, values, pointwise, curves, omitted)
    pointwise["squared_error"] = _by_point(error**2)
    values["rmse"] = root_mean_square(pointwise["squared_error"])

    reach = _reach(p)
    for level, ends in _intervals(p, levels, reach).items():
        name = f"{100 * level:g}"
        if isinstance(ends, str):
            omitted[f"coverage_{name}"] = omitted[f"width_{name}"] = ends
            continue
        lower, upper = ends
        inside = _squeeze((lower <= y) & (y <= upper))
        pointwise[f"covered_{name}"] = _by_point(inside.astype(float))
        values[f"coverage_{name}"] = coverage(inside, level)
        values[f"width_{name}"] = mean_score(_by_point(upper - lower), level=level)

    pit = _squeeze(pit_values(p, y))
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


def _squeeze(a: np.ndarray) -> np.ndarray:
    """A single output as (N,)."""
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def _by_point(a: np.ndarray) -> np.ndarray:
    """The mean over the outputs of each point, (N,)."""
    return a.mean(axis=1) if a.ndim == 2 else a


def _classification(p: Predictive, y: np.ndarray) -> Scores:
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


def _double(p: Predictive) -> Predictive:
    """The same predictions with float64 parameters on the host."""

    def one(a: jax.Array) -> np.ndarray:
        host = np.asarray(a)
        floating = jnp.issubdtype(host.dtype, jnp.floating)
        return host.astype(np.float64) if floating else host

    return Predictive(latent=None, observed=jax.tree.map(one, current(p.observed)))


def _reach(p: Predictive) -> float:
    """The largest central level that the predictions speak about."""
    if not isinstance(p.observed, QuantileTable):
        return 1.0
    levels = np.asarray(p.observed.levels)
    return float(1 - 2 * max(levels.min(), 1 - levels.max())) + 1e-9

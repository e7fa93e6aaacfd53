"""A monotone map of predicted probabilities, learned from the transform of outcomes."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.calibration.pit import pit_values
from ntkuq.calibration.proper import crps
from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive, current

from .base import AbstractRecalibrated, AbstractRecalibration, Diagnostics
from .estimates import compared
from .inputs import cast, doubled, log_density, outcomes, precision
from .recalibrated import Recalibrated
from .seen import Seen


NAME = "IsotonicRecalibration"


@dataclass(frozen=True)
class IsotonicRecalibration(AbstractRecalibration):
    r"""Replace the distribution function F by $R \circ F$, R the law of $F(y)$.

    $R(u)$ is the share of calibrate points with $F_i(y_i) \le u$, which makes the
    predictions calibrated at every level on average. It never decreases as it is; to
    have a density too, it runs linearly through `pieces` points that hold equal shares
    of the calibrate points, and through (0, 0) and (1, 1), strictly increasing. With
    more pieces it follows the calibrate points more closely and the density gets
    rougher: on new points k pieces cost about $k / 2n$ nats.

    The result has `Recalibrated` for its law; samples and quantile tables stay what
    they are, with the values $F^{-1}(R^{-1}(q))$ at the old levels q. They cannot reach
    beyond the outermost of their values, and no law can be widened beyond what F still
    tells from 0 and 1: far too narrow predictions need `ScaleCalibration` first. Each
    output has a map of its own. What was latent, epistemic and aleatoric is not known
    of the result.

    Args:
        pieces: how many linear pieces, at least 2; by default $2 n^{1/3}$, at most 200.

    Raises:
        ValueError: for fewer pieces.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.exponential(size=1000)
    >>> fitted = IsotonicRecalibration().fit(Predictive.normal(np.ones(1000), 1.0), y)
    >>> new = fitted.predict(Predictive.normal(np.ones(1), 1.0))
    >>> print(np.round(new.interval(0.9), 2).ravel())
    [0.05 2.96]

    References:
        Kuleshov, Fenner and Ermon, 2018, ICML, arXiv 1807.00263.
    """

    pieces: int | None = None

    def __post_init__(self):
        if self.pieces is not None and self.pieces < 2:
            raise ValueError(f"{NAME}: expected pieces >= 2, got {self.pieces}")

    def fit(self, p: Predictive, y: ArrayLike) -> "FittedPitMap":
        data = outcomes(p, y, NAME, 20)
        n = data.y.shape[0]
        pieces = self.pieces or min(round(2 * n ** (1 / 3)), 200)
        with jax.enable_x64(True):
            pit = np.clip(pit_values(data.p, data.y), 0.0, 1.0)
        columns = pit.reshape(n, -1).T
        curves = tuple(_curve(one, pieces) for one in columns)
        least = min(curve["level"].size - 1 for curve in curves)
        notes = () if least >= min(pieces, n) else (f"ties left {least} pieces",)
        with jax.enable_x64(True):
            new = _new_law(data.p.observed, *_knots(curves, data.seen.shape))
            losses = _losses(data.p.observed, data.y), _losses(new, data.y)
        kind = "nll" if losses[0][0] else "crps"
        before, after = losses[0][1], losses[1][1]
        return FittedPitMap(curves, compared(kind, before, after, (), notes), data.seen)


@dataclass(frozen=True)
class FittedPitMap(AbstractRecalibrated):
    """Fitted maps of predicted probabilities.

    Args:
        curves: R of each output: columns `level` and `value`, from 0 to 1, and `se`,
            the binomial standard error of the value.
        diagnostics: how the fit went.
        seen: the calibrate points.
    """

    curves: tuple[dict[str, np.ndarray], ...] = field(repr=False)
    diagnostics: Diagnostics
    seen: Seen = field(repr=False)

    def _mapped(self, p: Predictive) -> Predictive:
        dtype = precision(p)
        levels, values = _knots(self.curves, self.seen.shape, dtype)
        with jax.enable_x64(True):
            if isinstance(p.observed, Empirical | QuantileTable):
                exact = doubled(p).observed
                return Predictive(None, cast(_new_law(exact, levels, values), dtype))
        base = cast(current(p.observed), dtype)
        return Predictive(
            None, Recalibrated(base, levels.astype(dtype), values.astype(dtype))
        )


def _curve(pit: np.ndarray, pieces: int) -> dict[str, np.ndarray]:
    """R through the ends of equal shares of the transform (n,), ties kept together."""
    ordered = np.sort(pit)
    n = ordered.size
    stuck = max(int((ordered <= 0).sum()), int((ordered >= 1).sum()))
    if stuck > n / pieces:
        raise ValueError(
            f"{NAME}: expected F(y) strictly between 0 and 1, got {stuck} of {n} at an "
            "end: the predictions are so narrow that F no longer tells outcomes apart; "
            "use ScaleCalibration first and recalibrate its predictions"
        )
    cuts = np.unique(np.round(np.arange(1, pieces) * n / pieces).astype(int))
    cuts = cuts[(cuts > 0) & (cuts < n)]
    # a cut inside a tie moves behind it, where R is the full share of the tie
    cuts = np.unique(np.searchsorted(ordered, ordered[cuts - 1], side="right"))
    cuts = cuts[cuts < n]
    level = (ordered[cuts - 1] + ordered[cuts]) / 2
    inside = (level > 0) & (level < 1) & (level >= ordered[cuts - 1])
    level, value = level[inside], cuts[inside] / n
    rises = np.r_[True, np.diff(level) > 0] if level.size else np.zeros(0, bool)
    level, value = np.r_[0.0, level[rises], 1.0], np.r_[0.0, value[rises], 1.0]
    curve = {
        "level": level,
        "value": value,
        "se": np.sqrt(value * (1 - value) / n),
    }
    for column in curve.values():
        column.setflags(write=False)
    return curve


def _knots(
    curves: tuple[dict[str, np.ndarray], ...],
    shape: tuple[int, ...],
    dtype: np.dtype | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Levels and values as arrays, (K,) or (C, K), strictly increasing in `dtype`."""
    clean = [_rising(curve["level"], curve["value"], dtype) for curve in curves]
    if not shape:
        return clean[0]
    size = max(level.size for level, _ in clean)
    both = [_padded(level, value, size) for level, value in clean]
    return np.stack([a for a, _ in both]), np.stack([b for _, b in both])


def _rising(
    level: np.ndarray, value: np.ndarray, dtype: np.dtype | None
) -> tuple[np.ndarray, np.ndarray]:
    """The points that stay apart in the precision of the predictions."""
    if dtype is None:
        return level, value
    kept = [0]
    low, high = level.astype(dtype), value.astype(dtype)
    for k in range(1, level.size - 1):
        apart = low[k] > low[kept[-1]] and high[k] > high[kept[-1]]
        if apart and low[k] < 1 and high[k] < 1:
            kept.append(k)
    kept.append(level.size - 1)
    return level[kept], value[kept]


def _padded(
    level: np.ndarray, value: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same line through more points: the widest piece is halved again and again."""
    while level.size < size:
        k = int(np.argmax(np.minimum(np.diff(level), np.diff(value))))
        level = np.insert(level, k + 1, (level[k] + level[k + 1]) / 2)
        value = np.insert(value, k + 1, (value[k] + value[k + 1]) / 2)
    return level, value


def _new_law(
    observed: dist.Distribution, levels: np.ndarray, values: np.ndarray
) -> dist.Distribution:
    """The recalibrated law in float64."""
    if not isinstance(observed, Empirical | QuantileTable):
        return Recalibrated(observed, levels, values)
    old = np.moveaxis(np.asarray(observed.values), -1, 0)
    if isinstance(observed, Empirical):
        size = old.shape[0]
        q = (np.arange(size) + 0.5) / size
        # sample j of the sorted ones has level (j + 1/2) / S
        old, at = np.sort(old, axis=0), q
    else:
        q = at = np.asarray(observed.levels)

    def moved(old: np.ndarray, level: np.ndarray, value: np.ndarray) -> np.ndarray:
        back = np.interp(q, value, level)
        place = np.clip(np.searchsorted(at, back, side="right") - 1, 0, at.size - 2)
        share = np.clip((back - at[place]) / (at[place + 1] - at[place]), 0, 1)
        share = share.reshape(-1, *(1,) * (old.ndim - 1))
        return old[place] + share * (old[place + 1] - old[place])

    if levels.ndim == 1:
        new = moved(old, levels, values)
    else:
        each = [moved(old[..., c], levels[c], values[c]) for c in range(len(levels))]
        new = np.stack(each, axis=-1)
    if isinstance(observed, Empirical):
        return Empirical(new)
    # rounding must not make quantiles cross
    return QuantileTable(observed.levels, np.maximum.accumulate(new, axis=0))


def _losses(observed: dist.Distribution, y: np.ndarray) -> tuple[bool, np.ndarray]:
    """Whether there is a density, and the loss of each point, (N,)."""
    if isinstance(observed, Empirical | QuantileTable):
        values = crps(observed, y)
        return False, values.mean(axis=1) if y.ndim == 2 else values
    return True, _added(-log_density(current(observed), y))


def _added(values: np.ndarray) -> np.ndarray:
    """Log densities of a point's outputs add up, (N,)."""
    return values.sum(axis=1) if values.ndim == 2 else values

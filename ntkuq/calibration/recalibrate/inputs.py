"""Predictions and outcomes as float64 on the host, checked."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro import distributions as dist

from ntkuq.calibration.overlap import rows
from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.predictive import Predictive, current

from .seen import Seen, need_kind


class Classes(NamedTuple):
    """Class predictions with their outcomes.

    Args:
        logs: log probabilities, (M, K) with M = N times the positions of a point.
        codes: observed classes, (M,).
        points: N.
        seen: the points' digests.
    """

    logs: np.ndarray
    codes: np.ndarray
    points: int
    seen: Seen

    def by_point(self, values: np.ndarray) -> np.ndarray:
        """Values of the rows, (M, ...), added up over each point, (N, ...)."""
        return values.reshape(self.points, -1, *values.shape[1:]).sum(axis=1)


def classes(p: Predictive, y: ArrayLike, who: str, least: int) -> Classes:
    """The calibrate part of a map of class probabilities.

    Args:
        p: class predictions, batch (N,) or with positions (N, ...).
        y: class codes.
        who: the name of the method, for messages.
        least: how many points it needs.
    """
    need_kind(p, True, who)
    with jax.enable_x64(True):
        codes = np.asarray(p.matched(y))
    table = log_probabilities(p, who)
    need_points(codes.shape[0], who, least)
    size = table.shape[-1]
    seen = Seen(who, rows(p), True, (size,))
    return Classes(table.reshape(-1, size), codes.reshape(-1), codes.shape[0], seen)


def log_probabilities(p: Predictive, who: str) -> np.ndarray:
    """Log probabilities in float64, (..., K); minus infinity where it is zero."""
    observed = p.observed
    if isinstance(observed, dist.CategoricalLogits):
        logs = np.asarray(observed.logits, np.float64)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.asarray(observed.probs, np.float64))  # pyright: ignore[reportAttributeAccessIssue]
    top = logs.max(axis=-1, keepdims=True)
    ok = np.isfinite(top[..., 0]) & ~np.isnan(logs).any(axis=-1)
    if not ok.all():
        raise ValueError(
            f"{who}: expected class probabilities that are numbers and not all zero, "
            f"got others at row {first_bad(ok)}"
        )
    logs = logs - top
    return logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))


def with_logits(p: Predictive, logits: np.ndarray) -> Predictive:
    """New class predictions in the precision of p.

    As probabilities where a class is impossible, which logits cannot say.
    """
    dtype = precision(p)
    if np.isfinite(logits).all():
        return Predictive(None, dist.CategoricalLogits(logits.astype(dtype)))
    q = np.exp(logits - logits.max(axis=-1, keepdims=True))
    q /= q.sum(axis=-1, keepdims=True)
    return Predictive(None, dist.CategoricalProbs(q.astype(dtype)))


def precision(p: Predictive) -> np.dtype:
    """The floating-point type of the parameters of a prediction."""
    found = [np.dtype(a.dtype) for a in jax.tree.leaves(p.observed)]
    floats = [t for t in found if jnp.issubdtype(t, jnp.floating)]
    return max(floats, key=lambda t: t.itemsize, default=np.dtype(np.float32))


class Outcomes(NamedTuple):
    """Regression predictions in float64 with their outcomes.

    Args:
        p: predictions with float64 parameters on the host.
        y: (N,) or (N, C), in the units of the data.
        seen: the points' digests and the outputs.
    """

    p: Predictive
    y: np.ndarray
    seen: Seen


def outcomes(p: Predictive, y: ArrayLike, who: str, least: int) -> Outcomes:
    """The calibrate part of a map of predictions on a scale."""
    need_kind(p, False, who)
    with jax.enable_x64(True):
        exact = doubled(p)
        known = np.asarray(exact.matched(y))
    if known.ndim not in (1, 2):
        raise ValueError(
            f"{who}: expected predictions of shape (N,) or (N, C), got {known.shape}"
        )
    ok = np.isfinite(known)
    if not ok.all():
        raise ValueError(
            f"{who}: expected finite y, got a non-finite one at row {first_bad(ok)}"
        )
    need_points(known.shape[0], who, least)
    return Outcomes(exact, known, Seen(who, rows(p), False, known.shape[1:]))


def doubled(p: Predictive) -> Predictive:
    """The same predictions with float64 parameters on the host."""
    with jax.enable_x64(True):
        return Predictive(None, cast(current(p.observed), np.dtype(np.float64)))


def cast(observed: dist.Distribution, dtype: np.dtype) -> dist.Distribution:
    """The same distribution on host arrays of another precision."""

    def one(a: jax.Array | np.ndarray) -> np.ndarray:
        host = np.asarray(a)
        return host.astype(dtype) if jnp.issubdtype(host.dtype, jnp.floating) else host

    return jax.tree.map(one, observed)


def log_density(law: dist.Distribution, y: np.ndarray) -> np.ndarray:
    """The log density of each observation, one by one, in one compiled program."""
    if isinstance(law, dist.Normal):
        loc, scale = np.asarray(law.loc), np.asarray(law.scale)
        return -(((y - loc) / scale) ** 2) / 2 - np.log(scale) - np.log(2 * np.pi) / 2
    law = jax.tree.map(jnp.asarray, law)
    return np.asarray(_log_density(law, jnp.asarray(y)), np.float64)


@eqx.filter_jit
def _log_density(law: dist.Distribution, y: jax.Array) -> jax.Array:
    return jnp.asarray(law.log_prob(y))


def need_points(n: int, who: str, least: int) -> None:
    """Refuse a calibrate part that is too small to say anything."""
    if n < least:
        raise ValueError(
            f"{who}: expected n >= {least} calibrate points, got {n}; keep a larger "
            "calibrate part, or leave the predictions as they are"
        )


def need_both(codes: np.ndarray, who: str) -> None:
    """Refuse a calibrate part that shows one class only."""
    if codes.min() == codes.max():
        raise ValueError(
            f"{who}: expected at least two classes among the calibrate outcomes, got "
            f"only class {codes[0]}; keep a larger or stratified calibrate part, or "
            "use TemperatureScaling, which one class determines"
        )

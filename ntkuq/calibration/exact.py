"""Predictions and outcomes in float64 on the host, checked."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.distributions import first_bad
from ntkuq.posteriors.join import flattened
from ntkuq.posteriors.predictive import Predictive, current


def exact(p: Predictive) -> Predictive:
    """The same predictions with float64 parameters on the host, without `latent`.

    Call it under `jax.enable_x64(True)`.
    """

    def one(a: jax.Array | np.ndarray) -> np.ndarray:
        host = np.asarray(a)
        floating = jnp.issubdtype(host.dtype, jnp.floating)
        return host.astype(np.float64) if floating else host

    def optional(a: jax.Array | np.ndarray | None) -> np.ndarray | None:
        return None if a is None else one(a)

    return Predictive(
        latent=None,
        observed=jax.tree.map(one, current(p.observed)),
        epistemic=optional(p.epistemic),
        aleatoric=optional(p.aleatoric),
    )


def matched(p: Predictive, y: ArrayLike) -> tuple[Predictive, np.ndarray]:
    """Float64 predictions and outcomes of one shape: (N,), (N, C), or class codes.

    Regression with more axes becomes (N, C). Call it under `jax.enable_x64(True)`.

    Raises:
        ValueError: when the shapes do not fit, or y or a mean is not finite (the first
            such row is named).
    """
    double = exact(p)
    outcome = np.asarray(double.matched(y))
    if double.is_classification:
        return double, outcome
    if outcome.ndim > 2:
        double, outcome = flattened(double), outcome.reshape(len(outcome), -1)
    need_finite("y", outcome)
    return double, outcome


def need_finite(name: str, values: np.ndarray) -> None:
    """Refuse values that are not finite; the first such row is named."""
    ok = np.isfinite(values)
    if not ok.all():
        row = first_bad(ok)
        raise ValueError(f"expected finite {name}, got {values[row]} at row {row}")


def need_regression(p: Predictive, what: str, instead: str) -> None:
    """Refuse classes, and say what is there for them."""
    if p.is_classification:
        raise TypeError(
            f"{what} expects observations on a scale, got class probabilities; for "
            f"classes use {instead}"
        )

"""What a posterior says of many points together: covariances, or functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.decisions.active import gaussian
from ntkuq.decisions.active.base import rows
from ntkuq.posteriors.predictive import Predictive


def conditioned(
    posterior: Any, pool_x: PyTree, targets: PyTree | None
) -> gaussian.Conditioned:
    """Joint covariances of pool and targets in float64; `None` repeats the pool.

    Raises:
        TypeError: for posteriors without `joint`, classes, or several outputs.
    """
    if not hasattr(posterior, "joint"):
        raise TypeError(
            "query: expected a posterior with joint covariances (GP, NTKGP, Laplace), "
            f"got {type(posterior).__name__}: use Top(BALD()) or CoreSet()"
        )
    size = rows(pool_x)
    both = pool_x
    if targets is not None:
        both = jax.tree.map(
            lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]),
            pool_x,
            targets,
        )
    p: Predictive = posterior.predict(both)
    if p.is_classification or p.aleatoric is None or np.ndim(p.aleatoric) != 1:
        raise TypeError(
            "query: expected predictions of one outcome on a scale with its noise, got "
            "others: use Top(BALD()), BatchBALD() or EPIG() for classes"
        )
    covariance = jnp.asarray(np.asarray(posterior.joint(both).covariance, np.float64))
    noise = jnp.asarray(np.asarray(p.aleatoric, np.float64))
    if targets is None:
        covariance = jnp.concatenate([covariance, covariance], axis=1)
        noise = jnp.concatenate([noise, noise])
        variance = jnp.tile(jnp.diagonal(covariance), 2)
    else:
        variance = jnp.diagonal(covariance)
    return gaussian.Conditioned(covariance[:size], variance, noise)


def drawn_probabilities(
    posterior: Any, x: PyTree, draws: int, *, key: Array
) -> Float[Array, "S N C"]:
    """Class probabilities at x of functions drawn from the posterior.

    Raises:
        TypeError: for posteriors without `sample_functions`.
    """
    if not hasattr(posterior, "sample_functions"):
        raise TypeError(
            "query: expected a posterior with sample_functions (Laplace, DeepEnsemble, "
            f"NUTS, ...), got {type(posterior).__name__}: use Top(BALD())"
        )
    logits = jnp.asarray(posterior.sample_functions(key, draws)(x))
    if logits.ndim == 2:
        # one logit: Bernoulli
        logits = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.softmax(logits, axis=-1)

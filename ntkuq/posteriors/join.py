"""Predictions put together, and in the shape of the targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array

from ntkuq.models import IntegratedDensity
from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive, current


def concatenate(parts: Sequence[Predictive]) -> Predictive:
    """Predictions at several sets of points as one, in the order given.

    Args:
        parts: predictions of one posterior, each for some of the points.

    Raises:
        ValueError: where there are none, or they are of different kinds.
        TypeError: for distributions whose arrays are not known.

    >>> import numpy as np
    >>> one = Predictive.normal(np.zeros(2), np.ones(2))
    >>> concatenate([one, one]).mean.shape
    (4,)
    """
    if not parts:
        raise ValueError("concatenate: expected at least one Predictive, got none")
    if len(parts) == 1:
        return parts[0]

    def join(*arrays: Array) -> Array:
        return jnp.concatenate([jnp.asarray(a) for a in arrays])

    def same(name: str) -> Array | None:
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            return None
        return join(*values)

    latents = [part.latent for part in parts if part.latent is not None]
    if len(latents) not in (0, len(parts)):
        raise ValueError("concatenate: expected `latent` in all parts or in none")
    return Predictive(
        latent=_mapped(latents, join) if latents else None,
        observed=_mapped([part.observed for part in parts], join),
        epistemic=same("epistemic"),
        aleatoric=same("aleatoric"),
    )


def unflattened(predictive: Predictive, shape: tuple[int, ...]) -> Predictive:
    """Predictions of (N, D) columns, or of (N,), with the targets' axes (N, *shape).

    A `latent` of other outputs than the targets stays as it is.
    """
    size = math.prod(shape)

    def reshape(array: Array) -> Array:
        array = jnp.asarray(array)
        if size == 1:
            return array.reshape(len(array), *shape, *array.shape[1:])
        return array.reshape(len(array), *shape, *array.shape[2:])

    def fits(d: dist.Distribution | None) -> bool:
        trailing = () if size == 1 else (size,)
        return d is not None and d.batch_shape[1:] == trailing

    latent = predictive.latent
    return Predictive(
        latent=_mapped([latent], reshape) if latent and fits(latent) else latent,
        observed=_mapped([predictive.observed], reshape),
        epistemic=_optional(predictive.epistemic, reshape),
        aleatoric=_optional(predictive.aleatoric, reshape),
    )


def flattened(predictive: Predictive) -> Predictive:
    """Observations (N, *shape) as (N, D) columns; `latent` is left out."""

    def flat(given: ArrayLike) -> Array:
        array, axes = jnp.asarray(given), len(shape)
        return array.reshape(len(array), -1, *array.shape[axes:])

    shape = current(predictive.observed).batch_shape
    return Predictive(
        latent=None,
        observed=_mapped([predictive.observed], flat),
        epistemic=_optional(predictive.epistemic, flat),
        aleatoric=_optional(predictive.aleatoric, flat),
    )


def _optional(array: Any, turn: Callable[..., Array]) -> Array | None:
    return None if array is None else turn(array)


def _mapped(parts: Sequence[Any], turn: Callable[..., Array]) -> dist.Distribution:
    """A distribution with its arrays over points made by `turn` from those of parts.

    Raises:
        ValueError: for distributions of different kinds.
    """
    kinds = {type(part) for part in parts}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"concatenate: expected predictions of one kind, got {names}")
    d: Any = parts[0]

    def over(name: str) -> Array:
        return turn(*[getattr(part, name) for part in parts])

    parts = [current(part) for part in parts]
    match d:
        case dist.Normal():
            return dist.Normal(over("loc"), over("scale"))
        case dist.Delta():
            return dist.Delta(over("v"))
        case dist.Poisson():
            return dist.Poisson(over("rate"))
        case dist.CategoricalProbs():
            return dist.CategoricalProbs(over("probs"))
        case dist.CategoricalLogits():
            return dist.CategoricalLogits(over("logits"))
        case dist.MultivariateNormal():
            return dist.MultivariateNormal(over("loc"), scale_tril=over("scale_tril"))
        case dist.Independent():
            inner = _mapped([part.base_dist for part in parts], turn)
            return inner.to_event(d.event_dim)
        case IntegratedDensity():
            return IntegratedDensity(d.likelihood, over("nodes"), d.weights)
        case Empirical():
            return Empirical(jnp.moveaxis(over("values"), -1, 0))
        case QuantileTable():
            return QuantileTable(d.levels, jnp.moveaxis(over("values"), -1, 0))
        case dist.MixtureSameFamily():
            inner = _mapped([part.component_distribution for part in parts], turn)
            weights: Any = d.mixing_distribution.probs
            if jnp.ndim(weights) > 1:
                weights = turn(*[part.mixing_distribution.probs for part in parts])
            return dist.MixtureSameFamily(dist.Categorical(probs=weights), inner)
    raise TypeError(
        f"concatenate: expected predictions of a known kind, got {type(d).__name__}: "
        "predict all points at once"
    )

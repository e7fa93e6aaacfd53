"""Predictions mixed with equal weights."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from ntkuq.posteriors.predictive import Predictive, current


def mix(parts: Sequence[Predictive]) -> Predictive:
    r"""The equal mixture $\frac1S \sum_s p_s(y)$ of predictions at the same points.

    The variance of the function is the mean of the parts' variances plus the variance
    of their means; for classes, the mutual information counts the parts too.

    Args:
        parts: predictions of one kind: normal or mixtures of normals, or classes.

    Raises:
        ValueError: for no parts or parts of different shapes.
        TypeError: for predictions of another kind.

    >>> import numpy as np
    >>> low, high = (Predictive.normal(np.full(1, m), np.ones(1)) for m in (-1.0, 1.0))
    >>> float(mix([low, high]).observed.variance[0])
    2.0
    """
    if not parts:
        raise ValueError("mix: expected at least one Predictive, got none")
    observed = [current(part.observed) for part in parts]
    shapes = {tuple(d.batch_shape) for d in observed}
    if len(shapes) > 1:
        raise ValueError(
            f"mix: expected predictions at the same points, got shapes {shapes}"
        )
    if all(part.is_classification for part in parts):
        return _classes(parts)
    components = [_normals(d) for d in observed]
    loc, scale, weights = (
        jnp.concatenate([one[number] for one in components], axis=-1)
        for number in range(3)
    )
    means = jnp.stack([jnp.asarray(d.mean) for d in observed])
    epistemic = _mean(parts, "epistemic")
    aleatoric = _mean(parts, "aleatoric")
    latent = None
    if epistemic is not None:
        epistemic = epistemic + jnp.var(means, axis=0)
        latent = dist.Normal(jnp.mean(means, axis=0), jnp.sqrt(epistemic))
    return Predictive(
        latent=latent,
        observed=dist.MixtureSameFamily(
            dist.Categorical(probs=weights / len(parts)), dist.Normal(loc, scale)
        ),
        epistemic=epistemic,
        aleatoric=aleatoric,
    )


def _classes(parts: Sequence[Predictive]) -> Predictive:
    probs = jnp.mean(jnp.stack([part.mean for part in parts]), axis=0)
    inside = _mean(parts, "aleatoric")
    entropy = -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)
    return Predictive(
        latent=None,
        observed=dist.CategoricalProbs(probs),
        epistemic=None if inside is None else jnp.maximum(entropy - inside, 0.0),
        aleatoric=inside,
    )


def _normals(d: dist.Distribution) -> tuple[Array, Array, Array]:
    """Means, scales and weights of the components, on the last axis."""
    if isinstance(d, dist.Normal):
        loc = jnp.asarray(d.loc)[..., None]
        return loc, jnp.asarray(d.scale)[..., None], jnp.ones_like(loc)
    if isinstance(d, dist.MixtureSameFamily):
        inner = current(d.component_distribution)
        if isinstance(inner, dist.Normal):
            loc = jnp.asarray(inner.loc)
            probs = jnp.asarray(d.mixing_distribution.probs)  # pyright: ignore[reportAttributeAccessIssue]
            weights = jnp.broadcast_to(probs, loc.shape)
            return loc, jnp.asarray(inner.scale), weights
    raise TypeError(
        "mix: expected predictions that are normal, mixtures of normals, or classes, "
        f"got {type(d).__name__}"
    )


def _mean(parts: Sequence[Predictive], name: str) -> Array | None:
    values = [getattr(part, name) for part in parts]
    if any(value is None for value in values):
        return None
    return jnp.mean(jnp.stack([jnp.asarray(value) for value in values]), axis=0)

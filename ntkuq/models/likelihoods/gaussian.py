"""Gaussian noise of one scale."""

from __future__ import annotations

import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float

from ntkuq.models.checks import positive
from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    log_density,
    no_link,
    variances,
)


class Gaussian(AbstractLikelihood):
    """y = f + noise, noise ~ N(0, scale^2), independent over outputs.

    Args:
        scale: standard deviation of the noise, () or (C,), in the units of the
            network's output (of the data after `BNN` has undone the scaling).

    >>> import jax.numpy as jnp
    >>> float(Gaussian(scale=1.0).log_prob(jnp.zeros(1), jnp.zeros(1)))
    -0.9189385...
    """

    classes: ClassVar[bool] = False
    continuous: ClassVar[bool] = True
    canonical: ClassVar[bool] = True

    scale: ArrayLike = 1.0

    def __check_init__(self):
        if not positive(self.scale):
            raise ValueError(
                f"Gaussian: expected scale > 0 (a standard deviation), got {self.scale}"
            )

    def _scale(self, like: Array) -> Array:
        return jnp.asarray(self.scale, like.dtype)

    def distribution(self, latent: Float[Array, "*batch C"]) -> dist.Normal:
        return dist.Normal(latent, self._scale(latent))

    def outputs(self, y: Array | np.ndarray) -> int:
        outputs, shape = math.prod(y.shape[1:]), np.shape(self.scale)
        if shape not in ((), (1,), (outputs,)):
            raise ValueError(
                f"Gaussian: expected a scale of shape () or ({outputs},), one for each "
                f"output that these targets ask for, got {shape}: change the scale"
            )
        return outputs

    def rescale(self, loc, scale) -> Gaussian:
        return Gaussian(_one(jnp.asarray(self.scale, scale.dtype) * scale))

    def shift(self, mean, loc, scale):
        return mean * scale + loc, jnp.broadcast_to(scale, mean.shape[-1:])

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), y, latent.dtype)

    def hessian(self, latent, y=None):
        del y
        noise = jnp.broadcast_to(self._scale(latent), latent.shape)
        return jnp.diag(noise**-2)

    def hessian_sqrt(self, latent, y=None):
        del y
        noise = jnp.broadcast_to(self._scale(latent), latent.shape)
        return jnp.diag(1.0 / noise)

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        no_link(self, link)
        epistemic = variances(mean, covariance)
        noise = jnp.broadcast_to(self._scale(mean) ** 2, mean.shape)
        return Marginal(
            latent=_normal(mean, epistemic),
            observed=_normal(mean, epistemic + noise),
            epistemic=_squeeze(epistemic),
            aleatoric=_squeeze(noise),
        )

    def mixture(self, latent) -> Marginal:
        if latent.shape[0] == 1:  # one network: a plain normal, and a known function
            mean = latent[0]
            exact = self.marginalize(mean, jnp.zeros_like(mean))
            return exact._replace(latent=dist.Delta(_squeeze(mean)))
        members = jnp.moveaxis(latent, 0, -1)
        size = members.shape[-1]
        weights = dist.Categorical(probs=jnp.full((size,), 1.0 / size, latent.dtype))
        noise = jnp.broadcast_to(self._scale(latent)[..., None], members.shape[1:])
        noise = jnp.broadcast_to(noise, members.shape)
        observed = dist.MixtureSameFamily(
            weights, dist.Normal(_squeeze(members, -2), _squeeze(noise, -2))
        )
        epistemic = jnp.var(latent, axis=0)
        return Marginal(
            latent=_normal(jnp.mean(latent, axis=0), epistemic),
            observed=observed,
            epistemic=_squeeze(epistemic),
            aleatoric=_squeeze(noise[..., 0] ** 2),
        )


def _one(scale: Array) -> Array:
    """A scale shared by all outputs stays one number."""
    return scale[0] if scale.shape == (1,) else scale


def _squeeze(values: Array, axis: int = -1) -> Array:
    """One output: predictions have shape (N,), as the targets have."""
    return jnp.squeeze(values, axis) if values.shape[axis] == 1 else values


def _normal(mean: Array, variance: Array) -> dist.Distribution:
    mean, variance = _squeeze(mean), _squeeze(variance)
    # a scale of exactly zero is no normal distribution
    tiny = jnp.finfo(variance.dtype).tiny
    return dist.Normal(mean, jnp.sqrt(jnp.maximum(variance, tiny)))

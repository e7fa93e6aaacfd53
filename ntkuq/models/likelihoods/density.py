"""A likelihood from a log density alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood,
    Marginal,
    block_diagonal,
    log_density,
    no_link,
    square_root,
    variances,
)
from ntkuq.models.likelihoods.gaussian import _normal, _squeeze
from ntkuq.models.likelihoods.integrated import IntegratedDensity
from ntkuq.models.likelihoods.quadrature import dense_line, line, nodes, plane, root


#: Draws of y behind an expected Hessian and behind epistemic and aleatoric variances.
DRAWS = 256
#: Pairs of nodes behind the variances where there are several outputs.
PAIRS = 16


class LogDensity(AbstractLikelihood):
    r"""Any log density log p(y | f), a function in JAX: the rest is derived from it.

    The Hessian is $-\partial^2 \log p / \partial f^2$ at the observed y by automatic
    differentiation, with negative eigenvalues set to zero (far from the data a
    heavy-tailed density bends the other way). Where no y is known, it is the average
    over 256 draws of `sample`. The predictive density of a new observation is
    $\log \int p(y \mid f) \, q(f) \, df$ by quadrature: one output by 161 equidistant
    nodes, accurate for noise down to a tenth of the uncertainty of f; two by 32 x 32
    Gauss-Hermite nodes, for noise down to about a half; more by 512 fixed Gaussian
    draws. Mean, quantiles and draws of an observation come from
    `sample`; without it they are refused.

    A target with D columns has D independent densities, each of `outputs` adjacent
    outputs. With `Standardize`, y is in scaled units here, and `latent` stays in the
    network's units, since only the density knows what the outputs mean.

    Args:
        log_prob: (f of shape (outputs,), y of shape ()) to the log density, ().
        outputs: network outputs for each column of the targets.
        sample: (key, f of shape (outputs,)) to one draw of y, ().
        continuous: do the targets have units, which scaling may change? `False` for
            counts.

    Raises:
        ValueError: where `log_prob` does not return one number.

    >>> import jax.scipy.stats as st
    >>> robust = LogDensity(lambda f, y: st.t.logpdf(y - f[0], 4.0))
    >>> round(float(robust.log_prob(jnp.zeros(1), jnp.zeros(1))), 4)
    -0.9808
    """

    classes: ClassVar[bool] = False

    function: Callable[[Array, Array], Array]
    draw: Callable[[Array, Array], Array] | None
    size: int = eqx.field(static=True)
    continuous: bool = eqx.field(static=True)
    loc: ArrayLike
    scale: ArrayLike

    def __init__(
        self,
        log_prob: Callable[[Array, Array], Array],
        *,
        outputs: int = 1,
        sample: Callable[[Array, Array], Array] | None = None,
        continuous: bool = True,
    ):
        self.function = log_prob
        self.draw = sample
        self.size = outputs
        self.continuous = continuous
        self.loc, self.scale = 0.0, 1.0

    def __check_init__(self):
        if self.size < 1:
            raise ValueError(f"LogDensity: expected outputs >= 1, got {self.size}")

    def distribution(self, latent: Float[Array, "*batch C"]) -> IntegratedDensity:
        points = self._columns(latent)[..., None, :]
        return IntegratedDensity(self, points, jnp.ones(1, latent.dtype))

    def outputs(self, y: Array | np.ndarray) -> int:
        return self.size * math.prod(y.shape[1:])

    def rescale(self, loc, scale) -> LogDensity:
        if not self.continuous:
            return self
        moved = (
            loc + scale * jnp.asarray(self.loc, loc.dtype),
            scale * jnp.asarray(self.scale, scale.dtype),
        )
        return eqx.tree_at(lambda one: (one.loc, one.scale), self, moved)

    def shift(self, mean, loc, scale):
        return mean, jnp.ones((mean.shape[-1],), mean.dtype)

    def log_prob(self, latent, y):
        return log_density(self.distribution(latent), jnp.ravel(y), latent.dtype)

    def hessian(self, latent, y=None):
        def positive(block: Array) -> Array:
            half = square_root(block)
            return half @ half.T

        return block_diagonal(jax.vmap(positive)(self._curvature(latent, y)))

    def hessian_sqrt(self, latent, y=None):
        return block_diagonal(jax.vmap(square_root)(self._curvature(latent, y)))

    def marginalize(self, mean, covariance, link=None) -> Marginal:
        no_link(self, link)
        f = self._columns(mean)
        variance = self._columns(variances(mean, covariance))
        if self.size == 1:
            z, weights = dense_line()
            scale = jnp.sqrt(jnp.clip(variance, 0.0))
            points = f[..., None, :] + scale[..., None, :] * _like(z[:, None], f)
            few, few_weights = line(f, variance)
        else:
            lower = self._factor(mean, covariance)
            z, weights = plane() if self.size == 2 else nodes(self.size)
            points = f[..., None, :] + _spread(lower, _like(z, f))
            z, few_weights = nodes(self.size, PAIRS)
            few = f + jnp.moveaxis(_spread(lower, _like(z, f)), -2, 0)
            few_weights = _like(few_weights, f)
        latent = (
            _normal(f[..., 0], variance[..., 0])
            if self.size == 1
            else dist.Normal(
                _squeeze(f, -2), jnp.sqrt(_squeeze(_positive(variance), -2))
            ).to_event(1)
        )
        return self._marginal(points, _like(weights, f), few, few_weights, latent)

    def mixture(self, latent) -> Marginal:
        f = self._columns(latent)
        weights = jnp.full((len(f),), 1.0 / len(f), f.dtype)
        return self._marginal(jnp.moveaxis(f, 0, -2), weights, f, weights, None)

    def one(self, f: Float[Array, " K"], y: Float[Array, ""]) -> Float[Array, ""]:
        """The user's log density of one column, in its own units."""
        value = jnp.asarray(self.function(f, y))
        if value.size != 1:
            raise ValueError(
                "LogDensity: expected log_prob(f, y) to return one number for f of "
                f"shape {f.shape} and y of shape (), got shape {value.shape}: pick the "
                "outputs it needs, as in f[0]"
            )
        return value.reshape(()).astype(f.dtype)

    def sample(self, key: Array, f: Float[Array, " K"]) -> Float[Array, ""]:
        """One draw of one column given its outputs, in its own units.

        Raises:
            NotImplementedError: where there is no sampler.
        """
        if self.draw is None:
            raise NotImplementedError(
                "A LogDensity without a sampler gives log densities only; for means, "
                "quantiles and draws give LogDensity(..., sample=), a function of "
                "(key, f) to one draw of y"
            )
        return jnp.asarray(self.draw(key, f)).reshape(()).astype(f.dtype)

    def _columns(self, latent: Float[Array, "*batch C"]) -> Float[Array, "*batch D K"]:
        return latent.reshape(*latent.shape[:-1], -1, self.size)

    def _curvature(self, latent: Array, y: Array | None) -> Float[Array, "D K K"]:
        f = self._columns(latent)
        bend = jax.hessian(self.one)
        if y is not None:
            loc, scale = _like(self.loc, f), _like(self.scale, f)
            at = (jnp.asarray(jnp.ravel(y), f.dtype) - loc) / scale
            return -jax.vmap(bend)(f, at)
        if self.draw is None:
            raise ValueError(
                "LogDensity: expected the observed y, or a sampler for the Hessian "
                "that is expected over y: give LogDensity(..., sample=)"
            )
        keys = jax.random.split(jax.random.key(0), DRAWS)

        def expected(f: Array) -> Array:
            drawn = jax.vmap(lambda key: self.sample(key, f))(keys)
            return -jnp.mean(jax.vmap(lambda y: bend(f, y))(drawn), axis=0)

        return jax.vmap(expected)(f)

    def _factor(self, mean: Array, covariance: Array) -> Float[Array, "*batch D K K"]:
        if covariance.ndim == mean.ndim:
            scale = jnp.sqrt(self._columns(_positive(covariance)))
            return scale[..., None] * jnp.eye(self.size, dtype=mean.dtype)
        columns = mean.shape[-1] // self.size
        shape = (*mean.shape[:-1], columns, self.size, columns, self.size)
        blocks = jnp.diagonal(covariance.reshape(shape), axis1=-4, axis2=-2)
        return root(jnp.moveaxis(blocks, -1, -3))

    def _marginal(
        self,
        points: Float[Array, "*batch D S K"],
        weights: Float[Array, " S"],
        few: Float[Array, "R *batch D K"],
        few_weights: Float[Array, " R"],
        latent: dist.Distribution | None,
    ) -> Marginal:
        observed = IntegratedDensity(self, _squeeze(points, -3), weights)
        if self.draw is None:
            return Marginal(latent, observed, None, None)
        epistemic, aleatoric = _parts(self, few, few_weights)
        factor = _like(self.scale, few) ** 2
        return Marginal(
            latent=latent,
            observed=observed,
            epistemic=_squeeze(epistemic * factor),
            aleatoric=_squeeze(aleatoric * factor),
        )


def _parts(
    likelihood: LogDensity, points: Float[Array, "S *batch K"], weights: Array
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Variance of the mean of y over outputs, and mean of its variance.

    All outputs of one point share their random numbers, so that what the draws add to
    the means is much the same for all and drops out of the variance between them.
    """
    batch = points.shape[1:-1]
    flat = jnp.moveaxis(points, 0, -2).reshape(-1, len(points), points.shape[-1])

    def at(given: tuple[Array, Array]) -> tuple[Array, Array]:
        f, number = given
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), number), DRAWS)
        each = jax.vmap(likelihood.sample, (0, None))
        draws = jax.vmap(each, (None, 0))(keys, f)
        means = jnp.mean(draws, axis=1)
        between = weights @ (means - weights @ means) ** 2
        return between, weights @ jnp.var(draws, axis=1, ddof=1)

    numbers = jnp.arange(len(flat), dtype=jnp.uint32)
    between, within = jax.lax.map(at, (flat, numbers), batch_size=min(len(flat), 256))
    return between.reshape(batch), within.reshape(batch)


def _spread(lower: Float[Array, "*batch K K"], z: Float[Array, "S K"]) -> Array:
    return jnp.swapaxes(lower @ z.T, -1, -2)


def _positive(variance: Array) -> Array:
    return jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)


def _like(values: Any, array: Array) -> Array:
    return jnp.asarray(values, array.dtype)

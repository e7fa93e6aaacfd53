"""Any posterior of the library as the model of a search."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.decisions.search.surrogate import AbstractSurrogate, Moments
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.predictive import current


class FittedPosterior(AbstractSurrogate):
    """A posterior over the objective, seen from the unit cube.

    `sign` is -1 where the objective is minimized. What a posterior only reports is
    left out: its numbers would make a program of their own each round. Predictions
    change precision and shape inside, so that gradients do not flow through them.
    """

    posterior: AbstractPosterior
    lower: Array
    side: Array
    sign: Array

    def moments(self, u):
        latent = self.posterior.predict(self._points(u)).latent
        if latent is None:
            raise ValueError(
                "BayesOpt: expected a method whose predictions have a distribution of "
                "the function value, got none: choose another method"
            )
        latent = current(latent)
        mean = jnp.reshape(jnp.asarray(latent.mean), (-1,))
        variance = jnp.reshape(jnp.asarray(latent.variance), (-1,))
        # an ensemble that agrees everywhere has no slope at zero
        floor = jnp.finfo(variance.dtype).tiny
        return Moments(self.sign * mean, jnp.sqrt(jnp.maximum(variance, floor)))

    def draw(self, u, key):
        posterior: Any = self.posterior
        if hasattr(posterior, "sample_functions"):
            values = posterior.sample_functions(key, 1)(self._points(u))
            return self.sign * jnp.reshape(values, (-1,))
        if not hasattr(posterior, "joint"):
            raise TypeError(
                "Thompson: expected a posterior with sample_functions or joint, got "
                f"{type(posterior).__name__}: use LogEI() or UCB()"
            )
        found = posterior.joint(self._points(u))
        mean = jnp.reshape(found.mean, (-1,))
        values, vectors = jnp.linalg.eigh(found.covariance)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        root = jnp.sqrt(jnp.maximum(values, 0.0))
        return self.sign.astype(mean.dtype) * (mean + vectors @ (root * noise))

    def noise(self):
        middle = jnp.full((1, *self.side.shape), 0.5, self.side.dtype)
        found = self.posterior.predict(self._points(middle)).aleatoric
        if found is None:
            return jnp.zeros((), self.side.dtype)
        return jnp.sqrt(jnp.reshape(jnp.asarray(found), (-1,))[0])

    def believe(self, u):
        return None

    def _points(self, u: Array) -> Array:
        return self.lower + self.side * u


def strip(posterior: AbstractPosterior) -> AbstractPosterior:
    """The posterior without the numbers that it only reports."""
    # what a property adds to is under another name
    name = "reported" if hasattr(posterior, "reported") else "diagnostics"
    return eqx.tree_at(
        lambda p: (p.hyperparameters, getattr(p, name), p.log_marginal_likelihood),
        posterior,
        ((), {}, None),
        is_leaf=lambda leaf: leaf is None,
    )

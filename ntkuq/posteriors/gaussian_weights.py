"""The posterior that is a Gaussian over all weights, pushed through the network."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.draws import NetworkFunctions, predict_draws
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.raveled import AbstractGaussian, Raveled


class GaussianWeightsPosterior(AbstractPosterior):
    """A Gaussian over all weights, and networks drawn from it for predictions.

    What `SWAG` and `Variational` give. There is no log marginal likelihood; of
    `Variational` a lower bound of it is in `diagnostics`, with its Monte-Carlo standard
    error.

    Args:
        gaussian: of the raveled parameters; `bnn` has the network at its mean.
        draws: of theta, (S, P), those that predictions use.
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]
    gaussian: AbstractGaussian
    draws: Float[Array, "S P"]

    @property
    def networks(self) -> PyTree:
        """The networks that predictions use, stacked along a leading axis."""
        return Raveled(self.bnn.model).networks(self.draws)

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the networks' predictions at x (N, …)."""
        return predict_draws(self.bnn, self.networks, x)

    def sample(self, key: Array, n: int) -> PyTree:
        """n fresh networks, stacked along a leading axis."""
        return Raveled(self.bnn.model).networks(draw(self.gaussian, n, key=key))

    def sample_functions(self, key: Array, n: int) -> NetworkFunctions:
        """n fresh networks as functions of x in units of the data."""
        return NetworkFunctions(self.bnn, self.sample(key, n))


@eqx.filter_jit
def draw(gaussian: AbstractGaussian, n: int, *, key: Array) -> Float[Array, "n P"]:
    """n draws of the raveled parameters."""
    return gaussian.sample(key, n)

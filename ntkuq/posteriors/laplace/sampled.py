"""Laplace with sampled networks: predictions without linearizing."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, PyTree

from ntkuq.data import Batches, DataLike, Dataset
from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.draws import predict_draws
from ntkuq.posteriors.laplace.method import Laplace
from ntkuq.posteriors.laplace.posterior import LaplacePosterior
from ntkuq.posteriors.predictive import Predictive


class SampledLaplace(AbstractMethod):
    """Laplace's Gaussian over the parameters, pushed through the network itself.

    p(y | x) = 1/S sum_s p(y | f(x, theta_s)) with theta_s drawn from the Laplace
    posterior. It is the classic predictive and usually the worse one: far from theta*
    the network is not what the Gaussian was fitted to, and predictions underfit. The
    linearized predictive of `Laplace` does not; this class is there to compare.

    Args:
        laplace: how the Gaussian is fitted.
        samples: networks drawn, once, by the key of `fit`.

    References: Immer, Korzepa, Bauer 2021 (arXiv 2008.08400); Lawrence 2001.

    >>> SampledLaplace(samples=10).laplace.structure
    Full()
    """

    laplace: Laplace = Laplace()
    samples: int = 30

    def __check_init__(self):
        if self.samples < 2:
            raise ValueError(
                f"SampledLaplace: expected samples >= 2, got {self.samples}"
            )

    def fit(self, bnn: BNN, data: DataLike, *, key: Array) -> SampledLaplacePosterior:
        """The posterior; `key` draws its networks."""
        posterior = self.laplace.fit(bnn, data, key=key)
        return SampledLaplacePosterior(
            bnn=posterior.bnn,
            hyperparameters=posterior.hyperparameters,
            log_marginal_likelihood=posterior.log_marginal_likelihood,
            diagnostics=posterior.diagnostics,
            laplace=posterior,
            networks=posterior.sample(key, self.samples),
        )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        one = self.laplace.cost(bnn, data)
        held = 8.0 * self.samples * bnn.size()
        return Cost(one.flops, one.bytes + held, one.compiles + 1)


class SampledLaplacePosterior(AbstractPosterior):
    """Networks drawn from a Laplace posterior, equally likely.

    Args:
        laplace: the Gaussian they are drawn from.
        networks: the networks, stacked along a leading axis.
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float | None
    diagnostics: dict[str, Any]
    laplace: LaplacePosterior
    networks: PyTree

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the networks' predictions at x (N, …)."""
        return predict_draws(self.bnn, self.networks, x)

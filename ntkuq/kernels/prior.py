"""`PriorKernel`: the infinite-width kernels under the problem's own prior."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Array

from ntkuq.kernels.analytic import Analytic
from ntkuq.kernels.base import AbstractCovariance, AbstractNetworkKernel, Parameter
from ntkuq.models import BNN, FanInPrior


class PriorKernel(AbstractNetworkKernel):
    r"""The NNGP and NTK of the network with weights from the `FanInPrior` of the `BNN`.

    They are the limits of the network that the problem states: with `tune=Fixed()` the
    GP is to be compared with networks of the same prior, such as an ensemble of
    `NTKGPParam` members. Other tuning starts at the prior's values. `Analytic` instead
    starts at values that suit the data.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864).

    >>> PriorKernel()
    PriorKernel()
    """

    def covariance(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        return Analytic().covariance(bnn, x, scale)

    def nngp(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        return _at_prior(Analytic(ard=False).nngp(bnn, x, scale), bnn)

    def ntk(self, bnn: BNN, x: Array, scale: float) -> AbstractCovariance:
        return _at_prior(Analytic(ard=False).ntk(bnn, x, scale), bnn)


def _at_prior(covariance: AbstractCovariance, bnn: BNN) -> AbstractCovariance:
    """The covariance with the prior's values as the first."""
    prior = bnn.prior
    if not isinstance(prior, FanInPrior):
        raise TypeError(
            "PriorKernel: expected a FanInPrior, whose networks have a limit of "
            f"infinite width, got {type(prior).__name__}: use FanInPrior, or Analytic()"
        )
    factor = float(np.asarray(prior.precision)) ** -0.5
    values = {
        "weight std": prior.weight_std * factor,
        "bias std": prior.bias_std * factor,
        "input scale": 1.0,
        "output std": 1.0,
    }
    found = {}
    for name, old in covariance.parameters.items():
        start = np.full(old.initial.shape, np.log(values[name]))
        shift = start - old.initial
        ends = (old.lower + shift, old.upper + shift)
        # NumPy turns arrays of no axes into scalars
        found[name] = Parameter(*(np.asarray(a) for a in (start, *ends)))
    return eqx.tree_at(lambda c: c.parameters, covariance, found)

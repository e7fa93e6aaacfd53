"""`WideEnsemble`: the law of infinitely wide networks trained from random starts."""

from __future__ import annotations

import math

import jax
from jaxtyping import Array

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.kernels import AbstractNetworkKernel, Analytic, Cholesky
from ntkuq.models import BNN
from ntkuq.models.hyperparameters import AbstractTune, Fixed, MarginalLikelihood
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.gp import dynamics, regression
from ntkuq.posteriors.gp.inputs import inputs


LAW = (
    "of an infinitely wide ensemble trained by gradient descent: spread from the "
    "initialization alone, not a posterior"
)


class WideEnsemble(AbstractMethod):
    r"""The law of an infinitely wide ensemble trained by gradient flow: no posterior.

    Each network starts at random, of covariance K (NNGP), and trains on the plain
    squared error, moving by the tangent kernel $\Theta$. After time t the mean is
    $m + \Theta_{*X} A_t (y - m)$ with $A_t = \Theta^{-1}(I - e^{-t\Theta})$, the
    covariance that of `ntkuq.posteriors.GradientFlowLaw` with P = K and no noise. This
    is what a deep ensemble of networks without prior tends to; it interpolates the
    data, and no prior and likelihood have it as their posterior. The posterior with the
    same mean function is `NTKGP`, the posterior of the random network `NNGP`.

    Args:
        kernel: `Analytic()`.
        time: of training, in units in which the learning rate is 1 for the loss
            $\frac12\sum_i(y_i - f(x_i))^2$ in the network's (scaled) units; `None`
            trains to the end.
        tune: `MarginalLikelihood()`, `LeaveOneOut()` or `Fixed()`. The law has no
            evidence: hyper-parameters, and the noise of new observations, are those of
            `NTKGP` with the same kernel.

    References:
        Lee et al., *Wide neural networks of any depth evolve as linear models under
        gradient descent*, NeurIPS 2019.

    >>> WideEnsemble(time=10.0).time
    10.0
    """

    kernel: AbstractNetworkKernel = Analytic()
    time: float | None = None
    tune: AbstractTune = MarginalLikelihood()

    def __check_init__(self):
        dynamics.check_time(self.time, "WideEnsemble")

    def fit(self, bnn: BNN, data: DataLike, *, key: Array) -> dynamics.GradientFlowLaw:
        """The law; of the network it uses the architecture.

        Raises:
            UnsupportedLayer: for a network whose kernel is not known.
            TypeError: for a likelihood that is not Gaussian.
        """
        data = as_dataset(data)
        bnn = bnn.prepare(data)
        dynamics.need_gaussian(bnn, "WideEnsemble")
        points = Cholesky().most_tuned()
        tuned = regression.tune(
            self.tune, self.kernel.ntk, bnn, data, points=points, key=key
        )
        with jax.enable_x64(True):
            x = inputs(bnn, data.x)
            # hyper-parameters have been chosen: their first values play no part
            initial = self.kernel.nngp(bnn, x, 1.0)
            moves = self.kernel.dynamics(bnn, x, 1.0)
            tuned = tuned._replace(covariance=moves)
        time = math.inf if self.time is None else self.time
        return dynamics.train(tuned, initial, data, time=time, noisy=False, law=LAW)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        steps = 0 if isinstance(self.tune, Fixed) else 60 * _restarts(self.tune)
        size = float(len(data))
        # eigenvectors take about as much as six factorizations and inverses
        return Cost(4.0 * size**3 * (6 + steps), 8.0 * 12.0 * size**2)


def _restarts(tune: AbstractTune) -> int:
    return getattr(tune, "restarts", 1)

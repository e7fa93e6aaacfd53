"""The methods `GP`, `NNGP` and `NTKGP`: same inference, different prior covariance."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.kernels import (
    RBF,
    AbstractCovariance,
    AbstractKernel,
    AbstractNetworkKernel,
    Analytic,
    Empirical,
)
from ntkuq.kernels.base import Parameter
from ntkuq.models import BNN, Gaussian
from ntkuq.models.hyperparameters import AbstractTune, Fixed, MarginalLikelihood
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.empirical import empirical_cost, fit_empirical
from ntkuq.posteriors.gp import latent, tuning
from ntkuq.posteriors.gp.posteriors import (
    GaussianPosterior,
    LatentPosterior,
    approximate,
    condition,
    single_array,
)


class LatentLaplace(eqx.Module):
    """Laplace's approximation for likelihoods that are not Gaussian.

    Args:
        tune_points: hyper-parameters are tuned on at most this many training points,
            drawn at random; the posterior uses all.
        max_steps: most Newton steps.

    >>> LatentLaplace().tune_points
    500
    """

    tune_points: int = 500
    max_steps: int = 100

    def __check_init__(self):
        if self.tune_points < 1 or self.max_steps < 1:
            raise ValueError(
                "LatentLaplace: expected tune_points >= 1 and max_steps >= 1, got "
                f"{self.tune_points} and {self.max_steps}"
            )


class GP(AbstractMethod):
    r"""A Gaussian process with a kernel on the inputs: the baseline without a network.

    Gaussian noise: exact; the noise scale is fitted with the kernel. Categorical,
    Bernoulli and Poisson: Laplace's approximation. All in float64.

    Args:
        kernel: `RBF(ard=True)` or a kernel of your own.
        tune: `MarginalLikelihood()` or `Fixed()`.
        inference: for likelihoods that are not Gaussian.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006.

    >>> GP().kernel
    RBF(ard=True)
    """

    kernel: AbstractKernel = RBF(ard=True)
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace = LatentLaplace()

    def fit(self, bnn: BNN, data: DataLike, *, key: Array):
        """The posterior; of the `BNN` it uses likelihood and scaling.

        Raises:
            TypeError: for a likelihood that is not covered.
        """
        return _fit(self, self.kernel.covariance, bnn, data, key)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        return _cost(self, bnn, data)


class NNGP(AbstractMethod):
    r"""The posterior of the random network at infinite width, with its NNGP kernel K.

    The limit of the Bayesian neural network itself (all layers random).

    Args:
        kernel: `Analytic()`.
        tune: `MarginalLikelihood()` or `Fixed()`.
        inference: for likelihoods that are not Gaussian.

    References:
        Lee et al., *Deep neural networks as Gaussian processes*, ICLR 2018.

    >>> NNGP().kernel.ard is None
    True
    """

    kernel: AbstractNetworkKernel = Analytic()
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace = LatentLaplace()

    def fit(self, bnn: BNN, data: DataLike, *, key: Array):
        """The posterior; of the network it uses the architecture.

        Raises:
            UnsupportedLayer: for a network whose kernel is not known.
            TypeError: for a likelihood that is not covered.
        """
        return _fit(self, self.kernel.nngp, bnn, data, key)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        return _cost(self, bnn, data)


class NTKGP(AbstractMethod):
    r"""The GP posterior whose *prior covariance* is the neural tangent kernel Θ.

    The posterior of the linearized network with independent normal parameters (He et
    al.'s NTK-GP). It is not the law of an infinitely wide ensemble trained by gradient
    descent (Lee et al. 2019), whose covariance is another and is not a posterior.

    Args:
        kernel: `Analytic()`, of the infinitely wide network, or `Empirical()`, of the
            trained network of the `BNN`, around which it is linearized.
        tune: `MarginalLikelihood()` or `Fixed()`.
        inference: for likelihoods that are not Gaussian.

    References:
        He, Lakshminarayanan and Teh, *Bayesian deep ensembles via the neural tangent
        kernel*, NeurIPS 2020.

    >>> NTKGP(kernel=Analytic(ard=False)).kernel.ard
    False
    """

    kernel: AbstractNetworkKernel | Empirical = Analytic()
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace = LatentLaplace()

    def fit(self, bnn: BNN, data: DataLike, *, key: Array):
        """The posterior; of the network it uses the architecture.

        Raises:
            UnsupportedLayer: for a network whose kernel is not known.
            TypeError: for a likelihood that is not covered.
        """
        if isinstance(self.kernel, Empirical):
            return fit_empirical(bnn, as_dataset(data), self.tune)
        return _fit(self, self.kernel.ntk, bnn, data, key)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        if isinstance(self.kernel, Empirical):
            return empirical_cost(bnn, data)
        return _cost(self, bnn, data)


def _fit(
    method: GP | NNGP | NTKGP, make: Any, bnn: BNN, data: DataLike, key: Array
) -> GaussianPosterior | LatentPosterior:
    # the kernel matrix needs all rows at once
    data = as_dataset(data)
    bnn = bnn.prepare(data)
    bnn.need_common_noise(type(method).__name__)
    if isinstance(bnn.likelihood, Gaussian):
        return _fit_gaussian(method, make, bnn, data, key)
    if not latent.supports(bnn.likelihood, bnn.outputs(data)):
        raise TypeError(
            f"{type(method).__name__}: expected a Gaussian, Categorical, Bernoulli or "
            f"Poisson likelihood, got {type(bnn.likelihood).__name__}"
        )
    return _fit_latent(method, make, bnn, data, key)


def _fit_gaussian(method, make, bnn, data, key) -> GaussianPosterior:
    with jax.enable_x64(True):
        x = single_array(bnn.inputs(data.x, np.float64))
        y = bnn.targets(data, np.float64)
        y = y - jnp.mean(y, axis=0, keepdims=True)
        size = float(jnp.sqrt(jnp.mean(y**2)))
        size = size if size > 0.0 else 1.0
        covariance: AbstractCovariance = make(bnn, x, size)
        if isinstance(method.tune, Fixed):
            noise = Parameter.of(_one_scale(bnn.likelihood), 1.0, 1.0)
        else:
            noise = Parameter.of(0.3 * size, 3e-3, 30.0)
        choice = tuning.tune_regression(
            method.tune,
            covariance.at(x),
            {**covariance.parameters, tuning.NOISE: noise},
            y,
            key=key,
        )
    values = dict(choice.values)
    bnn = bnn.with_noise(float(np.exp(np.asarray(values.pop(tuning.NOISE)))))
    factors = np.asarray(bnn.scaling.scale()).reshape(-1)
    units = {}
    if np.all(factors == factors[0]):
        units[tuning.NOISE] = (float(factors[0]), data.units)
    return condition(
        bnn,
        data,
        covariance,
        values,
        tuning.report(choice, features=data.features, units=units),
        tuning.diagnostics(choice, method.tune),
    )


def _one_scale(likelihood: Gaussian) -> float:
    scale = np.asarray(likelihood.scale, np.float64).reshape(-1)
    if not np.all(scale == scale[0]):
        raise TypeError(
            f"GP: expected one noise scale for all outputs, got {scale}; fit one GP an "
            "output"
        )
    return float(scale[0])


def _fit_latent(method, make, bnn, data, key) -> LatentPosterior:
    outputs = bnn.outputs(data)
    rows_key, key = jax.random.split(key)
    rows = np.arange(len(data))
    most = method.inference.tune_points
    tuned = not isinstance(method.tune, Fixed)
    if tuned and len(data) > most:
        rows = np.sort(np.asarray(jax.random.permutation(rows_key, len(data)))[:most])
    with jax.enable_x64(True):
        x = single_array(bnn.inputs(data.x, np.float64))
        y = bnn.targets(data)
        covariance: AbstractCovariance = make(bnn, x, 1.0)
        choice = tuning.tune_latent(
            method.tune,
            covariance.at(x[rows]),
            covariance.parameters,
            bnn.likelihood,
            y[rows],
            outputs=outputs,
            max_steps=method.inference.max_steps,
            key=key,
        )
    diagnostics = tuning.diagnostics(choice, method.tune)
    if tuned:
        diagnostics["tuned on"] = len(rows)
    return approximate(
        bnn,
        data,
        covariance,
        choice.values,
        tuning.report(choice, features=data.features, units={}),
        diagnostics,
        outputs=outputs,
        max_steps=method.inference.max_steps,
    )


def _cost(method, bnn: BNN, data: Dataset | Batches) -> Cost:
    size = float(len(data))
    outputs = bnn.outputs(data)
    steps = (
        0
        if isinstance(method.tune, Fixed)
        else 60 * getattr(method.tune, "restarts", 1)
    )
    if isinstance(bnn.likelihood, Gaussian):
        # a factorization, an inverse, and the kernel with its derivative
        return Cost(4.0 * size**3 * (1 + steps), 8.0 * 12.0 * size**2)
    tuned = min(size, float(method.inference.tune_points))
    each = 4.0 * outputs
    flops = each * (8.0 * size**3 + 3.0 * steps * tuned**3)
    return Cost(flops, 8.0 * (2.0 * outputs + 10.0) * size**2)

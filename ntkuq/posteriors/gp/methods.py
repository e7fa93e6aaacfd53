"""The methods `GP`, `NNGP` and `NTKGP`: same inference, different prior covariance."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.kernels import (
    RBF,
    AbstractCovariance,
    AbstractKernel,
    AbstractNetworkKernel,
    AbstractSolver,
    Analytic,
    Cholesky,
    Empirical,
    SubsetOfData,
)
from ntkuq.kernels.solvers import draw, need_memory
from ntkuq.models import BNN, Gaussian, HeteroscedasticGaussian, KnownNoise
from ntkuq.models.hyperparameters import AbstractTune, Fixed, MarginalLikelihood
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.empirical import empirical_cost, fit_empirical
from ntkuq.posteriors.gp import (
    dynamics,
    heteroscedastic,
    latent,
    noise,
    regression,
    tuning,
)
from ntkuq.posteriors.gp.depths import best_depth
from ntkuq.posteriors.gp.elliptical import SampledLatentPosterior, sample
from ntkuq.posteriors.gp.inference import EllipticalSlice, LatentLaplace
from ntkuq.posteriors.gp.noise import UnequalNoisePosterior
from ntkuq.posteriors.gp.posteriors import (
    GaussianPosterior,
    LatentPosterior,
    approximate,
    condition,
    single_array,
)


class GP(AbstractMethod):
    r"""A Gaussian process with a kernel on the inputs: the baseline without a network.

    Gaussian noise: exact; the noise scale is fitted with the kernel. Categorical,
    Bernoulli and Poisson: Laplace's approximation. All in float64.

    Args:
        kernel: `RBF(ard=True)` or a kernel of your own.
        tune: `MarginalLikelihood()`, `LeaveOneOut()` (Gaussian noise) or `Fixed()`.
        inference: for likelihoods that are not Gaussian: `LatentLaplace()` or
            `EllipticalSlice()`.
        solver: `Cholesky()` or `SubsetOfData(points)`; for Gaussian noise also
            `ConjugateGradients()`, `ComputationAware()` or `Inducing(points)`.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006.

    >>> GP().kernel
    RBF(ard=True)
    """

    kernel: AbstractKernel = RBF(ard=True)
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace | EllipticalSlice = LatentLaplace()
    solver: AbstractSolver = Cholesky()

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
        tune: `MarginalLikelihood()`, `LeaveOneOut()` (Gaussian noise) or `Fixed()`.
        inference: for likelihoods that are not Gaussian: `LatentLaplace()` or
            `EllipticalSlice()`.
        solver: `Cholesky()` or `SubsetOfData(points)`; for Gaussian noise also
            `ConjugateGradients()`, `ComputationAware()` or `Inducing(points)`.

    References:
        Lee et al., *Deep neural networks as Gaussian processes*, ICLR 2018.

    >>> NNGP().kernel.ard is None
    True
    """

    kernel: AbstractNetworkKernel = Analytic()
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace | EllipticalSlice = LatentLaplace()
    solver: AbstractSolver = Cholesky()

    def fit(self, bnn: BNN, data: DataLike, *, key: Array):
        """The posterior; of the network it uses the architecture.

        Raises:
            UnsupportedLayer: for a network whose kernel is not known.
            TypeError: for a likelihood that is not covered.
        """
        return best_depth(
            self.kernel, lambda kernel: _fit(self, kernel.nngp, bnn, data, key)
        )

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
        tune: `MarginalLikelihood()`, `LeaveOneOut()` (Gaussian noise) or `Fixed()`.
        inference: for likelihoods that are not Gaussian: `LatentLaplace()` or
            `EllipticalSlice()`.
        solver: `Cholesky()` or `SubsetOfData(points)`; for Gaussian noise also
            `ConjugateGradients()`, `ComputationAware()` or `Inducing(points)`.
        time: `None` for the posterior. A number gives the law of infinitely wide
            networks after gradient flow for this time, with randomized targets and a
            pull to their initial parameters, which tends to the posterior (He et al.'s
            ensemble); in units in which the learning rate is 1 for the loss
            $\frac12\sum_i(y_i - f(x_i))^2$ in the network's (scaled) units and
            parameters that are standard normal at the start.

    References:
        He, Lakshminarayanan and Teh, *Bayesian deep ensembles via the neural tangent
        kernel*, NeurIPS 2020.

    >>> NTKGP(kernel=Analytic(ard=False)).kernel.ard
    False
    """

    kernel: AbstractNetworkKernel | Empirical = Analytic()
    tune: AbstractTune = MarginalLikelihood()
    inference: LatentLaplace | EllipticalSlice = LatentLaplace()
    solver: AbstractSolver = Cholesky()
    time: float | None = None

    def __check_init__(self):
        dynamics.check_time(self.time, "NTKGP")

    def fit(self, bnn: BNN, data: DataLike, *, key: Array):
        """The posterior; of the network it uses the architecture.

        Raises:
            UnsupportedLayer: for a network whose kernel is not known.
            TypeError: for a likelihood that is not covered.
        """
        if self.time is not None:
            _need_cholesky(self, "a time")
            if isinstance(self.kernel, Empirical):
                raise TypeError(
                    "NTKGP: expected time=None with kernel=Empirical(), whose network "
                    f"has been trained, got {self.time}: use Analytic()"
                )
            return dynamics.fit(
                bnn, data, self.kernel.ntk, self.tune, time=self.time, key=key
            )
        if isinstance(self.kernel, Empirical):
            _need_cholesky(self, "Empirical()")
            return fit_empirical(bnn, as_dataset(data), self.tune)
        return best_depth(
            self.kernel, lambda kernel: _fit(self, kernel.ntk, bnn, data, key)
        )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        if isinstance(self.kernel, Empirical):
            return empirical_cost(bnn, data)
        return _cost(self, bnn, data)


def _fit(
    method: GP | NNGP | NTKGP, make: Any, bnn: BNN, data: DataLike, key: Array
) -> AbstractPosterior:
    # the kernel matrix needs all rows at once
    data = as_dataset(data)
    bnn = bnn.prepare(data)
    if isinstance(bnn.likelihood, Gaussian | KnownNoise):
        return _fit_gaussian(method, make, bnn, data, key)
    if isinstance(bnn.likelihood, HeteroscedasticGaussian):
        _need_cholesky(method, "a HeteroscedasticGaussian likelihood")
        return heteroscedastic.fit(
            bnn, data, make, method.tune, method.inference, key=key
        )
    if not latent.supports(bnn.likelihood, bnn.outputs(data)):
        raise TypeError(
            f"{type(method).__name__}: expected a Gaussian, HeteroscedasticGaussian, "
            "Categorical, Bernoulli or Poisson likelihood, got "
            f"{type(bnn.likelihood).__name__}"
        )
    return _fit_latent(method, make, bnn, data, key)


def _fit_gaussian(
    method, make, bnn, data, key
) -> GaussianPosterior | UnequalNoisePosterior:
    solver: AbstractSolver = method.solver
    # what would not fit is refused before the hyper-parameters are fitted
    solver.need_memory(len(data), bnn.outputs(data))
    tuned = regression.tune(
        method.tune, make, bnn, data, points=solver.most_tuned(), key=key
    )
    if regression.unequal(tuned.bnn):
        _need_cholesky(method, "noise that differs by datum or output")
        return noise.condition(tuned, data)
    return condition(
        tuned.bnn,
        data,
        tuned.covariance,
        tuned.values,
        tuned.hyperparameters,
        tuned.diagnostics,
        solver=solver,
        key=jax.random.fold_in(key, 2),
    )


def _need_cholesky(method: Any, what: str) -> None:
    if not isinstance(method.solver, Cholesky):
        raise TypeError(
            f"{type(method).__name__}: expected solver=Cholesky() with {what}, got "
            f"{type(method.solver).__name__}: leave solver out, and give fewer rows "
            "where there are too many"
        )


def _fit_latent(
    method, make, bnn, data, key
) -> LatentPosterior | SampledLatentPosterior:
    outputs = bnn.outputs(data)
    if isinstance(method.solver, SubsetOfData):
        data = data.take(draw(len(data), method.solver.points, key))
    else:
        _need_cholesky(method, f"a {type(bnn.likelihood).__name__} likelihood")
    need_memory(
        _latent_bytes(len(data), outputs),
        f"{type(method).__name__}: {len(data):,} rows and {outputs} output(s)",
        "use solver=SubsetOfData(points), or fewer rows",
    )
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
    hyperparameters = tuning.report(choice, features=data.features, units={})
    problem = bnn, data, covariance, choice.values
    if isinstance(method.inference, EllipticalSlice):
        return sample(
            *problem,
            method.inference,
            hyperparameters,
            diagnostics,
            outputs=outputs,
            key=jax.random.fold_in(key, 1),
        )
    return approximate(
        *problem,
        hyperparameters,
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
    if isinstance(bnn.likelihood, Gaussian | KnownNoise):
        fit = method.solver.work(len(data), outputs)
        few = min(size, float(method.solver.most_tuned()))
        # a factorization, an inverse, and the kernel with its derivative
        tuning_flops, tuning_bytes = 4.0 * few**3 * steps, 8.0 * 12.0 * few**2
        return Cost(
            3.0 * fit.flops + tuning_flops,
            max(fit.bytes, tuning_bytes if steps else 0.0),
        )
    tuned = min(size, float(method.inference.tune_points))
    each = 4.0 * outputs
    flops = each * (8.0 * size**3 + 3.0 * steps * tuned**3)
    return Cost(flops, _latent_bytes(len(data), outputs))


def _latent_bytes(size: int, outputs: int) -> float:
    return 8.0 * (2.0 * outputs + 10.0) * float(size) ** 2

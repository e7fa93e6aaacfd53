"""Linearized Laplace: a Gaussian posterior around the trained network."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.linearize import (
    AbstractCovariance,
    AbstractCurvature,
    BlocksCovariance,
    FunctionSpace,
    Jacobian,
    WeightSpace,
    chunk_size,
    factor_chunk_size,
    map_chunks,
)
from ntkuq.models import (
    BNN,
    AbstractLikelihood,
    AbstractPrior,
    Gaussian,
    as_arrays,
    cast,
    check_finite,
    forward,
    log_likelihoods,
    parameters,
)
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    MarginalLikelihood,
)
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost, Joint
from ntkuq.posteriors.laplace.evidence import Fit, Tuned, keep, maximize
from ntkuq.posteriors.laplace.structures import AbstractStructure, Full
from ntkuq.posteriors.laplace.subsets import AbstractSubset, All
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


class Laplace(AbstractMethod):
    """Linearized Laplace at the trained network.

    q(theta) = N(theta*, (tau L0 + J^T H J)^-1), and predictions from the linearized
    network f(x, theta*) + J(x) (theta - theta*): mean f(x, theta*), covariance
    J(x) (tau L0 + J^T H J)^-1 J(x)^T.

    Args:
        structure: `Full()`, `KFAC()`, `Diagonal()`.
        subset: `All()`, `LastLayer()`, `Select(where)`.
        tune: `MarginalLikelihood()` fits a factor on the prior precision by the Laplace
            evidence, and the noise scale where all parameters are uncertain (a subset
            keeps the noise of the `BNN`); `Fixed()` keeps both.

    References: Immer, Korzepa, Bauer 2021 (arXiv 2008.08400); Daxberger et al. 2021
    (arXiv 2106.14806).

    >>> Laplace(structure=Full()).subset
    All()
    """

    structure: AbstractStructure = Full()
    subset: AbstractSubset = All()
    tune: AbstractTune = MarginalLikelihood()

    def fit(self, bnn: BNN, data: Dataset, *, key: Array) -> LaplacePosterior:
        """The posterior around `bnn`'s trained network; `key` is not used.

        Raises:
            ValueError: for an untrained network, weights that are not finite, outputs
                that do not fit the likelihood, a matrix too large to hold.
        """
        del key
        bnn = bnn.prepare(data)
        problem = linearized_problem(bnn, data, self.structure, self.subset)
        tuned = choose(self.tune, problem)
        return _posterior(self, bnn, problem, tuned, data.units)

    def cost(self, bnn: BNN, data: Dataset) -> Cost:
        example = jax.tree.map(lambda leaf: leaf[0], bnn.prepare(data).inputs(data.x))
        model = bnn.model if bnn.trained else bnn.network.init(jax.random.key(0))
        jacobian = Jacobian.at(model, example, self.subset)
        return self.structure.cost(
            jacobian.size, len(data), bnn.outputs(data), 2.0 * bnn.size()
        )


class Linearized(NamedTuple):
    """A network linearized on training data: curvature, and how well it fits."""

    jacobian: Jacobian
    curvature: AbstractCurvature
    fit: Fit
    parameters: int
    gradient_norm: float


def linearized_problem(
    bnn: BNN, data: Dataset, structure: AbstractStructure, subset: AbstractSubset
) -> Linearized:
    """One pass over the data: all that the evidence and the predictions need."""
    check_finite(bnn.model)
    dtype = np.dtype(np.float64) if structure.double else bnn.dtype
    outputs = bnn.outputs(data)
    with jax.enable_x64(dtype == np.float64):
        likelihood = as_arrays(bnn.likelihood, dtype)
        x, y = bnn.inputs(data.x, dtype), bnn.targets(data, dtype)
        example = jax.tree.map(lambda leaf: leaf[0], x)
        jacobian = Jacobian.at(cast(bnn.model, dtype), example, subset)
        precisions = subset_precisions(bnn.prior, jacobian)
        variances = [1.0 / p for p in precisions]
        curvature = structure.curvature(jacobian, likelihood, x, variances, outputs)
        value, misfit, quadratic, gradient = _summary(
            jacobian, likelihood, precisions, x, y
        )
        # With part of the network held fixed the evidence would credit its misfit to
        # the data alone and shrink the noise: a subset keeps the noise of the BNN.
        whole = len(jacobian.subset) == jacobian.plan.leaves
        tunable = isinstance(bnn.likelihood, Gaussian) and whole
        fit = Fit(
            float(value),
            float(misfit) if tunable else None,
            len(data) * outputs,
            float(quadratic),
        )
        return Linearized(jacobian, curvature, fit, jacobian.size, float(gradient))


def choose(tune: AbstractTune, problem: Linearized) -> Tuned:
    """The precision and noise factors that a tuning strategy picks."""
    if not isinstance(tune, Fixed | MarginalLikelihood):
        raise TypeError(
            "Laplace: expected tune=MarginalLikelihood() or Fixed(), got "
            f"{type(tune).__name__}"
        )
    with jax.enable_x64(_is_double(problem.jacobian)):
        if isinstance(tune, Fixed):
            return keep(problem.fit, problem.curvature)
        return maximize(problem.fit, problem.curvature)


def retuned(bnn: BNN, tuned: Tuned) -> BNN:
    """The problem with the tuned prior precision and noise scale."""
    bnn = bnn.with_prior(bnn.prior.scaled(tuned.tau))
    if isinstance(bnn.likelihood, Gaussian):
        scale = np.asarray(bnn.likelihood.scale, np.float64) * tuned.noise
        bnn = bnn.with_noise(float(scale) if scale.ndim == 0 else scale)
    return bnn


def tuned_hyperparameters(
    bnn: BNN, tuned: Tuned, units: str | None
) -> tuple[Hyperparameter, ...]:
    """Prior precision and noise scales of `bnn`, which has been retuned.

    A prior with several precisions is reported by the factor that multiplied them.
    """

    def found(
        name: str, value: float, log_se: float | None, unit: str | None = None
    ) -> Hyperparameter:
        se = None if log_se is None else value * log_se
        return Hyperparameter(name, value, se, tuned.at_bound, unit)

    precision: Any = getattr(bnn.prior, "precision", None)
    if eqx.is_array_like(precision) and np.ndim(precision) == 0:
        hyper = [found("prior precision", float(precision), tuned.log_tau_se)]
    else:
        hyper = [found("prior precision factor", tuned.tau, tuned.log_tau_se)]
    if isinstance(bnn.likelihood, Gaussian):
        noise = np.asarray(bnn.likelihood.scale, np.float64) * bnn.scaling.scale()
        for number, value in enumerate(noise):
            name = f"noise scale [{number}]" if len(noise) > 1 else "noise scale"
            hyper.append(found(name, float(value), tuned.log_noise_se, units))
    return tuple(hyper)


def subset_precisions(prior: AbstractPrior, jacobian: Jacobian) -> list[Array]:
    """The prior precision of each leaf in the subset, (), in its dtype."""
    every = jax.tree.leaves(prior.precisions(parameters(jacobian.model)))
    chosen = [every[n] for n in jacobian.subset]
    if any(np.ndim(precision) for precision in chosen):
        raise ValueError(
            "expected one prior precision for each parameter array, got arrays of "
            f"shapes {[np.shape(precision) for precision in chosen]}"
        )
    return chosen


@eqx.filter_jit
def _summary(jacobian: Jacobian, likelihood: AbstractLikelihood, precisions, x, y):
    """Log-likelihood, misfit, theta^T L0 theta, and the log joint's gradient norm."""
    leaves = [leaf.reshape(-1) for leaf in jacobian.leaves]

    def log_joint(leaves):
        shaped = [
            leaf.reshape(now.shape)
            for leaf, now in zip(leaves, jacobian.leaves, strict=True)
        ]
        model = jacobian.replace(shaped)
        fits = log_likelihoods(likelihood, model, x, y)
        quadratic = sum(
            jnp.sum(p * leaf**2) for p, leaf in zip(precisions, leaves, strict=True)
        )
        return jnp.sum(fits) - 0.5 * quadratic, (jnp.sum(fits), quadratic)

    gradient, (value, quadratic) = jax.grad(log_joint, has_aux=True)(leaves)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradient))
    misfit = jnp.zeros((), norm.dtype)
    if isinstance(likelihood, Gaussian):
        f = jax.vmap(lambda a: forward(jacobian.model, a))(x)
        misfit = jnp.sum(((y - f) / likelihood.scale) ** 2)
    return value, misfit, quadratic, norm


class LaplacePosterior(AbstractPosterior):
    """N(theta*, Sigma) over a subset of the parameters, in linearized form."""

    bnn: BNN
    method: Laplace
    jacobian: Jacobian
    covariance: AbstractCovariance
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def _latent(self, x: PyTree) -> tuple[Float[Array, "N C"], Float[Array, "N C C"]]:
        dtype = jax.tree.leaves(parameters(self.jacobian.model))[0].dtype
        inputs = self.bnn.inputs(x, dtype)
        outputs = jax.eval_shape(
            lambda a: forward(self.jacobian.model, a),
            jax.tree.map(lambda leaf: leaf[0], inputs),
        ).shape[0]
        factored = isinstance(self.covariance, BlocksCovariance)
        chunk = factor_chunk_size if factored else chunk_size
        size = chunk(self.jacobian, outputs, dtype.itemsize)
        return map_chunks(
            lambda part: _marginal(self.jacobian, self.covariance, part), inputs, size
        )

    def predict(self, x: PyTree) -> Predictive:
        """Predictions of the linearized network at x (N, …), in units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(_is_double(self.jacobian)):
            mean, covariance = self._latent(x)
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(_is_double(self.jacobian)):
            dtype = jax.tree.leaves(parameters(self.jacobian.model))[0].dtype
            inputs = self.bnn.inputs(x, dtype)
            mean, covariance = _joint(self.jacobian, self.covariance, inputs)
            return joint_units(self.bnn, Joint(mean, covariance))

    def sample(self, key: Array, n: int) -> PyTree:
        """n networks drawn from the posterior, stacked along a leading axis.

        Use them with `equinox.filter_vmap`. They are not linearized: for predictions
        the linearized `predict` is the better posterior (Immer et al. 2021).
        """
        dtype = self.bnn.dtype
        with jax.enable_x64(_is_double(self.jacobian)):
            flat = self.covariance.sample((n,), key=key)
            stacked = [
                leaf + shift.astype(leaf.dtype)
                for leaf, shift in zip(
                    self.jacobian.leaves,
                    jax.vmap(self.jacobian.unravel)(flat),
                    strict=True,
                )
            ]
            stacked = [leaf.astype(dtype) for leaf in stacked]
        every = [
            jnp.broadcast_to(leaf, (n, *leaf.shape))
            for leaf in jax.tree.leaves(self.bnn.parameters)
        ]
        for number, leaf in zip(self.jacobian.subset, stacked, strict=True):
            every[number] = leaf
        tree = jax.tree.unflatten(jax.tree.structure(self.bnn.parameters), every)
        return eqx.combine(tree, self.bnn.model)


def _is_double(jacobian: Jacobian) -> bool:
    leaf = jax.tree.leaves(parameters(jacobian.model))[0]
    return leaf.dtype == np.float64


def _posterior(
    method: Laplace,
    bnn: BNN,
    problem: Linearized,
    tuned: Tuned,
    units: str | None,
) -> LaplacePosterior:
    with jax.enable_x64(_is_double(problem.jacobian)):
        t = math.exp(-math.log(tuned.tau) - 2 * math.log(tuned.noise))
        covariance = problem.curvature.covariance(tuned.tau, t)
    fitted = retuned(bnn, tuned)
    curvature = problem.curvature
    diagnostics = {
        "parameters": problem.parameters,
        "effective parameters": tuned.effective,
        "gradient norm": problem.gradient_norm,
        "precision": "float64" if _is_double(problem.jacobian) else str(bnn.dtype),
        "jitter": float(getattr(covariance, "jitter", 0.0)),
    }
    if isinstance(curvature, WeightSpace | FunctionSpace):
        weight = isinstance(curvature, WeightSpace)
        diagnostics["view"] = "weight space" if weight else "function space"
    return LaplacePosterior(
        bnn=fitted,
        method=method,
        jacobian=problem.jacobian,
        covariance=covariance,
        hyperparameters=tuned_hyperparameters(fitted, tuned, units),
        log_marginal_likelihood=tuned.log_evidence,
        diagnostics=diagnostics,
    )


@eqx.filter_jit
def _marginal(jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree):
    factors = jacobian.factors(x)
    return factors.outputs, covariance.marginal(factors)


@eqx.filter_jit
def _joint(jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree):
    factors = jacobian.factors(x)
    return factors.outputs, covariance.joint(factors)

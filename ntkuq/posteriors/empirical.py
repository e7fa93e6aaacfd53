"""The posterior of the network linearized at its trained weights.

With a Gaussian prior the linearized network f(x) + J(x) (theta - theta*) is a Gaussian
process with mean f - J theta* and covariance J Sigma0 J^T, the empirical NTK. Unlike
linearized Laplace, which keeps the trained network as its mean, this posterior moves to
the optimum of the linearized network, and is exact for Gaussian noise. For classes it
is Laplace's approximation at that optimum.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, Dataset
from ntkuq.linearize import (
    AbstractCovariance,
    AbstractCurvature,
    Examples,
    FunctionSpace,
    Jacobian,
    chunk_size,
    map_chunks,
)
from ntkuq.models import (
    BNN,
    Gaussian,
    KnownNoise,
    as_arrays,
    cast,
    check_finite,
)
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    MarginalLikelihood,
)
from ntkuq.posteriors.base import AbstractPosterior, Cost, Joint
from ntkuq.posteriors.laplace.evidence import (
    Fit,
    Tuned,
    effective,
    keep,
    log_evidence,
    maximize,
    normalizer,
    standard_errors,
)
from ntkuq.posteriors.laplace.posterior import retuned, tuned_hyperparameters
from ntkuq.posteriors.laplace.problem import subset_precisions
from ntkuq.posteriors.laplace.structures import Full, Problem, Size
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


#: Most rounds of (evidence, optimum). Gaussian rounds are cheap: the curvature stays.
#: The others take it at the optimum of the round before.
GAUSSIAN_ROUNDS = 30
OTHER_ROUNDS = 20
#: They end where the precision moves by less than this, or than a share of its own
#: standard error (in logarithms). Each round moves by half to 0.7 of the one before, so
#: that what is left is a few such shares: about 1e-3 nats of evidence.
MOVE, SHARE = 1e-4, 0.02
#: Steps toward the optimum with one curvature, for likelihoods that are not Gaussian.
STEPS = 50
TOLERANCE = 1e-8


class EmpiricalPosterior(AbstractPosterior):
    """Mean f(x) + J(x) shift, covariance J(x) Sigma J(x)^T."""

    bnn: BNN
    jacobian: Jacobian
    covariance: AbstractCovariance
    shift: list[Array]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            inputs = self.bnn.inputs(x, np.float64)
            outputs = self.jacobian.output(inputs).shape[0]
            size = chunk_size(self.jacobian, outputs, 8)
            mean, covariance = map_chunks(
                lambda part: _marginal(
                    self.jacobian, self.covariance, self.shift, part
                ),
                inputs,
                size,
            )
            return from_latent(self.bnn, mean, covariance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(True):
            inputs = self.bnn.inputs(x, np.float64)
            mean, covariance = _joint(
                self.jacobian, self.covariance, self.shift, inputs
            )
            return joint_units(self.bnn, Joint(mean, covariance))


def fit_empirical(bnn: BNN, data: Dataset, tune: AbstractTune) -> EmpiricalPosterior:
    """The posterior of the linearized network, with fitted prior scale and noise.

    `diagnostics["converged"]` is `False` where the rounds of evidence and optimum ran
    out before the fitted values stood still, or the steps toward the last optimum did.

    Raises:
        ValueError: for an untrained network, weights that are not finite, or matrices
            too large to hold.
    """
    if not isinstance(tune, Fixed | MarginalLikelihood):
        raise TypeError(
            "NTKGP(kernel=Empirical()): expected tune=MarginalLikelihood() or Fixed(), "
            f"got {type(tune).__name__}"
        )
    bnn = bnn.prepare(data)
    check_finite(bnn.model)
    outputs = bnn.outputs(data)
    # one curvature everywhere, and one step to the optimum
    gaussian = isinstance(bnn.likelihood, Gaussian | KnownNoise)
    with jax.enable_x64(True):
        likelihood = as_arrays(bnn.likelihood, np.float64)
        x, y = bnn.inputs(data.x, np.float64), bnn.targets(data, np.float64)
        example = jax.tree.map(lambda leaf: leaf[0], x)
        jacobian = Jacobian.at(cast(bnn.model, np.float64), example)
        precisions = subset_precisions(bnn.prior, jacobian)
        variances = [1.0 / p for p in precisions]
        shift = [jnp.zeros(leaf.size, np.float64) for leaf in jacobian.leaves]

        def bend(shift: list[Array]) -> AbstractCurvature:
            # a Gaussian Hessian is the same everywhere
            at = jacobian if gaussian else _moved(jacobian, shift)
            problem = Problem(at, likelihood, Examples(x, y), variances, outputs)
            return Full().curvature(problem)[0]

        def one_round(curvature: AbstractCurvature, shift: list[Array]):
            fit = _fit(jacobian, likelihood, precisions, shift, x, y)
            tuned = _choose(tune, fit, curvature)
            t = math.exp(-math.log(tuned.tau) - 2 * math.log(tuned.noise))
            covariance = curvature.covariance(tuned.tau, t)
            shift, residual, settled = _optimum(
                jacobian,
                covariance,
                likelihood,
                precisions,
                shift,
                jnp.asarray(tuned.tau),
                jnp.asarray(tuned.noise**-2),
                x,
                y,
            )
            return tuned, covariance, shift, residual, settled

        curvature = bend(shift)
        tuned, covariance, shift, residual, settled = one_round(curvature, shift)
        done, close = 1, False
        while done < (GAUSSIAN_ROUNDS if gaussian else OTHER_ROUNDS) and not close:
            before = tuned
            curvature = curvature if gaussian else bend(shift)
            tuned, covariance, shift, residual, settled = one_round(curvature, shift)
            done = done + 1
            close = _close(before, tuned, gaussian=gaussian)
        # at the optimum, not where this round began
        fit = _fit(jacobian, likelihood, precisions, shift, x, y)
        evidence = log_evidence(fit, curvature, tuned.tau, tuned.noise)
        if not isinstance(tune, Fixed):
            drift = _drift(
                jacobian, covariance, precisions, shift, jnp.asarray(tuned.tau)
            )
            tuned = _with_errors(tuned, fit, curvature, float(drift))
    fitted = retuned(bnn, jacobian, tuned)
    space = "function" if isinstance(curvature, FunctionSpace) else "weight"
    return EmpiricalPosterior(
        bnn=fitted,
        jacobian=jacobian,
        covariance=covariance,
        shift=shift,
        hyperparameters=tuned_hyperparameters(fitted, tuned, data.units, jacobian),
        log_marginal_likelihood=evidence,
        diagnostics={
            "view": f"{space} space",
            "effective parameters": effective(tuned.effective, covariance),
            "rounds": done,
            "converged": close and bool(settled),
            "residual": float(residual),
            "jitter": float(getattr(covariance, "jitter", 0.0)),
        },
    )


def empirical_cost(bnn: BNN, data: Dataset | Batches) -> Cost:
    """What `fit_empirical` needs: the full matrix, and one for each round."""
    outputs = bnn.outputs(data)
    one = data.take_first(1) if isinstance(data, Batches) else data
    example = jax.tree.map(lambda leaf: leaf[0], bnn.prepare(data).inputs(one.x))
    model = bnn.model if bnn.trained else bnn.network.init(jax.random.key(0))
    jacobian = Jacobian.at(model, example)
    # others take about six rounds, few of them all
    rounds = 1 if isinstance(bnn.likelihood, Gaussian | KnownNoise) else 6
    one = Full().cost(Size(jacobian, len(data), outputs, jacobian.plan.flops))
    return Cost(rounds * one.flops, one.bytes, 8)


def _choose(tune: AbstractTune, fit: Fit, curvature) -> Tuned:
    if isinstance(tune, Fixed):
        return keep(fit, curvature)
    return maximize(fit, curvature)


def _with_errors(tuned: Tuned, fit: Fit, curvature, drift: float) -> Tuned:
    """Errors at the optimum that moves with tau and v, in place of a fixed one's."""
    if tuned.at_bound:
        return tuned
    log_t = -math.log(tuned.tau) - 2 * math.log(tuned.noise)
    bend = curvature.slopes(log_t).second
    tau_se, noise_se = standard_errors(fit, tuned.tau, tuned.noise, bend, drift)
    return tuned._replace(log_tau_se=tau_se, log_noise_se=noise_se)


def _close(one: Tuned, two: Tuned, *, gaussian: bool) -> bool:
    """Whether the fitted values stand still; to their errors where rounds are dear."""
    error = 0.0 if gaussian else min(two.log_tau_se or 0.0, 1.0)
    return (
        abs(math.log(one.tau / two.tau)) < max(MOVE, SHARE * error)
        and abs(math.log(one.noise / two.noise)) < MOVE
    )


def _moved(jacobian: Jacobian, shift: list[Array]) -> Jacobian:
    """The Jacobian that takes H at the linearized network's outputs."""
    return Jacobian(jacobian.model, jacobian.plan, jacobian.subset, shift)


@eqx.filter_jit
def _statistics(jacobian, likelihood, precisions, shift, x, y):
    f = jacobian.linear(x, shift)
    value = jnp.sum(jax.vmap(likelihood.log_prob)(f, y))
    quadratic = sum(
        jnp.sum(p * (leaf.reshape(-1) + s) ** 2)
        for p, leaf, s in zip(precisions, jacobian.leaves, shift, strict=True)
    )
    misfit = jnp.zeros(())
    if isinstance(likelihood, Gaussian):
        misfit = jnp.sum(((y - f) / likelihood.scale) ** 2)
    return value, misfit, quadratic, f.size


def _fit(jacobian, likelihood, precisions, shift, x, y) -> Fit:
    value, misfit, quadratic, count = _statistics(
        jacobian, likelihood, precisions, shift, x, y
    )
    size = int(count)
    if not isinstance(likelihood, Gaussian):
        return Fit(float(value), None, size, float(quadratic))
    constant = normalizer(likelihood.scale, size)
    return Fit(constant, float(misfit), size, float(quadratic))


@eqx.filter_jit
def _optimum(
    jacobian, covariance, likelihood, precisions, shift, tau, inverse_noise, x, y
):
    """Maximize the linearized log joint: shift += Sigma gradient, halved if it falls.

    One step is exact for Gaussian noise. `inverse_noise` is v^-2, which multiplies a
    Gaussian log-likelihood (up to a constant).

    Returns:
        The shift, what the last step gained at most in nats, and whether that was
        small enough to stop (else the steps ran out).
    """

    def objective(shift: list[Array]) -> Array:
        f = jacobian.linear(x, shift)
        fits = jnp.sum(jax.vmap(likelihood.log_prob)(f, y))
        quadratic = sum(
            jnp.sum(p * (leaf.reshape(-1) + s) ** 2)
            for p, leaf, s in zip(precisions, jacobian.leaves, shift, strict=True)
        )
        return inverse_noise * fits - 0.5 * tau * quadratic

    def norm(gradient: list[Array], step: list[Array]) -> Array:
        # the decrease that a Newton step predicts, in nats
        terms = [jnp.sum(a * b) for a, b in zip(gradient, step, strict=True)]
        return jnp.sum(jnp.stack(terms))

    def move(shift: list[Array], step: list[Array], size: Array) -> list[Array]:
        return [s + size * d for s, d in zip(shift, step, strict=True)]

    def body(state):
        shift, _, count, _ = state
        value, gradient = jax.value_and_grad(objective)(shift)
        step = covariance.apply(gradient)
        decrease = norm(gradient, step)

        def falls(size):
            return (objective(move(shift, step, size)) < value) & (size > 1e-4)

        size = jax.lax.while_loop(falls, lambda s: 0.5 * s, jnp.ones_like(value))
        moved = decrease > TOLERANCE
        size = jnp.where(moved, size, 0.0)
        return move(shift, step, size), decrease, count + 1, moved

    def going(state):
        return state[3] & (state[2] < STEPS)

    zero = jnp.zeros(())
    start = (shift, zero, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    shift, decrease, _, moved = jax.lax.while_loop(going, body, start)
    return shift, decrease, ~moved


@eqx.filter_jit
def _drift(jacobian, covariance, precisions, shift, tau) -> Array:
    """u^T Sigma u with u = tau L0 (theta* + shift): how far the optimum moves."""
    u = [
        tau * p * (leaf.reshape(-1) + s)
        for p, leaf, s in zip(precisions, jacobian.leaves, shift, strict=True)
    ]
    moved = covariance.apply(u)
    return sum(
        (jnp.sum(a * b) for a, b in zip(u, moved, strict=True)), jnp.zeros_like(tau)
    )


@eqx.filter_jit
def _marginal(jacobian, covariance, shift, x):
    return jacobian.linear(x, shift), covariance.marginal(jacobian.factors(x))


@eqx.filter_jit
def _joint(jacobian, covariance, shift, x):
    return jacobian.linear(x, shift), covariance.joint(jacobian.factors(x))

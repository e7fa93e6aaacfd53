"""The linearized Laplace posterior: predictions, samples, further data, evidence."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from ntkuq.data import DataLike
from ntkuq.linearize import (
    AbstractCovariance,
    FunctionSpace,
    Jacobian,
    LowRankCurvature,
    WeightSpace,
    rows,
)
from ntkuq.linearize.chunks import even, fitting, split_rows
from ntkuq.linearize.curvature import FunctionCovariance
from ntkuq.models import BNN, AbstractLink, Gaussian, NormalPrior, parameters
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Joint
from ntkuq.posteriors.join import concatenate
from ntkuq.posteriors.laplace.evidence import Tuned, effective
from ntkuq.posteriors.laplace.functions import SampledFunctions
from ntkuq.posteriors.laplace.layers import Numbers, log_evidence_at
from ntkuq.posteriors.laplace.problem import Linearized, inverse
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import (
    from_latent,
    joint_units,
    needs_covariance,
    output_dtype,
)


class NotAtMAP(UserWarning):
    """The network is not where the log joint is largest, which Laplace assumes."""


class Latent(NamedTuple):
    """Moments of the network's outputs, in its own units.

    Args:
        mean: (N, C).
        covariance: of the outputs of each example, (N, C, C).
    """

    mean: Float[Array, "N C"]
    covariance: Float[Array, "N C C"]


class LaplacePosterior(AbstractPosterior):
    """N(theta*, Sigma) over a subset of the parameters, in linearized form.

    `bnn` has the tuned prior and noise, `first` those that were given; the sums in
    `problem` refer to the latter. `reported` has what the fit knew; `diagnostics` adds
    what takes time.
    """

    bnn: BNN
    first: BNN
    method: AbstractMethod
    problem: Linearized
    covariance: AbstractCovariance
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float
    reported: dict[str, Any]
    link: AbstractLink | None
    units: str | None = eqx.field(static=True)

    @property
    def diagnostics(self) -> dict[str, Any]:
        """How the fit went.

        In function space the effective number of parameters, an inverse that nothing
        else needs, is computed at each call where nothing was tuned.
        """
        name = "effective parameters"
        known = effective(self.reported[name], self.covariance)
        return self.reported | {name: known}

    @property
    def jacobian(self) -> Jacobian:
        """At the trained parameters, of the uncertain leaves."""
        return self.problem.jacobian

    @property
    def _dtype(self) -> np.dtype:
        return jax.tree.leaves(parameters(self.jacobian.model))[0].dtype

    def latent(self, x: PyTree) -> Latent:
        """Mean and covariance of the network's outputs at x (N, …), in its own units.

        What `predict` integrates the likelihood over; in the precision of the
        posterior, float64 for `Full`.
        """
        with jax.enable_x64(self.problem.double):
            parts = [Latent(*part) for part in self._moments(x, _marginal)]
            if len(parts) == 1:
                return parts[0]
            return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)

    def _moments(self, x: PyTree, function: Callable) -> Iterator[tuple]:
        """`function` of the posterior at x, in chunks that fit into memory."""
        inputs = self.bnn.inputs(x, self._dtype)
        outputs = self.jacobian.output(inputs).shape[0]
        numbers = self.covariance.numbers(self.jacobian, outputs) + 2 * outputs**2
        for part in split_rows(inputs, even(rows(inputs), fitting(numbers, 8))):
            yield function(self.jacobian, self.covariance, part)

    def predict(self, x: PyTree) -> Predictive:
        """Predictions of the linearized network at x (N, …), in units of the data."""
        dtype = output_dtype(self.bnn)
        total = rows(x)
        variances = not needs_covariance(self.bnn, self.link)
        with jax.enable_x64(self.problem.double):
            moments = self._moments(x, _variance if variances else _marginal)
            return concatenate(
                [
                    from_latent(
                        self.bnn, mean, spread, dtype, link=self.link, total=total
                    )
                    for mean, spread in moments
                ]
            )

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(self.problem.double):
            inputs = self.bnn.inputs(x, self._dtype)
            mean, covariance = _joint(self.jacobian, self.covariance, inputs)
            mean = mean.astype(covariance.dtype)
            return joint_units(self.bnn, Joint(mean, covariance))

    def joint_operator(self, x: PyTree):
        """The covariance of `joint` as a lineax operator: products, no matrix.

        Returns:
            A symmetric operator on vectors (N C,), in the network's units; in float64
            where the posterior is, so apply it inside `jax.enable_x64(True)` then.
        """
        from ntkuq.posteriors.laplace.operator import joint_operator

        with jax.enable_x64(self.problem.double):
            inputs = self.bnn.inputs(x, self._dtype)
            return joint_operator(self.jacobian, self.covariance, inputs)

    def sample(self, key: Array, n: int) -> PyTree:
        """n networks drawn from the posterior, stacked along a leading axis.

        Use them with `equinox.filter_vmap`. They are not linearized: for predictions
        the linearized `predict` is the better posterior (Immer et al. 2021).
        """
        dtype = self.bnn.dtype
        with jax.enable_x64(self.problem.double):
            shifts = self._shifts(key, n)
            stacked = [
                (leaf + shift.reshape(n, *leaf.shape).astype(leaf.dtype)).astype(dtype)
                for leaf, shift in zip(self.jacobian.leaves, shifts, strict=True)
            ]
        every = [
            jnp.broadcast_to(leaf, (n, *leaf.shape))
            for leaf in jax.tree.leaves(self.bnn.parameters)
        ]
        for number, leaf in zip(self.jacobian.subset, stacked, strict=True):
            every[number] = leaf
        tree = jax.tree.unflatten(jax.tree.structure(self.bnn.parameters), every)
        return eqx.combine(tree, self.bnn.model)

    def sample_functions(self, key: Array, n: int) -> SampledFunctions:
        """n functions of the linearized network, each the same at every call.

        `functions(x)` has shape (n, N) for one output, else (n, N, C), in the units of
        the data (logits for classes). Their covariance is that of `joint`.
        """
        with jax.enable_x64(self.problem.double):
            shifts = [shift.astype(self._dtype) for shift in self._shifts(key, n)]
            return SampledFunctions(self.bnn, self.jacobian, shifts)

    def _shifts(self, key: Array, n: int) -> list[Float[Array, "n P"]]:
        flat = _sample(self.covariance, n, key)
        return jnp.split(flat, np.cumsum(self.jacobian.sizes)[:-1], axis=1)

    def update(self, data: DataLike, *, key: Array | None = None) -> LaplacePosterior:
        """The posterior given further data, at the same network.

        The Gauss-Newton matrices add, and so do the sums of the evidence; then the
        method tunes again. Equal to fitting old and new data at once (but for
        `LowRank`, whose eigenpairs are merged, and `EKFAC`, which cannot be added to).
        The network is not trained on: its mean does not move. Inputs and targets are
        scaled as the first data were.

        Args:
            data: further data, of the same kind.
            key: not used.

        Raises:
            TypeError: for `EKFAC`, and where the method was tuned on a score.
        """
        del key
        from ntkuq.posteriors.laplace.method import updated

        return updated(self, data)

    def log_evidence(
        self, log_precisions: ArrayLike, log_noise: ArrayLike = 0.0
    ) -> Float[Array, ""]:
        r"""The log marginal likelihood at other prior precisions and another noise.

        $\log p(y \mid \lambda, \nu) \approx \log p(y \mid \theta^*, \nu) - \tfrac12
        \sum_l \lambda_l \|\theta_l\|^2 - \tfrac12 \log\det(I + \nu^{-2} V G)$ at the
        trained parameters. No data are looked at; traceable and differentiable. Call it
        inside `jax.enable_x64(True)` where the posterior is in float64.

        Args:
            log_precisions: logarithms of the prior precisions: () for one that all
                parameters share, or (L,), one for each uncertain parameter array.
            log_noise: logarithm of a factor on the noise scale of the data that were
                fitted; only 0 has a meaning where noise is no parameter.
        """
        dtype = self.problem.precisions[0].dtype
        count = len(self.jacobian.subset)
        if np.shape(log_precisions) not in ((), (1,), (count,)):
            raise ValueError(
                f"log_evidence: expected log_precisions of shape () or ({count},), one "
                f"for each uncertain parameter array, got {np.shape(log_precisions)}"
            )
        self._check_noise(log_noise)
        at = jnp.broadcast_to(jnp.asarray(log_precisions, dtype), (count,))
        numbers = Numbers.of(self.problem.fit, np.dtype(dtype))
        noise = jnp.asarray(log_noise, dtype)
        return log_evidence_at(numbers, self.problem.curvature, at, noise)

    def _check_noise(self, log_noise: ArrayLike) -> None:
        tunable = self.problem.fit.misfit is not None
        if not tunable and not isinstance(log_noise, Tracer) and np.any(log_noise):
            raise ValueError(
                "log_evidence: expected log_noise = 0, since the noise is no parameter "
                "here (a Gaussian's is, where all parameters are uncertain), got "
                f"{log_noise}: leave it out"
            )


@eqx.filter_jit
def _marginal(jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree):
    factors = jacobian.factors(x)
    return factors.outputs, covariance.marginal(factors)


@eqx.filter_jit
def _variance(jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree):
    factors = jacobian.factors(x)
    return factors.outputs, covariance.variance(factors)


@eqx.filter_jit
def _joint(jacobian: Jacobian, covariance: AbstractCovariance, x: PyTree):
    factors = jacobian.factors(x)
    return factors.outputs, covariance.joint(factors)


@eqx.filter_jit
def _sample(covariance: AbstractCovariance, n: int, key: Array):
    return covariance.sample((n,), key=key)


@eqx.filter_jit
def _decrement(covariance: AbstractCovariance, gradient: list[Array]):
    moved = covariance.apply(gradient)
    pairs = zip(gradient, moved, strict=True)
    return sum(jnp.sum(g * m) for g, m in pairs)


def posterior(
    method: AbstractMethod,
    link: AbstractLink | None,
    bnn: BNN,
    problem: Linearized,
    tuned: Tuned,
    units: str | None,
) -> LaplacePosterior:
    """The posterior under the tuned prior precision and noise.

    Warns:
        NotAtMAP: where a Newton step would move the parameters by more than they are
            uncertain: g^T Sigma g > effective number of parameters.
    """
    if tuned.layers is not None:
        with jax.enable_x64(problem.double):
            dtype = problem.precisions[0].dtype
            precisions = [jnp.asarray(p.value, dtype) for p in tuned.layers]
            curvature = problem.curvature.with_variances(inverse(precisions))
        squares = np.asarray(problem.fit.squares)
        quadratic = float(squares @ np.asarray([p.value for p in tuned.layers]))
        problem = problem._replace(
            curvature=curvature,
            precisions=precisions,
            fit=dataclasses.replace(problem.fit, quadratic=quadratic),
        )
    with jax.enable_x64(problem.double):
        t = math.exp(-math.log(tuned.tau) - 2 * math.log(tuned.noise))
        covariance = tuned.covariance
        if covariance is None:
            covariance = problem.curvature.covariance(tuned.tau, t)
        gradient = problem.gradient(tuned.tau, tuned.noise)
        decrement = float(_decrement(covariance, gradient.leaves))
        norm = float(gradient.norm)
    curvature = problem.curvature
    reported = {
        "parameters": problem.jacobian.size,
        "effective parameters": tuned.effective,
        "gradient norm": norm,
        "newton decrement": decrement,
        "precision": "float64" if problem.double else str(bnn.dtype),
        "jitter": float(getattr(covariance, "jitter", 0.0)),
        **curvature.diagnostics,
    }
    if isinstance(curvature, WeightSpace | FunctionSpace):
        weight = isinstance(curvature, WeightSpace)
        reported["view"] = "weight space" if weight else "function space"
    fitted = retuned(bnn, problem.jacobian, tuned)
    return LaplacePosterior(
        bnn=fitted,
        first=bnn,
        method=method,
        problem=problem,
        covariance=covariance,
        hyperparameters=tuned_hyperparameters(fitted, tuned, units, problem.jacobian),
        log_marginal_likelihood=tuned.log_evidence,
        reported=reported,
        link=link,
        units=units,
    )


def warn_unless_at_map(found: LaplacePosterior) -> LaplacePosterior:
    """The posterior; `NotAtMAP` where the network is far from where it should be."""
    norm, decrement = (
        found.reported[name] for name in ("gradient norm", "newton decrement")
    )
    # directions that a low rank leaves out would count with their prior variance
    whole = not isinstance(found.problem.curvature, LowRankCurvature)
    if not whole or decrement <= max(_least_effective(found), 1.0):
        return found
    count = found.diagnostics["effective parameters"]
    if decrement > max(count, 1.0):
        warnings.warn(
            f"Laplace: the network is not at its maximum a posteriori: the gradient of "
            f"the log joint has norm {norm:.3g}, and a Newton step would "
            f"gain {decrement / 2:.3g} nats and move the parameters by more than they "
            f"are uncertain ({count:.3g} effective parameters). Train longer "
            "(MAP), or with the same prior and noise",
            NotAtMAP,
            stacklevel=3,
        )
    return found


def _least_effective(found: LaplacePosterior) -> float:
    """The effective number of parameters; where it is not known, a lower bound."""
    covariance = found.covariance
    known = found.reported["effective parameters"]
    if known is None and isinstance(covariance, FunctionCovariance):
        return covariance.least_effective()
    return effective(known, covariance)


def retuned(bnn: BNN, jacobian: Jacobian, tuned: Tuned) -> BNN:
    """The problem with the tuned prior precision and noise scale."""
    if tuned.layers is None and tuned.tau == tuned.noise == 1.0:
        return bnn
    if tuned.layers is None:
        bnn = bnn.with_prior(bnn.prior.scaled(tuned.tau))
    else:
        tree = bnn.prior.precisions(bnn.parameters)
        every = [float(p) for p in jax.tree.leaves(tree)]
        for number, layer in zip(jacobian.subset, tuned.layers, strict=True):
            every[number] = layer.value
        prior = jax.tree.unflatten(jax.tree.structure(tree), every)
        bnn = bnn.with_prior(NormalPrior(prior))
    if isinstance(bnn.likelihood, Gaussian):
        scale = np.asarray(bnn.likelihood.scale, np.float64) * tuned.noise
        bnn = bnn.with_noise(float(scale) if scale.ndim == 0 else scale)
    return bnn


def tuned_hyperparameters(
    bnn: BNN, tuned: Tuned, units: str | None, jacobian: Jacobian
) -> tuple[Hyperparameter, ...]:
    """Prior precision and noise scales of `bnn`, which has been retuned.

    A prior with several precisions is reported by the factor that multiplied them,
    unless each was fitted.
    """
    fitted = tuned.noise != 1.0

    def found(name: str, value: float, log_se: float | None) -> Hyperparameter:
        se = None if log_se is None else value * log_se
        return Hyperparameter(name, value, se, tuned.at_bound)

    precision: Any = getattr(bnn.prior, "precision", None)
    if tuned.layers is not None:
        names = _names(jacobian)
        hyper = [
            Hyperparameter(
                f"prior precision [{name}]",
                layer.value,
                None if layer.log_se is None else layer.value * layer.log_se,
                layer.at_bound,
            )
            for name, layer in zip(names, tuned.layers, strict=True)
        ]
    elif eqx.is_array_like(precision) and np.ndim(precision) == 0:
        hyper = [found("prior precision", float(precision), tuned.log_tau_se)]
    else:
        hyper = [found("prior precision factor", tuned.tau, tuned.log_tau_se)]
    if isinstance(bnn.likelihood, Gaussian):
        noise = np.asarray(bnn.likelihood.scale, np.float64) * bnn.scaling.scale()
        for number, value in enumerate(noise):
            name = f"noise scale [{number}]" if len(noise) > 1 else "noise scale"
            log_se = tuned.log_noise_se
            se = None if log_se is None else float(value) * log_se
            at_bound = fitted and tuned.at_bound
            hyper.append(Hyperparameter(name, float(value), se, at_bound, units))
    return tuple(hyper)


def _names(jacobian: Jacobian) -> list[str]:
    """The path of each uncertain leaf in the network, such as `layers[0].weight`."""
    paths = jax.tree_util.tree_leaves_with_path(parameters(jacobian.model))
    names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in paths]
    return [names[number] for number in jacobian.subset]

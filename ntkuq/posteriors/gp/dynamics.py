r"""Infinitely wide networks in the course of training: laws over functions at a time.

Gradient flow on $\frac12\sum_i(y_i - f(x_i))^2$, one unit of time being a learning rate
of 1, moves a linearized network by $\Theta_{*X} A_t (y - f_0(X))$, where

$A_t = M^{-1}(I - e^{-tM})$, $M = \Theta_{XX} + \sigma^2 I$,

with $\sigma^2$ the weight of a pull towards the initial parameters. With targets that
are randomized by noise of variance $\sigma^2$ and an initial function of covariance P
its law is Gaussian, of mean $m + \Theta_{*X} A_t (y - m)$ and covariance

$P_{**} - P_{*X} A_t \Theta_{X*} - \Theta_{*X} A_t P_{X*} + \Theta_{*X} A_t (P_{XX} +
\sigma^2 I) A_t \Theta_{X*}$.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import DataLike, Dataset, as_dataset
from ntkuq.kernels import AbstractCovariance, Cholesky, LogValues
from ntkuq.models import BNN, Gaussian
from ntkuq.models.hyperparameters import AbstractTune, Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior, Joint
from ntkuq.posteriors.gp import regression
from ntkuq.posteriors.gp.inputs import in_chunks, inputs
from ntkuq.posteriors.gp.regression import Make, Tuned, targets, unequal
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_latent, joint_units, output_dtype


#: Directions whose eigenvalue is below this share of the largest are not learned: their
#: eigenvalue is rounding error, and so would be what is learned.
CUTOFF = 1e-12


class Flow(NamedTuple):
    r"""Gradient flow up to a time, in the eigenvectors Q of $\Theta_{XX}$.

    vectors: Q. shares: the eigenvalues $\phi$ of $A_t$. start: $Q^T(P_{XX} + \sigma^2
    I)Q$. alpha: $A_t (y - m)$. left_out: number of directions that are not learned.
    """

    vectors: Float[Array, "N N"]
    shares: Float[Array, " N"]
    start: Float[Array, "N N"]
    alpha: Float[Array, "N C"]
    left_out: Array


def flow(
    tangent: Float[Array, "N N"],
    initial: Float[Array, "N N"],
    y: Float[Array, "N C"],
    variance: Float[Array, ""],
    time: Float[Array, ""],
) -> Flow:
    r"""Decompose $\Theta_{XX}$ and run gradient flow up to a time.

    Args:
        tangent: Theta of the training inputs.
        initial: P of the training inputs.
        y: targets minus the prior mean.
        variance: sigma^2; 0 for plain training.
        time: t >= 0, may be infinite.
    """
    values, vectors = jnp.linalg.eigh(tangent, symmetrize_input=False)
    rates = jnp.maximum(values, 0.0) + variance
    learned = rates > CUTOFF * jnp.max(rates)
    safe = jnp.where(learned, rates, 1.0)
    # exp(-t m) at t = inf is 0 for every m > 0
    shares = jnp.where(learned, -jnp.expm1(-time * safe) / safe, 0.0)
    start = vectors.T @ initial @ vectors
    start = start + variance * jnp.eye(len(values), dtype=values.dtype)
    alpha = vectors @ (shares[:, None] * (vectors.T @ y))
    return Flow(vectors, shares, start, alpha, jnp.sum(~learned))


def joint(
    flow: Flow,
    tangent: Float[Array, "M N"],
    initial: Float[Array, "M N"],
    prior: Float[Array, "M M"],
) -> tuple[Float[Array, "M C"], Float[Array, "M M"]]:
    """Mean and covariance across new inputs, which all outputs share.

    Args:
        flow: from `flow`.
        tangent, initial: Theta and P between new and training inputs.
        prior: P of the new inputs.
    """
    moved = flow.shares * (tangent @ flow.vectors)
    own = initial @ flow.vectors
    lost = moved @ own.T
    covariance = prior - lost - lost.T + moved @ flow.start @ moved.T
    return tangent @ flow.alpha, 0.5 * (covariance + covariance.T)


def marginals(
    flow: Flow,
    tangent: Float[Array, "M N"],
    initial: Float[Array, "M N"],
    prior: Float[Array, " M"],
) -> tuple[Float[Array, "M C"], Float[Array, " M"]]:
    """Mean and variance of each function value: the diagonal of `joint`."""
    moved = flow.shares * (tangent @ flow.vectors)
    own = initial @ flow.vectors
    variance = prior + jnp.sum(moved * (moved @ flow.start - 2.0 * own), axis=1)
    floor = jnp.finfo(prior.dtype).eps * prior
    return tangent @ flow.alpha, jnp.maximum(variance, floor)


class GradientFlowLaw(AbstractPosterior):
    """The law of infinitely wide networks after training for some time.

    Of `NTKGP(time=t)` it becomes the posterior as t grows; of `WideEnsemble` it is no
    posterior at any time: its spread comes from the initialization alone.
    `diagnostics["law"]` says which. There is no marginal likelihood.
    """

    bnn: BNN
    data: Dataset
    tangent: AbstractCovariance
    initial: AbstractCovariance
    params: LogValues
    flow: Flow
    center: Float[Array, "1 C"]
    time: float
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …), in the units of the data."""
        dtype = output_dtype(self.bnn)
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            kernels = self.tangent, self.initial, self.params
            mean, variance = in_chunks(
                lambda part: _marginals(*kernels, self.flow, train, part), new
            )
            variance = jnp.broadcast_to(variance[:, None], mean.shape)
            return from_latent(self.bnn, mean + self.center, variance, dtype)

    def joint(self, x: PyTree) -> Joint:
        """Mean (N, C) and covariance (N C, N C) of the function across inputs x."""
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            mean, shared = _joint(
                self.tangent, self.initial, self.params, self.flow, train, new
            )
            mean = mean + self.center
            outputs = jnp.eye(mean.shape[1], dtype=mean.dtype)
            return joint_units(self.bnn, Joint(mean, jnp.kron(shared, outputs)))


RANDOMIZED = (
    "of infinitely wide networks after training for this time on randomized targets, "
    "pulled to their initial parameters; the posterior only in the limit"
)


def check_time(time: float | None, method: str) -> None:
    """Raise `ValueError` for a time that is negative or not a number."""
    if time is not None and not time >= 0.0:
        raise ValueError(
            f"{method}: expected time >= 0 (in units of a learning rate of 1), got "
            f"{time}; None trains to the end"
        )


def need_gaussian(bnn: BNN, method: str) -> None:
    """Raise `TypeError` where the noise of a prepared problem is not one scale."""
    if not isinstance(bnn.likelihood, Gaussian):
        raise TypeError(
            f"{method}: expected a Gaussian likelihood and data without noise_scale, "
            f"got {type(bnn.likelihood).__name__}: training on the squared error has "
            "no other"
        )


def fit(
    bnn: BNN, data: DataLike, make: Make, tune: AbstractTune, *, time: float, key: Array
) -> GradientFlowLaw:
    """The law of `NTKGP(time=)`: P is Theta, targets are randomized."""
    data = as_dataset(data)
    bnn = bnn.prepare(data)
    need_gaussian(bnn, "NTKGP(time=...)")
    points = Cholesky().most_tuned()
    tuned = regression.tune(tune, make, bnn, data, points=points, key=key)
    law = "the posterior" if math.isinf(time) else RANDOMIZED
    return train(tuned, tuned.covariance, data, time=time, noisy=True, law=law)


def train(
    tuned: Tuned,
    initial: AbstractCovariance,
    data: Dataset,
    *,
    time: float,
    noisy: bool,
    law: str,
) -> GradientFlowLaw:
    """The law at a time for a prepared and tuned problem.

    Args:
        tuned: its `covariance` is Theta.
        initial: P; its hyper-parameters are those of Theta.
        data: the training data.
        time: t, may be infinite.
        noisy: whether targets are randomized by the noise of the likelihood, and
            parameters pulled towards their initial values.
        law: what it is, for `diagnostics`.

    Raises:
        ValueError: for noise that differs by datum or output.
    """
    bnn = tuned.bnn
    likelihood = bnn.likelihood
    if unequal(bnn) or not isinstance(likelihood, Gaussian):
        raise ValueError(
            "time: expected noise of one scale for all data and outputs, got noise "
            "that differs: leave out Dataset.noise_scale, or the time"
        )
    scale = float(np.asarray(likelihood.scale).reshape(-1)[0]) if noisy else 0.0
    with jax.enable_x64(True):
        x = inputs(bnn, data.x)
        y, center, _ = targets(bnn, data)
        found = _flow(
            tuned.covariance.at(x),
            initial.at(x),
            tuned.values,
            y,
            jnp.asarray(scale**2),
            jnp.asarray(float(time)),
        )
        left_out = int(found.left_out)
    if not bool(jnp.all(jnp.isfinite(found.alpha))):
        raise FloatingPointError(
            "gradient flow: expected a kernel matrix with finite eigenvalues, got NaN; "
            "look for infinite inputs, or for inputs of wildly different scales"
        )
    return GradientFlowLaw(
        bnn=bnn,
        data=data,
        tangent=tuned.covariance,
        initial=initial,
        params=tuned.values,
        flow=found,
        center=center,
        time=float(time),
        hyperparameters=tuned.hyperparameters,
        log_marginal_likelihood=None,
        diagnostics={
            **tuned.diagnostics,
            "law": law,
            "time": time if math.isfinite(time) else "infinite",
            "directions not learned": left_out,
        },
    )


@eqx.filter_jit
def _flow(tangent, initial, params, y, variance, time):
    return flow(tangent(params), initial(params), y, variance, time)


@eqx.filter_jit
def _marginals(tangent, initial, params, flow, train, new):
    return marginals(
        flow,
        tangent.gram(params, new, train),
        initial.gram(params, new, train),
        initial.diagonal(params, new),
    )


@eqx.filter_jit
def _joint(tangent, initial, params, flow, train, new):
    return joint(
        flow,
        tangent.gram(params, new, train),
        initial.gram(params, new, train),
        initial.gram(params, new),
    )

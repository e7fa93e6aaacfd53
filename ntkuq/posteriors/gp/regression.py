"""Prepare and tune GP regression, whatever the noise: common, by output or by datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, LogValues
from ntkuq.kernels.base import Parameter
from ntkuq.kernels.solvers import draw
from ntkuq.models import BNN, Gaussian, NoisyTargets
from ntkuq.models.hyperparameters import AbstractTune, Fixed, Hyperparameter
from ntkuq.posteriors.gp import tuning
from ntkuq.posteriors.gp.posteriors import single_array


#: (bnn, inputs, standard deviation of the targets) -> covariance.
Make = Callable[[BNN, Array, float], AbstractCovariance]


class Targets(NamedTuple):
    """Targets minus their center, and what is known of their noise.

    variance: (N, G), G = 1 where all outputs share it or C; `None` where the noise is
        a parameter.
    """

    value: Float[Array, "N C"]
    center: Float[Array, "1 C"]
    variance: Float[Array, "N G"] | None


class Tuned(NamedTuple):
    """A problem with its fitted noise, its covariance and its hyper-parameters."""

    bnn: BNN
    covariance: AbstractCovariance
    values: LogValues
    hyperparameters: tuple[Hyperparameter, ...]
    diagnostics: dict[str, Any]


def targets(bnn: BNN, data: Dataset) -> Targets:
    r"""The targets of a prepared problem in float64, around their mean.

    With known noise the mean is weighted by $1/(s_i^2 + \bar s^2)$, with $\bar s$ the
    median, so that neither a very noisy nor a very exact datum decides it.
    """
    y = bnn.targets(data, np.float64)
    if not isinstance(y, NoisyTargets):
        center = jnp.mean(y, axis=0, keepdims=True)
        return Targets(y - center, center, None)
    variance = np.asarray(y.scale, np.float64) ** 2
    weight = 1.0 / (variance + np.median(variance, axis=0))
    value = np.asarray(y.value)
    center = np.sum(weight * value, axis=0, keepdims=True) / np.sum(weight, axis=0)
    if np.all(variance == variance[:, :1]):
        variance = variance[:, :1]
    return Targets(
        jnp.asarray(value - center), jnp.asarray(center), jnp.asarray(variance)
    )


def tune(
    tune: AbstractTune,
    make: Make,
    bnn: BNN,
    data: Dataset,
    *,
    points: int,
    key: Array,
) -> Tuned:
    """Choose the hyper-parameters of a prepared problem with Gaussian noise.

    On at most so many `points`, drawn at random: `diagnostics["tuned on"]`.
    """
    with jax.enable_x64(True):
        x = single_array(bnn.inputs(data.x, np.float64))
        y, _, known = targets(bnn, data)
        sizes = np.sqrt(np.mean(np.asarray(y) ** 2, axis=0))
        size = float(np.sqrt(np.mean(sizes**2)))
        size = size if size > 0.0 else 1.0
        covariance = make(bnn, x, size)
        parameters = dict(covariance.parameters)
        if known is None:
            parameters[tuning.NOISE] = _noise(tune, bnn, sizes, size)
        rows = draw(len(data), points, jax.random.fold_in(key, 1))
        choice = tuning.tune_regression(
            tune,
            covariance.at(x[rows]),
            parameters,
            y[rows],
            known=None if known is None else known[rows],
            key=key,
        )
    values, units = dict(choice.values), {}
    used = {} if isinstance(tune, Fixed) else {"tuned on": len(rows)}
    if known is None:
        noise = np.exp(np.asarray(values.pop(tuning.NOISE)))
        bnn = bnn.with_noise(noise if noise.ndim else float(noise))
        factors = np.asarray(bnn.scaling.scale()).reshape(-1)
        if noise.ndim:
            units[tuning.NOISE] = (factors, data.units)
        elif np.all(factors == factors[0]):
            units[tuning.NOISE] = (float(factors[0]), data.units)
    return Tuned(
        bnn,
        covariance,
        values,
        tuning.report(choice, features=data.features, units=units),
        {**tuning.diagnostics(choice, tune), **used},
    )


def _noise(
    tune: AbstractTune, bnn: BNN, sizes: Float[np.ndarray, " C"], size: float
) -> Parameter:
    """The noise scale as a parameter: one, or one an output where it was given so."""
    assert isinstance(bnn.likelihood, Gaussian)  # noqa: S101
    given = np.asarray(bnn.likelihood.scale, np.float64).reshape(-1)
    if isinstance(tune, Fixed):
        common = bool(np.all(given == given[0]))
        return Parameter.of(float(given[0]) if common else given, 1.0, 1.0)
    if given.size == 1:
        return Parameter.of(0.3 * size, 3e-3, 30.0)
    return Parameter.of(0.3 * np.where(sizes > 0.0, sizes, size), 3e-3, 30.0)


def unequal(bnn: BNN) -> bool:
    """Whether the noise of a prepared problem differs by datum or by output."""
    if not isinstance(bnn.likelihood, Gaussian):
        return True
    return np.unique(np.asarray(bnn.likelihood.scale)).size > 1

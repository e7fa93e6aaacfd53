"""Choose the hyper-parameters of a GP: the marginal likelihood as an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import LogValues, Parameter
from ntkuq.kernels.optimize import Optimum, minimize
from ntkuq.models import AbstractLikelihood
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    MarginalLikelihood,
)
from ntkuq.posteriors.gp import gaussian, latent


#: A Gram matrix as a function of the kernel's hyper-parameters; a pytree.
GramFunction = Callable[[LogValues], Array]

NOISE = "noise scale"


class Choice(NamedTuple):
    """Chosen values (logarithms), and how they were found (`None`: as given)."""

    values: LogValues
    optimum: Optimum | None


def tune_regression(
    tune: AbstractTune,
    gram: GramFunction,
    parameters: dict[str, Parameter],
    y: Float[Array, "N C"],
    *,
    key: Array,
) -> Choice:
    """Hyper-parameters of a GP with Gaussian noise.

    Args:
        tune: `MarginalLikelihood` or `Fixed`.
        gram: training Gram matrix of the hyper-parameters.
        parameters: those of the kernel, and "noise scale".
        y: targets minus the prior mean.
        key: for restarts.
    """

    def value_and_grad(values: LogValues) -> tuple[Array, LogValues]:
        value, gradient = _regression(gram, values, y)
        return -value, jax.tree.map(jnp.negative, gradient)

    return _tune(tune, parameters, value_and_grad, key)


@eqx.filter_jit
def _regression(gram, values, y):
    kernel, pull = jax.vjp(gram, _without_noise(values))
    variance = jnp.exp(2.0 * values[NOISE])
    found = gaussian.evidence(kernel, y, variance)
    (gradient,) = pull(found.kernel_bar)
    return found.value, gradient | {NOISE: 2.0 * variance * found.noise_bar}


def _without_noise(values: LogValues) -> LogValues:
    return {name: value for name, value in values.items() if name != NOISE}


def tune_latent(
    tune: AbstractTune,
    gram: GramFunction,
    parameters: dict[str, Parameter],
    likelihood: AbstractLikelihood,
    y: Array,
    *,
    outputs: int,
    max_steps: int,
    key: Array,
) -> Choice:
    """Hyper-parameters of a latent GP by Laplace's evidence.

    The mode of one evaluation starts the search of the next.
    """
    shape = (y.shape[0], outputs)
    last = {"a": jnp.zeros(shape, jnp.float64)}

    def value_and_grad(values: LogValues) -> tuple[Array, LogValues]:
        value, gradient, a = _latent(likelihood, gram, values, y, last["a"], max_steps)
        if bool(jnp.all(jnp.isfinite(a))):
            last["a"] = a
        return -value, jax.tree.map(jnp.negative, gradient)

    return _tune(tune, parameters, value_and_grad, key)


@eqx.filter_jit
def _latent(likelihood, gram, values, y, start, max_steps):
    kernel, pull = jax.vjp(gram, values)
    mode = latent.find_mode(likelihood, kernel, y, start, max_steps)
    (gradient,) = pull(latent.kernel_bar(likelihood, kernel, mode))
    return latent.log_evidence(mode), gradient, mode.a


def _tune(tune, parameters, value_and_grad, key) -> Choice:
    initial = {name: jnp.asarray(p.initial) for name, p in parameters.items()}
    if isinstance(tune, Fixed):
        return Choice(initial, None)
    if not isinstance(tune, MarginalLikelihood):
        raise TypeError(
            f"GP: expected tune=MarginalLikelihood() or Fixed(), got "
            f"{type(tune).__name__}"
        )

    def objective(position: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_grad(_unravel(position, initial))
        return float(value), _ravel(gradient)

    best = minimize(
        objective,
        _ravel(initial),
        _ravel({name: p.lower for name, p in parameters.items()}),
        _ravel({name: p.upper for name, p in parameters.items()}),
        restarts=tune.restarts,
        max_steps=tune.max_steps,
        key=key,
    )
    return Choice(_unravel(best.position, initial), best)


def _ravel(values: dict[str, Any]) -> np.ndarray:
    return np.concatenate(
        [np.ravel(np.asarray(values[name], np.float64)) for name in sorted(values)]
    )


def _unravel(position: np.ndarray, like: LogValues) -> LogValues:
    found, start = {}, 0
    for name in sorted(like):
        shape = like[name].shape
        size = int(np.prod(shape))
        part = position[start : start + size]
        found[name] = jnp.asarray(np.reshape(part, shape))
        start += size
    return found


def report(
    choice: Choice,
    *,
    features: tuple[str, ...] | None,
    units: dict[str, tuple[float, str | None]],
) -> tuple[Hyperparameter, ...]:
    r"""The chosen values on their natural scale, $v = e^\theta$, se $= v\,se(\theta)$.

    Args:
        choice: what was chosen.
        features: names for hyper-parameters with one entry a feature.
        units: for some names a factor to another unit, and the unit.
    """
    best, start = choice.optimum, 0
    found: list[Hyperparameter] = []
    for name in sorted(choice.values):
        logs = np.asarray(choice.values[name], np.float64)
        factor, unit = units.get(name, (1.0, None))
        for i, log in enumerate(np.ravel(logs)):
            label = name
            if logs.ndim:
                known = features if features and len(features) == logs.size else None
                label = f"{name} [{known[i] if known else i}]"
            value = float(np.exp(log)) * factor
            error = None if best is None else float(value * best.se[start])
            found.append(
                Hyperparameter(
                    label,
                    value,
                    error if error is not None and np.isfinite(error) else None,
                    best is not None and bool(best.at_bound[start]),
                    unit,
                )
            )
            start += 1
    return tuple(found)


def diagnostics(choice: Choice, tune: AbstractTune) -> dict[str, Any]:
    """How the tuning went, for `posterior.diagnostics`."""
    best = choice.optimum
    if best is None:
        return {"precision": "float64"}
    return {
        "precision": "float64",
        "converged": best.converged,
        "evidence evaluations": best.evaluations,
        "gradient norm": best.gradient_norm,
        "restarts": getattr(tune, "restarts", 1),
    }

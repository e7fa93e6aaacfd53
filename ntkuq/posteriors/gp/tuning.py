"""Choose the hyper-parameters of a GP: the marginal likelihood as an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ntkuq.kernels.base import LogValues, Parameter
from ntkuq.kernels.optimize import Optimum, minimize
from ntkuq.models import AbstractLikelihood
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    LeaveOneOut,
    MarginalLikelihood,
)
from ntkuq.posteriors.gp import gaussian, latent
from ntkuq.posteriors.gp.leave_one_out import fits, leave_one_out, standard_errors


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
    known: Float[Array, "N G"] | None = None,
    key: Array,
) -> Choice:
    """Hyper-parameters of a GP with Gaussian noise.

    Args:
        tune: `MarginalLikelihood`, `LeaveOneOut` or `Fixed`.
        gram: training Gram matrix of the hyper-parameters.
        parameters: those of the kernel and, unless the noise is known, "noise scale":
            () for one scale, (C,) for one an output.
        y: targets minus the prior mean.
        known: noise variances; G is 1 where all outputs share them, or C.
        key: for restarts.
    """
    score = _score(tune)

    def value_and_grad(values: LogValues) -> tuple[Array, LogValues]:
        value, gradient = _regression(score, gram, known, values, y)
        return -value, jax.tree.map(jnp.negative, gradient)

    choice = choose(tune, parameters, value_and_grad, key)
    if choice.optimum is None or score is not leave_one_out:
        return choice
    return choice._replace(optimum=_sandwich(choice, gram, known, y))


def _score(tune: AbstractTune) -> Callable[..., gaussian.Evidence]:
    if isinstance(tune, LeaveOneOut):
        return leave_one_out
    if isinstance(tune, MarginalLikelihood | Fixed):
        return gaussian.evidence
    raise TypeError(
        "GP: expected tune=MarginalLikelihood(), LeaveOneOut() or Fixed(), got "
        f"{type(tune).__name__}"
    )


@eqx.filter_jit
def _regression(score, gram, known, values, y):
    def pair(values: LogValues) -> tuple[Array, Array]:
        return gram(_without_noise(values)), _variance(values, known, y.shape[0])

    (kernel, variance), pull = jax.vjp(pair, values)
    value, bars = _grouped(score, kernel, variance, y)
    (gradient,) = pull(bars)
    return value, gradient


def _variance(values: LogValues, known: Array | None, rows: int) -> Array:
    """The noise variances, (N, G)."""
    if known is not None:
        return known
    log = jnp.reshape(values[NOISE], (1, -1))
    return jnp.broadcast_to(jnp.exp(2.0 * log), (rows, log.shape[1]))


def _grouped(score, kernel, variance, y):
    """The objective summed over outputs, and its derivatives: one factor a group."""
    zero = jnp.zeros((), kernel.dtype)

    def one(column: Array, part: Array) -> tuple[Array, tuple[Array, Array]]:
        found = score(kernel + jnp.diag(column), part, zero)
        bar = found.kernel_bar
        return found.value, (bar, jnp.diagonal(bar))

    if variance.shape[1] == 1:
        value, (bar, own) = one(variance[:, 0], y)
        return value, (bar, own[:, None])

    def add(total, group):
        column, part = group
        value, (bar, own) = one(column, part[:, None])
        return (total[0] + value, total[1] + bar), own

    start = (zero, jnp.zeros_like(kernel))
    (value, bar), own = jax.lax.scan(add, start, (variance.T, y.T))
    return value, (bar, own.T)


class _Noisy(eqx.Module):
    """The covariance of the observations of a group of outputs."""

    gram: GramFunction
    known: Array | None
    rows: int = eqx.field(static=True)

    def __call__(self, values: LogValues, group: Array) -> Array:
        column = _variance(values, self.known, self.rows)[:, group]
        return self.gram(_without_noise(values)) + jnp.diag(column)


def _sandwich(choice: Choice, gram, known, y) -> Optimum:
    """The optimum of the leave-one-out density with errors that hold for it."""
    best = choice.optimum
    assert best is not None  # noqa: S101
    free = np.flatnonzero(~best.at_bound)
    se = np.full(len(best.position), np.nan)
    if len(free) and fits(y.shape[0], len(free)):
        rows = np.zeros((len(free), len(best.position)))
        rows[np.arange(len(free)), free] = 1.0
        each = [_unravel(row, choice.values) for row in rows]
        directions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        groups = _variance(choice.values, known, 1).shape[1]
        outputs = np.full(groups, y.shape[1] / groups)
        noisy = _Noisy(gram, known, y.shape[0])
        se[free] = standard_errors(noisy, choice.values, directions, outputs)
    return best._replace(se=se)


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
    if isinstance(tune, LeaveOneOut):
        raise TypeError(
            "GP: LeaveOneOut() needs a Gaussian likelihood, got "
            f"{type(likelihood).__name__}: use tune=MarginalLikelihood()"
        )
    shape = (y.shape[0], outputs)
    last = {"a": jnp.zeros(shape, jnp.float64)}

    def value_and_grad(values: LogValues) -> tuple[Array, LogValues]:
        value, gradient, a = _latent(likelihood, gram, values, y, last["a"], max_steps)
        if bool(jnp.all(jnp.isfinite(a))):
            last["a"] = a
        return -value, jax.tree.map(jnp.negative, gradient)

    return choose(tune, parameters, value_and_grad, key)


@eqx.filter_jit
def _latent(likelihood, gram, values, y, start, max_steps):
    kernel, pull = jax.vjp(gram, values)
    mode = latent.find_mode(likelihood, kernel, y, start, max_steps)
    (gradient,) = pull(latent.kernel_bar(likelihood, kernel, mode))
    return latent.log_evidence(mode), gradient, mode.a


def choose(
    tune: AbstractTune,
    parameters: dict[str, Parameter],
    value_and_grad: Callable[[LogValues], tuple[Array, LogValues]],
    key: Array,
) -> Choice:
    """Minimize a minus log density over hyper-parameters, as `tune` says."""
    initial = {name: jnp.asarray(p.initial) for name, p in parameters.items()}
    if isinstance(tune, Fixed):
        return Choice(initial, None)
    if not isinstance(tune, MarginalLikelihood | LeaveOneOut):
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
    units: Mapping[str, tuple[ArrayLike, str | None]],
) -> tuple[Hyperparameter, ...]:
    r"""The chosen values on their natural scale, $v = e^\theta$, se $= v\,se(\theta)$.

    Args:
        choice: what was chosen.
        features: names for hyper-parameters with one entry a feature.
        units: for some names a factor to another unit, of the shape of the value or
            one number, and the unit.
    """
    best, start = choice.optimum, 0
    found: list[Hyperparameter] = []
    for name in sorted(choice.values):
        logs = np.asarray(choice.values[name], np.float64)
        factor, unit = units.get(name, (1.0, None))
        factors = np.ravel(np.broadcast_to(np.asarray(factor), logs.shape))
        for i, log in enumerate(np.ravel(logs)):
            label = name
            if logs.ndim:
                known = features if features and len(features) == logs.size else None
                known = None if name == NOISE else known
                label = f"{name} [{known[i] if known else i}]"
            value = float(np.exp(log) * factors[i])
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

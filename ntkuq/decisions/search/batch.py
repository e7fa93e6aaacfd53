"""Choose a batch: fit the surrogates, then maximize the acquisition again and again."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.decisions.acquisition import Thompson
from ntkuq.decisions.search.fitted import FittedPosterior
from ntkuq.decisions.search.gp import PaddedGP, padded
from ntkuq.decisions.search.models import fit, padded_covariance
from ntkuq.decisions.search.propose import Problem, ascend, wander
from ntkuq.decisions.search.state import Asked, SearchState, asked
from ntkuq.decisions.search.surrogate import AbstractSurrogate


if TYPE_CHECKING:
    from ntkuq.decisions.search.bayesopt import BayesOpt


#: Why the acquisition of a posterior is climbed by random steps.
WHY = "predictions of a posterior change precision inside and are not traced"


def choose(search: BayesOpt, state: SearchState, n: int, key: Array) -> Asked:
    """The next n points of a search whose observations can be modeled."""
    covariance = padded_covariance(
        search.method, state.bnn, search.bounds, key=jax.random.key(0)
    )
    models = _models(search, state, covariance, n, jax.random.fold_in(key, 0))
    first = models[0].surrogate
    dtype = np.float64
    if isinstance(first, FittedPosterior):
        dtype = np.asarray(first.side).dtype
    double = isinstance(first, PaddedGP)
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        reason = None if double else WHY
        smooth = _smooth(search, state, first, dtype)
        points, guesses, values = _batch(
            search, state, [m.surrogate for m in models], smooth, n, dtype, reason, key
        )
    diagnostics: dict[str, Any] = {
        "chosen by": "gradients" if reason is None else "random steps",
        "no gradients because": reason,
        "acquisition": values,
        "rows": padded(len(state.y) + n) if double else None,
    }
    theta = np.stack([m.theta for m in models])
    if not search.noise.exact():
        state = dataclasses.replace(state, smooth=state.sign * smooth)
    state = dataclasses.replace(state, theta=theta)
    return asked(state, points, guesses, diagnostics)


def _models(search, state, covariance, n, key):
    """The surrogate of the objective, then those of the constraints."""
    columns = np.column_stack([state.sign * state.y, state.constraints])
    # what failed counts as the worst seen, so that the search moves away
    worst = np.nanmin(columns, axis=0)
    columns = np.where(np.isnan(columns), worst, columns)
    tuned = state.theta.size > 0 and state.rounds % search.refit != 0
    return [
        fit(
            search.method,
            covariance,
            state.bnn,
            search.bounds,
            state.x,
            column if number else state.sign * column,
            sign=1.0 if number else state.sign,
            exact=search.noise.exact(),
            rows=len(state.y) + n,
            theta=state.theta[number] if state.theta.size else None,
            tuned=tuned,
            key=jax.random.fold_in(key, number),
        )
        for number, column in enumerate(columns.T)
    ]


def _smooth(search: BayesOpt, state: SearchState, model: AbstractSurrogate, dtype: Any):
    """Values of the points told, to be maximized; where noisy, posterior means."""
    if search.noise.exact():
        return state.sign * state.y
    size = padded(len(state.y))
    u = np.full((size, search.bounds.size), 0.5)
    u[: len(state.y)] = search.bounds.unit(state.x)
    mean = model.moments(jnp.asarray(u.astype(dtype))).mean
    return np.asarray(mean, np.float64)[: len(state.y)]


def _batch(search, state, models, smooth, n, dtype, reason, key):
    objective, *rest = models
    rows = np.flatnonzero(state.feasible)
    best = smooth[rows].max() if rows.size else -np.inf
    units = search.bounds.unit(state.x)
    size = padded(len(state.y) + n)
    taken = np.full((size, search.bounds.size), -1.0)
    # a noisy objective may be asked again where it was
    fresh = search.noise.exact() or np.isfinite(search.bounds.count)
    told = len(state.y) if fresh else 0
    taken[:told] = units[:told]
    believes = isinstance(objective, PaddedGP) or isinstance(
        search.acquisition, Thompson
    )
    pending = np.zeros((0 if believes or n == 1 else n, search.bounds.size))
    grid = np.where(np.asarray(search.bounds.integer), search.bounds.side, 0.0)
    slope = _slope(units, smooth)
    order = np.argsort(-np.nan_to_num(smooth, nan=-np.inf))[:3]
    points, guesses, values = [], [], []
    for number in range(n):
        one = jax.random.fold_in(key, number + 1)
        raw = _raw(search, units[order], one)
        problem = Problem(
            objective=objective,
            constraints=tuple(rest),
            acquisition=search.acquisition,
            best=jnp.asarray(np.asarray(best, dtype)),
            taken=jnp.asarray(taken.astype(dtype)),
            known=jnp.arange(size) < told + number,
            grid=jnp.asarray(grid.astype(dtype)),
            pending=jnp.asarray(pending.astype(dtype)),
            count=jnp.asarray(number if len(pending) else 0),
            slope=jnp.asarray(np.asarray(slope, dtype)),
        )
        climb = ascend if reason is None else wander
        found = climb(problem, jnp.asarray(raw.astype(dtype)), search.optimizer, one)
        x = search.bounds.scaled(np.asarray(found.u)[None])
        u = search.bounds.unit(x)[0]
        points.append(x[0])
        values.append(float(found.value))
        spread = np.hypot(
            float(found.moments.std), float(np.asarray(objective.noise()))
        )
        guesses.append([state.sign * float(found.moments.mean), spread])
        taken[told + number] = u
        if len(pending):
            pending[number] = u
        if number + 1 < n and isinstance(objective, PaddedGP):
            at = jnp.asarray(u)
            objective = objective.believe(at)
            rest = [model.believe(at) for model in rest]
    return np.stack(points), np.asarray(guesses), values


def _raw(search: BayesOpt, top: np.ndarray, key: Array) -> np.ndarray:
    """Sobol points, and normal steps of several sizes from the best points."""
    drawn, near = jax.random.split(key)
    spread = search.bounds.spread(search.optimizer.candidates, key=drawn)
    count, size = search.optimizer.near, search.bounds.size
    seed = int(jax.random.randint(near, (), 0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    width = 10.0 ** rng.uniform(-3.0, -0.7, (count, 1))
    centers = top[rng.integers(len(top), size=count)]
    steps = centers + width * rng.standard_normal((count, size))
    return np.concatenate([spread, np.clip(steps, 0.0, 1.0)])


def _slope(u: np.ndarray, y: np.ndarray) -> float:
    """The steepest secant of the values, per length in the unit cube."""
    ok = np.isfinite(y)
    u, y = u[ok], y[ok]
    distance = np.sqrt(np.sum((u[:, None] - u) ** 2, axis=-1))
    rise = np.abs(y[:, None] - y)
    far = distance > 1e-6
    return float(np.max(rise[far] / distance[far])) if far.any() else 1.0

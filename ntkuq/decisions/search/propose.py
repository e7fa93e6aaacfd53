"""Where an acquisition is largest in the unit cube: many starts, then gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from ntkuq.decisions.acquisition import AbstractAcquisition, Thompson
from ntkuq.decisions.search.ascend import minimize
from ntkuq.decisions.search.surrogate import AbstractSurrogate, Moments
from ntkuq.posteriors.predictive import Predictive


#: Positions closer than this, relative to the sides of the box, are one.
SAME = 1e-7
#: A value below every acquisition, for positions that are taken.
TAKEN = -1e30
#: Rounds, size and number of the random steps where gradients cannot flow.
ROUNDS, SHRINK, STEPS = 4, 0.3, 32


class Optimizer(eqx.Module):
    """How the acquisition is maximized.

    Args:
        candidates: Sobol points that are scored first.
        near: further candidates around the best points so far.
        restarts: of all of these, how many are refined by L-BFGS.
        steps: most steps of each.

    Raises:
        ValueError: for a number that is not positive.

    >>> Optimizer().restarts
    8
    """

    candidates: int = 512
    near: int = 64
    restarts: int = 8
    steps: int = 40

    def __check_init__(self):
        counts = self.candidates, self.near, self.restarts, self.steps
        if min(counts) < 1 or self.restarts > self.candidates:
            raise ValueError(
                "Optimizer: expected counts of at least 1 and restarts <= candidates, "
                f"got {self}"
            )


class Problem(eqx.Module):
    """What the next point is chosen by.

    taken: positions that are not to be proposed again, (B, D), where `known`.
    pending: positions of this batch, (Q, D), with their count; around them the
        acquisition is penalized, with this slope of the objective.
    grid: (D,), steps of whole variables from end to end, 0 for others.
    """

    objective: AbstractSurrogate
    constraints: tuple[AbstractSurrogate, ...]
    acquisition: AbstractAcquisition
    best: Float[Array, ""]
    taken: Float[Array, "B D"]
    known: Bool[Array, " B"]
    grid: Float[Array, " D"]
    pending: Float[Array, "Q D"]
    count: Array
    slope: Float[Array, ""]


class Proposal(NamedTuple):
    """A position, its acquisition, and the surrogate's prediction there."""

    u: Float[Array, " D"]
    value: Float[Array, ""]
    moments: Moments


def snap(problem: Problem, u: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Positions with whole variables on their grid."""
    whole = problem.grid > 0
    grid = jnp.where(whole, problem.grid, 1.0)
    return jnp.where(whole, jnp.round(u * grid) / grid, u)


def score(problem: Problem, u: Float[Array, "N D"], key: Array) -> Float[Array, " N"]:
    """The acquisition: feasibility-weighted, and penalized around pending points."""
    mean, std = problem.objective.moments(u)
    if isinstance(problem.acquisition, Thompson):
        value = problem.objective.draw(u, key)
        for n, one in enumerate(problem.constraints):
            drawn = one.draw(u, jax.random.fold_in(key, n + 1))
            # where no draw is feasible the least violation is taken
            value = jnp.where(drawn >= 0, value, 1e-3 * TAKEN + drawn)
        return value
    normal = dist.Normal(mean, std)
    predictive = Predictive(latent=normal, observed=normal)
    any_best = jnp.isfinite(problem.best)
    best = jnp.where(any_best, problem.best, 0.0)
    value = problem.acquisition(predictive, best=best, key=key)
    if problem.constraints:
        # nothing feasible yet: only feasibility counts
        value = jnp.where(any_best, value, 0.0)
        for one in problem.constraints:
            value = value + feasibility(one.moments(u))
    if problem.pending.shape[0]:
        value = value + _penalty(problem, u)
    return value


def feasibility(moments: Moments) -> Float[Array, " N"]:
    r"""$\log P(c \ge 0) = \log\Phi(m/s)$."""
    return jax.scipy.special.log_ndtr(moments.mean / moments.std)


def _penalty(problem: Problem, u: Array) -> Array:
    r"""$\sum_j \log\Phi((L\|u - u_j\| - (b - m_j)) / s_j)$, Gonzalez et al. 2016."""
    mean, std = problem.objective.moments(problem.pending)
    square = jnp.sum((u[:, None] - problem.pending) ** 2, axis=-1)
    distance = jnp.sqrt(square + 1e-12)
    gap = jnp.maximum(problem.best - mean, 0.0)
    each = jax.scipy.special.log_ndtr((problem.slope * distance - gap) / std)
    live = jnp.arange(problem.pending.shape[0]) < problem.count
    return jnp.sum(jnp.where(live, each, 0.0), axis=1)


@eqx.filter_jit
def ascend(
    problem: Problem, raw: Float[Array, "M D"], optimizer: Optimizer, key: Array
) -> Proposal:
    """The best position that gradients find; one program for all rounds."""
    values = score(problem, snap(problem, raw), key)
    if not isinstance(problem.acquisition, Thompson):
        _, top = jax.lax.top_k(values, optimizer.restarts)
        # x = sin^2 t keeps a search without bounds inside the cube
        starts = jnp.arcsin(jnp.sqrt(jnp.clip(raw[top], 1e-4, 1 - 1e-4)))

        def loss(t: Array) -> Array:
            return -score(problem, jnp.sin(t)[None] ** 2, key)[0]

        found = minimize(loss, starts, steps=optimizer.steps)
        raw = jnp.concatenate([jnp.sin(found.position) ** 2, raw])
    return _chosen(problem, raw, key)


def wander(problem: Problem, raw: Array, optimizer: Optimizer, key: Array) -> Proposal:
    """The same by random steps of shrinking size, for what cannot be traced."""
    best, draws = raw, jax.random.split(key, ROUNDS)
    rounds = 0 if isinstance(problem.acquisition, Thompson) else ROUNDS
    for n in range(rounds):
        u = snap(problem, best)
        _, top = jax.lax.top_k(score(problem, u, key), optimizer.restarts)
        step = jax.random.normal(
            draws[n], (STEPS, optimizer.restarts, u.shape[1]), u.dtype
        )
        near = jnp.clip(u[top] + 0.3 * SHRINK**n * step, 0.0, 1.0)
        best = jnp.concatenate([u[top], near.reshape(-1, u.shape[1])])
    return _chosen(problem, best, key)


def _chosen(problem: Problem, raw: Array, key: Array) -> Proposal:
    u = snap(problem, raw)
    values: Any = score(problem, u, key)
    apart = jnp.max(jnp.abs(u[:, None] - problem.taken), axis=-1)
    nearest = jnp.min(jnp.where(problem.known, apart, jnp.inf), axis=1)
    values = jnp.where(jnp.isnan(values) | (nearest < SAME), TAKEN, values)
    at = jnp.argmax(values)
    mean, std = problem.objective.moments(u[at][None])
    return Proposal(u[at], values[at], Moments(mean[0], std[0]))

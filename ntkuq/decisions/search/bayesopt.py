"""Bayesian optimization by `ask` and `tell`, with any method as the surrogate."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ntkuq.data import Dataset
from ntkuq.decisions.acquisition import (
    AbstractAcquisition,
    LogEI,
    Thompson,
)
from ntkuq.decisions.search.box import Box
from ntkuq.decisions.search.fitted import FittedPosterior
from ntkuq.decisions.search.gp import PaddedGP, padded
from ntkuq.decisions.search.models import fit, padded_covariance
from ntkuq.decisions.search.objective import (
    AbstractDirection,
    AbstractNoise,
    Exact,
    Maximize,
)
from ntkuq.decisions.search.propose import Optimizer, Problem, ascend, wander
from ntkuq.decisions.search.state import SearchState
from ntkuq.decisions.search.surrogate import AbstractSurrogate
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractMethod


#: Why the acquisition of a posterior is climbed by random steps.
WHY = "predictions of a posterior change precision inside and are not traced"


class Asked(NamedTuple):
    """Points to evaluate next, (n, D), and the state that remembers them."""

    x: Float[np.ndarray, "n D"]
    state: SearchState


@dataclasses.dataclass(frozen=True)
class BayesOpt:
    r"""Search a box for the best value of an objective that is expensive to evaluate.

    Each round fits the method to all observations and asks for
    $\arg\max_x a(x)$, the acquisition's best point. A failed evaluation counts as the
    worst value so far. `GP`, and `NNGP` and `NTKGP` with `Analytic()`, run in float64
    in programs that are compiled once for each power of two of observations, with
    log-normal priors on the hyper-parameters and the noise that `noise` says; other
    methods are fitted by their own `fit`, with the noise of their likelihood, which
    compiles anew as rows are added, and their acquisition is climbed by random steps
    instead of gradients (`state.diagnostics`).

    Args:
        method: any method for regression.
        acquisition: `LogEI()`, `ExpectedImprovement()`, `UCB(...)` or `Thompson()`
            (one draw of the function at all candidates together).
        bounds: the box.
        direction: `Maximize()`, or `Minimize()` for objectives that are costs.
        noise: `Exact()` or `Noisy()`.
        constraints: how many outcomes must be >= 0, each with a surrogate of its own;
            with `LogEI()`, weighted by the probability of feasibility, or `Thompson()`.
        initial: Sobol points before the first fit; `None` for 2 D, at least 2.
        refit: rounds from one fit of hyper-parameters to the next (padded GPs).
        optimizer: how the acquisition is maximized.

    Raises:
        ValueError: for numbers that are too small.
        TypeError: for constraints with another acquisition.

    References:
        Jones, Schonlau and Welch 1998; Ament et al. 2023 (arXiv 2310.20708); Gardner
        et al., *Bayesian optimization with inequality constraints*, ICML 2014;
        Ginsbourger et al. 2010 (kriging believer); Gonzalez et al. 2016 (arXiv
        1505.08052).

    >>> import ntkuq as nq
    >>> bnn = nq.BNN(nq.Network(nq.models.mlp(1, 1, width=8)), nq.Gaussian())
    >>> search = BayesOpt(nq.GP(), LogEI(), Box([0.0], [1.0]))
    >>> state = search.init(bnn, key=jax.random.key(0))
    >>> for _ in range(6):
    ...     x, state = search.ask(state)
    ...     state = search.tell(state, x, -((x[:, 0] - 0.3) ** 2))
    >>> abs(state.best.x.item() - 0.3) < 0.01
    True
    """

    method: AbstractMethod
    acquisition: AbstractAcquisition
    bounds: Box
    _: dataclasses.KW_ONLY
    direction: AbstractDirection = dataclasses.field(default_factory=Maximize)
    noise: AbstractNoise = dataclasses.field(default_factory=Exact)
    constraints: int = 0
    initial: int | None = None
    refit: int = 1
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

    def __post_init__(self):
        if self.constraints < 0 or self.refit < 1 or (self.initial or 2) < 2:
            raise ValueError(
                "BayesOpt: expected constraints >= 0, refit >= 1 and initial >= 2, got "
                f"{self.constraints}, {self.refit} and {self.initial}"
            )
        weighted = isinstance(self.acquisition, LogEI | Thompson)
        if self.constraints and not weighted:
            raise TypeError(
                "BayesOpt: expected LogEI() or Thompson() with constraints, got "
                f"{type(self.acquisition).__name__}"
            )

    def init(self, bnn: BNN, data: Dataset | None = None, *, key: Array) -> SearchState:
        """A search that knows these observations, or none yet.

        Args:
            bnn: the problem for the method: network, Gaussian likelihood, prior and
                scaling of points (N, D) in the units of the box.
            data: observations made before, points in the box; without constraints.
            key: random key of everything in the search.
        """
        size, none = self.bounds.size, np.zeros(0)
        state = SearchState(
            bnn=bnn,
            key=key,
            sign=self.direction.sign(),
            x=np.zeros((0, size)),
            y=none,
            constraints=np.zeros((0, self.constraints)),
            mean=none,
            std=none,
            smooth=none,
            round=np.zeros(0, np.int64),
            theta=np.zeros((0, 0)),
            pending=np.zeros((0, size + 2)),
            diagnostics={},
        )
        return state if data is None else self.tell(state, data.x, data.y)

    def ask(self, state: SearchState, n: int = 1, *, key: Array | None = None) -> Asked:
        """The n points to evaluate next.

        The points of a batch are chosen one after another: a GP believes its mean at
        those before (kriging believer); other methods penalize their neighborhood
        (local penalization); Thompson takes a draw of its own for each.

        Args:
            state: of `init` or `tell`.
            n: how many.
            key: random key; the state's own by default, so that asking again gives the
                same points.

        Raises:
            ValueError: for n < 1.
        """
        if n < 1:
            raise ValueError(f"ask: expected n >= 1, got {n}")
        if key is None:
            key = jax.random.fold_in(state.key, 2 * len(state.y) + 1)
        initial = self.initial or max(2, 2 * self.bounds.size)
        short = initial - len(state.y)
        values = np.unique(state.y[np.isfinite(state.y)])
        if short > 0 or values.size < 2:
            design = self.bounds.spread(
                len(state.y) + n, key=jax.random.fold_in(state.key, 0)
            )
            x = self.bounds.scaled(design[len(state.y) :])
            return _asked(state, x, np.full((n, 2), np.nan), {"chosen by": "Sobol"})
        return self._ask(state, n, key)

    def tell(
        self,
        state: SearchState,
        x: ArrayLike | Sequence,
        y: ArrayLike | Sequence,
        constraints: ArrayLike | Sequence | None = None,
    ) -> SearchState:
        """The state that knows these observations too.

        Args:
            state: of `init`, `ask` or `tell`.
            x: (n, D) points of the box, whether asked for or not.
            y: (n,) values of the objective; NaN where it failed.
            constraints: (n, C) outcomes; NaN where the evaluation failed.

        Raises:
            ValueError: for shapes that do not fit, points outside of the box, or
                infinite values.
        """
        x = self.bounds.check(x)
        y = np.asarray(y, np.float64)
        if y.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(f"y: expected values of shape ({len(x)},), got {y.shape}")
        y = y.reshape(-1)
        shape = (len(x), self.constraints)
        if constraints is None:
            constraints = np.zeros((len(x), 0))
        outcomes = np.asarray(constraints, np.float64)
        if outcomes.shape != shape:
            raise ValueError(
                f"constraints: expected outcomes of shape {shape}, got "
                f"{outcomes.shape}: give one column for each constraint"
            )
        if np.isinf(y).any() or np.isinf(outcomes).any():
            raise ValueError(
                "tell: expected finite values, or NaN for a failed evaluation, got an "
                "infinite one"
            )
        pending, guess = state.pending, np.full((len(x), 2), np.nan)
        size = self.bounds.size
        for row, point in enumerate(x):
            same = np.all(np.abs(pending[:, :size] - point) <= 1e-9, axis=1)
            if same.any():
                at = int(np.argmax(same))
                guess[row] = pending[at, size:]
                pending = np.delete(pending, at, axis=0)
        more = {
            "x": x,
            "y": y,
            "constraints": outcomes,
            "mean": guess[:, 0],
            "std": guess[:, 1],
            "smooth": np.full(len(x), np.nan),
            "round": np.full(len(x), state.rounds),
        }
        joined = {k: np.concatenate([getattr(state, k), v]) for k, v in more.items()}
        return dataclasses.replace(state, **joined, pending=pending)

    def _ask(self, state: SearchState, n: int, key: Array) -> Asked:
        covariance = padded_covariance(
            self.method, state.bnn, self.bounds, key=jax.random.key(0)
        )
        models = self._models(state, covariance, n, jax.random.fold_in(key, 0))
        first = models[0].surrogate
        dtype = np.float64
        if isinstance(first, FittedPosterior):
            dtype = np.asarray(first.side).dtype
        double = isinstance(first, PaddedGP)
        with jax.enable_x64(True) if double else contextlib.nullcontext():
            reason = None if double else WHY
            smooth = self._smooth(state, first, dtype)
            points, guesses, values = self._batch(
                state, [m.surrogate for m in models], smooth, n, dtype, reason, key
            )
        diagnostics: dict[str, Any] = {
            "chosen by": "gradients" if reason is None else "random steps",
            "no gradients because": reason,
            "acquisition": values,
            "rows": padded(len(state.y) + n) if double else None,
        }
        theta = np.stack([m.theta for m in models])
        if not self.noise.exact():
            state = dataclasses.replace(state, smooth=state.sign * smooth)
        state = dataclasses.replace(state, theta=theta)
        return _asked(state, points, guesses, diagnostics)

    def _models(self, state, covariance, n, key):
        """The surrogate of the objective, then those of the constraints."""
        columns = np.column_stack([state.sign * state.y, state.constraints])
        # what failed counts as the worst seen, so that the search moves away
        worst = np.nanmin(columns, axis=0)
        columns = np.where(np.isnan(columns), worst, columns)
        tuned = state.theta.size > 0 and state.rounds % self.refit != 0
        return [
            fit(
                self.method,
                covariance,
                state.bnn,
                self.bounds,
                state.x,
                column if number else state.sign * column,
                sign=1.0 if number else state.sign,
                exact=self.noise.exact(),
                rows=len(state.y) + n,
                theta=state.theta[number] if state.theta.size else None,
                tuned=tuned,
                key=jax.random.fold_in(key, number),
            )
            for number, column in enumerate(columns.T)
        ]

    def _smooth(self, state: SearchState, model: AbstractSurrogate, dtype: Any):
        """Values of the points told, to be maximized; where noisy, posterior means."""
        if self.noise.exact():
            return state.sign * state.y
        size = padded(len(state.y))
        u = np.full((size, self.bounds.size), 0.5)
        u[: len(state.y)] = self.bounds.unit(state.x)
        mean = model.moments(jnp.asarray(u.astype(dtype))).mean
        return np.asarray(mean, np.float64)[: len(state.y)]

    def _batch(self, state, models, smooth, n, dtype, reason, key):
        objective, *rest = models
        rows = np.flatnonzero(state.feasible)
        best = smooth[rows].max() if rows.size else -np.inf
        units = self.bounds.unit(state.x)
        size = padded(len(state.y) + n)
        taken = np.full((size, self.bounds.size), -1.0)
        # a noisy objective may be asked again where it was
        told = len(state.y) if self.noise.exact() or self._whole() else 0
        taken[:told] = units[:told]
        believes = isinstance(objective, PaddedGP) or isinstance(
            self.acquisition, Thompson
        )
        pending = np.zeros((0 if believes or n == 1 else n, self.bounds.size))
        grid = np.where(np.asarray(self.bounds.integer), self.bounds.side, 0.0)
        slope = _slope(units, smooth)
        order = np.argsort(-np.nan_to_num(smooth, nan=-np.inf))[:3]
        points, guesses, values = [], [], []
        for number in range(n):
            one = jax.random.fold_in(key, number + 1)
            raw = self._raw(units[order], one)
            problem = Problem(
                objective=objective,
                constraints=tuple(rest),
                acquisition=self.acquisition,
                best=jnp.asarray(np.asarray(best, dtype)),
                taken=jnp.asarray(taken.astype(dtype)),
                known=jnp.arange(size) < told + number,
                grid=jnp.asarray(grid.astype(dtype)),
                pending=jnp.asarray(pending.astype(dtype)),
                count=jnp.asarray(number if len(pending) else 0),
                slope=jnp.asarray(np.asarray(slope, dtype)),
            )
            search = ascend if reason is None else wander
            found = search(problem, jnp.asarray(raw.astype(dtype)), self.optimizer, one)
            x = self.bounds.scaled(np.asarray(found.u)[None])
            u = self.bounds.unit(x)[0]
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

    def _raw(self, top: np.ndarray, key: Array) -> np.ndarray:
        """Sobol points, and normal steps of several sizes from the best points."""
        drawn, near = jax.random.split(key)
        spread = self.bounds.spread(self.optimizer.candidates, key=drawn)
        count, size = self.optimizer.near, self.bounds.size
        seed = int(jax.random.randint(near, (), 0, 2**31 - 1))
        rng = np.random.default_rng(seed)
        width = 10.0 ** rng.uniform(-3.0, -0.7, (count, 1))
        centers = top[rng.integers(len(top), size=count)]
        steps = centers + width * rng.standard_normal((count, size))
        return np.concatenate([spread, np.clip(steps, 0.0, 1.0)])

    def _whole(self) -> bool:
        return bool(np.all(np.asarray(self.bounds.integer)))


def _asked(state, x, guesses, diagnostics) -> Asked:
    pending = np.concatenate([state.pending, np.column_stack([x, guesses])])
    return Asked(
        x, dataclasses.replace(state, pending=pending, diagnostics=diagnostics)
    )


def _slope(u: np.ndarray, y: np.ndarray) -> float:
    """The steepest secant of the values, per length in the unit cube."""
    ok = np.isfinite(y)
    u, y = u[ok], y[ok]
    distance = np.sqrt(np.sum((u[:, None] - u) ** 2, axis=-1))
    rise = np.abs(y[:, None] - y)
    far = distance > 1e-6
    return float(np.max(rise[far] / distance[far])) if far.any() else 1.0

"""Bayesian optimization by `ask` and `tell`, with any method as the surrogate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, ArrayLike

from ntkuq.data import Dataset
from ntkuq.decisions.acquisition import (
    AbstractAcquisition,
    LogEI,
    Thompson,
)
from ntkuq.decisions.search.batch import choose
from ntkuq.decisions.search.box import Box
from ntkuq.decisions.search.objective import (
    AbstractDirection,
    AbstractNoise,
    Exact,
    Maximize,
)
from ntkuq.decisions.search.propose import Optimizer
from ntkuq.decisions.search.state import Asked, SearchState, asked
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractMethod


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
    >>> for _ in range(2):
    ...     x, state = search.ask(state)
    ...     state = search.tell(state, x, -((x[:, 0] - 0.3) ** 2))
    >>> state.best.y == max(state.y.tolist())
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
            ValueError: for n < 1, or more than a box of whole variables has left.
        """
        left = self.bounds.count - len(np.unique(state.x, axis=0))
        if not 1 <= n <= left:
            raise ValueError(
                f"ask: expected n >= 1, at most the {left:g} points of the box that "
                f"are not told, got {n}"
            )
        if key is None:
            key = jax.random.fold_in(state.key, 2 * len(state.y) + 1)
        initial = self.initial or max(2, 2 * self.bounds.size)
        short = initial - len(state.y)
        ok = np.isfinite(state.y) & np.isfinite(state.constraints).all(axis=1)
        values = np.unique(state.y[ok])
        if short > 0 or values.size < 2:
            design = self.bounds.spread(
                len(state.y) + n, key=jax.random.fold_in(state.key, 0)
            )
            x = self.bounds.scaled(design[len(state.y) :])
            return asked(state, x, np.full((n, 2), np.nan), {"chosen by": "Sobol"})
        return choose(self, state, n, key)

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

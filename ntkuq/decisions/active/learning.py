"""Active learning by `ask` and `tell`, with any method and any query."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from ntkuq.calibration import score
from ntkuq.data import Checkpoint, Dataset
from ntkuq.decisions.active.base import AbstractQuery
from ntkuq.decisions.active.result import ActiveResult
from ntkuq.decisions.active.state import ActiveState, AskedRows, take
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior


@dataclasses.dataclass(frozen=True)
class ActiveLearning:
    """Fit, ask for the labels that the query wants, and again.

    Args:
        method: any method; fitted anew to all labels each round.
        query: which points to label.
        batch: labels a round.
        most: points of the pool that the query sees, drawn anew each round, since
            joint covariances grow with their square; `None` for all.

    Raises:
        ValueError: for a batch below 1, or `most` below it.

    >>> import ntkuq as nq
    >>> from ntkuq.decisions.active.information import VarianceReduction
    >>> x = np.linspace(-1, 1, 21)[:, None]
    >>> bnn = nq.BNN(nq.Network(nq.models.mlp(1, 1, width=8)), nq.Gaussian())
    >>> learning = ActiveLearning(nq.GP(), VarianceReduction(), batch=2)
    >>> state = learning.init(
    ...     bnn, x, [0, 10, 20], x[[0, 10, 20], 0], key=jax.random.key(0)
    ... )
    >>> rows, state = learning.ask(state)
    >>> state = learning.tell(state, rows, x[rows, 0])
    >>> len(state.y)
    5
    """

    method: AbstractMethod
    query: AbstractQuery
    batch: int = 1
    most: int | None = 500

    def __post_init__(self):
        if self.batch < 1 or (self.most is not None and self.most < self.batch):
            raise ValueError(
                "ActiveLearning: expected batch >= 1 and most >= batch, got "
                f"{self.batch} and {self.most}"
            )

    def init(
        self,
        bnn: BNN,
        pool_x: PyTree,
        rows: ArrayLike | Sequence,
        y: ArrayLike | Sequence,
        *,
        key: Array,
    ) -> ActiveState:
        """The state that knows the first labels.

        Args:
            bnn: the problem.
            pool_x: inputs of the pool, leading axis N.
            rows: (n,) rows with labels.
            y: (n,) their labels.
            key: random key of it all.
        """
        y = np.asarray(y)
        none, first = np.zeros(0), np.zeros(0, np.int64)
        state = ActiveState(
            bnn=bnn,
            key=key,
            pool_x=pool_x,
            rows=first,
            y=y[:0],
            round=first,
            center=none,
            spread=none,
            pending=np.zeros((0, 0)),
            labels=first,
            scores=np.zeros((0, 0)),
        )
        return self.tell(state, rows, y)

    def posterior(self, state: ActiveState) -> AbstractPosterior:
        """The method fitted to the labels."""
        key = jax.random.fold_in(state.key, 2 * len(state.y))
        return self.method.fit(state.bnn, state.data, key=key)

    def ask(self, state: ActiveState, *, key: Array | None = None) -> AskedRows:
        """The rows to label next.

        Raises:
            ValueError: when the pool has fewer unlabeled points than a batch.
        """
        return self._ask(state, self.posterior(state), key)

    def tell(
        self, state: ActiveState, rows: ArrayLike | Sequence, y: ArrayLike | Sequence
    ) -> ActiveState:
        """The state that knows these labels too.

        Args:
            state: of `init`, `ask` or `tell`.
            rows: (n,) rows of the pool, whether asked for or not.
            y: (n,) their labels.

        Raises:
            ValueError: for rows outside of the pool or labeled before, or labels that
                do not fit or are not finite.
        """
        rows, y = np.asarray(rows, np.int64).reshape(-1), np.asarray(y)
        total = jax.tree.leaves(state.pool_x)[0].shape[0]
        if y.shape != rows.shape:
            raise ValueError(f"y: expected labels of shape {rows.shape}, got {y.shape}")
        if rows.size and not (rows.min() >= 0 and rows.max() < total):
            raise ValueError(f"rows: expected rows from 0 to {total - 1}, got {rows}")
        both = np.concatenate([state.rows, rows])
        if np.unique(both).size < both.size:
            raise ValueError(
                "rows: expected rows without a label, each once, got "
                f"{rows[np.isin(rows, state.rows)].tolist()} again"
            )
        if not np.isfinite(y).all():
            raise ValueError("y: expected finite labels, got NaN or infinity")
        center, spread = self._matched(state, rows, y)
        number = int(state.round.max()) + 1 if state.round.size else 0
        left = ~np.isin(state.pending[:, :1], rows).reshape(-1)
        return dataclasses.replace(
            state,
            rows=both,
            y=np.concatenate([state.y, y]),
            round=np.concatenate([state.round, np.full(len(rows), number)]),
            center=np.concatenate([state.center, center]),
            spread=np.concatenate([state.spread, spread]),
            pending=state.pending[left],
        )

    def run(
        self,
        state: ActiveState,
        oracle: Callable[[np.ndarray], ArrayLike | Sequence],
        test: Dataset,
        *,
        rounds: int,
        checkpoint: Checkpoint | None = None,
    ) -> ActiveResult:
        """Rounds of asking, with the scores on a test set after each fit.

        Args:
            state: where to begin.
            oracle: the labels of rows of the pool.
            test: what is scored.
            rounds: how often labels are asked for.
            checkpoint: kept after each round; a state found there is gone on from.
        """
        kept = None if checkpoint is None else checkpoint.read()
        names: tuple[str, ...] = ()
        if kept is not None:
            names = tuple(kept.pop("names").tolist())
            state = state.with_arrays(kept)
        while len(state.labels) <= rounds:
            posterior = self.posterior(state)
            found = score(posterior.predict(test.x), test.y).values
            names = tuple(found)
            line = np.array([[value.value for value in found.values()]], np.float64)
            scores = np.concatenate([state.scores.reshape(-1, len(names)), line])
            labels = np.append(state.labels, len(state.y))
            state = dataclasses.replace(state, scores=scores, labels=labels)
            if len(labels) <= rounds:
                rows, state = self._ask(state, posterior, None)
                state = self.tell(state, rows, oracle(rows))
            if checkpoint is not None:
                checkpoint.write({**state.arrays(), "names": np.array(names, str)})
        return ActiveResult(
            state=state,
            labels=state.labels,
            scores={name: state.scores[:, at] for at, name in enumerate(names)},
        )

    def _ask(
        self, state: ActiveState, posterior: AbstractPosterior, key: Array | None
    ) -> AskedRows:
        if key is None:
            key = jax.random.fold_in(state.key, 2 * len(state.y) + 1)
        free = state.unlabeled
        if len(free) < self.batch:
            raise ValueError(
                f"ask: expected at least {self.batch} points without a label in the "
                f"pool, got {len(free)}: stop, or give a larger pool"
            )
        drawn, key = jax.random.split(key)
        if self.most is not None and len(free) > self.most:
            order = np.asarray(jax.random.permutation(drawn, len(free)))
            free = np.sort(free[order[: self.most]])
        found = self.query(
            posterior,
            take(state.pool_x, free),
            self.batch,
            labeled_x=take(state.pool_x, state.rows),
            key=key,
        )
        rows = free[found.indices]
        p = posterior.predict(take(state.pool_x, rows))
        guess: Any = np.asarray(p.mean, np.float64)
        if not p.is_classification:
            std = np.sqrt(np.asarray(p.observed.variance, np.float64))
            guess = np.column_stack([guess, std])
        pending = np.column_stack([rows, guess])
        return AskedRows(rows, dataclasses.replace(state, pending=pending))

    def _matched(self, state, rows, y):
        """What was predicted of these labels."""
        found = np.full((len(rows), 2), np.nan)
        for number, row in enumerate(rows):
            at = np.flatnonzero(state.pending[:, :1].reshape(-1) == row)
            if at.size:
                guess = state.pending[at[0], 1:]
                found[number] = guess[:2]
                if np.issubdtype(y.dtype, np.integer):
                    right = float(np.argmax(guess) == y[number])
                    found[number] = right, guess.max()
        return found.T

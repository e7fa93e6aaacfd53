"""Early stopping: a validation score decides which parameters are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.data import Dataset
from ntkuq.models.network import forward
from ntkuq.models.train.problem import Examples, Problem


class EarlyStopping(eqx.Module):
    """Keep the parameters with the best validation score; stop where it stays.

    Args:
        fraction: share of the training examples that is held out for the score, chosen
            by the key of the training.
        patience: so many evaluations in a row without a better score end the training.
        every: updates between evaluations; `None` for one pass over the examples, or
            with full batches for 1 % of the steps.
        score: outputs (N, C) and targets -> (N,), lower is better; `None` for minus the
            log-likelihood. Both in the network's (scaled) units.
        data: validation data to use instead of a part of the training examples.

    References: Prechelt 1998, *Early stopping, but when?*

    >>> EarlyStopping(patience=5).fraction
    0.1
    """

    fraction: float = 0.1
    patience: int = 10
    every: int | None = None
    score: Callable[[Array, PyTree], Array] | None = None
    data: Dataset | None = None

    def __check_init__(self):
        if not 0 < self.fraction < 1:
            raise ValueError(
                "EarlyStopping: expected 0 < fraction < 1, a share of the training "
                f"examples, got {self.fraction}"
            )
        if self.patience < 1 or (self.every is not None and self.every < 1):
            raise ValueError(
                "EarlyStopping: expected patience >= 1 and every >= 1, got "
                f"patience={self.patience}, every={self.every}"
            )

    def interval(self, steps: int, batch: int | None, size: int) -> int:
        """Updates between evaluations."""
        if self.every is not None:
            return min(self.every, steps)
        if batch is None:
            return max(steps // 100, 1)
        return min(max(size // batch, 1), steps)

    def most(self, size: int) -> int:
        """The largest number of held-out examples among `size`."""
        return round(self.fraction * size)

    def hold_out(self, counts: np.ndarray, *, key: Array) -> np.ndarray:
        """How often each example counts in the validation score.

        Raises:
            ValueError: where there are too few examples for two parts.
        """
        rows = np.flatnonzero(counts)
        held = self.most(len(rows))
        if not 0 < held < len(rows):
            raise ValueError(
                "EarlyStopping: expected enough examples to hold out "
                f"{self.fraction:g} of them, got {len(rows)}: "
                "change fraction=, or give validation data=…"
            )
        rng = np.random.default_rng(np.ravel(jax.random.key_data(key)).tolist())
        found = np.zeros_like(counts)
        chosen = rng.permutation(rows)[:held]
        found[chosen] = counts[chosen]
        return found


class Best(NamedTuple):
    """The best parameters so far.

    score: their validation score. step: updates until then. since: evaluations since
    then.
    """

    parameters: PyTree
    score: Float[Array, ""]
    step: Int[Array, ""]
    since: Int[Array, ""]

    @staticmethod
    def of(parameters: PyTree, dtype: np.dtype) -> Best:
        """Nothing evaluated yet."""
        zero = jnp.zeros((), jnp.int32)
        return Best(parameters, jnp.asarray(jnp.inf, dtype), zero, zero)


def validation_score(
    problem: Problem,
    score: Callable[[Array, PyTree], Array] | None,
    params: PyTree,
    static: PyTree,
    held: Examples,
) -> Float[Array, ""]:
    """The mean score of the held-out examples."""
    # without dropout, which is for training only
    model = eqx.nn.inference_mode(eqx.combine(params, static))
    outputs = jax.vmap(lambda a: forward(model, a))(held.x)
    if score is None:
        values = -jax.vmap(problem.likelihood.log_prob)(outputs, held.y)
    else:
        values = score(outputs, held.y)
    if held.counts is None:
        return jnp.mean(values)
    values = jnp.where(held.counts > 0, values, 0.0)
    return jnp.dot(values, held.counts) / jnp.sum(held.counts)


def improved(
    best: Best, score: Float[Array, ""], params: PyTree, step: Array, patience: Array
) -> Best:
    """The best after one more evaluation; nothing changes once patience has run out."""
    waiting = best.since < patience
    better = waiting & (score < best.score)
    kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), params, best.parameters)
    return Best(
        kept,
        jnp.where(better, score, best.score),
        jnp.where(better, step, best.step),
        jnp.where(better, 0, best.since + waiting.astype(best.since.dtype)),
    )

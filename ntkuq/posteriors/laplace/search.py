"""The prior precision by a score on held-out data, instead of the evidence."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ntkuq.data import Batches, Dataset, as_dataset
from ntkuq.models.checks import need, whole
from ntkuq.models.hyperparameters import AbstractTune
from ntkuq.posteriors.laplace.evidence import Tuned, keep
from ntkuq.posteriors.laplace.problem import Linearized
from ntkuq.posteriors.predictive import Predictive


#: A loss for each example: (Predictive, y) -> (N,), smaller is better.
Score = Callable[[Predictive, Any], Array]

#: Factors on the prior precision that are tried.
FACTORS = tuple(10.0 ** (n / 4) for n in range(-16, 17))


def negative_log_density(predictive: Predictive, y: Any) -> Float[Array, " N"]:
    """-log p(y | x) of each example."""
    return -predictive.log_prob(y)


class AbstractSearch(AbstractTune):
    """A factor on the prior precision from a grid, by a score on other data."""

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[float, ...]:
        """The factors that are tried."""

    @abc.abstractmethod
    def losses(self, data: Dataset | Batches, fits: Fits) -> Float[np.ndarray, "G N"]:
        """The loss of each held-out example at each factor."""


#: From training data to predictions of the posterior at a factor on the precision.
#: `None` stands for all data, which have been seen already.
Fits = Callable[[Dataset | None], Callable[[float, Any], Predictive]]


def _check(name: str, factors: tuple[float, ...]) -> None:
    if len(factors) < 3 or not all(f > 0 and math.isfinite(f) for f in factors):
        raise ValueError(
            f"{name}: expected at least three factors > 0 on the prior precision, got "
            f"{factors}"
        )
    if any(b <= a for a, b in itertools.pairwise(factors)):
        raise ValueError(f"{name}: expected increasing factors, got {factors}")


class GridSearch(AbstractSearch):
    """The factor on the prior precision with the best score on validation data.

    The curvature is computed once; each factor costs one prediction. The noise scale
    stays that of the `BNN`.

    Args:
        validation: data that neither the network nor the posterior has seen.
        score: (Predictive, y) -> a loss for each example; `negative_log_density`.
        factors: increasing factors on the prior's precision.

    The standard error is that of an M-estimator: from the slopes of the examples'
    losses and the curvature of their mean in the logarithm of the factor.

    >>> import numpy as np
    >>> GridSearch(Dataset(np.zeros((3, 1)), np.zeros(3))).factors[0]
    0.0001
    """

    validation: Dataset
    score: Score = negative_log_density
    factors: tuple[float, ...] = FACTORS

    def __check_init__(self):
        need(self.validation, Dataset, "GridSearch: validation", "a Dataset(x, y)")
        _check("GridSearch", self.factors)

    @property
    def grid(self):
        return self.factors

    def losses(self, data, fits):
        del data
        predict = fits(None)
        return np.stack(
            [
                np.asarray(self.score(predict(f, self.validation.x), self.validation.y))
                for f in self.factors
            ]
        )


class CrossValidation(AbstractSearch):
    """The factor on the prior precision with the best cross-validated score.

    For each fold the curvature comes from the other folds. The network is the one
    given, trained on all folds: it is the posterior's width that is validated. Where
    the network overfits, use `GridSearch` with data of its own.

    Args:
        folds: how many.
        score: (Predictive, y) -> a loss for each example; `negative_log_density`.
        factors: increasing factors on the prior's precision.
        seed: of the random folds.

    >>> CrossValidation(folds=10).folds
    10
    """

    folds: int = 5
    score: Score = negative_log_density
    factors: tuple[float, ...] = FACTORS
    seed: int = 0

    def __check_init__(self):
        _check("CrossValidation", self.factors)
        if not whole(self.folds, least=2):
            raise ValueError(
                "CrossValidation: expected a whole number of folds >= 2, got "
                f"{self.folds!r}"
            )

    @property
    def grid(self):
        return self.factors

    def losses(self, data, fits):
        data = as_dataset(data)
        if len(data) < 2 * self.folds:
            raise ValueError(
                f"CrossValidation: expected at least {2 * self.folds} examples for "
                f"{self.folds} folds, got {len(data)}"
            )
        order = np.random.default_rng(self.seed).permutation(len(data))
        parts = []
        for fold in np.array_split(order, self.folds):
            rest = np.setdiff1d(order, fold, assume_unique=True)
            predict, held = fits(data.take(rest)), data.take(fold)
            losses = [self.score(predict(f, held.x), held.y) for f in self.factors]
            parts.append([np.asarray(loss) for loss in losses])
        return np.concatenate([np.stack(part) for part in parts], axis=1)


def search(
    tune: AbstractSearch, data: Dataset | Batches, problem: Linearized, fits: Fits
) -> Tuned:
    """The best factor of a grid, between its neighbors by a parabola."""
    losses = np.asarray(tune.losses(data, fits), np.float64)
    if losses.ndim != 2 or not np.isfinite(losses.mean(axis=1)).any():
        raise ValueError(
            "expected a finite loss of each held-out example at some factor, got "
            f"losses of shape {losses.shape}, mean {losses.mean():.3g}: check the score"
        )
    grid = np.log(tune.grid)
    means = np.where(np.isfinite(losses.mean(axis=1)), losses.mean(axis=1), np.inf)
    best = int(np.argmin(means))
    at_bound = best in (0, len(grid) - 1)
    log_tau, log_se = grid[best], None
    if not at_bound:
        log_tau, log_se = _parabola(grid, losses, best)
    tau = math.exp(log_tau)
    with jax.enable_x64(problem.double):
        kept = keep(problem.fit, problem.curvature, tau)
    return kept._replace(log_tau_se=log_se, at_bound=at_bound)


def _parabola(
    grid: np.ndarray, losses: np.ndarray, best: int
) -> tuple[float, float | None]:
    """The minimum through three points, and its standard error."""
    left, right = grid[best] - grid[best - 1], grid[best + 1] - grid[best]
    below = (losses[best] - losses[best - 1]) / left
    above = (losses[best + 1] - losses[best]) / right
    bend = (above - below).mean() / (0.5 * (left + right))
    # slope at the middle point, of each example
    slope = (below * right + above * left) / (left + right)
    if not bend > 0:
        return float(grid[best]), None
    shift = float(np.clip(-slope.mean() / bend, -left, right))
    if len(slope) < 2:  # one held-out example says nothing of the spread
        return float(grid[best] + shift), None
    error = slope.std(ddof=1) / (math.sqrt(losses.shape[1]) * bend)
    return float(grid[best] + shift), float(error)

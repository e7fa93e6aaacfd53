"""Scores of classes: how improbable, or how much probability lies above."""

import abc
from dataclasses import KW_ONLY, dataclass

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ntkuq.calibration.bootstrap import SEED
from ntkuq.calibration.overlap import rows
from ntkuq.posteriors.predictive import Predictive

from .base import AbstractScore
from .inputs import probabilities
from .regions import ClassSets


class AbstractClassScore(AbstractScore):
    """A score for every class of a point; the set holds those at most `at`."""

    allow_empty: bool

    @abc.abstractmethod
    def table(self, p: Predictive) -> np.ndarray:
        """The score of every class, (N, C)."""

    def scores(self, p: Predictive, y: np.ndarray, level: float) -> np.ndarray:
        table = self.table(p)
        return np.take_along_axis(table, y[:, None], axis=1)[:, 0]

    def region(self, p: Predictive, at: np.ndarray, level: float) -> ClassSets:
        table = self.table(p)
        member = table <= np.asarray(at)[..., None]
        if not self.allow_empty:
            empty = ~member.any(axis=1) & ~np.isneginf(at)
            top = np.argmax(probabilities(p), axis=1)
            member[empty, top[empty]] = True
        return ClassSets(member)


@dataclass(frozen=True)
class Improbability(AbstractClassScore):
    r"""$1 - \pi_c(x)$: a set holds the classes above one probability.

    Args:
        allow_empty: leave a set empty where no class is probable enough; otherwise it
            gets the most probable class, which can only raise the coverage.
    """

    _: KW_ONLY
    allow_empty: bool = True

    def table(self, p: Predictive) -> np.ndarray:
        return 1 - probabilities(p)


@dataclass(frozen=True)
class CumulativeProbability(AbstractClassScore):
    r"""The probability of all classes above c, and a share of that of c itself.

    $\rho_c(x) + u\,\pi_c(x) + \lambda\,(o_c(x) - k)^+$ with $\rho_c$ the probability
    of the classes ranked before c, $o_c$ its rank from 1 on, and u uniform on [0, 1),
    or 1 where not randomized.

    u is computed from the predicted probabilities and the key by a fixed hash. So it is
    the same on every run and in every batch, and since it is a function of x the scores
    of calibrate and new points stay exchangeable: the coverage is at least the level
    whatever the hash, and has no ties where no two points have equal predictions.

    Args:
        randomized: whether u is drawn.
        penalty: λ, for each rank beyond the offset.
        offset: k, ranks without penalty.
        allow_empty: as for `Improbability`.
        key: random key of u; a fixed seed where None.

    Raises:
        ValueError: for a negative penalty or offset.
    """

    randomized: bool = True
    _: KW_ONLY
    penalty: float = 0.0
    offset: int = 0
    allow_empty: bool = True
    key: PRNGKeyArray | None = None

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not 0 <= self.penalty < np.inf:
            raise ValueError(
                f"expected a penalty that is finite and not negative, got "
                f"{self.penalty}"
            )
        if self.offset < 0:
            raise ValueError(f"expected an offset of at least 0, got {self.offset}")

    def table(self, p: Predictive) -> np.ndarray:
        probs = probabilities(p)
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(probs, order, axis=1)
        above = np.cumsum(ranked, axis=1)
        # the classes before, from 0 on exactly
        above = np.concatenate([np.zeros((len(above), 1)), above[:, :-1]], axis=1)
        u = self.draw(p)[:, None] if self.randomized else 1.0
        rank = np.arange(1, probs.shape[1] + 1)
        scores = above + u * ranked
        scores += self.penalty * np.maximum(rank - self.offset, 0)
        table = np.empty_like(scores)
        np.put_along_axis(table, order, scores, axis=1)
        return table

    def draw(self, p: Predictive) -> np.ndarray:
        """u of each point, (N,), in [0, 1)."""
        words = [SEED]
        if self.key is not None:
            words = np.asarray(jax.random.key_data(self.key)).reshape(-1).tolist()
        mixed = rows(p)
        for word in words:
            mixed = _mixed(mixed ^ _mixed(np.full(1, word, np.uint64)))
        return (mixed >> np.uint64(11)) * 2.0**-53


def _mixed(a: np.ndarray) -> np.ndarray:
    """A one-to-one mixing of 64 bits (Stafford 2011, variant 13)."""
    a = a + np.uint64(0x9E3779B97F4A7C15)
    a = (a ^ (a >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    a = (a ^ (a >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return a ^ (a >> np.uint64(31))

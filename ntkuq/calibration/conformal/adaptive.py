"""Conformal prediction that follows a stream whose law changes."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from jax.typing import ArrayLike

from ntkuq.posteriors.predictive import Predictive

from .base import AbstractScore, score_all
from .inputs import exact
from .order import need_level, need_numbers
from .regions import Region
from .residuals import NormalizedResidual


@dataclass(frozen=True)
class AdaptiveState:
    r"""Where an adaptive method stands.

    Args:
        alpha: $\alpha_t$, the share of misses that the next region aims at; outside
            [0, 1] at times, and then the region is everything or nothing.
        scores: those that give the thresholds, oldest first.
        steps: outcomes seen since the start.
        misses: how many of them lay outside their region.
    """

    alpha: float
    scores: tuple[float, ...] = field(repr=False)
    steps: int = 0
    misses: int = 0


@dataclass(frozen=True)
class AdaptivePath:
    """What an adaptive method did on a stream.

    Args:
        region: the region of each step, made before its outcome was seen.
        covered: whether it held the outcome, (T,).
        coverage: the share covered up to each step, since the start, (T,).
        alpha: the share of misses that each region aimed at, (T,).
        state: after the last step.
    """

    region: Region
    covered: np.ndarray
    coverage: np.ndarray
    alpha: np.ndarray
    state: AdaptiveState


@dataclass(frozen=True)
class AdaptiveConformal:
    r"""Adaptive conformal inference: the level is moved by every hit and miss.

    $\alpha_{t+1} = \alpha_t + \gamma\,(1 - L - \mathrm{miss}_t)$; the region of step t
    is the conformal one of level $1 - \alpha_t$: everything where
    $\lceil (n+1)(1 - \alpha_t) \rceil > n$, so also for $\alpha_t \le 0$, and nothing
    for $\alpha_t \ge 1$. On any stream whatsoever, with $\alpha = 1 - L$,
    $|\frac1T \sum_t \mathrm{miss}_t - \alpha| \le
    \frac{\max(\alpha_1, 1 - \alpha_1) + \gamma}{\gamma T}$ (`bound`).

    Args:
        level: the kept probability L, in the long run.
        rate: γ; larger follows faster and swings more; 0.005 in the paper.
        score: how strange an outcome is.
        window: None keeps the scores of the calibrate part; a number replaces the
            oldest, so that so many of the latest remain.

    Raises:
        ValueError: for a level outside (0, 1), a rate or a window that is not
            positive.

    >>> import numpy as np
    >>> from ntkuq.posteriors import Predictive
    >>> rng = np.random.default_rng(0)
    >>> p, y = Predictive.normal(np.zeros(500), np.ones(500)), rng.normal(size=500)
    >>> method = AdaptiveConformal(level=0.9, rate=0.05)
    >>> path = method.run(method.init(p, y), p, 3 * y)  # wider than before
    >>> print(f"{path.coverage[-1]:.2f}")
    0.90

    References:
        Gibbs and Candès, 2021, NeurIPS (arXiv 2106.00170), Proposition 4.1.
    """

    level: float
    rate: float
    score: AbstractScore = field(default_factory=NormalizedResidual)
    _: KW_ONLY
    window: int | None = None

    def __post_init__(self) -> None:
        need_level(self.level)
        if not 0 < self.rate < math.inf:
            raise ValueError(f"expected a rate that is positive, got {self.rate}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"expected a window of at least 1, got {self.window}")

    def init(self, p: Predictive, y: ArrayLike) -> AdaptiveState:
        """The state before the first step.

        Args:
            p: predictions at the points of the calibrate part.
            y: their outcomes, (n,), the latest last.

        Raises:
            ValueError: for several outputs, and for a value that is not finite.
        """
        scores = tuple(self._scores(p, y).tolist())
        scores = scores if self.window is None else scores[-self.window :]
        return AdaptiveState(float(1 - self.level), scores)

    def region(self, state: AdaptiveState, p: Predictive) -> Region:
        """The regions for the next outcomes, all from the same state."""
        at = _threshold(sorted(state.scores), state.alpha)
        return self.score.region(exact(p), np.asarray(at), self.level)

    def step(self, state: AdaptiveState, p: Predictive, y: ArrayLike) -> AdaptiveState:
        """The state after one more outcome.

        Args:
            state: before it.
            p: its prediction, N = 1.
            y: the outcome, (1,).

        Raises:
            ValueError: for more than one point; `run` takes many.
        """
        scores = self._scores(p, np.reshape(np.asarray(y), (-1,)))
        if scores.size != 1:
            raise ValueError(f"expected one point, got {scores.size}; use run for many")
        return self._walk(state, scores)[0]

    def run(self, state: AdaptiveState, p: Predictive, y: ArrayLike) -> AdaptivePath:
        """Go through a stream: predict, see the outcome, move the level.

        Args:
            state: from `init`, or from the end of an earlier stream.
            p: predictions of the T points in the order of time.
            y: their outcomes, (T,).

        Raises:
            ValueError: for several outputs, and for a value that is not finite.
        """
        scores = self._scores(p, y)
        end, at, alpha = self._walk(state, scores)
        covered = scores <= at
        hits = state.steps - state.misses + np.cumsum(covered)
        share = hits / (state.steps + np.arange(1, scores.size + 1))
        region = self.score.region(exact(p), at, self.level)
        return AdaptivePath(region, covered, share, alpha, end)

    def bound(self, steps: int) -> float:
        """The largest gap between coverage and level after so many steps."""
        return (max(self.level, 1 - self.level) + self.rate) / (self.rate * steps)

    def _scores(self, p: Predictive, y: ArrayLike) -> np.ndarray:
        scores = score_all(self.score, p, y, self.level)
        if scores.ndim != 1:
            raise ValueError(
                f"AdaptiveConformal: expected one score a point, got {scores.shape}"
            )
        need_numbers(scores, "AdaptiveConformal")
        return scores

    def _walk(
        self, state: AdaptiveState, scores: np.ndarray
    ) -> tuple[AdaptiveState, np.ndarray, np.ndarray]:
        """The end state, and threshold and alpha of each step."""
        alpha, misses, aim = state.alpha, state.misses, 1 - self.level
        history = list(state.scores)
        ordered = sorted(history)
        first = 0
        at, alphas = np.empty(scores.size), np.empty(scores.size)
        for t, value in enumerate(scores.tolist()):
            bound = _threshold(ordered, alpha)
            at[t], alphas[t] = bound, alpha
            miss = value > bound
            misses += miss
            alpha += self.rate * (aim - miss)
            if self.window is not None:
                history.append(value)
                bisect.insort(ordered, value)
                if len(ordered) > self.window:
                    del ordered[bisect.bisect_left(ordered, history[first])]
                    first += 1
        steps = state.steps + scores.size
        return AdaptiveState(alpha, tuple(history[first:]), steps, misses), at, alphas


def _threshold(ordered: Sequence[float], alpha: float) -> float:
    """The order statistic at level 1 - alpha; infinite beyond the ends."""
    if alpha <= 0:
        return math.inf
    if alpha >= 1:
        return -math.inf
    n = len(ordered)
    # 1e-9: steps of alpha add up rounding that must not cost a rank
    k = max(1, math.ceil((n + 1) * (1 - alpha) - 1e-9))
    return ordered[k - 1] if k <= n else math.inf

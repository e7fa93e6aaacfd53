"""What a bandit run found: regret with intervals, its exponent, calibration."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats


SCHEMA = "ntkuq/bandit/1"
#: Points of the curve in the document.
POINTS = 200
#: The smallest and the largest value that each score at the chosen arms can have.
POSSIBLE = {
    "coverage_90": (0.0, 1.0),
    "square": (0.0, np.inf),
    "nll": (-np.inf, np.inf),
}


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds with the ends of its 95 % Student-t interval."""

    mean: float
    lower: float
    upper: float

    @staticmethod
    def of(values: np.ndarray) -> Interval:
        """Of one value a seed; the ends are NaN with fewer than two.

        >>> Interval.of(np.array([1.0, 3.0])).mean
        2.0
        """
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        size = len(values)
        mean = float(values.mean()) if size else float("nan")
        if size < 2:
            return Interval(mean, float("nan"), float("nan"))
        half = stats.t.ppf(0.975, size - 1) * values.std(ddof=1) / np.sqrt(size)
        return Interval(mean, float(mean - half), float(mean + half))

    def within(self, lower: float, upper: float) -> Interval:
        """With the ends cut at the smallest and largest possible value.

        >>> Interval(0.9, 0.7, 1.1).within(0.0, 1.0).upper
        1.0
        """
        ends = np.clip([self.lower, self.upper], lower, upper)
        return dataclasses.replace(self, lower=float(ends[0]), upper=float(ends[1]))

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: NaN becomes null."""
        each = dataclasses.asdict(self)
        return {k: v if np.isfinite(v) else None for k, v in each.items()}


@dataclasses.dataclass(frozen=True)
class BanditResult:
    """Rounds of all seeds.

    Args:
        regrets: (S, T) expected reward of the best arm minus that of the chosen one.
        rewards: (S, T) as paid.
        mean, std, spread: (S, T) before the reward was seen: its mean, the standard
            deviation of the expected reward, and of the reward; NaN before a first fit.
        arms: (S, T) chosen.
        seconds: of the whole run, compilation included.
        ratio, noise: (S,) lambda and sigma at the end, of `NeuralRewards`.
        at_an_end: (S,) whether the evidence took the smallest lambda that rounding and
            its grid allow, or the largest: it would go on.
    """

    regrets: Float[np.ndarray, "S T"]
    rewards: Float[np.ndarray, "S T"]
    mean: Float[np.ndarray, "S T"]
    std: Float[np.ndarray, "S T"]
    spread: Float[np.ndarray, "S T"]
    arms: np.ndarray
    seconds: float
    ratio: Float[np.ndarray, " S"] | None = None
    noise: Float[np.ndarray, " S"] | None = None
    at_an_end: Bool[np.ndarray, " S"] | None = None

    @property
    def totals(self) -> Float[np.ndarray, " S"]:
        """Cumulative regret of each seed."""
        return self.regrets.sum(axis=1, dtype=np.float64)

    @property
    def regret(self) -> Interval:
        """Cumulative regret at the end."""
        return Interval.of(self.totals).within(0.0, np.inf)

    @property
    def exponents(self) -> Float[np.ndarray, " S"]:
        r"""c of $R_t \propto t^c$ by least squares on logarithms, for each seed.

        The fit takes 50 rounds spread evenly in ln t over the last nine tenths, from
        the first of them with regret on; NaN for a seed with fewer than two such.
        """
        rounds = self.regrets.shape[1]
        at = np.unique(np.geomspace(max(rounds // 10, 1), rounds, 50).astype(int)) - 1
        curve = np.cumsum(self.regrets, axis=1, dtype=np.float64)[:, at]
        found = np.full(len(curve), np.nan)
        for seed, row in enumerate(curve):
            regretted = row > 0
            if regretted.sum() > 1:
                logs = np.log(at[regretted] + 1.0)
                logs -= logs.mean()
                found[seed] = logs @ np.log(row[regretted]) / (logs @ logs)
        return found

    @property
    def exponent(self) -> Interval:
        """Of the regret, over seeds."""
        return Interval.of(self.exponents)

    def calibration(self, blocks: int = 10) -> list[dict[str, Any]]:
        """Predicted against paid rewards at the chosen arms, by block of rounds.

        Coverage is of the central 90 % interval; `square` the mean squared standardized
        residual (1 where honest); `nll` in nats, of the normal law.
        """
        rounds, found = self.regrets.shape[1], []
        edges = np.linspace(0, rounds, min(blocks, rounds) + 1).astype(int)
        scale = np.maximum(self.spread.astype(np.float64), 1e-12)
        z = (self.rewards.astype(np.float64) - self.mean) / scale
        known = np.isfinite(z)
        terms = {
            "coverage_90": (np.abs(z) < stats.norm.ppf(0.95)) * 1.0,
            "square": z**2,
            "nll": 0.5 * z**2 + np.log(scale) + 0.5 * np.log(2 * np.pi),
        }
        for start, stop in itertools.pairwise(edges):
            row: dict[str, Any] = {"from": int(start), "to": int(stop)}
            live = known[:, start:stop]
            count = live.sum(axis=1)
            row["count"] = int(count.sum())
            for name, each in terms.items():
                total = np.where(live, each[:, start:stop], 0.0).sum(axis=1)
                mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
                row[name] = Interval.of(mean).within(*POSSIBLE[name]).to_dict()
            found.append(row)
        return found

    def difference(self, other: BanditResult) -> Interval:
        """Total regret minus that of another run with the same seeds, paired.

        Raises:
            ValueError: for other numbers of seeds or rounds.
        """
        if self.regrets.shape != other.regrets.shape:
            raise ValueError(
                f"other: expected (seeds, rounds) {self.regrets.shape}, got "
                f"{other.regrets.shape}: run both with the same keys and rounds"
            )
        return Interval.of(self.totals - other.totals)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON, schema `ntkuq/bandit/1`."""
        rounds = self.regrets.shape[1]
        at = np.unique(np.linspace(1, rounds, min(POINTS, rounds)).astype(int))
        curves = np.cumsum(self.regrets, axis=1, dtype=np.float64)[:, at - 1]
        band = [Interval.of(c).within(0.0, np.inf).to_dict() for c in curves.T]
        quarter = self.regrets[:, -(-3 * rounds // 4) :].sum(axis=1, dtype=np.float64)
        exponents = self.exponents
        return {
            "schema": SCHEMA,
            "rounds": rounds,
            "seeds": len(self.regrets),
            "seconds": self.seconds,
            "regret": self.regret.to_dict(),
            "exponent": self.exponent.to_dict(),
            "last_quarter": Interval.of(quarter).within(0.0, np.inf).to_dict(),
            "curve": [
                {"round": int(t), **each} for t, each in zip(at, band, strict=True)
            ],
            "per_seed": [
                {
                    "regret": float(total),
                    "reward": float(paid),
                    "last_quarter": float(last),
                    "exponent": float(c) if np.isfinite(c) else None,
                }
                for total, paid, last, c in zip(
                    self.totals,
                    self.rewards.sum(axis=1, dtype=np.float64),
                    quarter,
                    exponents,
                    strict=True,
                )
            ],
            "calibration": self.calibration(),
            "ratio": None if self.ratio is None else self.ratio.tolist(),
            "noise": None if self.noise is None else self.noise.tolist(),
            "at_an_end": 0 if self.at_an_end is None else int(self.at_an_end.sum()),
        }

"""The probability integral transform of resampled test sets."""

import functools as ft
from dataclasses import dataclass, field

import numpy as np

from .sampling import AbstractSampling, Cells, Groups, Points
from .transform import Pit, ends


LEVELS = np.arange(1, 20) / 20
HUNDRED = np.linspace(0, 1, 100)


@dataclass(frozen=True)
class Resampled:
    """Distribution functions of the transform, one for each resample.

    Points are resampled by the cell that they fall into: where the cells end is all
    that the distances from perfection ask for. One set of resamples serves all.

    Args:
        pit: the transform.
        sampling: which points are independent.
        levels: central levels that will be asked for, besides 0.05 to 0.95 in steps
            of 0.05 and 100 levels from 0 to 1.
    """

    pit: Pit
    sampling: AbstractSampling
    levels: np.ndarray = field(default_factory=lambda: LEVELS, repr=False)

    @staticmethod
    def of(pit: Pit, levels: np.ndarray = LEVELS) -> "Resampled":
        """Of independent points."""
        return Resampled(pit, Points(pit.n), levels)

    @property
    def grouped(self) -> bool:
        """Whether points depend on each other."""
        return isinstance(self.sampling, Groups)

    @ft.cached_property
    def edges(self) -> np.ndarray:
        """Where cells end, from 0 to 1, (K + 1,)."""
        levels = np.concatenate([LEVELS, HUNDRED, self.levels])
        return np.unique(np.concatenate([HUNDRED, *ends(levels)]))

    @ft.cached_property
    def functions(self) -> np.ndarray:
        """Distribution functions at the edges, (draws, K + 1)."""
        pit, edges = self.pit, self.edges
        found = np.searchsorted(pit.ordered, edges, side="right")
        counts = np.diff(found)
        counts[0] += found[0]  # the first cell holds 0 itself
        values = np.clip(pit.values, 0.0, 1.0)
        shares = self.sampling.shares(counts, Cells(edges, values))
        start = np.zeros((len(shares), 1))
        return np.concatenate([start, np.cumsum(shares, axis=1)], axis=1)

    def below(self, at: np.ndarray) -> np.ndarray:
        """Shares of at most `at` (K,), which are edges, (draws, K)."""
        return self.functions[:, np.searchsorted(self.edges, at)]

    def central(self, levels: np.ndarray) -> np.ndarray:
        """Shares inside the central intervals at levels (K,), (draws, K)."""
        low, high = ends(levels)
        return self.below(high) - self.below(low)

    def largest_gap(self) -> np.ndarray:
        """Distance of each from uniform, (draws,)."""
        return np.max(np.abs(self.functions - self.edges), axis=1)

    def p_value(self) -> float:
        """How often resampling alone moves the function as far as it is off."""
        function = self.pit.below(self.edges)
        function[0] = 0.0
        distance = np.max(np.abs(function - self.edges))
        moved = np.max(np.abs(self.functions - function), axis=1)
        return float((1 + np.sum(moved >= distance)) / (1 + len(moved)))

"""The values of a probability integral transform, sorted once for every use."""

import functools as ft
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pit:
    """Values of F(y), and how many of them lie below or in the middle.

    Args:
        values: (N,) or (N, C), between 0 and 1.

    >>> import numpy as np
    >>> pit = Pit(np.array([0.1, 0.5, 0.8]))
    >>> print(pit.below(np.array([0.5])), pit.central(np.array([0.7])))
    [0.66666667] [0.66666667]
    """

    values: np.ndarray = field(repr=False)

    @staticmethod
    def of(pit: "np.ndarray | Pit") -> "Pit":
        """The same, from an array or not."""
        return pit if isinstance(pit, Pit) else Pit(np.asarray(pit))

    @property
    def n(self) -> int:
        """Number of points."""
        return self.values.shape[0]

    @ft.cached_property
    def ordered(self) -> np.ndarray:
        """All values in increasing order, (N * C,)."""
        # A distribution function in float32 may exceed 1 by rounding.
        return np.sort(np.clip(self.values.reshape(-1), 0.0, 1.0))

    def below(self, at: np.ndarray) -> np.ndarray:
        """The share of values of at most `at` (K,)."""
        found = np.searchsorted(self.ordered, at, side="right")
        return found / self.ordered.size

    def central(self, levels: np.ndarray) -> np.ndarray:
        r"""The share inside the central intervals, $|2u - 1| \le L$, for L (K,)."""
        low, high = ends(levels)
        first = np.searchsorted(self.ordered, low, side="left")
        last = np.searchsorted(self.ordered, high, side="right")
        return (last - first) / self.ordered.size


def ends(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the central intervals begin and end, as quantile levels."""
    return (1 - levels) / 2, (1 + levels) / 2

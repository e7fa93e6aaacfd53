"""Benchmark objectives, to be minimized, with their known minima."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import ArrayLike, Float

from ntkuq.decisions.search.box import Box


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An objective on a box: `benchmark(x)` of points (N, D) gives (N,), to minimize.

    Args:
        name: of the function.
        box: where it is defined.
        minimum: its smallest value.
        function: of points (N, D).
    """

    name: str
    box: Box
    minimum: float
    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, x: ArrayLike | Sequence) -> Float[np.ndarray, " N"]:
        return self.function(np.asarray(x, np.float64))


def branin() -> Benchmark:
    r"""Branin: $(x_2 - b x_1^2 + c x_1 - 6)^2 + 10 (1 - t) \cos x_1 + 10$.

    References: Dixon and Szego 1978.

    >>> round(branin()([[np.pi, 2.275]]).item(), 6)
    0.397887
    """

    def value(x: np.ndarray) -> np.ndarray:
        a, b = x[:, 0], x[:, 1]
        bowl = (b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2
        return bowl + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10

    return Benchmark("branin", Box([-5.0, 0.0], [10.0, 15.0]), 0.397887357729738, value)


_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_WEIGHT = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann6() -> Benchmark:
    r"""Hartmann in 6 variables: $-\sum_i a_i \exp(-\sum_j A_{ij}(x_j - P_{ij})^2)$.

    References: Dixon and Szego 1978.

    >>> hartmann6()(np.full((1, 6), 0.5)).round(4).item()
    -0.5053
    """

    def value(x: np.ndarray) -> np.ndarray:
        inner = np.sum(_A * (x[:, None] - _P) ** 2, axis=-1)
        return -np.exp(-inner) @ _WEIGHT

    return Benchmark(
        "hartmann6", Box(np.zeros(6), np.ones(6)), -3.322368011415515, value
    )


def ackley(size: int = 10) -> Benchmark:
    r"""Ackley: many local minima around a sharp one of 0 at the origin.

    References: Ackley 1987.

    >>> abs(ackley()(np.zeros((1, 10))).item()) < 1e-12
    True
    """

    def value(x: np.ndarray) -> np.ndarray:
        root = np.sqrt(np.mean(x**2, axis=1))
        waves = np.mean(np.cos(2 * np.pi * x), axis=1)
        return -20 * np.exp(-0.2 * root) - np.exp(waves) + 20 + np.e

    side = np.full(size, 32.768)
    return Benchmark(f"ackley{size}", Box(-side, side), 0.0, value)

"""What a method will cost on this machine, before anything runs."""

from __future__ import annotations

import functools as ft
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntkuq.data import DataLike, as_data
from ntkuq.models import BNN
from ntkuq.posteriors.base import AbstractMethod


#: Share of the matrix-product rate that whole methods reach (measured on small
#: networks, where passing data around counts as much as arithmetic).
EFFICIENCY = 0.25
#: Seconds to compile one program.
COMPILE_SECONDS = 0.5
#: Bytes of a process with JAX loaded and nothing computed.
BASE_BYTES = 4e8


class Estimate(NamedTuple):
    """Seconds to fit, compilation included, and peak bytes of the process.

    A guide within a factor of about three: it decides what is refused, not what is
    reported.
    """

    seconds: float
    bytes: float


def estimate(method: AbstractMethod, bnn: BNN, data: DataLike) -> Estimate:
    """Time and memory that `method.fit(bnn, data)` will take on this machine.

    Counts the method's operations and divides them by the rate of a small float64
    matrix product, measured once.

    Args:
        method: what to fit.
        bnn: the problem; nothing is trained.
        data: the training data; only shapes are used.

    Returns:
        Seconds and bytes.

    >>> import equinox as eqx, numpy as np
    >>> from ntkuq.data import Dataset
    >>> from ntkuq.models import Gaussian
    >>> from ntkuq.posteriors import Laplace
    >>> bnn = BNN(eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0)), Gaussian())
    >>> rows = np.arange(12.0).reshape(6, 2)
    >>> estimate(Laplace(), bnn, Dataset(rows, rows[:, 0])).seconds < 60
    True
    """
    cost = method.cost(bnn, as_data(data))
    seconds = cost.flops / (EFFICIENCY * _rate())
    return Estimate(seconds + COMPILE_SECONDS * cost.compiles, BASE_BYTES + cost.bytes)


@ft.cache
def _rate() -> float:
    """Floating-point operations a second of a float64 matrix product."""
    size = 768
    with jax.enable_x64(True):
        a = jnp.ones((size, size), jnp.float64)
        product = jax.jit(jnp.matmul)
        product(a, a).block_until_ready()
        best = float("inf")
        for _ in range(10):  # 10 ms each: the first ones meet cold caches and threads
            start = time.perf_counter()
            product(a, a).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best

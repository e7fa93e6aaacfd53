"""Validation error of networks over a grid of settings: an objective of whole numbers.

The table is computed once and read by `python -m experiments search`; every setting is
a network of its own, so the objective is as rough as tuning is.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import ntkuq as nq
from experiments.record import save
from ntkuq.decisions.search import Benchmark, Box


STORED = Path(__file__).parents[2] / "docs" / "results" / "search-table.json"
#: Exponents of the grid: width 2^w, learning rate 10^(r/2), weight precision 10^p.
WIDTHS, RATES, PRECISIONS = range(1, 8), range(-7, 1), range(-3, 5)
#: Updates of a training, on all rows; noise scale in units of the targets' spread.
STEPS, NOISE = 400, 0.3
#: Share of the training rows that validate.
HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class SearchTable:
    """Train a network for each setting of a grid on concrete; validation errors."""

    seeds: int = 2
    """First weights of each setting; the errors are averaged."""
    out: Path = Path("runs/experiments")
    """Directory of the document."""

    def execute(self) -> None:
        """Train all, print the best, write the document."""
        data = nq.data.load("concrete").train
        rmse = np.stack([errors(data, 2**w, self.seeds) for w in WIDTHS])
        at = np.unravel_index(np.argmin(rmse), rmse.shape)
        print(f"best {rmse.min():.3f} at {[int(i) for i in at]}, median ", end="")
        print(f"{np.median(rmse):.3f}, of {rmse.size}")
        content = {
            "data": "concrete",
            "seeds": self.seeds,
            "axes": ["log2 width", "2 log10 learning rate", "log10 weight precision"],
            "lower": [WIDTHS[0], RATES[0], PRECISIONS[0]],
            "rmse": np.round(rmse, 4).tolist(),
        }
        path = save(self.out / "search-table.json", "search-table", content)
        print(f"written {path}")


def errors(data: nq.Dataset, width: int, seeds: int) -> Float[np.ndarray, "R P"]:
    """Validation errors of one width, for all learning rates and precisions."""
    order = np.random.default_rng(0).permutation(len(data))
    held = int(HELD_OUT * len(data))
    valid, train = order[:held], order[held:]
    x = (data.x - data.x[train].mean(0)) / data.x[train].std(0)
    loc, scale = data.y[train].mean(), data.y[train].std()
    y = (data.y - loc) / scale
    arrays = [jnp.asarray(a, jnp.float32) for a in (x[train], y[train], x[valid])]
    rates = jnp.asarray([10.0 ** (r / 2) for r in RATES])
    precisions = jnp.asarray([10.0**p for p in PRECISIONS])
    build = nq.models.mlp(x.shape[1], 1, width=width, depth=1)
    keys = jax.random.split(jax.random.key(0), seeds)

    one = functools.partial(_predicted, build, *arrays)
    each = jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, None))
    found = jax.jit(jax.vmap(each, (None, None, 0)))(rates, precisions, keys)
    square = np.mean((np.asarray(found) - y[valid]) ** 2, axis=-1)
    # a training that diverged predicts no better than the mean
    rmse = np.sqrt(np.minimum(np.nan_to_num(square, nan=np.inf), 1.0))
    return np.asarray(scale * rmse.mean(axis=0))


def _predicted(build, x, y, new, rate: Array, precision: Array, key: Array) -> Array:
    """Predictions of a network trained by Adam."""
    params, static = eqx.partition(build(key), eqx.is_inexact_array)

    def outputs(params, x):
        return jax.vmap(eqx.combine(params, static))(x)[:, 0]

    def loss(params):
        fit = 0.5 * jnp.sum((outputs(params, x) - y) ** 2) / NOISE**2
        decay = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return (fit + 0.5 * precision * decay) / len(y)

    adam = optax.scale_by_adam()

    def step(carry, n):
        params, state = carry
        change, state = adam.update(jax.grad(loss)(params), state)
        # linear decay to zero
        size = rate * (1.0 - n / STEPS)
        params = jax.tree.map(lambda p, c: p - size * c, params, change)
        return (params, state), None

    count = jnp.arange(STEPS, dtype=jnp.float32)
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), count)
    return outputs(params, new)


def tuning(path: Path = STORED) -> Benchmark:
    """The stored table as an objective of three whole variables."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    rmse, lower = np.array(stored["rmse"]), np.array(stored["lower"])

    def value(x: np.ndarray) -> np.ndarray:
        at = np.round(x - lower).astype(int)
        return rmse[tuple(at.T)]

    upper = lower + rmse.shape - 1
    box = Box(lower, upper, integer=np.ones(3, bool))
    return Benchmark("tuning", box, float(rmse.min()), value)

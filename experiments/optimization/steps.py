"""Natural gradient in function space beside tuned Adam, on regression with N < P."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ntkuq as nq
from experiments.record import save
from ntkuq.models import cast
from ntkuq.optimization import FunctionSpace, LevenbergMarquardt, natural_gradient


#: The error to be reached, as a share of the variance of the targets.
GOAL = 1e-6
#: Learning rates of Adam, and over how many updates they decay to zero.
RATES, DECAYS = (3e-3, 1e-2, 3e-2, 1e-1), (500, 2_000, 10_000)
#: Factors on Equinox's initial weights, chosen for each optimizer. What is best for
#: Adam lies inside the lists (more updates to decay over than it takes change nothing).
GAINS = (4.0, 16.0, 32.0, 64.0)


class Ending(NamedTuple):
    """How one training ended."""

    steps: int
    error: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps and seconds until the training error is a millionth of the variance."""

    data: tuple[str, ...] = ("energy", "boston")
    """Regression sets by name, from $NTKUQ_DATA; split 0."""
    width: int = 128
    """Units of the two hidden layers (tanh)."""
    most: int = 20_000
    """Updates of Adam at most; of natural gradient, a hundredth of it."""
    seeds: int = 3
    """Initializations; Adam is tuned on the first."""
    out: Path = Path("runs/experiments/steps.json")
    """The document."""

    def execute(self) -> None:
        """Run, print the table, write the document."""
        rows = []
        with jax.enable_x64(True):
            for name in self.data:
                rows += self.compare(name)
                print(markdown(rows[-2:]), flush=True)
        print()
        print(markdown(rows))
        path = save(self.out, "steps", dataclasses.asdict(self) | {"rows": rows})
        print(f"\nwritten {path}")

    def compare(self, name: str) -> list[dict[str, Any]]:
        """Natural gradient, and Adam at its best setting."""
        data = nq.data.load(name, split=0).train
        x, y = standardized(data)
        found = []
        first = {gain: self.exact(x, y, gain, 0) for gain in GAINS}
        chosen = min(first, key=first.__getitem__)
        ends = [self.exact(x, y, chosen, seed) for seed in range(self.seeds)]
        found.append(
            row(name, len(x), "natural gradient", f"weights × {chosen:g}", ends)
        )
        settings = itertools.product(GAINS, RATES, DECAYS)
        trials = {setting: self.adam(x, y, setting, 0) for setting in settings}
        fewest = min(trials, key=lambda s: (trials[s].error > GOAL, trials[s].seconds))
        ends = [self.adam(x, y, fewest, seed) for seed in range(self.seeds)]
        gain, rate, decay = fewest
        text = f"weights × {gain:g}, rate {rate:g}, cosine over {decay:,}, float32"
        found.append(row(name, len(x), "Adam", text, ends))
        # the fewest steps may need another setting than the least time
        least = min(trials.values(), key=lambda end: (end.error > GOAL, end.steps))
        found[-1]["fewest_steps"] = least.steps
        return found

    def exact(self, x: np.ndarray, y: np.ndarray, gain: float, seed: int) -> Ending:
        """One training with natural gradient."""
        model = self.network(x, y, gain, seed)
        return run(natural(model), model, x, y, self.most // 100)

    def adam(self, x: np.ndarray, y: np.ndarray, setting: tuple, seed: int) -> Ending:
        """One training with Adam, in float32, where its steps are faster."""
        gain, rate, decay = setting
        model = cast(self.network(x, y, gain, seed), np.float32)
        transform = optax.adam(optax.cosine_decay_schedule(rate, decay))
        x, y = x.astype(np.float32), y.astype(np.float32)
        return run(transform, model, x, y, min(self.most, decay))

    def network(self, x: np.ndarray, y: np.ndarray, gain: float, seed: int) -> Any:
        """The network, its weights scaled."""
        build = nq.models.mlp(x.shape[1], y.shape[1], width=self.width, depth=2)
        model = cast(build(jax.random.key(seed)), np.float64)

        def scaled(leaf: Any) -> Any:
            weight = eqx.is_inexact_array(leaf) and leaf.ndim == 2
            return gain * leaf if weight else leaf

        return jax.tree.map(scaled, model)


def natural(model: Any) -> optax.GradientTransformationExtraArgs:
    """The exact step, its damping by its success."""
    return natural_gradient(
        model,
        nq.Gaussian(1.0),
        damping=LevenbergMarquardt(initial=0.01, down=0.1),
        solve=FunctionSpace(),
    )


def standardized(data: nq.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets with mean 0 and variance 1."""
    found = []
    for value in (data.x, np.asarray(data.y).reshape(len(data), -1)):
        value = np.asarray(value, np.float64)
        std = value.std(axis=0)
        found.append((value - value.mean(axis=0)) / np.where(std > 0, std, 1.0))
    return found[0], found[1]


def run(
    transform: optax.GradientTransformation,
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    most: int,
) -> Ending:
    """Full-batch updates in one compiled loop until the goal, or `most` of them."""
    optimizer = optax.with_extra_args_support(transform)
    params = nq.models.parameters(model)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        f = jax.vmap(eqx.combine(params, model))(x)
        return 0.5 * jnp.mean(jnp.sum((f - y) ** 2, axis=-1))

    @jax.jit
    def train(params: Any, x: jax.Array, y: jax.Array):
        def unfinished(carry):
            _, _, count, value = carry
            return (2 * value > GOAL) & (count < most) & jnp.isfinite(value)

        def advance(carry):
            params, state, count, _ = carry
            gradient = jax.grad(loss)(params, x, y)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(gradient, state, params, x=x, y=y)
            params = optax.apply_updates(params, updates)
            return params, state, count + 1, loss(params, x, y)

        begin = (params, optimizer.init(params), 0, loss(params, x, y))
        *_, count, value = jax.lax.while_loop(unfinished, advance, begin)
        return count, value

    return timed(train, params, jnp.asarray(x), jnp.asarray(y))


def timed(program: Any, *arguments: Any) -> Ending:
    """A jitted program that gives steps and half the error, without its compilation."""
    compiled = program.lower(*arguments).compile()

    def lap() -> tuple[Any, Any, float]:
        start = time.perf_counter()
        count, value = jax.block_until_ready(compiled(*arguments))
        return count, value, time.perf_counter() - start

    count, value, seconds = lap()
    laps = [seconds]
    # a short one is repeated, and its median counts
    while sum(laps) < 1.0 and len(laps) < 5:
        laps.append(lap()[-1])
    seconds = float(np.median(laps))
    error = 2 * float(value)
    return Ending(int(count), error if np.isfinite(error) else float("inf"), seconds)


def row(
    name: str, rows: int, optimizer: str, setting: str, ends: list[Ending]
) -> dict[str, Any]:
    """A row of the table."""
    return {
        "data": name,
        "rows": rows,
        "optimizer": optimizer,
        "setting": setting,
        "steps": [end.steps for end in ends],
        "error": [end.error for end in ends],
        "seconds": [end.seconds for end in ends],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table: every seed."""
    lines = [
        "| data | optimizer | setting | steps | error / variance | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        cells = [
            ", ".join(f"{value:,}" for value in one["steps"]),
            ", ".join(f"{value:.1e}" for value in one["error"]),
            ", ".join(f"{value:.2f}" for value in one["seconds"]),
        ]
        start = f"| {one['data']} | {one['optimizer']} | {one['setting']} | "
        lines.append(start + " | ".join(cells) + " |")
    return "\n".join(lines)

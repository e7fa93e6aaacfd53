"""What a second-order step costs, in gradients of the same batch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ntkuq as nq
from experiments.record import save
from ntkuq.optimization import FunctionSpace, kfac, natural_gradient


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Times of one step beside one gradient, in one run, one after the other."""

    width: int = 560
    """Units of the three hidden layers of an MLP 784-...-10."""
    examples: int = 100
    """Examples of the function-space step; its system has ten times as many rows."""
    batch: int = 1000
    """Examples of the KFAC step."""
    repeat: int = 15
    """Rounds; the table has medians."""
    out: Path = Path("runs/experiments/step-cost.json")
    """The document."""

    def execute(self) -> None:
        """Time, print the table, write the document."""
        rows = [*self.function_space(), *self.kronecker()]
        print(markdown(rows))
        path = save(self.out, "step-cost", dataclasses.asdict(self) | {"rows": rows})
        print(f"\nwritten {path}")

    def function_space(self) -> list[dict[str, Any]]:
        """The exact step from N C equations."""
        work = Work(self.width, self.examples)
        step = natural_gradient(
            work.model, work.likelihood, damping=1.0, solve=FunctionSpace()
        )
        times = interleaved(
            {"gradient": work.gradient(), "natural gradient": work.step(step)},
            self.repeat,
        )
        rows = 10 * self.examples
        return [
            row("natural gradient, function space", work, times, "natural gradient")
            | {"equations": rows}
        ]

    def kronecker(self) -> list[dict[str, Any]]:
        """KFAC with factors drawn anew, without and with the inversions."""
        work = Work(self.width, self.batch)
        rare, often = (
            kfac(work.model, work.likelihood, damping=1.0, learning_rate=0.1, every=n)
            for n in (10**6, 1)
        )
        # rate and momentum from the exact Gauss-Newton matrix, damping by its success
        adaptive = kfac(work.model, work.likelihood, every=10**6)
        times = interleaved(
            {
                "gradient": work.gradient(),
                "factors": work.step(rare, skip=1),
                "adaptive": work.step(adaptive, skip=1),
                "inverted": work.step(often),
            },
            self.repeat,
        )
        return [
            row("KFAC, factors drawn anew", work, times, "factors"),
            row("the same, rate, momentum, damping adapted", work, times, "adaptive"),
            row("the first, with the inversions", work, times, "inverted"),
        ]


class Work:
    """A network and a batch."""

    def __init__(self, width: int, examples: int) -> None:
        build = nq.models.mlp(784, 10, width=width, depth=3)
        self.model = build(jax.random.key(0))
        self.likelihood = nq.Gaussian(1.0)
        self.x = jax.random.normal(jax.random.key(1), (examples, 784))
        self.y = jax.random.normal(jax.random.key(2), (examples, 10))
        self.params = nq.models.parameters(self.model)
        self.size = sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def loss(self, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        """Mean squared error."""
        model = eqx.combine(params, self.model)
        return jnp.mean(jnp.sum((jax.vmap(model)(x) - y) ** 2, axis=-1)) / 2

    def gradient(self) -> Callable[[], Any]:
        """One gradient."""
        program = jax.jit(jax.value_and_grad(self.loss))
        return lambda: program(self.params, self.x, self.y)

    def step(
        self, transform: optax.GradientTransformationExtraArgs, skip: int = 0
    ) -> Callable[[], Any]:
        """One step with its gradient; the first `skip` of them are not timed."""

        @jax.jit
        def program(params, state, x, y):
            gradient = jax.grad(self.loss)(params, x, y)
            return transform.update(gradient, state, params, x=x, y=y)

        # the first call makes the blocks, the second compiles for their shapes
        state = transform.init(self.params)
        for _ in range(1 + skip):
            _, state = program(self.params, state, self.x, self.y)
        return lambda: program(self.params, state, self.x, self.y)


def interleaved(
    programs: dict[str, Callable[[], Any]], repeat: int
) -> dict[str, list[float]]:
    """Seconds of each program, in rounds so that all see the same machine."""
    for program in programs.values():
        jax.block_until_ready(program())
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeat):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(time.perf_counter() - start)
    return times


def row(
    name: str, work: Work, times: dict[str, list[float]], which: str
) -> dict[str, Any]:
    """A row of the table: medians, and their ratio with its range over rounds."""
    ratios = np.asarray(times[which]) / np.asarray(times["gradient"])
    return {
        "step": name,
        "parameters": work.size,
        "examples": len(work.x),
        "seconds": float(np.median(times[which])),
        "gradient_seconds": float(np.median(times["gradient"])),
        "ratio": float(np.median(ratios)),
        "quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| step | parameters | examples | seconds | gradient | gradients a step |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        low, high = one["quartiles"]
        lines.append(
            f"| {one['step']} | {one['parameters']:,} | {one['examples']:,} "
            f"| {one['seconds']:.3f} | {one['gradient_seconds']:.4f} "
            f"| {one['ratio']:.1f} ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines)

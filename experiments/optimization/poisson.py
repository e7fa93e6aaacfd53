"""A physics-informed network: natural gradient and Adam on the Poisson equation.

-Δu = f on the unit square with u = 0 on its boundary and f = 2π² sin(πx) sin(πy) is
solved by u = sin(πx) sin(πy). The residual of the equation at a point, and the value of
u on the boundary, are the outputs of one network with another forward pass, so the
structured Jacobian and `natural_gradient` serve it as they are.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import ntkuq as nq
from experiments.optimization.steps import timed
from experiments.record import save
from ntkuq.models import cast
from ntkuq.optimization import LineSearch, natural_gradient


#: Of natural gradient: enough to solve the systems in float64.
DAMPING = 1e-12


class Residual(eqx.Module):
    """-Δu - f at an interior point, u at a boundary point.

    Args:
        network: u, of one point (2,).
    """

    network: eqx.nn.MLP

    def __call__(self, point: tuple[Float[Array, " 2"], Float[Array, ""]]) -> Array:
        """The residual at (coordinates, 1 inside or 0 on the boundary)."""
        at, inside = point

        def value(at: Array) -> Array:
            return self.network(at)[0]

        def second(direction: Array) -> Array:
            def slope(at: Array) -> Array:
                return jax.jvp(value, (at,), (direction,))[1]

            return jax.jvp(slope, (at,), (direction,))[1]

        laplacian = second(jnp.array([1.0, 0.0])) + second(jnp.array([0.0, 1.0]))
        equation = -laplacian - 2 * math.pi**2 * exact(at)
        return jnp.where(inside > 0, equation, value(at))[None]


def exact(at: Array) -> Array:
    """The solution."""
    return jnp.sin(math.pi * at[..., 0]) * jnp.sin(math.pi * at[..., 1])


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Relative L2 error of a small tanh network after natural gradient and Adam."""

    width: int = 64
    """Units of the hidden layer."""
    interior: int = 30
    """Grid points a side in which the equation is asked for."""
    boundary: int = 30
    """Points on each side of the square."""
    penalty: float = 100.0
    """Weight of the mean square on the boundary; that of the equation has 1."""
    steps: int = 1000
    """Steps of natural gradient."""
    adam: int = 10_000
    """Updates of Adam, for each of three learning rates."""
    seeds: int = 3
    """Initializations."""
    out: Path = Path("runs/experiments/poisson.json")
    """The document."""

    def execute(self) -> None:
        """Run, print the table, write the document."""
        rows = []
        with jax.enable_x64(True):
            x, weight = self.points()
            for seed in range(self.seeds):
                rows.append(self.one("natural gradient", None, x, weight, seed))
                trials = [
                    self.one("Adam", rate, x, weight, seed)
                    for rate in (1e-3, 3e-3, 1e-2)
                ]
                rows.append(min(trials, key=lambda row: row["error"]))
                print(markdown(rows[-2:]), flush=True)
        print()
        print(markdown(rows))
        path = save(self.out, "poisson", dataclasses.asdict(self) | {"rows": rows})
        print(f"\nwritten {path}")

    def points(self) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """All points, and their weights: a mean over each part, the second larger."""
        side = (np.arange(self.interior) + 0.5) / self.interior
        inner = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        along = (np.arange(self.boundary) + 0.5) / self.boundary
        zero, one = np.zeros_like(along), np.ones_like(along)
        edges = [(along, zero), (along, one), (zero, along), (one, along)]
        outer = np.concatenate([np.stack(edge, -1) for edge in edges])
        inside = np.concatenate([np.ones(len(inner)), np.zeros(len(outer))])
        weight = np.where(inside > 0, 1 / len(inner), self.penalty / len(outer))
        return (np.concatenate([inner, outer]), inside), weight

    def one(
        self,
        optimizer: str,
        rate: float | None,
        x: tuple[np.ndarray, np.ndarray],
        weight: np.ndarray,
        seed: int,
    ) -> dict[str, Any]:
        """One training."""
        build = nq.models.mlp(2, 1, width=self.width, depth=1)
        model = Residual(cast(build(jax.random.key(seed)), np.float64))
        exactly = rate is None
        if exactly:
            # the weights do not sum to N: so does not the matrix that is damped
            transform = natural_gradient(
                model, nq.Gaussian(1.0), damping=DAMPING, learning_rate=LineSearch()
            )
            steps = self.steps
        else:
            steps = self.adam
            transform = optax.with_extra_args_support(
                optax.adam(optax.cosine_decay_schedule(rate, steps))
            )
        params = nq.models.parameters(model)
        inputs, shares = jax.tree.map(jnp.asarray, (x, weight))
        targets = jnp.zeros((len(weight), 1))

        def loss(params: Any, inputs: Any, shares: Array) -> Array:
            residual = jax.vmap(eqx.combine(params, model))(inputs)
            return 0.5 * jnp.dot(shares, residual[:, 0] ** 2)

        @jax.jit
        def train(params: Any, inputs: Any, shares: Array, targets: Array):
            def advance(carry, _):
                params, state = carry
                gradient = jax.grad(loss)(params, inputs, shares)
                with jax.numpy_dtype_promotion("standard"):
                    updates, state = transform.update(
                        gradient,
                        state,
                        params,
                        x=inputs,
                        y=targets,
                        weight=shares,
                    )
                return (optax.apply_updates(params, updates), state), None

            begin = (params, transform.init(params))
            (params, _), _ = jax.lax.scan(advance, begin, None, length=steps)
            error = relative_error(eqx.combine(params, model).network)
            return jnp.asarray(steps), error / 2

        ending = timed(train, params, inputs, shares, targets)
        return {
            "optimizer": optimizer,
            "setting": f"damping {DAMPING:g}, line search"
            if rate is None
            else f"rate {rate:g}",
            "seed": seed,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "steps": steps,
            "error": ending.error,
            "seconds": ending.seconds,
        }


def relative_error(network: eqx.nn.MLP) -> Array:
    """The L2 error of u over its norm, by the midpoint rule on 100 x 100 points."""
    side = (jnp.arange(100.0) + 0.5) / 100
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    wanted = exact(grid)
    found = jax.vmap(network)(grid)[:, 0]
    return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| seed | optimizer | setting | steps | relative L2 error | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['seed']} | {one['optimizer']} | {one['setting']} | {one['steps']:,} "
        f"| {one['error']:.1e} | {one['seconds']:.1f} |"
        for one in rows
    ]
    return "\n".join(lines)

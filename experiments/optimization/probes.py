"""C′ of Zhang, Martens and Grosse at random, radial and training-path points."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from experiments.optimization.curves import (
    OPTIMIZERS,
    Curve,
    Problem,
    kfac_curve,
    reached,
    thinned,
)
from experiments.optimization.problems import Task, builder
from ntkuq.linearize import Jacobian
from ntkuq.models import cast
from ntkuq.optimization.kernel_regime.conditions import RADII
from ntkuq.optimization.kernel_regime.descent import (
    contraction,
    lazy_steps,
    natural_path,
)
from ntkuq.optimization.kernel_regime.drift import jacobian_changes, kernel_of
from ntkuq.optimization.kernel_regime.rates import GOAL, RATES
from ntkuq.optimization.kernel_regime.spectrum import Spectrum


class Effort(NamedTuple):
    """How much is computed for a network.

    directions: random directions, each at all radii. natural: steps of natural
    gradient. kfac, steps: of KFAC, and of the first-order methods.
    """

    directions: int
    natural: int
    kfac: int
    steps: int


def measure(
    network: str,
    data: Task,
    width: int,
    parametrization: str,
    seed: int,
    effort: Effort,
) -> dict[str, Any]:
    """Conditions and outcomes of one network.

    All in float64 but KFAC and the first-order methods.

    Args:
        network, parametrization: by name.
        data: inputs and targets.
        width: of the network.
        seed: of its initialization.
        effort: how much to compute.

    Returns:
        λ_min, λ_max, ρ, C′ by kind of probe, the observed rates, curves. Where λ_min is
        not above its rounding error nothing is divided by it, and only it is there.
    """
    with jax.enable_x64(True):
        # keys of 32-bit draws, so that a seed is the same network in either precision
        begin, draw, batches = jax.random.split(jax.random.key(seed), 3)
        shape = data.x.shape[1:]
        model = builder(network, shape, width, parametrization)(begin)
        jacobian = begun(network, shape, width, model)
        x, y = jnp.asarray(data.x), jnp.asarray(data.y)
        outputs, kernel = kernel_of(jacobian, x)
        spectrum = Spectrum.of(np.asarray(kernel))
        found: dict[str, Any] = {
            "parameters": jacobian.size,
            "least": spectrum.least,
            "most": spectrum.most,
            "floor": spectrum.floor,
            "sure": spectrum.sure and jacobian.size >= len(kernel),
        }
        if not found["sure"]:
            return found
        natural = {
            rate: natural_path(jacobian, x, y, jnp.asarray(rate), effort.natural)
            for rate in RATES
        }
        curves = _curves(jacobian, data, spectrum, effort, batches)
        squares = {rate: np.asarray(path[0]) for rate, path in natural.items()}
        documents: dict[str, Any] = {
            f"natural gradient, η = {rate:g}": thinned(path)
            | {"rate": rate, "reached": reached(path), "tried": effort.natural}
            for rate, path in squares.items()
        }
        documents |= {name: curve.document() for name, curve in curves.items()}
        return (
            found
            | _constants(jacobian, x, spectrum, natural[0.5], curves, effort, draw)
            | {
                "contractions": {str(r): contraction(s) for r, s in squares.items()},
                "curves": documents,
                "natural_steps": min(map(reached, squares.values())),
                "descent_steps": curves["gradient descent"].reached,
                "steps": effort.steps,
                "predicted_steps": _predicted(kernel, outputs - y),
            }
        )


def _curves(
    jacobian: Jacobian, data: Task, spectrum: Spectrum, effort: Effort, key: Array
) -> dict[str, Curve]:
    """KFAC and the first-order methods, from the same network.

    In float32: training needs no more, and convolutions are slow in float64.
    """
    with jax.enable_x64(False):
        model = cast(jacobian.model, np.dtype("float32"))
        x, y = (jnp.asarray(a, np.float32) for a in (data.x, data.y))
        problem = Problem(x, y, spectrum.least, spectrum.most)
        return {
            "KFAC": kfac_curve(model, problem, effort.kfac),
            **{
                name: one.best(model, problem, effort.steps, key=key)
                for name, one in OPTIMIZERS.items()
            },
        }


def _constants(
    jacobian: Jacobian,
    x: Array,
    spectrum: Spectrum,
    natural: tuple[Array, list[Array]],
    curves: dict[str, Curve],
    effort: Effort,
    key: Array,
) -> dict[str, Any]:
    """C′ by kind of probe: 3 ‖J(θ) - J(θ₀)‖₂ / √λ_min for θ within ρ of θ₀."""
    start, root = jacobian.leaves, math.sqrt(spectrum.least)
    squares, path = natural
    residual = math.sqrt(float(squares[0]))
    rho = 3.0 * residual / root
    probes, distance = _points(
        start,
        jnp.asarray(rho),
        path,
        [curve.leaves for curve in curves.values()],
        key,
        count=effort.directions,
    )
    changes = np.asarray(jacobian_changes(jacobian, x, probes))
    distance = np.asarray(distance)
    constants = 3.0 * changes / root
    # a point that is not in the ball says nothing about it
    inside = np.isfinite(constants) & (distance <= rho * (1 + 1e-9))
    constants = np.where(inside, constants, 0.0)
    count = len(RADII) * effort.directions
    by_radius = constants[:count].reshape(effort.directions, -1)
    end = len(constants) - len(curves)
    found = {
        "random, at ρ": float(by_radius[:, -1].max()),
        "random, at smaller radii": float(by_radius[:, :-1].max()),
        "natural-gradient path": float(constants[count:end].max()),
        "where training ended": float(constants[end:].max()),
    }
    return {
        "rho": rho,
        "constants": found,
        "constant": max(found.values()),
        "outside": int(np.sum(~inside)),
        # of natural gradient, η = 1/2
        "used_radius": float(distance[end - 1]) / rho,
    }


@eqx.filter_jit
def _points(
    start: list[Array],
    rho: Array,
    path: list[Array],
    ends: list[list[Array]],
    key: Array,
    *,
    count: int,
) -> tuple[list[Array], Array]:
    """All probes, stacked: directions by radii, path, ends; distances from θ₀."""
    radii = rho * jnp.asarray(RADII)
    probes, squares = [], []
    units = _directions(start, count, key)
    for leaf, unit, walked, *last in zip(start, units, path, *ends, strict=True):
        steps = radii.reshape(1, -1, *[1] * leaf.ndim) * unit[:, None]
        moved = (leaf + steps).reshape(-1, *leaf.shape)
        final = jnp.stack([one.astype(leaf.dtype) for one in last])
        probes.append(jnp.concatenate([moved, walked, final]))
        difference = probes[-1] - leaf
        squares.append(jnp.sum(difference**2, tuple(range(1, difference.ndim))))
    return probes, jnp.sqrt(sum(squares[1:], squares[0]))


def _directions(like: list[Array], count: int, key: Array) -> list[Array]:
    """Random directions of unit length over all leaves, stacked."""
    keys = jax.random.split(key, len(like))
    leaves = [
        jax.random.normal(k, (count, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, like, strict=True)
    ]
    squares = [jnp.sum(a**2, tuple(range(1, a.ndim))) for a in leaves]
    length = jnp.sqrt(sum(squares[1:], squares[0]))
    return [a / length.reshape(-1, *[1] * (a.ndim - 1)) for a in leaves]


def _predicted(kernel: Array, residual: Array) -> float:
    """Iterations of gradient descent if the kernel stayed, the better of two steps."""
    values, vectors = np.linalg.eigh(np.asarray(kernel))
    weights = (vectors.T @ np.asarray(residual).reshape(-1)) ** 2
    rates = (1 / values[-1], 2 / (values[-1] + values[0]))
    return min(lazy_steps(values, weights, float(rate), GOAL) for rate in rates)


def begun(network: str, shape: tuple[int, ...], width: int, model: PyTree) -> Jacobian:
    """The Jacobian of a network; those of one shape share their programs."""
    base = _base(network, shape, width)
    arrays, _ = eqx.partition(cast(model, np.dtype(float)), eqx.is_array)
    _, static = eqx.partition(base.model, eqx.is_array)
    return Jacobian(eqx.combine(arrays, static), base.plan, base.subset)


@functools.cache
def _base(network: str, shape: tuple[int, ...], width: int) -> Jacobian:
    model = builder(network, shape, width, "standard")(jax.random.key(0))
    model = cast(model, np.dtype(float))
    return Jacobian.at(model, jnp.zeros(shape, np.dtype(float)))

r"""One stage of the recursion: a nonlinearity and the dense layer after it.

Variances are of one input, exact to rounding. For a pair what is carried is the gap
$g = 1 - K / \sqrt{q_1 q_2}$, in [0, 2], and $\Theta / \sqrt{q_1 q_2}$.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.kernels.base import LogValues
from ntkuq.kernels.duals import reciprocal, root
from ntkuq.kernels.stages import Stage


class Step(NamedTuple):
    r"""What a stage needs of each input, leaves (N, ...).

    With $q' = \sigma_w^2 E[\phi\phi] + \sigma_b^2$ the next variance, (signal, shift)
    is the unit vector $(\sigma_w \sqrt{E[\phi\phi]}, \sigma_b) / \sqrt{q'}$, and `rate`
    is $\sigma_w \sqrt{q / q'}$.
    """

    points: PyTree
    slope_points: PyTree
    signal: Array
    shift: Array
    rate: Array


def wide(params: LogValues, x: Array) -> tuple[LogValues, Array]:
    """Both in float64 where JAX has it enabled, else in the dtype of x."""
    default = jnp.result_type(float)
    wider = jnp.finfo(default).bits > jnp.finfo(x.dtype).bits
    dtype = default if wider else x.dtype
    return {name: value.astype(dtype) for name, value in params.items()}, x.astype(
        dtype
    )


def variances(params: LogValues) -> tuple[Array, Array]:
    """sigma_w^2 and sigma_b^2."""
    return jnp.exp(2.0 * params["weight std"]), jnp.exp(2.0 * params["bias std"])


def output_variance(params: LogValues, like: Array) -> Array:
    """The factor of the whole covariance: 1 where it is no hyper-parameter."""
    if "output std" not in params:
        return jnp.ones((), like.dtype)
    return jnp.exp(2.0 * params["output std"]).astype(like.dtype)


def variance_step(
    stage: Stage, q: Array, ntk: Array, weight: Array, bias: Array
) -> tuple[Array, Array]:
    """The diagonals of K and Θ after a stage, (N,) each."""
    assert stage.dual is not None  # noqa: S101
    value, slopes = stage.dual.diagonal(q)
    after = weight * value + (bias if stage.bias else jnp.zeros_like(bias))
    return after, after + weight * ntk * slopes


def step(
    stage: Stage, q: Array, after: Array, weight: Array, bias: Array, *, slopes: bool
) -> Step:
    """What the pairs need of a stage between variances q and q'.

    Args:
        stage: with a nonlinearity.
        q, after: variances before and after, (N,).
        weight, bias: sigma_w^2 and sigma_b^2.
        slopes: whether what Θ needs is wanted.
    """
    assert stage.dual is not None  # noqa: S101
    shift = bias if stage.bias else jnp.zeros_like(bias)
    inverse = reciprocal(root(after))
    signal = weight * stage.dual.diagonal(q)[0]
    return Step(
        points=stage.dual.points(q),
        slope_points=stage.dual.slope_points(q) if slopes else (),
        signal=root(signal) * inverse,
        shift=root(shift) * inverse,
        rate=root(weight * q) * inverse,
    )


def advance(
    stage: Stage, gap: Float[Array, "N M"], one: Step, two: Step
) -> Float[Array, "N M"]:
    r"""The gap after a stage.

    With the unit vectors $(c_i, s_i)$ of `Step` it is
    $c_1 c_2 \hat g + \frac12 ((c_1 - c_2)^2 + (s_1 - s_2)^2)$, where $\hat g$ is the
    dual's: nothing cancels where two inputs are close.
    """
    assert stage.dual is not None  # noqa: S101
    gap = stage.dual.gaps(gap, one.points, two.points)
    if not stage.bias:
        return gap
    apart = (one.signal[:, None] - two.signal[None, :]) ** 2
    apart = apart + (one.shift[:, None] - two.shift[None, :]) ** 2
    return one.signal[:, None] * two.signal[None, :] * gap + 0.5 * apart


def advance_both(
    stage: Stage,
    gap: Float[Array, "N M"],
    ntk: Float[Array, "N M"],
    one: Step,
    two: Step,
) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
    r"""The gap and $\Theta / \sqrt{q_1 q_2}$ after a stage."""
    assert stage.dual is not None  # noqa: S101
    slopes = stage.dual.slopes(gap, one.slope_points, two.slope_points)
    gap = advance(stage, gap, one, two)
    return gap, 1.0 - gap + one.rate[:, None] * two.rate[None, :] * slopes * ntk

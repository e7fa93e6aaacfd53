r"""The NNGP and NTK of fully connected networks, by recursion over the layers.

In the NTK parametrization a dense layer is
$f = \sigma_w W h / \sqrt{\text{fan-in}} + \sigma_b b$ with standard normal W, b. For
inputs scaled by $s$ and for layers $l = 1, 2, \ldots$,

$K_1 = \Theta_1 = \sigma_w^2 (s x)\cdot(s x') / D + \sigma_b^2$,
$K_{l+1} = \sigma_w^2 E[\phi\phi] + \sigma_b^2$,
$\Theta_{l+1} = K_{l+1} + \sigma_w^2 \Theta_l \odot E[\phi'\phi']$.

For a pair of inputs what is carried is not K but $g = 1 - K / \sqrt{q_1 q_2}$, with the
variances q of the two: no digits are lost where they are nearly equal. All that depends
on one input is computed once an input (`rows_of`), the rest in blocks.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import (
    AbstractCovariance,
    Gram,
    LogValues,
    Parameter,
    flat,
)
from ntkuq.kernels.blocks import rectangular_blocks, symmetric_blocks
from ntkuq.kernels.duals import reciprocal, root
from ntkuq.kernels.recursion import (
    Step,
    advance,
    advance_both,
    output_variance,
    step,
    variance_step,
    variances,
    wide,
)
from ntkuq.kernels.stages import Stage
from ntkuq.linearize.multiply import exact_product


class Rows(NamedTuple):
    """What the recursion over pairs needs of each input.

    unit: (N, D + 1) first-layer features over their norm; steps: one for each later
    stage; size: standard deviation of the output.
    """

    unit: Float[Array, "N F"]
    steps: tuple[Step, ...]
    size: Float[Array, " N"]


def rows_of(
    network: tuple[Stage, ...], params: LogValues, x: Array, *, slopes: bool
) -> tuple[Rows, tuple[Array, Array]]:
    """The part of the recursion that looks at one input at a time.

    Args:
        network: from `stages`.
        params: logarithms of "weight std", "bias std" and "input scale".
        x: inputs (N, ...).
        slopes: whether what Θ needs is wanted.

    Returns:
        `Rows`, and the diagonals of K and Θ, exact to rounding.
    """
    dtype = x.dtype
    params, x = wide(params, x)
    z, (weight, bias) = scaled_inputs(params, x), variances(params)
    shift = bias if network[0].bias else jnp.zeros_like(bias)
    q = ntk = weight * jnp.sum(z**2, axis=1) + shift
    last = jnp.broadcast_to(root(shift), q.shape)
    features = jnp.concatenate([root(weight) * z, last[:, None]], axis=1)
    # Its product stays in float64 where it can: it holds 1 - rho.
    unit = features * reciprocal(root(q))[:, None]
    steps: list[Step] = []
    for stage in network[1:]:
        after, ntk = variance_step(stage, q, ntk, weight, bias)
        steps.append(step(stage, q, after, weight, bias, slopes=slopes))
        q = after
    size = root(q * output_variance(params, q))
    narrow = jax.tree.map(lambda a: a.astype(dtype), (tuple(steps), size, (q, ntk)))
    return Rows(unit, *narrow[:2]), narrow[2]


def gaps(one: Rows, two: Rows) -> Float[Array, "N M"]:
    """1 - the correlation of each pair after the first layer, in [0, 2]."""
    product = exact_product(one.unit, two.unit.T)
    gap = 1.0 - product
    # What rounding of the product can be is equality: equal inputs stay equal.
    gap = jnp.where(gap > 8.0 * jnp.finfo(gap.dtype).eps, gap, 0.0)
    return jnp.where(gap < 2.0, gap, 2.0).astype(one.size.dtype)


def nngp_tile(network: tuple[Stage, ...], one: Rows, two: Rows) -> Float[Array, "N M"]:
    """K of all pairs."""
    gap = gaps(one, two)
    for stage, left, right in zip(network[1:], one.steps, two.steps, strict=True):
        gap = advance(stage, gap, left, right)
    return one.size[:, None] * two.size[None, :] * (1.0 - gap)


def both_tile(
    network: tuple[Stage, ...], one: Rows, two: Rows
) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
    """K and Θ of all pairs."""
    gap = gaps(one, two)
    ntk = 1.0 - gap
    for stage, left, right in zip(network[1:], one.steps, two.steps, strict=True):
        gap, ntk = advance_both(stage, gap, ntk, left, right)
    size = one.size[:, None] * two.size[None, :]
    return size * (1.0 - gap), size * ntk


def recursion(
    network: tuple[Stage, ...], params: LogValues, x1: Array, x2: Array | None
) -> tuple[Array, Array]:
    """K and Θ between two sets of inputs, (N1, N2) each, for little more than Θ alone.

    Args:
        network: from `stages`.
        params: logarithms of "weight std", "bias std", "input scale" and, where it is
            one, "output std".
        x1, x2: inputs (N, ...); without `x2` both are `x1`.
    """
    tile = functools.partial(both_tile, network)
    one, (q, ntk) = rows_of(network, params, x1, slopes=True)
    if x2 is None:
        factor = output_variance(params, q)
        return symmetric_blocks(tile, one, (q * factor, ntk * factor))
    two, _ = rows_of(network, params, x2, slopes=True)
    return rectangular_blocks(tile, one, two)


def scaled_inputs(params: LogValues, x: Array) -> Array:
    """Inputs times "input scale" over sqrt(D), as rows (N, D)."""
    rows = flat(x)
    scale = jnp.exp(params["input scale"]) / np.sqrt(rows.shape[1])
    return rows * (scale[None, :] if scale.ndim else scale)


class DenseNNGP(AbstractCovariance):
    """K: the outputs of the random network of infinite width.

    Exactly symmetric, in the dtype of the inputs; float32 keeps its digits near the
    diagonal where JAX has float64 enabled.
    """

    parameters: dict[str, Parameter]
    network: tuple[Stage, ...]

    def gram(self, params, x1, x2=None):
        tile = functools.partial(nngp_tile, self.network)
        one, (q, _) = rows_of(self.network, params, x1, slopes=False)
        if x2 is None:
            return symmetric_blocks(tile, one, q * output_variance(params, q))
        two, _ = rows_of(self.network, params, x2, slopes=False)
        return rectangular_blocks(tile, one, two)

    def diagonal(self, params, x):
        _, (q, _) = rows_of(self.network, params, x, slopes=False)
        return q * output_variance(params, q)

    def at(self, x):
        return Gram(self, x)


class DenseNTK(AbstractCovariance):
    """Θ: the outputs of the linearized random network of infinite width.

    Exactly symmetric, in the dtype of the inputs; float32 keeps its digits near the
    diagonal where JAX has float64 enabled.
    """

    parameters: dict[str, Parameter]
    network: tuple[Stage, ...]

    def gram(self, params, x1, x2=None):
        def tile(one: Rows, two: Rows) -> Array:
            return both_tile(self.network, one, two)[1]

        one, (_, ntk) = rows_of(self.network, params, x1, slopes=True)
        if x2 is None:
            return symmetric_blocks(tile, one, ntk * output_variance(params, ntk))
        two, _ = rows_of(self.network, params, x2, slopes=True)
        return rectangular_blocks(tile, one, two)

    def both(
        self, params: LogValues, x1: Array, x2: Array | None = None
    ) -> tuple[Array, Array]:
        """K and Θ, (N1, N2) each, for little more than Θ alone."""
        return recursion(self.network, params, x1, x2)

    def diagonal(self, params, x):
        _, (_, ntk) = rows_of(self.network, params, x, slopes=False)
        return ntk * output_variance(params, ntk)

    def at(self, x):
        return Gram(self, x)

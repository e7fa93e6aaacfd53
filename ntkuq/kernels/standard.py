r"""Θ of fully connected networks in the standard parametrization.

With $S_l$ the covariance of what enters layer l, over its fan-in $n_l$ (the inputs
themselves, then $E[\phi\phi]$),

$K_l = \sigma_w^2 S_l + \sigma_b^2$,
$\Theta_l = n_l S_l + 1 + \sigma_w^2 \Theta_{l-1} \odot E[\phi'\phi']$

(Sohl-Dickstein et al. 2020, arXiv 2001.07301).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ntkuq.kernels.activate import pairs
from ntkuq.kernels.base import (
    AbstractCovariance,
    Gram,
    Parameter,
    symmetric,
)
from ntkuq.kernels.dense import scaled_inputs
from ntkuq.kernels.recursion import output_variance, variances
from ntkuq.kernels.stages import Stage


class StandardNTK(AbstractCovariance):
    """What gradient descent on all weights moves the outputs by.

    Args:
        network: the stages.
        fan_in: the width of the input of each dense layer.
    """

    parameters: dict[str, Parameter]
    network: tuple[Stage, ...]
    fan_in: tuple[int, ...] = eqx.field(static=True)

    def gram(self, params, x1, x2=None):
        z1 = scaled_inputs(params, x1)
        z2 = z1 if x2 is None else scaled_inputs(params, x2)
        weight, bias = variances(params)
        k, ntk = z1 @ z2.T, jnp.zeros((), z1.dtype)
        q1, q2 = (jnp.sum(z**2, axis=1) for z in (z1, z2))
        for stage, width in zip(self.network, self.fan_in, strict=True):
            shift = bias if stage.bias else jnp.zeros_like(bias)
            if stage.dual is not None:
                k, slopes = pairs(stage.dual, k, q1, q2)
                q1, q2 = (stage.dual.diagonal(q)[0] for q in (q1, q2))
                ntk = weight * ntk * slopes
            ntk = ntk + _layer(k, width, stage)
            k, q1, q2 = (weight * a + shift for a in (k, q1, q2))
        ntk = ntk * output_variance(params, ntk)
        return ntk if x2 is not None else symmetric(ntk, self.diagonal(params, x1))

    def diagonal(self, params, x):
        z = scaled_inputs(params, x)
        weight, bias = variances(params)
        q, ntk = jnp.sum(z**2, axis=1), jnp.zeros((), z.dtype)
        for stage, width in zip(self.network, self.fan_in, strict=True):
            shift = bias if stage.bias else jnp.zeros_like(bias)
            if stage.dual is not None:
                q, slopes = stage.dual.diagonal(q)
                ntk = weight * ntk * slopes
            ntk = ntk + _layer(q, width, stage)
            q = weight * q + shift
        return ntk * output_variance(params, ntk)

    def at(self, x):
        return Gram(self, x)


def _layer(covariance: Array, width: int, stage: Stage) -> Array:
    """What a layer's own weights and biases add."""
    return width * covariance + (1.0 if stage.bias else 0.0)

"""The squared-exponential kernel, the plain baseline."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.kernels.base import (
    AbstractCovariance,
    AbstractKernel,
    Gram,
    Parameter,
    feature_scale,
    flat,
    separate_scales,
)
from ntkuq.kernels.blocks import rectangular_blocks, symmetric_blocks
from ntkuq.linearize.multiply import exact_product


class RBF(AbstractKernel):
    r"""$k(x, x') = s^2 \exp(-\tfrac12 \sum_d (x_d - x_d')^2 / \ell_d^2)$.

    Args:
        ard: one lengthscale for each feature (`True`) or one for all (`False`); `None`
            takes one for each where there are at most 20 features.

    The lengthscales start at sqrt(D) times the spread of the features.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, ch. 4.

    >>> RBF(ard=False)
    RBF(ard=False)
    """

    ard: bool | None = None

    def covariance(self, bnn, x, scale):
        separate = separate_scales(self.ard, x)
        width = feature_scale(np.asarray(x), separate=separate)
        features = int(np.prod(x.shape[1:]))
        return SquaredExponential(
            {
                "lengthscale": Parameter.of(width * np.sqrt(features), 1e-2, 1e3),
                "output std": Parameter.of(scale, 1e-2, 1e2),
            }
        )


class Rows(NamedTuple):
    """Inputs over the lengthscales, near the origin, and "output std" of each."""

    z: Float[Array, "N D"]
    size: Float[Array, " N"]


class SquaredExponential(AbstractCovariance):
    """The covariance of `RBF`."""

    parameters: dict[str, Parameter]

    def gram(self, params, x1, x2=None):
        z1 = _scaled(params, x1)
        # The kernel does not change when both inputs move: near the origin the squared
        # distances below lose the fewest digits.
        middle = jax.lax.stop_gradient(jnp.mean(z1, axis=0, keepdims=True))
        one = Rows(z1 - middle, self._size(params, x1))
        if x2 is None:
            return symmetric_blocks(_tile, one, one.size**2)
        two = Rows(_scaled(params, x2) - middle, self._size(params, x2))
        return rectangular_blocks(_tile, one, two)

    def diagonal(self, params, x):
        return self._size(params, x) ** 2

    def at(self, x):
        return Gram(self, x)

    def _size(self, params, x):
        size = jnp.exp(params["output std"]).astype(x.dtype)
        return jnp.broadcast_to(size, (x.shape[0],))


def _tile(one: Rows, two: Rows) -> Float[Array, "N M"]:
    square = (
        jnp.sum(one.z**2, axis=1)[:, None]
        + jnp.sum(two.z**2, axis=1)[None, :]
        - 2.0 * exact_product(one.z, two.z.T)
    )
    # not jnp.maximum, whose derivative is halved at a tie
    distance = jnp.where(square > 0.0, square, 0.0)
    return one.size[:, None] * two.size[None, :] * jnp.exp(-0.5 * distance)


def _scaled(params, x):
    scale = jnp.exp(-params["lengthscale"]).astype(x.dtype)
    return flat(x) * (scale[None, :] if scale.ndim else scale)

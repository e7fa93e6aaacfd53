"""The squared-exponential kernel, the plain baseline."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.kernels.base import (
    AbstractCovariance,
    AbstractKernel,
    Gram,
    Parameter,
    feature_scale,
    flat,
    separate_scales,
    symmetric,
)


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


class SquaredExponential(AbstractCovariance):
    """The covariance of `RBF`."""

    parameters: dict[str, Parameter]

    def gram(self, params, x1, x2=None):
        z1 = _scaled(params, x1)
        # The kernel does not change when both inputs move: near the origin the squared
        # distances below lose the fewest digits.
        middle = jax.lax.stop_gradient(jnp.mean(z1, axis=0, keepdims=True))
        z1 = z1 - middle
        z2 = z1 if x2 is None else _scaled(params, x2) - middle
        square = (
            jnp.sum(z1**2, axis=1)[:, None]
            + jnp.sum(z2**2, axis=1)[None, :]
            - 2.0 * z1 @ z2.T
        )
        # not jnp.maximum, whose derivative is halved at a tie
        distance = jnp.where(square > 0.0, square, 0.0)
        values = jnp.exp(2.0 * params["output std"] - 0.5 * distance)
        return (
            values if x2 is not None else symmetric(values, self.diagonal(params, x1))
        )

    def diagonal(self, params, x):
        return jnp.broadcast_to(jnp.exp(2.0 * params["output std"]), (x.shape[0],))

    def at(self, x):
        return Gram(self, x)


def _scaled(params, x):
    scale = jnp.exp(-params["lengthscale"])
    return flat(x) * (scale[None, :] if scale.ndim else scale)

"""Networks with a fixed part: added functions and linearized networks."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.models import Frozen, trainable


class Offset(eqx.Module):
    """x -> network(x) + scale function(x), with only the network to be trained."""

    network: PyTree
    fixed: Frozen

    @staticmethod
    def of(network: PyTree, function: PyTree, scale: float = 1.0) -> Offset:
        """The sum with `scale` times the function."""
        return Offset(network, Frozen((function, jnp.asarray(scale))))

    def __call__(self, x: PyTree) -> Array:
        function, scale = self.fixed.value
        value = self.network(x)
        other = jax.lax.stop_gradient(function(x))
        return value + scale.astype(value.dtype) * other


class Tangent(eqx.Module):
    """x -> J(x, theta_0) direction: a product with the network's Jacobian.

    Args:
        network: gives theta_0, which is fixed.
        direction: like the parameters.
    """

    network: Frozen
    direction: PyTree

    @staticmethod
    def of(network: PyTree, direction: PyTree) -> Tangent:
        """The Jacobian of this network times the direction."""
        return Tangent(Frozen(network), direction)

    def __call__(self, x: PyTree) -> Array:
        return self.both(x)[1]

    def both(self, x: PyTree) -> tuple[Array, Array]:
        """The network's outputs and the product."""
        network = self.network.value
        params, rest = eqx.partition(network, trainable(network))

        def call(params: PyTree) -> Array:
            return eqx.combine(params, rest)(x)

        return jax.jvp(call, (params,), (self.direction,))


class TangentMinusValue(eqx.Module):
    """x -> J(x, theta_0) direction - f(x, theta_0)."""

    tangent: Tangent

    def __call__(self, x: PyTree) -> Array:
        value, product = self.tangent.both(x)
        return product - value

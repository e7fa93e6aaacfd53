"""Output scale: laziness at any width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from ntkuq.models import Network
from ntkuq.models.network import Frozen, as_network


class Scaled(eqx.Module):
    r"""$\alpha\,(f(\theta, x) - f(\theta_0, x))$.

    Args:
        model: f with its parameters θ.
        start: f at θ₀, which no training moves.
        alpha: the output scale.
    """

    model: PyTree
    start: Frozen
    alpha: float = eqx.field(static=True)

    def __call__(self, x: PyTree) -> Array:
        fixed = jax.lax.stop_gradient(self.start.value(x))
        return self.alpha * (self.model(x) - fixed)


def scaled(network: Network | Callable[..., PyTree], alpha: float) -> Network:
    r"""A network with output scale α that begins at zero: $\alpha (f - f_0)$.

    Its tangent kernel is α² that of f, and a given change of the outputs takes a change
    of the parameters smaller by α. So training stays where it linearizes: the kernel's
    relative change falls like 1/α at any width. Gradient descent needs a step size
    smaller by α², Adam by α.

    Args:
        network: a builder, or a `Network` with one.
        alpha: α > 0.

    Returns:
        The builder of the scaled network.

    Raises:
        ValueError: for α ≤ 0, or a network without a builder.

    References: Chizat, Oyallon, Bach 2019 (arXiv 1812.07956).

    >>> import jax.numpy as jnp
    >>> from ntkuq.models import mlp
    >>> scaled(mlp(2, 1), 100.0).init(jax.random.key(0))(jnp.ones(2)).item()
    0.0
    """
    if not alpha > 0:
        raise ValueError(f"scaled: expected alpha > 0, got {alpha}")
    known = as_network(network)
    if known.build is None:
        raise ValueError(
            "scaled: expected a builder key -> eqx.Module, got a trained network, "
            "where it began is not known"
        )

    def build(key: Array) -> Scaled:
        model = known.init(key)
        return Scaled(model, Frozen(model), float(alpha))

    return Network(build)


def output_scale(model: Any) -> float:
    """α of a network made by `scaled`, and 1 of any other."""
    return model.alpha if isinstance(model, Scaled) else 1.0

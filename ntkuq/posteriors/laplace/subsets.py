"""Which parameters are uncertain; all others stay at their trained values."""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PyTree

from ntkuq.linearize import Plan
from ntkuq.models import parameters


class AbstractSubset(eqx.Module):
    """A choice of parameter leaves."""

    @abc.abstractmethod
    def __call__(self, model: PyTree, plan: Plan) -> tuple[int, ...]:
        """Positions in `jax.tree.leaves(parameters(model))`."""


class All(AbstractSubset):
    """Every parameter.

    >>> All()
    All()
    """

    def __call__(self, model, plan):
        return tuple(range(plan.leaves))


class LastLayer(AbstractSubset):
    """The last matrix product of the forward pass, and what is added after it.

    References: Kristiadi, Hein, Hennig 2020 (arXiv 2002.10118).

    >>> LastLayer()
    LastLayer()
    """

    def __call__(self, model, plan):
        return plan.last()


class Select(AbstractSubset):
    """The leaves that `where(model)` picks, as in `equinox.tree_at`.

    Args:
        where: model -> a leaf, a layer, or a list of them.

    >>> import equinox as eqx
    >>> net = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    >>> from ntkuq.linearize import find_sites
    >>> import jax.numpy as jnp
    >>> Select(lambda m: m.layers[0].bias)(net, find_sites(net, jnp.zeros(2)))
    (1,)
    """

    where: Callable[[PyTree], PyTree]

    def __call__(self, model, plan):
        tree = parameters(model)
        numbered = jax.tree.unflatten(
            jax.tree.structure(tree), list(range(plan.leaves))
        )
        chosen = jax.tree.leaves(self.where(numbered))
        if not chosen:
            raise ValueError(
                "Select: expected `where` to pick at least one parameter array; it "
                "picked none of the network's "
                f"{plan.leaves}: check the path it follows"
            )
        return tuple(sorted(set(chosen)))

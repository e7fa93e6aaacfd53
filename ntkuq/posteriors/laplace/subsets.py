"""Which parameters are uncertain; all others stay at their trained values."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PyTree

from ntkuq.linearize import Plan
from ntkuq.models import parameters


@dataclasses.dataclass(frozen=True)
class _Place:
    """Stands for a parameter leaf while `Select` asks which are meant."""

    number: int


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

    >>> net = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    >>> from ntkuq.linearize import find_sites
    >>> import jax.numpy as jnp
    >>> Select(lambda m: m.layers[0].bias)(net, find_sites(net, jnp.zeros(2)))
    (1,)
    """

    where: Callable[[PyTree], PyTree]

    def __call__(self, model, plan):
        tree = parameters(model)
        places = [_Place(n) for n in range(plan.leaves)]
        marked = jax.tree.unflatten(jax.tree.structure(tree), places)
        try:
            chosen = jax.tree.leaves(self.where(marked))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                "Select: expected `where` to pick parameter arrays of the network; it "
                f"raised {type(error).__name__}: {error}"
            ) from error
        wrong = [type(place).__name__ for place in chosen if type(place) is not _Place]
        if wrong or not chosen:
            raise ValueError(
                "Select: expected `where` to pick at least one parameter array, got "
                f"{', '.join(wrong) or 'none'} (the network has {plan.leaves} of "
                "them): check the path it follows"
            )
        return tuple(sorted({place.number for place in chosen}))

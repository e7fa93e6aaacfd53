"""Train the network first, then a method around it: what a search needs each round."""

from __future__ import annotations

from ntkuq.posteriors.base import AbstractMethod
from ntkuq.posteriors.map import MAP


class Retrained(AbstractMethod):
    """A method that linearizes at a trained network, with the training before it.

    Args:
        start: how the network is trained, from its builder.
        then: `Laplace(...)` or another method at the trained network.

    >>> from ntkuq.posteriors.laplace import Laplace
    >>> Retrained(MAP(), Laplace()).then.subset
    All()
    """

    start: MAP
    then: AbstractMethod

    def fit(self, bnn, data, *, key):
        trained = self.start.fit(bnn, data, key=key).bnn
        return self.then.fit(trained, data, key=key)

    def cost(self, bnn, data):
        first, second = self.start.cost(bnn, data), self.then.cost(bnn, data)
        return first._replace(
            flops=first.flops + second.flops,
            bytes=max(first.bytes, second.bytes),
            compiles=first.compiles + second.compiles,
        )

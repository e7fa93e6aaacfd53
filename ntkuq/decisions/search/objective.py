"""Whether the objective is maximized or minimized, and whether it is noisy."""

from __future__ import annotations

import abc

import equinox as eqx


class AbstractDirection(eqx.Module):
    """Which values of the objective are good."""

    @abc.abstractmethod
    def sign(self) -> float:
        """1 where large values are good, -1 where small ones are."""


class Maximize(AbstractDirection):
    """Large values are good: the convention of all acquisitions.

    >>> Maximize().sign()
    1.0
    """

    def sign(self):
        return 1.0


class Minimize(AbstractDirection):
    """Small values are good; the search works on the negative objective.

    >>> Minimize().sign()
    -1.0
    """

    def sign(self):
        return -1.0


class AbstractNoise(eqx.Module):
    """Whether an observation is the function value."""

    @abc.abstractmethod
    def exact(self) -> bool:
        """Is there no noise?"""


class Exact(AbstractNoise):
    """No noise: the incumbent is the best value observed.

    >>> Exact().exact()
    True
    """

    def exact(self):
        return True


class Noisy(AbstractNoise):
    """Noise of a scale that is fitted: the incumbent is the best posterior mean.

    >>> Noisy().exact()
    False
    """

    def exact(self):
        return False

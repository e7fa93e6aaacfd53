"""What a search asks of its model of the objective."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Float


class Moments(NamedTuple):
    """Mean and standard deviation of the function value, to be maximized."""

    mean: Float[Array, " N"]
    std: Float[Array, " N"]


class AbstractSurrogate(eqx.Module):
    """A model of the objective on the unit cube, in the units of its values."""

    @abc.abstractmethod
    def moments(self, u: Float[Array, "N D"]) -> Moments:
        """Mean and standard deviation of the function at positions in the cube."""

    @abc.abstractmethod
    def draw(self, u: Float[Array, "N D"], key: Array) -> Float[Array, " N"]:
        """One draw of the function, at all positions together."""

    @abc.abstractmethod
    def noise(self) -> Float[Array, ""]:
        """The standard deviation of an observation around the function."""

    @abc.abstractmethod
    def believe(self, u: Float[Array, " D"]) -> AbstractSurrogate | None:
        """As if the mean had been observed at u; `None` where it cannot be done."""

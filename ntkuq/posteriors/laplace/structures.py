"""How the Gauss-Newton matrix is represented."""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.linearize import (
    AbstractCurvature,
    Jacobian,
    blocks,
    function_space,
    function_space_cost,
    rows,
    weight_space,
    weight_space_cost,
)
from ntkuq.models import AbstractLikelihood
from ntkuq.posteriors.base import Cost


#: A full matrix larger than this (8 GiB in float64) is refused.
LARGEST_SQUARE = 2**15


class TooLarge(ValueError):
    """A computation that would not fit into memory, refused before it starts."""


class AbstractView(eqx.Module):
    """In which space the full posterior is solved; the answer is the same."""


class WeightSpace(AbstractView):
    """P x P.

    >>> WeightSpace()
    WeightSpace()
    """


class FunctionSpace(AbstractView):
    """NC x NC.

    >>> FunctionSpace()
    FunctionSpace()
    """


class AbstractStructure(eqx.Module):
    """A representation of G = J^T H J."""

    #: Does it work in float64 throughout (else in the network's dtype)?
    double: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def curvature(
        self,
        jacobian: Jacobian,
        likelihood: AbstractLikelihood,
        x: PyTree,
        variances: list[Array],
        outputs: int,
    ) -> AbstractCurvature:
        """G from one pass over the data x, for a prior with these variances."""

    @abc.abstractmethod
    def cost(self, parameters: int, data: int, outputs: int, forward: float) -> Cost:
        """Operations and bytes; `forward` is the cost of one example's pass."""


class Full(AbstractStructure):
    """The exact Gauss-Newton matrix, in float64.

    Args:
        view: `WeightSpace()` (P x P), `FunctionSpace()` (N C x N C), or `None` for the
            cheaper of the two.

    >>> Full()
    Full()
    """

    double: ClassVar[bool] = True

    view: AbstractView | None = None

    def chosen(self, parameters: int, data: int, outputs: int) -> AbstractView:
        """The view that will be used."""
        if self.view is not None:
            return self.view
        weight = weight_space_cost(parameters, data, outputs)
        function = function_space_cost(parameters, data, outputs)
        return WeightSpace() if weight.flops <= function.flops else FunctionSpace()

    def curvature(self, jacobian, likelihood, x, variances, outputs):
        data = rows(x)
        view = self.chosen(jacobian.size, data, outputs)
        weight = isinstance(view, WeightSpace)
        side = jacobian.size if weight else data * outputs
        if side > LARGEST_SQUARE:
            raise TooLarge(
                f"Full: the smaller matrix is {side:,} x {side:,} "
                f"({8 * side**2 / 2**30:.0f} GiB in float64), more than the "
                f"{LARGEST_SQUARE:,} allowed: use KFAC(), Diagonal() or LastLayer()"
            )
        build = weight_space if weight else function_space
        return build(jacobian, likelihood, x, variances, outputs)

    def cost(self, parameters, data, outputs, forward):
        view = self.chosen(parameters, data, outputs)
        weight = isinstance(view, WeightSpace)
        space = weight_space_cost if weight else function_space_cost
        work = space(parameters, data, outputs)
        side = parameters if weight else data * outputs
        # evidence: eigenvalues (about 4/3 n^3), or a few dozen Cholesky factors
        passes = 2 * forward * data * (1 + outputs)
        return Cost(work.flops + passes + 10 * side**3, work.bytes, 5)


class KFAC(AbstractStructure):
    """Kronecker factors A (x) B for each weight matrix, exact blocks for biases.

    Factors are computed in the network's dtype, decomposed in float64.

    References: Martens and Grosse 2015 (arXiv 1503.05671); Ritter et al. 2018.

    >>> KFAC()
    KFAC()
    """

    double: ClassVar[bool] = False

    def curvature(self, jacobian, likelihood, x, variances, outputs):
        return blocks(jacobian, likelihood, x, variances, outputs, kronecker=True)

    def cost(self, parameters, data, outputs, forward):
        passes = forward * data * (1 + 3 * outputs)
        side = max(parameters, 1) ** 0.5
        return Cost(passes + 25 * side**3, 32.0 * parameters + 2**28, 3)


class Diagonal(AbstractStructure):
    """The exact diagonal of G.

    >>> Diagonal()
    Diagonal()
    """

    double: ClassVar[bool] = False

    def curvature(self, jacobian, likelihood, x, variances, outputs):
        return blocks(jacobian, likelihood, x, variances, outputs, kronecker=False)

    def cost(self, parameters, data, outputs, forward):
        passes = forward * data * (1 + 3 * outputs)
        return Cost(passes, 8.0 * parameters + 2**28, 3)


def in_double(structure: AbstractStructure) -> jax.typing.DTypeLike | None:
    """float64 for a structure that works in it, `None` for the network's dtype."""
    return jnp.float64 if structure.double else None

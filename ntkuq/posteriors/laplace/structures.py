"""How the Gauss-Newton matrix is represented."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import equinox as eqx
from jaxtyping import Array

from ntkuq.linearize import (
    AbstractCurvature,
    AbstractExamples,
    AbstractFisher,
    AbstractSharing,
    ExactFisher,
    Expand,
    FunctionSpace as FunctionSpaceCurvature,
    Jacobian,
    Summary,
    corrected_blocks,
    function_space,
    function_space_cost,
    kronecker_blocks,
    low_rank,
    weight_space,
    weight_space_cost,
)
from ntkuq.linearize.curvature.kfac import decomposed
from ntkuq.models import AbstractLikelihood
from ntkuq.models.checks import need, whole
from ntkuq.posteriors.base import Cost


#: A full matrix larger than this (8 GiB in float64) is refused.
LARGEST_SQUARE = 2**15


#: Operations of an eigendecomposition over the cube of its side, and of a convolution
#: in a loop over those of its forward pass: at the rate that whole methods reach
#: (measured).
DECOMPOSITION, LOOPED_CONVOLUTION = 5.0, 15.0
#: Equations of a network that compile along with everything else, and how many further
#: ones take as long as a program (measured).
FREE_EQUATIONS, EQUATIONS_OF_A_PROGRAM = 10, 25


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


class Problem(NamedTuple):
    """What a structure approximates: G of these examples under this prior.

    Args:
        jacobian: at the trained parameters, of the uncertain leaves.
        likelihood: of the targets, in the network's units.
        examples: the data.
        variances: prior variance of each leaf, ().
        outputs: the number of network outputs C.
    """

    jacobian: Jacobian
    likelihood: AbstractLikelihood
    examples: AbstractExamples
    variances: list[Array]
    outputs: int


class Size(NamedTuple):
    """What the cost of a structure depends on.

    Args:
        jacobian: of the uncertain leaves (shapes are read).
        data: the number of examples N.
        outputs: the number of network outputs C.
        forward: operations of one example's forward pass.
    """

    jacobian: Jacobian
    data: int
    outputs: int
    forward: float


class AbstractStructure(eqx.Module):
    """A representation of G = J^T H J."""

    #: Does it work in float64 throughout (else in the network's dtype)?
    double: eqx.AbstractClassVar[bool]

    def __check_init__(self):
        for field, (kind, choices) in _CHOICES.items():
            if hasattr(self, field):
                value, what = getattr(self, field), f"{type(self).__name__}: {field}"
                need(value, kind, what, choices)

    def as_in(self, curvature: AbstractCurvature) -> AbstractStructure:
        """The structure that gives curvatures which merge with this one."""
        del curvature
        return self

    def after(self, count: int) -> AbstractStructure:
        """The structure for further examples, when so many have been seen."""
        # an annotated field here would come first in every structure
        fisher: AbstractFisher = getattr(self, "fisher")  # noqa: B009
        return dataclasses.replace(self, fisher=fisher.after(count))

    @abc.abstractmethod
    def curvature(self, problem: Problem) -> tuple[AbstractCurvature, Summary]:
        """G from one pass over the data, and how well the network fits them."""

    @abc.abstractmethod
    def cost(self, size: Size) -> Cost:
        """Operations and bytes."""


#: What the fields of the structures may be.
_CHOICES = {
    "view": (AbstractView | None, "WeightSpace(), FunctionSpace() or None"),
    "sharing": (AbstractSharing, "Expand() or Reduce()"),
    "fisher": (
        AbstractFisher,
        "ExactFisher(), SampledFisher(key) or EmpiricalFisher()",
    ),
}


class Full(AbstractStructure):
    """The exact Gauss-Newton matrix, in float64.

    Args:
        view: `WeightSpace()` (P x P), `FunctionSpace()` (N C x N C), or `None` for the
            cheaper of the two.
        fisher: `ExactFisher()`, `SampledFisher(key)` or `EmpiricalFisher()`.

    >>> Full()
    Full()
    """

    double: ClassVar[bool] = True

    view: AbstractView | None = None
    fisher: AbstractFisher = ExactFisher()

    def chosen(self, jacobian: Jacobian, data: int, outputs: int) -> AbstractView:
        """The view that will be used."""
        if self.view is not None:
            return self.view
        columns = self.fisher.columns(outputs)
        weight = weight_space_cost(jacobian, data, columns)
        function = function_space_cost(jacobian, data, columns)
        return WeightSpace() if weight.flops <= function.flops else FunctionSpace()

    def as_in(self, curvature):
        function = isinstance(curvature, FunctionSpaceCurvature)
        view = FunctionSpace() if function else WeightSpace()
        return Full(view, self.fisher)

    def curvature(self, problem):
        jacobian, likelihood, examples, variances, outputs = problem
        data = len(examples)
        view = self.chosen(jacobian, data, outputs)
        weight = isinstance(view, WeightSpace)
        side = jacobian.size if weight else data * self.fisher.columns(outputs)
        if side > LARGEST_SQUARE:
            raise TooLarge(
                f"Full: the smaller matrix is {side:,} x {side:,} "
                f"({8 * side**2 / 2**30:.0f} GiB in float64), more than the "
                f"{LARGEST_SQUARE:,} allowed: use KFAC(), Diagonal() or LastLayer()"
            )
        if weight:
            return weight_space(*problem, fisher=self.fisher)
        return function_space(
            jacobian, likelihood, examples, variances, fisher=self.fisher
        )

    def cost(self, size):
        jacobian, data, outputs, forward = size
        view = self.chosen(jacobian, data, outputs)
        weight = isinstance(view, WeightSpace)
        space = weight_space_cost if weight else function_space_cost
        columns = self.fisher.columns(outputs)
        work = space(jacobian, data, columns)
        side = jacobian.size if weight else data * columns
        # evidence: eigenvalues (about 4/3 n^3), or a few dozen Cholesky factors
        backward = 1 if jacobian.is_readout else 1 + columns
        passes = 2 * forward * data * backward
        compiles = _programs(jacobian, 5)
        return Cost(work.flops + passes + 10 * side**3, work.bytes, compiles)


class KFAC(AbstractStructure):
    """Kronecker factors A (x) B for each weight matrix, exact blocks for biases.

    Factors are computed in the network's dtype, decomposed in float64.

    Args:
        sharing: `Expand()` or `Reduce()`, for layers shared over positions
            (convolutions, attention).
        fisher: `ExactFisher()`, `SampledFisher(key)` or `EmpiricalFisher()`.

    References: Martens and Grosse 2015 (arXiv 1503.05671); Ritter et al. 2018;
    Eschenhagen et al. 2023 (arXiv 2311.00636).

    >>> KFAC()
    KFAC()
    """

    double: ClassVar[bool] = False

    sharing: AbstractSharing = Expand()
    fisher: AbstractFisher = ExactFisher()

    def curvature(self, problem):
        return kronecker_blocks(*problem, sharing=self.sharing, fisher=self.fisher)

    def cost(self, size):
        return _blocks_cost(size, self.sharing, passes=1)


class EKFAC(AbstractStructure):
    """KFAC with exact second moments along its eigenvectors: two passes.

    The matrix nearest to G among those with KFAC's eigenvectors.

    Args:
        sharing, fisher: as in `KFAC`.

    References: George et al. 2018 (arXiv 1806.03884).

    >>> EKFAC()
    EKFAC()
    """

    double: ClassVar[bool] = False

    sharing: AbstractSharing = Expand()
    fisher: AbstractFisher = ExactFisher()

    def curvature(self, problem):
        return corrected_blocks(*problem, sharing=self.sharing, fisher=self.fisher)

    def cost(self, size):
        return _blocks_cost(size, self.sharing, passes=2)


class Diagonal(AbstractStructure):
    """The exact diagonal of G.

    Its evidence counts correlated parameters as independent and prefers too much noise:
    keep precision and noise, `tune=Fixed()`, or choose the precision by `GridSearch`.

    Args:
        fisher: `ExactFisher()`, `SampledFisher(key)` or `EmpiricalFisher()`.

    >>> Diagonal()
    Diagonal()
    """

    double: ClassVar[bool] = False

    fisher: AbstractFisher = ExactFisher()

    def curvature(self, problem):
        return kronecker_blocks(*problem, sharing=None, fisher=self.fisher)

    def cost(self, size):
        passes = size.forward * size.data * (1 + 3 * size.outputs)
        compiles = _programs(size.jacobian, 3)
        return Cost(passes, 8.0 * size.jacobian.size + 2**28, compiles)


class LowRank(AbstractStructure):
    """The leading eigenpairs of L0^-1/2 G L0^-1/2, by Lanczos; the prior elsewhere.

    Directions that are left out keep their prior variance, so that the posterior is
    never more certain than the full one. `diagnostics` has the largest residual of an
    eigenpair, relative to the largest eigenvalue. Its evidence leaves out what the data
    say about all other directions and prefers too little noise: use `tune=Fixed()`.

    Args:
        rank: the number of eigenpairs.
        fisher: `ExactFisher()` or `EmpiricalFisher()`.

    References: Lanczos 1950.

    >>> LowRank(20).rank
    20
    """

    double: ClassVar[bool] = False

    rank: int = 50
    fisher: AbstractFisher = ExactFisher()

    def __check_init__(self):
        if not whole(self.rank):
            raise ValueError(
                f"LowRank: expected rank >= 1, a whole number, got {self.rank!r}"
            )

    def curvature(self, problem):
        return low_rank(*problem, rank=self.rank, fisher=self.fisher)

    def cost(self, size):
        jacobian, data, outputs, forward = size
        most = min(jacobian.size, data * outputs)
        steps = min(2 * min(self.rank, most) + 10, most + 1, jacobian.size)
        # large matrix products, at nearly the full rate; XLA runs convolutions inside a
        # loop on one thread of a CPU
        slow = LOOPED_CONVOLUTION * jacobian.plan.operations.convolutions
        products = (forward + slow) * data * steps
        orthogonal = 4.0 * steps**2 * jacobian.size
        activations = 8.0 * jacobian.plan.activations * data
        held = 8.0 * steps * jacobian.size + min(activations, 2**28)
        compiles = _programs(jacobian, 4)
        return Cost(products + orthogonal, held + 2**26, compiles)


def _blocks_cost(size: Size, sharing: AbstractSharing, passes: int) -> Cost:
    jacobian, data, outputs, forward = size
    backward = 0 if jacobian.is_readout else 3 * outputs
    work = passes * forward * data * (1 + backward)
    sides = decomposed(jacobian, sharing)
    decompositions = sum(DECOMPOSITION * side**3 for side in sides)
    held = 32.0 * jacobian.size + 24.0 * sum(side**2 for side in sides)
    compiles = _programs(jacobian, 3, passes)
    return Cost(work + decompositions, held + 2**28, compiles)


def _programs(jacobian: Jacobian, count: int, passes: int = 1) -> int:
    """`count` programs for a small network, and what more its equations take."""
    more = max(0, jacobian.plan.operations.equations - FREE_EQUATIONS)
    return count + round(passes * more / EQUATIONS_OF_A_PROGRAM)

"""The steps that are compared: gradient, KFAC, Gauss-Newton, or a user's own."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array

from ntkuq.kernels.solvers.memory import NotEnoughMemory
from ntkuq.linearize import (
    AbstractFisher,
    AbstractSharing,
    ExactFisher,
    Expand,
    SampledFisher,
)
from ntkuq.models import KnownNoise
from ntkuq.optimization.kfac import KroneckerDirection
from ntkuq.optimization.probe.attempt import toward
from ntkuq.optimization.steps.objective import Objective, sizes
from ntkuq.optimization.steps.solve import (
    AbstractSolve,
    ConjugateGradients,
    FunctionSpace,
    WeightSpace,
)
from ntkuq.optimization.steps.transform import AbstractDirection, Found, Solved


#: Dampings to choose from, in units of the curvature along the gradient: with 1 a
#: gradient step is half as long as the undamped model says, with 300 a 300th part.
LARGE = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
DAMPINGS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, *LARGE)
#: Equations of an exact step: its factorization takes a second or so on two cores.
MOST_EQUATIONS = 4096
#: Sharing where nothing else is said.
EXPAND = Expand()


class AbstractStep(eqx.Module):
    """A way to step: its name, how it finds a direction, and what is tuned of it.

    Its length is not its own: `probe` takes every direction as far as the damped exact
    Gauss-Newton model says. Where some steps cost more than others, `period` says over
    how many the cost is averaged.

    Args:
        name: for tables.
        dampings: values among which the damping is chosen, in units of the curvature
            along the gradient, in increasing order; a single one is not tuned.
    """

    name: eqx.AbstractClassVar[str]
    dampings: eqx.AbstractVar[Sequence[float]]

    @abc.abstractmethod
    def finder(self, objective: Objective, *, key: Array) -> AbstractDirection:
        """What finds the directions on batches like this one.

        Args:
            objective: on one batch; its values are not looked at.
            key: for what is drawn.
        """

    @property
    @abc.abstractmethod
    def period(self) -> int:
        """Steps over which the cost is averaged."""


class Steepest(AbstractDirection):
    """Minus the gradient."""

    def init(self, params):
        del params
        return ()

    def __call__(self, objective, gradient, toward, previous, state, count):
        del toward, previous, count
        step = [-leaf for leaf in gradient]
        return Found(step, 0.0 * objective.weight[0], state)

    @property
    def exact(self):
        return False


class GradientStep(AbstractStep):
    """Steepest descent; damping makes it shorter.

    Args:
        dampings: to choose from, see `AbstractStep`.

    >>> GradientStep().name
    'gradient'
    """

    name: ClassVar[str] = "gradient"
    dampings: Sequence[float] = (0.0, *LARGE)

    def finder(self, objective, *, key):
        del objective, key
        return Steepest()

    @property
    def period(self):
        return 1


class KFACStep(AbstractStep):
    """Kronecker factors, means over all batches of the probe, a twentieth from its own.

    Args:
        dampings: to choose from, see `AbstractStep`.
        sharing: layers shared over positions: `Expand()` or `Reduce()`.
        fisher: which output gradients the factors are made of; unless given, targets
            drawn from the model, or where those cannot be drawn, `ExactFisher()`.
        every: steps between inversions; the cost of one is spread over them.

    References: Martens and Grosse 2015 (arXiv 1503.05671).

    >>> KFACStep(every=10).period
    10
    """

    name: ClassVar[str] = "KFAC"
    dampings: Sequence[float] = DAMPINGS
    sharing: AbstractSharing = EXPAND
    fisher: AbstractFisher | None = None
    every: int = 5

    def __check_init__(self):
        if self.every < 1:
            raise ValueError(f"KFACStep: expected every >= 1, got {self.every}")

    def finder(self, objective, *, key):
        fisher = self.fisher
        if fisher is None:
            drawn = not isinstance(objective.likelihood, KnownNoise)
            fisher = SampledFisher(key) if drawn else ExactFisher()
        return KroneckerDirection(self.sharing, fisher, self.every, 0.95)

    @property
    def period(self):
        return self.every


class GaussNewtonStep(AbstractStep):
    """The minimizer of the damped Gauss-Newton model of the batch.

    Args:
        dampings: to choose from, see `AbstractStep`.
        solve: `FunctionSpace()`, `WeightSpace()` or `ConjugateGradients()`; unless
            given, the exact one with fewer equations, or conjugate gradients where
            that is more than 4096 or more than memory holds.

    References: Schraudolph 2002; Martens 2010; Zhang, Martens, Grosse 2019 (arXiv
        1905.10961) for function space.

    >>> GaussNewtonStep().name
    'Gauss-Newton'
    """

    name: ClassVar[str] = "Gauss-Newton"
    dampings: Sequence[float] = DAMPINGS
    solve: AbstractSolve | None = None

    def finder(self, objective, *, key):
        del key
        return Solved(_affordable(objective) if self.solve is None else self.solve)

    @property
    def period(self):
        return 1


def _affordable(objective: Objective) -> AbstractSolve:
    """The exact solver with fewer equations, or an iterative one."""
    rows, parameters = sizes(objective)
    if min(rows, parameters) > MOST_EQUATIONS:
        return ConjugateGradients()
    exact = WeightSpace() if parameters < rows else FunctionSpace()

    def attempt(now: Objective) -> list[Array]:
        zeros = [0.0 * leaf for leaf in now.leaves]
        # only the memory that it would need is looked at
        return exact(now, toward(now, now.weight[0]), zeros).step

    try:
        eqx.filter_eval_shape(attempt, objective)
    except NotEnoughMemory:
        return ConjugateGradients()
    return exact


def how(finder: AbstractDirection) -> str:
    """How the directions are found, in words."""
    if isinstance(finder, Solved):
        words = {
            FunctionSpace: "exact, in function space",
            WeightSpace: "exact, in weight space",
            ConjugateGradients: "conjugate gradients",
        }
        return words.get(type(finder.solve), type(finder.solve).__name__)
    if isinstance(finder, KroneckerDirection):
        return (
            f"Kronecker factors, means over the batches, {type(finder.fisher).__name__}"
            f", inverted every {finder.every} steps"
        )
    return "" if isinstance(finder, Steepest) else type(finder).__name__

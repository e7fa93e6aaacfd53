"""Hyper-parameters of a posterior, and how they are chosen."""

from __future__ import annotations

import dataclasses

import equinox as eqx


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One fitted number of a model.

    Args:
        name: what it is, such as "noise scale" or "lengthscale [age]".
        value: on its natural (not logarithmic) scale, in `unit`.
        se: standard error of `value` from the curvature of the objective; `None` where
            it was not fitted, or the data do not determine it.
        at_bound: whether the optimum lies at an end of the allowed range.
        unit: unit of the value; `None` for a pure number or network units.

    >>> print(Hyperparameter("noise scale", 0.31, se=0.02))
    noise scale = 0.31 ± 0.02
    """

    name: str
    value: float
    se: float | None = None
    at_bound: bool = False
    unit: str | None = None

    def __str__(self) -> str:
        text = f"{self.name} = {self.value:.3g}"
        if self.se is not None:
            text += f" ± {self.se:.2g}"
        if self.unit:
            text += f" {self.unit}"
        return text + (" (at a bound)" if self.at_bound else "")


class AbstractTune(eqx.Module):
    """How a method chooses its hyper-parameters."""


class Fixed(AbstractTune):
    """Keep the hyper-parameters as given.

    >>> Fixed()
    Fixed()
    """


class MarginalLikelihood(AbstractTune):
    r"""Maximize the log marginal likelihood $\log p(y \mid X, \theta)$.

    Args:
        restarts: number of starting points; the first is the method's default, the
            others are drawn around it.
        max_steps: optimizer steps a start.
        per_layer: fit one prior precision for each parameter array (Laplace), instead
            of one factor on all of them.

    Raises:
        ValueError: unless both are at least 1.

    >>> MarginalLikelihood(restarts=3).max_steps
    200
    """

    restarts: int = 1
    max_steps: int = 200
    per_layer: bool = False

    def __check_init__(self):
        if self.restarts < 1 or self.max_steps < 1:
            raise ValueError(
                "MarginalLikelihood: expected restarts >= 1 and max_steps >= 1, got "
                f"restarts={self.restarts}, max_steps={self.max_steps}"
            )


class LeaveOneOut(AbstractTune):
    r"""Maximize $\sum_i \log p(y_i \mid X, y_{-i}, \theta)$, each datum left out once.

    For Gaussian process regression, in closed form. It scores predictions only, so that
    it is less misled than the marginal likelihood where the model is wrong.

    Args:
        restarts: number of starting points; the first is the method's default, the
            others are drawn around it.
        max_steps: optimizer steps a start.

    Raises:
        ValueError: unless both are at least 1.

    References:
        Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
        section 5.4.2.

    >>> LeaveOneOut(restarts=3).max_steps
    200
    """

    restarts: int = 1
    max_steps: int = 200

    def __check_init__(self):
        if self.restarts < 1 or self.max_steps < 1:
            raise ValueError(
                "LeaveOneOut: expected restarts >= 1 and max_steps >= 1, got "
                f"restarts={self.restarts}, max_steps={self.max_steps}"
            )

"""Damping: how far a step may trust the quadratic model."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


class AbstractDamping(eqx.Module):
    """Damping in the units of a prior precision: added to J^T H J summed over all."""

    @abc.abstractmethod
    def start(self) -> ArrayLike:
        """The damping of the first step."""

    @abc.abstractmethod
    def after(
        self, damping: Float[Array, ""], ratio: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The damping of the next step.

        Args:
            damping: of the last.
            ratio: realized over predicted decrease of the objective; not above 0, or
                NaN, where the step was rejected.
        """

    @property
    @abc.abstractmethod
    def checks(self) -> bool:
        """Is the objective evaluated after a step, and a worse one rejected?"""

    @property
    def interval(self) -> int:
        """Steps from one check to the next."""
        return 1


class Constant(AbstractDamping):
    """The same damping for all steps, which are taken unchecked.

    Args:
        value: at least 0.

    >>> Constant(0.1).value
    0.1
    """

    value: ArrayLike

    def __check_init__(self):
        if isinstance(self.value, float | int) and not self.value >= 0:
            raise ValueError(f"Constant: expected damping >= 0, got {self.value}")

    def start(self):
        return self.value

    def after(self, damping, ratio):
        del ratio
        return damping

    @property
    def checks(self):
        return False


class LevenbergMarquardt(AbstractDamping):
    """Less where the quadratic model predicts well, more where it does not.

    A step that makes the objective larger, or not finite, is rejected: the parameters
    are kept and the next step is shorter. Of steps between checks only those that are
    not finite themselves are.

    Args:
        initial: damping of the first step.
        down, up: factors after a good and after a bad step.
        rejected: factor after a rejected step.
        high, low: a step is good where the decrease is more than this share of the
            predicted one, bad below the other.
        least, most: bounds.
        every: steps from one check to the next, each of which changes the damping once;
            checked are the first step too, and each after a rejected one. A check costs
            a forward pass.

    References: Levenberg 1944; Marquardt 1963; Moré 1978; Martens and Grosse 2015
        (arXiv 1503.05671) §6.5 for minibatches.

    >>> rule = LevenbergMarquardt(initial=1.0)
    >>> float(rule.after(jnp.asarray(1.0), jnp.asarray(0.9))) < 1.0
    True
    >>> float(rule.after(jnp.asarray(1.0), jnp.asarray(-1.0)))
    4.0
    """

    initial: ArrayLike = 1.0
    down: float = 0.25
    up: float = 4.0
    rejected: float = 4.0
    high: float = 0.75
    low: float = 0.25
    least: float = 1e-12
    most: float = 1e12
    every: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.every < 1:
            raise ValueError(
                f"LevenbergMarquardt: expected every >= 1, got {self.every}"
            )
        if isinstance(self.initial, float | int) and not self.initial > 0:
            raise ValueError(
                f"LevenbergMarquardt: expected initial > 0, got {self.initial}"
            )
        rising = 0 < self.down <= 1 <= min(self.up, self.rejected)
        if not (rising and self.low <= self.high):
            raise ValueError(
                "LevenbergMarquardt: expected 0 < down <= 1 <= up, rejected and "
                f"low <= high, got down={self.down}, up={self.up}, "
                f"rejected={self.rejected}, low={self.low}, high={self.high}"
            )

    def start(self):
        return self.initial

    def after(self, damping, ratio):
        good, bad = ratio > self.high, ~(ratio >= self.low)
        factor = jnp.where(good, self.down, jnp.where(bad, self.up, 1.0))
        factor = jnp.where(ratio > 0, factor, self.rejected)
        return jnp.clip(damping * factor.astype(damping.dtype), self.least, self.most)

    @property
    def checks(self):
        return True

    @property
    def interval(self):
        return self.every


def as_damping(value: AbstractDamping | ArrayLike) -> AbstractDamping:
    """A number is a constant damping."""
    return value if isinstance(value, AbstractDamping) else Constant(value)

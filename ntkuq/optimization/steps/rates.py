"""How much of a direction is taken."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from ntkuq.optimization.steps.objective import Along, Objective


class Taken(NamedTuple):
    """A step and what is known of it.

    Args:
        step: raveled leaves.
        along: the quadratic model along it, one direction.
        rate: the share of the direction that was taken.
    """

    step: list[Array]
    along: Along | None
    rate: Float[Array, ""]


class AbstractRate(eqx.Module):
    """How much of a direction is taken."""

    @abc.abstractmethod
    def __call__(
        self,
        objective: Objective,
        direction: list[Array],
        previous: list[Array],
        damping: Float[Array, ""],
        count: Array,
    ) -> Taken:
        """The step.

        Args:
            objective: what is minimized, where it stands.
            direction: raveled leaves.
            previous: the last step, raveled leaves.
            damping: of the direction.
            count: steps taken before.
        """


class Scheduled(AbstractRate):
    """A number, or an optax schedule of the number of steps.

    >>> Scheduled(0.5).rate
    0.5
    """

    rate: optax.ScalarOrSchedule = 1.0

    def __call__(self, objective, direction, previous, damping, count):
        del objective, previous
        rate = _now(self.rate, count, damping)
        return Taken([rate * leaf for leaf in direction], None, rate)


class KLClip(AbstractRate):
    r"""The rate, or less, so that the step's own length $\tfrac12 s^\top F s$ is small.

    The length is the Kullback-Leibler divergence per example to second order between
    the predictive distributions before and after the step.

    Args:
        limit: of the divergence per example, in nats.
        rate: a number or an optax schedule.

    References: Ba, Grosse, Martens 2017 (distributed K-FAC); Osawa et al. 2019.

    >>> KLClip(1e-3).rate
    1.0
    """

    limit: ArrayLike = 1e-3
    rate: optax.ScalarOrSchedule = 1.0

    def __call__(self, objective, direction, previous, damping, count):
        del previous
        along = objective.along([direction])
        rate = _now(self.rate, count, damping)
        # the prior is no part of the divergence
        square = along.curvature[0, 0] - sum(
            p * jnp.sum(leaf**2)
            for p, leaf in zip(objective.precision, direction, strict=True)
        )
        length = 0.5 * square / jnp.sum(objective.weight)
        largest = jnp.sqrt(self.limit / jnp.maximum(length, _tiny(length)))
        rate = jnp.minimum(rate, largest.astype(rate.dtype))
        return Taken([rate * leaf for leaf in direction], scaled(along, rate), rate)


class QuadraticModel(AbstractRate):
    r"""Rate and momentum that minimize the quadratic model of the objective.

    The step is $\alpha s + \mu s_{-1}$ with the last step $s_{-1}$; with the exact
    Gauss-Newton matrix G on the batch, $\alpha$ and $\mu$ solve a 2 × 2 system.

    Args:
        momentum: use the last step too.

    References: Martens and Grosse 2015 (arXiv 1503.05671) §6.4 and §7.

    >>> QuadraticModel().momentum
    True
    """

    momentum: bool = True

    def __call__(self, objective, direction, previous, damping, count):
        del count
        steps = [direction, previous] if self.momentum else [direction]
        along = objective.along(steps)
        matrix = along.curvature + damping * along.lengths
        # least squares: at the first step there is no last one
        scale = jnp.maximum(jnp.sqrt(jnp.diagonal(matrix)), _tiny(matrix))
        normed = matrix / jnp.outer(scale, scale)
        nothing = jnp.diagonal(matrix) <= 0
        normed = jnp.where(nothing[:, None] | nothing[None], 0.0, normed)
        normed = normed + jnp.diag(jnp.where(nothing, 1.0, 0.0))
        ridge = (
            10 * jnp.finfo(matrix.dtype).eps * jnp.eye(len(steps), dtype=matrix.dtype)
        )
        right = jnp.where(nothing, 0.0, -along.slopes / scale)
        shares = jnp.linalg.solve(normed + ridge, right) / scale
        step = [
            jnp.tensordot(shares, jnp.stack(each), axes=1)
            for each in zip(*steps, strict=True)
        ]
        one = Along(
            (shares @ along.slopes)[None],
            (shares @ along.curvature @ shares)[None, None],
            (shares @ along.lengths @ shares)[None, None],
        )
        return Taken(step, one, shares[0])


class LineSearch(AbstractRate):
    """The share of the direction, among many at once, with the smallest objective.

    The shares are powers of one factor, evaluated together; none of them is taken
    where none makes the objective smaller.

    Args:
        factor: between neighboring shares, in (0, 1).
        count: of shares: 1, factor, factor², ….

    References: Müller and Zeinhofer 2023 (arXiv 2302.13163), who search along natural
        gradients on such a grid.

    >>> LineSearch(count=10).factor
    0.5
    """

    factor: float = 0.5
    count: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        if not 0 < self.factor < 1 or self.count < 1:
            raise ValueError(
                "LineSearch: expected 0 < factor < 1 and count >= 1, got "
                f"factor={self.factor} and count={self.count}"
            )

    def __call__(self, objective, direction, previous, damping, count):
        del previous, count
        powers = jnp.arange(self.count, dtype=damping.dtype)
        shares = jnp.asarray(self.factor, damping.dtype) ** powers
        leaves = objective.leaves

        def value(share: Array) -> Array:
            moved = [a + share * s for a, s in zip(leaves, direction, strict=True)]
            found = objective.value(moved)
            return jnp.where(jnp.isfinite(found), found, jnp.inf)

        values = jax.lax.map(value, shares)
        best = jnp.argmin(values)
        better = values[best] < objective.value(leaves)
        rate = jnp.where(better, shares[best], 0.0)
        return Taken([rate * leaf for leaf in direction], None, rate)


def scaled(along: Along, rate: Array) -> Along:
    """The model along a multiple of one direction."""
    return Along(
        rate * along.slopes, rate**2 * along.curvature, rate**2 * along.lengths
    )


def as_rate(value: AbstractRate | optax.ScalarOrSchedule) -> AbstractRate:
    """A number or a schedule as a rate."""
    return value if isinstance(value, AbstractRate) else Scheduled(value)


def _now(rate: optax.ScalarOrSchedule, count: Array, like: Array) -> Array:
    value = rate(count) if callable(rate) else rate
    return jnp.asarray(value, like.dtype)


def _tiny(like: Array) -> Array:
    return jnp.asarray(jnp.finfo(like.dtype).tiny, like.dtype)

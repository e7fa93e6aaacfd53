"""Closed forms for Gaussian posteriors, from joint covariances."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Conditioned(eqx.Module):
    """Covariances of pool and targets given the points chosen so far.

    Args:
        pool: (N, M) covariance of the N candidates with all M = N + T points, the
            candidates first.
        variance: (M,) of all points.
        noise: (M,) noise variances of an observation at each.
    """

    pool: Float[Array, "N M"]
    variance: Float[Array, " M"]
    noise: Float[Array, " M"]

    def given(self, row: Int[Array, ""]) -> Conditioned:
        r"""After an observation of a candidate: $\Sigma - v v^T / (s^2 + \sigma^2)$."""
        v = self.pool[row]
        total = self.variance[row] + self.noise[row]
        size = self.pool.shape[0]
        pool = self.pool - v[:size, None] * v / total
        return Conditioned(
            pool, jnp.maximum(self.variance - v**2 / total, 0.0), self.noise
        )


def information(c: Conditioned) -> Float[Array, " N"]:
    r"""$I(y; f) = \frac12\log(1 + s^2/\sigma^2)$ of each candidate, in nats."""
    size = c.pool.shape[0]
    return 0.5 * jnp.log1p(c.variance[:size] / c.noise[:size])


def reduction(c: Conditioned) -> Float[Array, " N"]:
    r"""Mean fall of the targets' variances: $E_*[\Sigma_{x*}^2/(s_x^2+\sigma^2)]$."""
    size = c.pool.shape[0]
    total = c.variance[:size] + c.noise[:size]
    return jnp.mean(c.pool[:, size:] ** 2, axis=1) / total


def predictive_information(c: Conditioned) -> Float[Array, " N"]:
    r"""EPIG, $-\frac12 E_*[\log(1 - \rho^2(y_x, y_*))]$, in nats."""
    size = c.pool.shape[0]
    total = c.variance + c.noise
    square = c.pool[:, size:] ** 2 / (total[:size, None] * total[size:])
    return -0.5 * jnp.mean(jnp.log1p(-jnp.minimum(square, 1 - 1e-7)), axis=1)


@eqx.filter_jit
def greedy(gain, c: Conditioned, n: int) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """n candidates, each the best given those before it.

    Args:
        gain: one of the scores above.
        c: covariances before.
        n: how many.
    """
    size = c.pool.shape[0]

    def step(carry, _):
        c, chosen = carry
        value = jnp.where(chosen, -jnp.inf, gain(c))
        row = jnp.argmax(value)
        return (c.given(row), chosen.at[row].set(True)), (row, value[row])

    start = c, jnp.zeros(size, bool)
    _, (rows, values) = jax.lax.scan(step, start, None, length=n)
    return rows, values

"""One step of a chain that is driven by noisy gradients."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ntkuq.models.checks import positive


class AbstractKernel(eqx.Module):
    r"""A step of a chain for $p(\theta \mid y)^{1/T}$.

    U is minus the log posterior, g an unbiased estimate of the gradient of U/N, h the
    step size and tau = T/N.
    """

    @abc.abstractmethod
    def step(
        self,
        theta: Float[Array, " P"],
        velocity: Float[Array, " P"],
        gradient: Float[Array, " P"],
        rate: Float[Array, ""],
        tau: Float[Array, ""],
        *,
        key: Array,
    ) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
        """The next theta and velocity.

        Args:
            theta: the parameters.
            velocity: what the last step returned; zero at the start.
            gradient: g.
            rate: h.
            tau: temperature T over the number of data N; 0 for a step without noise.
            key: for the noise.
        """


class SGLD(AbstractKernel):
    r"""Stochastic-gradient Langevin dynamics.

    $\theta \leftarrow \theta - h g + \sqrt{2 h \tau}\,\xi$, $\xi \sim N(0, I)$.

    References: Welling and Teh, ICML 2011.

    >>> SGLD()
    SGLD()
    """

    def step(self, theta, velocity, gradient, rate, tau, *, key):
        noise = jax.random.normal(key, theta.shape, theta.dtype)
        return theta - rate * gradient + jnp.sqrt(2 * rate * tau) * noise, velocity


class SGHMC(AbstractKernel):
    r"""Stochastic-gradient Hamiltonian Monte Carlo: Langevin with momentum.

    $v \leftarrow (1 - a) v - h g + \sqrt{2 a h \tau}\,\xi$,
    $\theta \leftarrow \theta + v$.
    In the long run it moves like `SGLD` with step size h/a.

    Args:
        friction: a, above 0 and at most 1; 1 - a is the momentum of SGD.

    References: Chen, Fox, Guestrin 2014 (arXiv 1402.4102), eq. 15 with the estimate of
    the gradient noise at zero.

    >>> SGHMC(friction=0.1)
    SGHMC(friction=0.1)
    """

    friction: ArrayLike = 0.1

    def __check_init__(self):
        if not positive(self.friction) or not positive(1.000001 - self.friction):
            raise ValueError(
                "SGHMC: expected a friction above 0 and at most 1 (1 - momentum), got "
                f"{self.friction}"
            )

    def step(self, theta, velocity, gradient, rate, tau, *, key):
        noise = jax.random.normal(key, theta.shape, theta.dtype)
        friction = jnp.asarray(self.friction, theta.dtype)
        spread = jnp.sqrt(2 * friction * rate * tau)
        velocity = (1 - friction) * velocity - rate * gradient + spread * noise
        return theta + velocity, velocity

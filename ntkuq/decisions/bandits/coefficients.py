"""How much uncertainty counts: fixed, theoretical, its limit, or from the evidence."""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike


class Progress(NamedTuple):
    """What a coefficient may depend on.

    Args:
        t: () observed rounds, 1 or more.
        log_determinant: () ln(det Z / det lambda I).
        ratio: () lambda.
        noise: () standard deviation of the noise as estimated.
        width, depth: hidden units a layer, and layers of weights.
    """

    t: Array
    log_determinant: Array
    ratio: Array
    noise: Array
    width: int
    depth: int


class AbstractCoefficient(eqx.Module):
    """The factor gamma of the standard deviation, and where lambda comes from.

    A subclass has the fields `ratio` (lambda) and `tuned` (whether the evidence sets
    it). They are not abstract fields, which would come first in its constructor.
    `follows` says whether it needs the log-determinant after every round.
    """

    follows = True

    @abc.abstractmethod
    def __call__(self, progress: Progress) -> Array:
        """gamma after these rounds."""


class Constant(AbstractCoefficient):
    """A fixed gamma and lambda, as practice grids them.

    Args:
        gamma: the factor.
        ratio: lambda.
    """

    follows = False
    gamma: ArrayLike = 0.1
    ratio: ArrayLike = 1.0
    tuned: bool = eqx.field(static=True, default=False)

    def __call__(self, progress):
        return jnp.asarray(self.gamma, progress.noise.dtype)


class Evidence(AbstractCoefficient):
    r"""Noise and prior from the marginal likelihood: nothing left to tune.

    The variance of linearized Laplace with noise $\sigma^2$ and prior precision
    $\alpha$ is $\sigma^2 \phi^\top (\alpha\sigma^2 I + \Phi^\top\Phi)^{-1} \phi$, so
    $(\gamma, \lambda) = (\sigma, \alpha\sigma^2)$. Both are set after each training.

    Args:
        ratio: lambda before the first training.
    """

    follows = False
    ratio: ArrayLike = 1.0
    tuned: bool = eqx.field(static=True, default=True)

    def __call__(self, progress):
        return progress.noise


class InfiniteWidth(AbstractCoefficient):
    r"""The limit of `Theoretical` as the width grows, without optimization error.

    $\gamma_t = \nu \sqrt{\ln(\det Z_t / \det \lambda I) - 2 \ln \delta}
    + \sqrt{\lambda}\, S$.

    References: Zhou, Li, Gu 2020 (arXiv 1911.04462).
    """

    nu: ArrayLike = 1.0
    bound: ArrayLike = 1.0
    delta: ArrayLike = 0.1
    ratio: ArrayLike = 1.0
    tuned: bool = eqx.field(static=True, default=False)

    def __call__(self, progress) -> Array:
        inside = progress.log_determinant - 2.0 * jnp.log(self.delta)
        return jnp.asarray(
            self.nu * jnp.sqrt(inside) + jnp.sqrt(progress.ratio) * self.bound
        )


class Theoretical(AbstractCoefficient):
    r"""The coefficient of NeuralUCB as published, all constants included.

    $\gamma_t = \sqrt{1 + C_1 m^{-1/6}\sqrt{\ln m}\, L^4 t^{7/6} \lambda^{-7/6}}
    \big(\nu\sqrt{\ln\tfrac{\det Z_t}{\det \lambda I} + C_2 m^{-1/6}\sqrt{\ln m}\, L^4
    t^{5/3}\lambda^{-1/6} - 2\ln\delta} + \sqrt\lambda S\big)
    + (\lambda + C_3 t L)\big[(1 - \eta m \lambda)^{J/2}\sqrt{t/\lambda}
    + m^{-1/6}\sqrt{\ln m}\, L^{7/2} t^{5/3}\lambda^{-5/3}(1 + \sqrt{t/\lambda})\big]$

    Args:
        nu, bound, delta: noise (sub-Gaussian), norm S of the reward, and failure rate.
        c1, c2, c3: constants that the theorem leaves open.
        step, steps: step size eta and number J of gradient descent steps.
        ratio: lambda.

    References: Zhou, Li, Gu 2020 (arXiv 1911.04462), Algorithm 1.

    >>> progress = Progress(
    ...     *(jnp.asarray(v) for v in (1e3, 50.0, 1.0, 1.0)), width=100, depth=2
    ... )
    >>> f"{Theoretical()(progress).item():.0e}"
    '7e+10'
    """

    nu: ArrayLike = 1.0
    bound: ArrayLike = 1.0
    delta: ArrayLike = 0.1
    c1: ArrayLike = 1.0
    c2: ArrayLike = 1.0
    c3: ArrayLike = 1.0
    step: ArrayLike = 1e-3
    steps: ArrayLike = 100
    ratio: ArrayLike = 1.0
    tuned: bool = eqx.field(static=True, default=False)

    def __call__(self, progress):
        t, lam = progress.t, progress.ratio
        m, depth = float(progress.width), float(progress.depth)
        small = m ** (-1 / 6) * math.sqrt(math.log(m)) if m > 1 else 0.0
        spread = small * depth**4
        first = jnp.sqrt(1.0 + self.c1 * spread * t ** (7 / 6) * lam ** (-7 / 6))
        inside = (
            progress.log_determinant
            + self.c2 * spread * t ** (5 / 3) * lam ** (-1 / 6)
            - 2.0 * jnp.log(self.delta)
        )
        known = self.nu * jnp.sqrt(inside) + jnp.sqrt(lam) * self.bound
        root = jnp.sqrt(t / lam)
        left = jnp.abs(1.0 - (self.step * m) * lam) ** (self.steps / 2.0) * root
        moved = small * depth**3.5 * t ** (5 / 3) * lam ** (-5 / 3) * (1.0 + root)
        return first * known + (lam + self.c3 * t * depth) * (left + moved)

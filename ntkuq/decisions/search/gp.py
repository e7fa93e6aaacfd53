"""An exact GP whose programs do not change as observations come: rows are padded."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from ntkuq.decisions.search.ascend import minimize
from ntkuq.decisions.search.surrogate import AbstractSurrogate, Moments
from ntkuq.kernels import AbstractCovariance
from ntkuq.linearize.triangular import inverse_lower, solve_lower


#: Noise scale of an exact objective, over the spread of its values: what factors need.
EXACT = 1e-4
#: Middle and width of the prior of the logarithm of a noise scale that is fitted.
NOISE_PRIOR = (np.log(0.1), 2.0)
#: Width of the priors of logarithms, around the kernel's first values.
OTHER_WIDTH = 1.0
#: Middle of the prior of a length scale over the first value, and its width. The first
#: value of `RBF` grows with the root of D: the middle is 0.2 sqrt(D) of a side. With a
#: wide prior the mode of few points is too long, and predictions are too sure.
LENGTH_SHIFT, LENGTH_WIDTH = np.log(0.7), 1.0
#: Steps of a fit, and starts besides the last values and the kernel's own.
STEPS, RESTARTS = 60, 2
NOISE = "noise scale"
#: A network or kernel sees features of unit variance: the cube has side 2 sqrt(3).
HALF = 3**0.5


def padded(n: int) -> int:
    """Rows of the program for n observations: a power of two, at least 64."""
    return max(64, 1 << max(n - 1, 0).bit_length())


def features(u: Array) -> Array:
    """Positions in the unit cube as features with mean 0 and variance 1."""
    return (2.0 * u - 1.0) * HALF


class PaddedGP(AbstractSurrogate):
    """A GP given n of B rows; the other rows are there but say nothing.

    `theta` are the logarithms of the hyper-parameters, noise scale last.
    """

    covariance: AbstractCovariance
    theta: Float[Array, " P"]
    x: Float[Array, "B D"]
    y: Float[Array, " B"]
    n: Array
    loc: Float[Array, ""]
    scale: Float[Array, ""]
    inverse: Float[Array, "B B"]
    alpha: Float[Array, " B"]
    center: Float[Array, ""]

    def moments(self, u):
        params, _ = _split(self.covariance, self.theta)
        new = features(u)
        cross = jnp.where(self._known, self.covariance.gram(params, new, self.x), 0.0)
        half = cross @ self.inverse.T
        prior = self.covariance.diagonal(params, new)
        variance = prior - jnp.sum(half**2, axis=1)
        variance = jnp.maximum(variance, 1e-12 * prior)
        mean = self.center + cross @ self.alpha
        return Moments(self.loc + self.scale * mean, self.scale * jnp.sqrt(variance))

    def draw(self, u, key):
        params, _ = _split(self.covariance, self.theta)
        new = features(u)
        cross = jnp.where(self._known, self.covariance.gram(params, new, self.x), 0.0)
        half = cross @ self.inverse.T
        prior = self.covariance.gram(params, new)
        joint = prior - half @ half.T
        at = jnp.arange(u.shape[0])
        joint = joint.at[at, at].add(1e-6 * jnp.mean(jnp.diagonal(prior)))
        noise = jax.random.normal(key, (u.shape[0],), joint.dtype)
        drawn = cross @ self.alpha + jnp.linalg.cholesky(joint) @ noise
        return self.loc + self.scale * (self.center + drawn)

    def noise(self):
        return self.scale * _split(self.covariance, self.theta)[1]

    def believe(self, u):
        mean = (self.moments(u[None]).mean[0] - self.loc) / self.scale
        x = self.x.at[self.n].set(features(u))
        y = self.y.at[self.n].set(mean)
        more = dataclasses.replace(self, x=x, y=y, n=self.n + 1)
        return _condition(more)

    @property
    def _known(self) -> Bool[Array, " B"]:
        return jnp.arange(self.x.shape[0]) < self.n


def _split(covariance: AbstractCovariance, theta: Array):
    _, unravel = ravel_pytree(covariance.initial())
    return unravel(theta[:-1]), jnp.exp(theta[-1])


def _factor(covariance, theta, x, y, known):
    """L, K^-1 (y - m), m by generalized least squares, and the log evidence."""
    params, noise = _split(covariance, theta)
    gram = covariance.gram(params, x)
    level = jnp.mean(covariance.diagonal(params, x))
    gram = jnp.where(known[:, None] & known, gram, 0.0)
    ridge = jnp.where(known, noise**2 + 1e-10 * level, 1.0)
    lower = jnp.linalg.cholesky(gram + jnp.diag(ridge), symmetrize_input=False)
    ones = known.astype(y.dtype)
    a, b = solve_lower(lower, y[:, None])[:, 0], solve_lower(lower, ones[:, None])[:, 0]
    center = (a @ b) / (b @ b)
    left = a - center * b
    value = -0.5 * left @ left - jnp.sum(jnp.log(jnp.diagonal(lower)))
    return lower, left, center, value


@eqx.filter_jit
def _condition(gp: PaddedGP) -> PaddedGP:
    known = jnp.arange(gp.x.shape[0]) < gp.n
    lower, left, center, _ = _factor(gp.covariance, gp.theta, gp.x, gp.y, known)
    inverse = inverse_lower(lower)
    return dataclasses.replace(
        gp, inverse=inverse, alpha=inverse.T @ left, center=center
    )


@eqx.filter_jit
def _tune(covariance, starts, middle, width, free, x, y, known):
    def loss(theta):
        # a noise scale that is known stays as it is
        theta = jnp.where(free, theta, middle)
        *_, value = _factor(covariance, theta, x, y, known)
        return -value + 0.5 * jnp.sum(((theta - middle) / width) ** 2)

    found = minimize(loss, starts, steps=STEPS, tolerance=1e-3)
    best = found.position[jnp.argmin(found.value)]
    return jnp.where(free, best, middle)


def fit_gp(
    covariance: AbstractCovariance,
    u: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, " N"],
    *,
    exact: bool,
    rows: int,
    theta: Float[np.ndarray, " P"] | None,
    tuned: bool,
    key: Array,
) -> PaddedGP:
    """The GP given observations, hyper-parameters at the mode of their posterior.

    The priors are log-normal around the kernel's own first values; that of length
    scales lies lower and grows with the dimension as in Hvarfner, Hellsten and Nardi
    2024 (arXiv 2402.02229).

    Args:
        covariance: of features of unit variance.
        u, y: positions in the unit cube and values.
        exact: are values free of noise?
        rows: how many rows the program has at least.
        theta: hyper-parameters found before, a start of the search.
        tuned: take `theta` as it is.
        key: for further starts.
    """
    size = padded(rows)
    scale = float(np.std(y)) or 1.0
    loc = float(np.mean(y))
    with jax.enable_x64(True):
        x = np.full((size, u.shape[1]), 0.5)
        x[: len(u)] = u
        values = np.zeros(size)
        values[: len(y)] = (y - loc) / scale
        x, values = features(jnp.asarray(x)), jnp.asarray(values)
        known = jnp.arange(size) < len(y)
        if not tuned or theta is None:
            theta = np.asarray(_start(covariance, theta, exact, x, values, known, key))
        zero = jnp.zeros((), jnp.float64)
        return _condition(
            PaddedGP(
                covariance=covariance,
                theta=jnp.asarray(theta),
                x=x,
                y=values,
                n=jnp.asarray(len(y)),
                loc=jnp.asarray(loc),
                scale=jnp.asarray(scale),
                inverse=jnp.zeros((size, size)),
                alpha=jnp.zeros(size),
                center=zero,
            )
        )


def _start(covariance, theta, exact, x, values, known, key):
    initial = covariance.initial()
    lengths = {name: "length" in name for name in initial}
    shift = {name: LENGTH_SHIFT if long else 0.0 for name, long in lengths.items()}
    width = {n: LENGTH_WIDTH if long else OTHER_WIDTH for n, long in lengths.items()}
    first, _ = ravel_pytree(initial)
    middle = first + _filled(initial, shift)
    width = _filled(initial, width)
    noise, noise_width = (np.log(EXACT), 1.0) if exact else NOISE_PRIOR
    middle = jnp.append(middle, noise)
    width = jnp.append(width, noise_width)
    free = jnp.ones(middle.shape, bool).at[-1].set(not exact)
    drawn = jax.random.normal(key, (RESTARTS, middle.size), jnp.float64)
    last = middle if theta is None else jnp.asarray(theta)
    starts = jnp.concatenate([last[None], middle[None], middle + 0.7 * width * drawn])
    return _tune(covariance, starts, middle, width, free, x, values, known)


def _filled(like, values):
    """One value for each entry of the hyper-parameters, by name."""
    filled = {name: jnp.full(jnp.shape(like[name]), v) for name, v in values.items()}
    return ravel_pytree(filled)[0]

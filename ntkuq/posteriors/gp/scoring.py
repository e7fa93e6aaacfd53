r"""Laplace's approximation for a mean and a log noise scale: the mode, derivatives.

The Hessian that makes the covariance is the Fisher information, which is diagonal and
positive; how the mode moves depends on the exact one, H, which is neither. The notation
is that of `latent`.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.models import AbstractLikelihood, HeteroscedasticGaussian
from ntkuq.models.likelihoods import curvature
from ntkuq.posteriors.gp import latent


class Affine(AbstractLikelihood):
    """log p(y | loc + scale g): a likelihood as a function of standardized outputs g.

    Args:
        likelihood: of the outputs.
        loc, scale: (C,) each.
    """

    classes: ClassVar[bool] = False
    continuous: ClassVar[bool] = True

    likelihood: HeteroscedasticGaussian
    loc: Float[Array, " C"]
    scale: Float[Array, " C"]

    def outer(self, g: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        """The outputs."""
        return self.loc + self.scale * g

    def distribution(self, latent):
        return self.likelihood.distribution(self.outer(latent))

    def outputs(self, y):
        return self.likelihood.outputs(y)

    def rescale(self, loc, scale):
        return self

    def shift(self, mean, loc, scale):
        return self.likelihood.shift(self.outer(mean), loc, scale)

    def marginalize(self, mean, covariance, link=None):
        widened = self.scale if covariance.ndim == mean.ndim else self.scale[:, None]
        widened = widened * self.scale
        return self.likelihood.marginalize(self.outer(mean), covariance * widened, link)

    def mixture(self, latent):
        return self.likelihood.mixture(self.outer(latent))

    def log_prob(self, latent, y):
        return self.likelihood.log_prob(self.outer(latent), y)

    def hessian(self, latent, y=None):
        inner = self.likelihood.hessian(self.outer(latent), y)
        return self.scale[:, None] * inner * self.scale

    def hessian_sqrt(self, latent, y=None):
        inner = self.likelihood.hessian_sqrt(self.outer(latent), y)
        return self.scale[:, None] * inner


class _State(NamedTuple):
    a: Array
    log_joint: Array
    residual: Array
    careful: Array
    stuck: Array
    steps: Array
    factorizations: Array


def find_mode(
    likelihood: Affine,
    kernel: Float[Array, "N N"],
    y: Array,
    start: Float[Array, "N C"],
    max_steps: int,
) -> latent.Mode:
    r"""The mode, as `latent.find_mode`, where the objective is not concave.

    A step is Newton's, $\delta = (I + H K)^{-1} r$ with the exact H, where it points
    upwards; else, and after one that had to be cut short to nothing, Fisher scoring's
    with W in the place of H, which always does. It is halved until the objective does
    not fall. Scoring alone converges slowly (a rate of 0.85 has been seen).

    Args:
        likelihood: as a function of g.
        kernel: K.
        y: targets (N, D).
        start: first a = K^-1 g, (N, C); 0 is used where it is better.
        max_steps: most steps.
    """

    def value(a: Array) -> Array:
        g = kernel @ a
        return jnp.sum(jax.vmap(likelihood.log_prob)(g, y)) - 0.5 * jnp.sum(a * g)

    def excess(a: Array) -> tuple[Array, Array]:
        gradient = jax.vmap(likelihood.residual)(kernel @ a, y)
        r = gradient - a
        size = jnp.maximum(jnp.max(jnp.abs(gradient)), 1.0)
        return r, jnp.max(jnp.abs(r)) / size

    def scoring(a: Array, r: Array) -> Array:
        factors = latent.factor(likelihood, kernel, kernel @ a)
        return r - factors.apply(kernel @ r)

    def step(state: _State) -> _State:
        r, _ = excess(state.a)
        newton = _solved(likelihood, kernel, y, state.a, r)
        up = jnp.sum(newton * (kernel @ r)) > 0.0
        use = up & ~state.careful & jnp.all(jnp.isfinite(newton))
        delta = jax.lax.cond(use, lambda: newton, lambda: scoring(state.a, r))
        slack = 1e-12 * (1.0 + jnp.abs(state.log_joint))

        def falls(trial: tuple[Array, Array]) -> Array:
            size, halvings = trial
            kept = value(state.a + size * delta) >= state.log_joint - slack
            return ~kept & (halvings < latent.HALVINGS)

        size, halvings = jax.lax.while_loop(
            falls,
            lambda trial: (0.5 * trial[0], trial[1] + 1),
            (jnp.ones((), kernel.dtype), jnp.zeros((), jnp.int32)),
        )
        failed = halvings >= latent.HALVINGS
        a = jnp.where(failed, state.a, state.a + size * delta)
        return _State(
            a=a,
            log_joint=value(a),
            residual=excess(a)[1],
            careful=use & failed,
            stuck=~use & failed,
            steps=state.steps + 1,
            factorizations=state.factorizations + 1 + (~use).astype(jnp.int32),
        )

    def going(state: _State) -> Array:
        unsolved = ~(state.residual <= latent.TOLERANCE)
        return unsolved & (state.steps < max_steps) & ~state.stuck

    zero = jnp.zeros_like(start)
    start = jnp.where(value(start) > value(zero), start, zero)
    no, count = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    first = _State(start, value(start), excess(start)[1], no, no, count, count)
    last = jax.lax.while_loop(going, step, first)
    return latent.Mode(
        a=last.a,
        curvature=latent.factor(likelihood, kernel, kernel @ last.a),
        log_joint=last.log_joint,
        residual=last.residual,
        steps=last.steps,
        factorizations=last.factorizations + 1,
    )


class Derivatives(NamedTuple):
    """Of Laplace's evidence: K, log sigma (through `loc`) and log rho; and u."""

    kernel: Float[Array, "N N"]
    loc: Float[Array, " C"]
    log_scale: Float[Array, " C"]


def derivatives(
    likelihood: Affine, kernel: Float[Array, "N N"], y: Array, mode: latent.Mode
) -> Derivatives:
    r"""The derivatives of Laplace's evidence, the mode moving along.

    As `latent.kernel_bar`, with $u = (I + H K)^{-1} s$. A change of `loc`, in the units
    of g, moves the objective by a and the mode by $-(K^{-1} + H)^{-1} H$, together
    a + u; a change of
    $\log$ `scale` of one output is one of the logarithm of its K by twice as much.
    """
    s = _pull(likelihood, kernel, mode, None)
    u = _solved(likelihood, kernel, y, mode.a, s)
    a, blocks = mode.a, mode.curvature.blocks
    outer = 0.5 * (a @ a.T) + 0.5 * (u @ a.T + a @ u.T)
    ka = kernel @ a
    each = jnp.sum(a * ka, axis=0) - jnp.einsum("cij,ij->c", blocks, kernel)
    return Derivatives(
        kernel=outer - 0.5 * jnp.sum(blocks, axis=0),
        loc=jnp.sum(a + u, axis=0) / likelihood.scale,
        log_scale=each + 2.0 * jnp.sum(u * ka, axis=0),
    )


def mean_weights(
    likelihood: Affine, kernel: Float[Array, "N N"], y: Array, mode: latent.Mode
) -> Float[Array, "N C"]:
    """The weights of the posterior mean: `latent.mean_weights` with the exact H."""
    s = _pull(likelihood, kernel, mode, y)
    return mode.a + _solved(likelihood, kernel, y, mode.a, s)


def _pull(likelihood, kernel, mode, y: Array | None) -> Float[Array, "N C"]:
    """s, minus half the derivative of <Sigma, W(f)>; given y, of <Sigma, H(f)>."""
    explained = jnp.einsum("ni,cij,jn->nc", kernel, mode.curvature.blocks, kernel)
    variance = jnp.diagonal(kernel)[:, None] - explained
    sigma = variance[:, :, None] * jnp.eye(mode.a.shape[1], dtype=kernel.dtype)

    def matrices(f: Array) -> Array:
        if y is None:
            return jax.vmap(likelihood.hessian)(f)
        return _exact(likelihood, f, y)

    _, pull = jax.vjp(matrices, kernel @ mode.a)
    (s,) = pull(-0.5 * sigma)
    return s


def _exact(likelihood: Affine, f: Array, y: Array) -> Float[Array, "N C C"]:
    return jax.vmap(lambda f, y: curvature(likelihood, f, y))(f, y)


def _solved(likelihood, kernel, y, a: Array, s: Array) -> Float[Array, "N C"]:
    """(I + H K)^-1 s; H couples the outputs of a datum, K the data of an output."""
    size, outputs = s.shape
    h = _exact(likelihood, kernel @ a, y)
    matrix = jnp.einsum("ncd,nm->ncmd", h, kernel)
    matrix = matrix.reshape(size * outputs, size * outputs)
    eye = jnp.eye(size * outputs, dtype=s.dtype)
    return jnp.linalg.solve(eye + matrix, s.reshape(-1)).reshape(s.shape)

"""Sequential function-space variational inference: S-FSVI."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.strategies.base import Seen
from ntkuq.continual.strategies.meanfield import (
    AbstractMeanField,
    means_of,
    moments,
    need_mean_field,
    prior_log_scales,
)
from ntkuq.continual.strategies.memory import AbstractSelection, Buffer, RandomPoints
from ntkuq.continual.strategies.replay import need_batch
from ntkuq.linearize import Jacobian, Outer, Readout
from ntkuq.models import Train
from ntkuq.models.train import AbstractPenalty


#: Added to the diagonal of a kernel matrix: this power of the rounding error, as a
#: share of its mean.
JITTER = 0.5


class Values(NamedTuple):
    """A Gaussian over function values at M inputs, outputs independent.

    mean: (M, C). kernel: covariances between inputs, (C, M, M), or variances, (C, M).
    """

    mean: Float[Array, "M C"]
    kernel: Float[Array, "C M M"] | Float[Array, "C M"]


def values_of(
    model: PyTree, log_scales: list[Array], x: PyTree, *, joint: bool
) -> Values:
    r"""The values of a network linearized in its Gaussian weights.

    $f(x; \theta) \approx f(x; \mu) + J_\mu(x) (\theta - \mu)$, so that with $\theta
    \sim N(\mu, \mathrm{diag}\,\sigma^2)$ each output is Gaussian with kernel
    $J_\mu(x)\, \mathrm{diag}(\sigma^2)\, J_\mu(x')^T$.

    Args:
        model: at the means.
        log_scales: log sigma, one array a parameter.
        x: inputs, (M, …).
        joint: with the covariances between inputs.
    """
    factors = Jacobian.at(model, jax.tree.map(lambda a: a[0], x)).factors(x)
    total = jnp.zeros((), factors.outputs.dtype)
    for leaf, s in zip(factors.leaves, log_scales, strict=True):
        if joint:
            rows = leaf.dense() * jnp.exp(s.reshape(-1))
            total = total + jnp.einsum("ncp,mcp->cnm", rows, rows)
        else:
            total = total + _variances(leaf, jnp.exp(2 * s))
    return Values(factors.outputs, total)


def _variances(leaf, variance: Float[Array, "..."]) -> Float[Array, "C M"]:
    """The diagonal of J diag(variance) J^T, for a dense layer without J itself."""
    if isinstance(leaf, Readout) and variance.ndim == 2 and leaf.output_first:
        return variance @ (leaf.a**2).T
    matrix = variance.ndim == 2
    if isinstance(leaf, Outer) and leaf.once and leaf.output_first and matrix:
        squares = leaf.g[:, :, 0] ** 2
        return jnp.einsum("nco,oi,ni->cn", squares, variance, leaf.a[:, 0] ** 2)
    return jnp.einsum("ncp,p->cn", leaf.dense() ** 2, variance.reshape(-1))


def divergence(new: Values, old: Values) -> Float[Array, ""]:
    r"""$\mathrm{KL}(N(m, K) \,\|\, N(m_0, K_0))$, the sum over independent outputs.

    >>> one = Values(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    >>> two = Values(jnp.ones((1, 1)), jnp.ones((1, 1)))
    >>> float(divergence(two, one))
    0.5
    """
    off = (new.mean - old.mean).T
    if new.kernel.ndim == 2:
        tiny = jnp.finfo(off.dtype).tiny
        v, v0 = (jnp.maximum(one.kernel, tiny) for one in (new, old))
        return 0.5 * jnp.sum((v + off**2) / v0 - 1.0 + jnp.log(v0) - jnp.log(v))

    def one(d: Array, k: Array, k0: Array) -> Array:
        lower, lower0 = (jnp.linalg.cholesky(_jittered(a)) for a in (k, k0))
        solve = jax.scipy.linalg.solve_triangular
        root, along = (solve(lower0, a, lower=True) for a in (lower, d))
        logs = jnp.log(jnp.diagonal(lower0)) - jnp.log(jnp.diagonal(lower))
        return jnp.sum(root**2) + along @ along - d.size + 2 * jnp.sum(logs)

    return 0.5 * jnp.sum(jax.vmap(one)(off, new.kernel, old.kernel))


def _jittered(kernel: Float[Array, "M M"]) -> Float[Array, "M M"]:
    share = float(jnp.finfo(kernel.dtype).eps) ** JITTER
    jitter = share * jnp.mean(jnp.diagonal(kernel))
    return kernel + jitter * jnp.eye(kernel.shape[0], dtype=kernel.dtype)


class FunctionKL(AbstractPenalty):
    r"""$\tfrac{s}{N} \mathrm{KL}(q(f(X_C)) \,\|\, q_{\rm old}(f(X_C)))$.

    The context $X_C$ is drawn from the kept inputs, anew at each step.

    Args:
        old: the network that the last task left, at its means.
        log_scales: of its weights.
        points: the kept inputs.
        strength: s.
        context: inputs of each draw.
        joint: with covariances between inputs.
    """

    old: PyTree
    log_scales: list[Float[Array, "..."]]
    points: Buffer
    strength: Float[Array, ""]
    context: int = eqx.field(static=True)
    joint: bool = eqx.field(static=True)

    def __call__(self, model, at):
        x, _, _ = self.points.draw(self.context, key=at.key)
        before = values_of(self.old, self.log_scales, x, joint=self.joint)
        _, scales = moments(model)
        now = values_of(means_of(model), scales, x, joint=self.joint)
        return self.strength * divergence(now, before) / at.size


class SFSVI(AbstractMeanField):
    r"""Sequential function-space variational inference.

    $q_T$ maximizes $E_q[\log p(D_T \mid \theta)] - s\,\mathrm{KL}(q_T(f(X_C)) \,\|\,
    q_{T-1}(f(X_C)))$ with mean-field Gaussians over the weights, pushed to function
    values by the network's linearization at their means: Gaussians as well,
    independent over the outputs. The context $X_C$ is drawn from a few kept inputs of
    each earlier task; of the first task, where $q_0$ has the prior's variances around
    the freshly initialized network, from its own. For networks whose parameters are all
    in dense layers.

    Args:
        memory: which inputs of each task are kept; no labels.
        context: inputs of each step's divergence.
        joint: whether the values at several inputs are one Gaussian; else each by
            itself, which takes no matrix.
        scale, strength, draws, train: as for `VCL`.

    Raises:
        TypeError: for a network with other parameters.
        ValueError: for a scale ≤ 0, fewer than one draw or context input.

    References: Rudner, Bickford Smith, Feng, Teh, Gal 2022 (arXiv 2312.17210).

    >>> SFSVI(memory=RandomPoints(40)).context
    20
    """

    memory: AbstractSelection = RandomPoints()
    context: int = 20
    joint: bool = False
    scale: float = 1e-3
    strength: float = 1.0
    draws: int = 30
    train: Train = Train()

    def __check_init__(self):
        need_mean_field("SFSVI", self.scale, self.draws, self.strength)
        need_batch("SFSVI", self.context)

    def penalty(self, state, seen, *, key):
        if state.memory is None:
            scales, points = prior_log_scales(seen), self.more(state, seen, key=key)
        else:
            scales, points = state.memory
        strength = jnp.asarray(self.strength, seen.bnn.dtype)
        return FunctionKL(
            seen.model, scales, points, strength, self.context, self.joint
        )

    def more(self, state, seen: Seen, *, key):
        rows = self.memory.rows(seen, key=jax.random.fold_in(key, 2))
        x = jax.tree.map(lambda a: a[rows], seen.x)
        points = None if state.memory is None else state.memory.more
        if points is None:
            points = Buffer.like(x, None, None, self.memory.points)
        return points.plus(x, None, None)

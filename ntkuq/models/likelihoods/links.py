"""Links: class probabilities of logits that are Gaussian."""

from __future__ import annotations

import abc
import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, logsumexp
from jaxtyping import Array, Float

from ntkuq.models.likelihoods.base import variances
from ntkuq.models.likelihoods.quadrature import NORMAL_PAIRS, line, nodes, root


#: Numbers of logits that `MonteCarlo` holds at a time.
CHUNK = 2**21
#: (pi / 8): the logistic function at x is about the normal one at x sqrt(pi / 8).
_PROBIT = math.pi / 8


class Integrated(NamedTuple):
    """Class probabilities (*batch, C) and where their entropy comes from, (*batch,).

    information: mutual information of label and logits; expected: expected entropy; in
    nats. `None` where the link has none.
    """

    probs: Array
    information: Array | None
    expected: Array | None


class AbstractLink(eqx.Module):
    r"""$\int \mathrm{softmax}(f) \, N(f; \mu, \Sigma) \, df$, in one way or another.

    Every link also takes variances in place of a covariance, and then the logits as
    independent. Where a link has `diagonal`, it loses nothing by that.
    """

    #: Are the marginal variances of the logits all that is used?
    diagonal: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def several(
        self,
        mean: Float[Array, "*batch C"],
        covariance: Float[Array, "*batch C C"] | Float[Array, "*batch C"],
    ) -> Integrated:
        """Probabilities of C >= 2 classes with C logits."""

    @abc.abstractmethod
    def two(
        self, mean: Float[Array, "*batch 1"], variance: Float[Array, "*batch 1"]
    ) -> Integrated:
        """Probabilities of the labels 0 and 1 with the logit of label 1."""


class MonteCarlo(AbstractLink):
    r"""The mean over fixed antithetic Gaussian draws, the same for every method.

    $p_k \approx \frac{1}{S} \sum_s \mathrm{softmax}(\mu + L z_s)_k$, S = 2 `pairs`. For
    one logit, and for two with their covariance, 32 Gauss-Hermite nodes over the logit
    or the difference of the two, which is all that matters. The error of a probability
    falls as 1/sqrt(S); for 256 pairs it is about 0.01 and hardly ever above 0.022.
    Mutual information and expected entropy come from the same draws.

    Args:
        pairs: number of antithetic pairs.

    >>> link = MonteCarlo()
    >>> link.two(jnp.zeros((1, 1)), jnp.ones((1, 1))).probs.tolist()
    [[0.5, 0.5]]
    """

    diagonal: ClassVar[bool] = False

    pairs: int = NORMAL_PAIRS

    def __check_init__(self):
        if self.pairs < 1:
            raise ValueError(f"MonteCarlo: expected pairs >= 1, got {self.pairs}")

    def several(self, mean, covariance) -> Integrated:
        if mean.shape[-1] == 2:
            # softmax depends on the difference of the two logits only
            contrast = jnp.asarray([-1.0, 1.0], mean.dtype)
            difference = (mean @ contrast)[..., None]
            if covariance.ndim == mean.ndim:
                variance = jnp.sum(covariance, axis=-1, keepdims=True)
            else:
                variance = ((covariance @ contrast) @ contrast)[..., None]
            return self.two(difference, variance)
        points = jnp.asarray(nodes(mean.shape[-1], self.pairs)[0], mean.dtype)
        if covariance.ndim == mean.ndim:
            scale = jnp.sqrt(jnp.clip(covariance, 0.0))

            def shift(z: Array) -> Array:
                return jnp.einsum("...c,sc->s...c", scale, z)
        else:
            lower = root(covariance)

            def shift(z: Array) -> Array:
                return jnp.moveaxis(lower @ z.T, -1, 0)

        def add(
            total: tuple[Array, Array], z: Array
        ) -> tuple[tuple[Array, Array], None]:
            probs, entropy = softmax_entropy(mean + shift(z))
            return (total[0] + probs.sum(0), total[1] + entropy.sum(0)), None

        start = (jnp.zeros_like(mean), jnp.zeros_like(mean[..., 0]))
        steps = _divisor(len(points), len(points) * mean.size / CHUNK)
        blocks = points.reshape(steps, -1, points.shape[-1])
        (probs, entropy), _ = jax.lax.scan(add, start, blocks)
        return _mixed(probs / len(points), entropy / len(points))

    def two(self, mean, variance) -> Integrated:
        logits, weights = line(mean, variance)
        return mixed(two_classes(logits), weights)


class Probit(AbstractLink):
    r"""The logits shrunk by their variances, $\mathrm{softmax}(\mu_k / s_k)$.

    $s_k = \sqrt{1 + \pi \Sigma_{kk} / 8}$; for one logit MacKay's approximation. In
    closed form and cheap. It reports no mutual information and no expected entropy:
    `epistemic` and `aleatoric` are `None`. Not the integral: for two classes it is
    within 0.02 of it, for more it ignores how the logits vary together.

    References: MacKay 1992 (one logit); Daxberger et al. 2021 (arXiv 2106.14806).

    >>> Probit().two(jnp.zeros((1, 1)), jnp.ones((1, 1))).probs.tolist()
    [[0.5, 0.5]]
    """

    diagonal: ClassVar[bool] = True

    def several(self, mean, covariance) -> Integrated:
        variance = variances(mean, covariance)
        return Integrated(jax.nn.softmax(_shrunk(mean, variance)), None, None)

    def two(self, mean, variance) -> Integrated:
        return Integrated(two_classes(_shrunk(mean, variance)), None, None)


class MeanField(AbstractLink):
    r"""Products of two-class approximations (mean-field, second kind).

    $p_k \propto
    \left[\sum_i \exp\left(-\frac{\mu_k - \mu_i}{s_{ki}}\right)\right]^{-1}$ with
    $s_{ki}^2 = 1 + \frac{\pi}{8} (\Sigma_{kk} + \Sigma_{ii} - 2 \Sigma_{ki})$, the
    variance of the difference; normalized. For two classes it is `Probit` on the
    difference. From variances alone it is the mean-field approximation of the first
    kind. C² terms an input. It reports no mutual information and no expected entropy:
    `epistemic` and `aleatoric` are `None`.

    Reference: Lu, Ie, Sha 2020 (arXiv 2006.07584).

    >>> MeanField().several(jnp.zeros((1, 4)), jnp.ones((1, 4))).probs.tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    diagonal: ClassVar[bool] = False

    def several(self, mean, covariance) -> Integrated:
        variance = variances(mean, covariance)
        shared = None if covariance.ndim == mean.ndim else covariance

        def class_k(k: Array) -> Array:
            spread = variance + variance[..., k, None]
            if shared is not None:
                spread = spread - 2.0 * shared[..., k, :]
            # a class against itself: exactly certain
            spread = jnp.where(jnp.arange(mean.shape[-1]) == k, 0.0, spread)
            gap = _shrunk(mean - mean[..., k, None], jnp.maximum(spread, 0.0))
            return -logsumexp(gap, axis=-1)

        logs = jax.lax.map(class_k, jnp.arange(mean.shape[-1]))
        return Integrated(jax.nn.softmax(jnp.moveaxis(logs, 0, -1)), None, None)

    def two(self, mean, variance) -> Integrated:
        return Integrated(two_classes(_shrunk(mean, variance)), None, None)


class LaplaceBridge(AbstractLink):
    r"""The Dirichlet distribution whose Laplace approximation the logits have.

    $\alpha_k = \frac{1}{\Sigma_{kk}}
    \left(1 - \frac{2}{C} + \frac{e^{\mu_k}}{C^2} \sum_l e^{-\mu_l}\right)$, after the
    logits have been conditioned on a sum of zero. Probabilities, mutual information and
    expected entropy are those of the Dirichlet, in closed form. Exact for logits that
    come from a Dirichlet. For others it can be far off: probabilities by 0.3 for four
    classes with variances near 1, and small variances do not give softmax(mu) when
    C > 2. Variances below 1e-12 count as 1e-12.

    Args:
        normalize: divide the variances by c, their mean over sqrt(C / 2), and the means
            by sqrt(c), which keeps probabilities from going flat where the variances
            are large; it sharpens them where the variances are small.

    References: Hobbhahn, Kristiadi, Hennig 2022 (arXiv 2003.01227).

    >>> LaplaceBridge().several(jnp.zeros((1, 4)), jnp.ones((1, 4))).probs.tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    diagonal: ClassVar[bool] = False

    normalize: bool = False

    def several(self, mean, covariance) -> Integrated:
        full = covariance.ndim > mean.ndim
        rows = jnp.sum(covariance, axis=-1) if full else covariance
        variance = variances(mean, covariance)
        total = jnp.sum(rows, axis=-1, keepdims=True)
        # logits that sum to a constant already are only centered
        free = total > 1e-9 * jnp.sum(variance, axis=-1, keepdims=True)
        gain = jnp.where(free, rows / jnp.where(free, total, 1.0), 1.0 / mean.shape[-1])
        variance = variance - jnp.where(free, gain * rows, 0.0)
        mean = mean - gain * jnp.sum(mean, axis=-1, keepdims=True)
        return self._dirichlet(mean, variance)

    def two(self, mean, variance) -> Integrated:
        # the logit's halves, of both signs: they sum to zero
        half = jnp.concatenate([-0.5 * mean, 0.5 * mean], axis=-1)
        return self._dirichlet(half, jnp.broadcast_to(0.25 * variance, half.shape))

    def _dirichlet(self, mean: Array, variance: Array) -> Integrated:
        size = mean.shape[-1]
        variance = jnp.maximum(variance, 1e-12)
        if self.normalize:
            c = jnp.mean(variance, axis=-1, keepdims=True) / math.sqrt(size / 2)
            mean, variance = mean / jnp.sqrt(c), variance / c
        pull = mean + logsumexp(-mean, axis=-1, keepdims=True) - 2 * math.log(size)
        if size > 2:
            pull = jnp.logaddexp(math.log(1 - 2 / size), pull)
        logs = pull - jnp.log(variance)
        probs = jax.nn.softmax(logs)
        # beyond this a Dirichlet is a point to rounding, and digamma overflows
        most = 0.5 * math.log(float(jnp.finfo(mean.dtype).max))
        alpha = jnp.exp(jnp.minimum(logs, most))
        certain = digamma(jnp.sum(alpha, axis=-1) + 1.0)
        expected = certain - jnp.sum(probs * digamma(alpha + 1.0), axis=-1)
        return _mixed(probs, jnp.maximum(expected, 0.0))


def two_classes(logit: Float[Array, "*batch 1"]) -> Float[Array, "*batch 2"]:
    """Probabilities of the labels 0 and 1 from the logit of label 1."""
    return jnp.concatenate([jax.nn.sigmoid(-logit), jax.nn.sigmoid(logit)], axis=-1)


def entropy(probs: Float[Array, "*batch C"]) -> Float[Array, "*batch"]:
    """-sum p log p, in nats."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def softmax_entropy(
    logits: Float[Array, "*batch C"],
) -> tuple[Float[Array, "*batch C"], Float[Array, "*batch"]]:
    """Softmax and its entropy, with one logarithm for all classes."""
    logits = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    probs = weights / total
    return probs, jnp.log(total[..., 0]) - jnp.sum(probs * logits, axis=-1)


def mixed(probs: Float[Array, "S *batch C"], weights: Float[Array, " S"]) -> Integrated:
    """The mixture of S class probabilities with these weights."""
    return _mixed(
        jnp.tensordot(weights, probs, 1), jnp.tensordot(weights, entropy(probs), 1)
    )


def _mixed(probs: Array, expected: Array) -> Integrated:
    probs = probs / jnp.sum(probs, axis=-1, keepdims=True)
    information = jnp.maximum(entropy(probs) - expected, 0.0)
    return Integrated(probs, information, expected)


def _shrunk(mean: Array, variance: Array) -> Array:
    return mean / jnp.sqrt(1.0 + _PROBIT * variance)


def _divisor(size: int, least: float) -> int:
    """The smallest divisor of `size` that is at least `least`."""
    return next(
        n for n in range(1, size + 1) if size % n == 0 and n >= min(least, size)
    )

"""Acquisition functions: how much it is worth to observe each point."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ntkuq.decisions.improvement import log_improvement
from ntkuq.posteriors.predictive import Predictive, current


class AbstractAcquisition(eqx.Module):
    """A score of N candidate points; larger is better.

    Outcomes are maximized: to minimize, model the negative outcome.
    """

    @abc.abstractmethod
    def __call__(
        self,
        predictive: Predictive,
        *,
        best: ArrayLike | None = None,
        key: Array | None = None,
    ) -> Float[Array, " N"]:
        """The score of each candidate.

        Args:
            predictive: predictions at the N candidates.
            best: the incumbent, the largest function value found so far, in the units
                of the data; used by `ExpectedImprovement` and `LogEI` only.
            key: random key; used by `Thompson` and `Random` only.

        Returns:
            Shape (N,).

        Raises:
            TypeError: where the score has no meaning for this task.
            ValueError: where `best` or `key` is needed and missing, or the predictions
                lack what the score rests on.
        """


class ExpectedImprovement(AbstractAcquisition):
    r"""The expected gain over the incumbent, in the units of the data.

    $\mathrm{EI}(x) = E[\max(f(x) - b, 0)] = s\,(\varphi(z) + z\,\Phi(z))$ with
    $z = (m - b)/s$, and m, s the mean and standard deviation of the function value:
    the noise of an observation is left out. Far below the incumbent it underflows to
    0; to optimize it, use `LogEI`.

    References: Jones, Schonlau, Welch 1998.

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> f = dist.Normal(jnp.array([0.0, 1.0]), jnp.ones(2))
    >>> gain = ExpectedImprovement()(Predictive(latent=f, observed=f), best=0.0)
    >>> [f"{value:.3f}" for value in gain]
    ['0.399', '1.083']
    """

    def __call__(self, predictive, *, best=None, key=None):
        return jnp.exp(LogEI()(predictive, best=best))


class LogEI(AbstractAcquisition):
    r"""The logarithm of the expected improvement, $\log s + \log h((m - b)/s)$.

    The same ranking as `ExpectedImprovement`, with a usable value and slope where that
    is zero. A function value known exactly (s = 0) gives $\log \max(m - b, 0)$.

    References: Ament et al. 2023 (arXiv 2310.20708).

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> f = dist.Normal(jnp.array([0.0]), jnp.ones(1))
    >>> f"{LogEI()(Predictive(latent=f, observed=f), best=100.0).item():.1f}"
    '-5010.1'
    """

    def __call__(self, predictive, *, best=None, key=None):
        mean, std = _function(predictive, "LogEI and ExpectedImprovement")
        if best is None:
            raise ValueError(
                "LogEI and ExpectedImprovement: expected best=, the largest function "
                "value found so far, in the units of the data"
            )
        gain = mean - jnp.asarray(best, mean.dtype)
        known = std == 0
        scale = jnp.where(known, 1.0, std)
        value = jnp.log(scale) + log_improvement(gain / scale)
        certain = jnp.log(jnp.where(known & (gain > 0), gain, 1.0))
        return jnp.where(known, jnp.where(gain > 0, certain, -jnp.inf), value)


class UCB(AbstractAcquisition):
    r"""Upper confidence bound, $m + w\,s$, in the units of the data.

    Args:
        width: w, how many standard deviations of the function value count; 0 is
            greedy.

    Raises:
        ValueError: for a negative width.

    References: Srinivas et al. 2010 (arXiv 0912.3995).

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> f = dist.Normal(jnp.array([0.0, 1.0]), jnp.array([3.0, 1.0]))
    >>> UCB(width=2.0)(Predictive(latent=f, observed=f)).tolist()
    [6.0, 3.0]
    """

    width: ArrayLike = 1.0

    def __check_init__(self):
        if isinstance(self.width, float | int) and not self.width >= 0:
            raise ValueError(f"UCB: expected width >= 0, got {self.width}")

    def __call__(self, predictive, *, best=None, key=None):
        mean, std = _function(predictive, "UCB")
        return mean + jnp.asarray(self.width, mean.dtype) * std


class Thompson(AbstractAcquisition):
    r"""One draw of the function value at each candidate, $m + s\,\epsilon$.

    The draws are independent over the candidates, since a `Predictive` holds marginals
    only: points close to each other do not rise and fall together.

    References: Thompson 1933; Russo et al. 2018 (arXiv 1707.02038).

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> f = dist.Normal(jnp.zeros(3), jnp.ones(3))
    >>> Thompson()(Predictive(latent=f, observed=f), key=jax.random.key(0)).shape
    (3,)
    """

    def __call__(self, predictive, *, best=None, key=None):
        mean, std = _function(predictive, "Thompson")
        noise = jax.random.normal(_needed(key, "Thompson"), mean.shape, mean.dtype)
        return mean + std * noise


class BALD(AbstractAcquisition):
    r"""Mutual information between an observation and the function, in nats.

    $I(y; f) = H[E\,p(y \mid f)] - E\,H[p(y \mid f)]$. For classes this is
    `predictive.epistemic`. For regression with Gaussian noise it is
    $\tfrac12 \log(1 + \mathrm{epistemic}/\mathrm{aleatoric})$, exact where the function
    value is normal and the noise does not depend on it.

    References: Houlsby et al. 2011 (arXiv 1112.5745); MacKay 1992.

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> one = jnp.ones(1)
    >>> f, y = dist.Normal(0.0 * one, one), dist.Normal(0.0 * one, 2.0 * one)
    >>> BALD()(Predictive(f, y, epistemic=3.0 * one, aleatoric=one)).round(4).item()
    0.6931
    """

    def __call__(self, predictive, *, best=None, key=None):
        epistemic, aleatoric = predictive.epistemic, predictive.aleatoric
        if epistemic is None or aleatoric is None:
            raise ValueError(
                "BALD: expected predictions with an epistemic and an aleatoric part; "
                "these come from elsewhere without them: give Predictive(latent, "
                "observed, epistemic=, aleatoric=)"
            )
        epistemic = _one_output(jnp.asarray(epistemic), "BALD")
        if predictive.is_classification:
            return epistemic
        return 0.5 * jnp.log1p(epistemic / jnp.asarray(aleatoric))


class Random(AbstractAcquisition):
    """A uniform random score: the control that any other acquisition has to beat.

    >>> import jax, numpy as np
    >>> p = Predictive.normal(np.zeros(3), np.ones(3))
    >>> Random()(p, key=jax.random.key(0)).shape
    (3,)
    """

    def __call__(self, predictive, *, best=None, key=None):
        size = predictive.mean.shape[0]
        return jax.random.uniform(_needed(key, "Random"), (size,))


class _Function(NamedTuple):
    mean: Float[Array, " N"]
    std: Float[Array, " N"]


def _function(predictive: Predictive, who: str) -> _Function:
    """Mean and standard deviation of the function value."""
    if predictive.is_classification:
        raise TypeError(
            f"{who}: expected predictions of an outcome on a scale, got classes; for "
            "classes use BALD"
        )
    if predictive.latent is None:
        raise ValueError(
            f"{who}: expected predictions with a distribution of the function value; "
            "these have that of an observation only: give Predictive(latent=, "
            "observed=)"
        )
    latent = current(predictive.latent)
    mean = _one_output(jnp.asarray(latent.mean), who)
    return _Function(mean, jnp.sqrt(jnp.asarray(latent.variance)))


def _one_output(values: Array, who: str) -> Array:
    if values.ndim != 1:
        raise ValueError(
            f"{who}: expected predictions of one outcome, shape (N,), got "
            f"{values.shape}; combine several outcomes into one first"
        )
    return values


def _needed(key: Array | None, who: str) -> Array:
    if key is None:
        raise ValueError(f"{who}: expected a random key, key=")
    return key

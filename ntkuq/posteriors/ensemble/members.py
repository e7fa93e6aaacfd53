"""What makes the members of an ensemble differ."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.models import BNN, Gaussian, KnownNoise, NoisyTargets, parameters, trainable
from ntkuq.posteriors.ensemble.networks import Offset


class Start(NamedTuple):
    """A member before it is trained.

    Args:
        model: where the training starts.
        center: what the prior pulls the parameters towards; `None` for zero.
        noise: whether the targets are drawn anew from the likelihood around the data.
        resample: whether the member has a bootstrap sample of the data.
    """

    model: PyTree
    center: PyTree | None = None
    noise: bool = False
    resample: bool = False


class AbstractMember(eqx.Module):
    """A recipe for one member of an ensemble."""

    @abc.abstractmethod
    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        """A member before it is trained, with randomness of its own.

        Args:
            bnn: the prepared problem.
            x: the scaled inputs of one example, without the leading axis.
            key: for everything random.
        """


class Plain(AbstractMember):
    """A fresh initialization, trained to a maximum of the posterior.

    References: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474).

    >>> Plain()
    Plain()
    """

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        return Start(bnn.network.init(key))


class Bootstrap(AbstractMember):
    """A fresh initialization, trained on data drawn with replacement.

    References: Efron and Tibshirani 1993; Osband et al. 2016 (arXiv 1602.04621).

    >>> Bootstrap()
    Bootstrap()
    """

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        return Start(bnn.network.init(key), resample=True)


class RandomizedPrior(AbstractMember):
    r"""The sum of a trained network and a fixed draw of the prior.

    $f(x, \theta) + s\, f(x, \tilde\theta)$ with $\tilde\theta \sim p(\theta)$ fixed and
    theta pulled to zero. With `noise`, Gaussian targets get noise of the likelihood:
    for a network that is linear in its parameters and s = 1, members are exact draws
    of the posterior.

    Args:
        scale: s, how strongly the fixed network enters.
        noise: whether targets are perturbed (`Gaussian` likelihoods only).

    References: Osband, Aslanides, Cassirer 2018 (arXiv 1806.03335), lemma 3.

    >>> RandomizedPrior(scale=2.0).noise
    True
    """

    scale: float = 1.0
    noise: bool = True

    def __check_init__(self):
        if not self.scale > 0:
            raise ValueError(
                f"RandomizedPrior: expected scale > 0, got {self.scale}; for members "
                "without a fixed network use Plain()"
            )

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        init, draw = jax.random.split(key)
        model = bnn.network.init(init)
        fixed = from_prior(bnn, model, key=draw)
        return Start(Offset.of(model, fixed, self.scale), noise=self.noise)


class Anchored(AbstractMember):
    r"""A network pulled to a draw of the prior instead of zero.

    The regularizer is $-\log p(\theta - \theta_0)$ with $\theta_0 \sim p(\theta)$,
    where the training starts. With `noise`, Gaussian targets get noise of the
    likelihood: for a network that is linear in its parameters, members are exact draws
    of the posterior.

    Args:
        noise: whether targets are perturbed (`Gaussian` likelihoods only).

    References: Pearce, Leibfried, Brintrup 2020 (arXiv 1810.05546).

    >>> Anchored(noise=False).noise
    False
    """

    noise: bool = True

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        init, draw = jax.random.split(key)
        model = from_prior(bnn, bnn.network.init(init), key=draw)
        return Start(model, parameters(model), noise=self.noise)


def from_prior(bnn: BNN, model: PyTree, *, key: Array) -> PyTree:
    """The network with parameters drawn from the prior."""
    params, rest = eqx.partition(model, trainable(model))
    return eqx.combine(bnn.prior.sample(params, key=key), rest)


def perturbed(bnn: BNN, y: PyTree, *, key: Array) -> PyTree:
    """Targets with noise of the likelihood; others than Gaussian ones as they are."""
    likelihood = bnn.likelihood
    if isinstance(likelihood, Gaussian):
        scale = jnp.asarray(likelihood.scale, y.dtype)
        return y + scale * jax.random.normal(key, y.shape, y.dtype)
    if isinstance(likelihood, KnownNoise):
        noise = y.scale * jax.random.normal(key, y.value.shape, y.value.dtype)
        return NoisyTargets(y.value + noise, y.scale)
    return y


def resampled(size: int, *, key: Array) -> np.ndarray:
    """How often each of `size` examples is drawn, with replacement, in `size` draws."""
    rng = np.random.default_rng(np.ravel(jax.random.key_data(key)).tolist())
    return np.bincount(rng.integers(0, size, size), minlength=size)

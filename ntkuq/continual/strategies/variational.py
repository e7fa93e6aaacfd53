"""Variational continual learning: a mean-field posterior is the next prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkuq.continual.strategies.meanfield import (
    AbstractMeanField,
    moments,
    need_mean_field,
    prior_log_scales,
)
from ntkuq.models import Train, parameters
from ntkuq.models.train import AbstractPenalty


class KL(AbstractPenalty):
    r"""$\mathrm{KL}(q \,\|\, q_{\rm old}) / N$ of two mean-field Gaussians.

    Args:
        mean: of the old one, one array a leaf.
        log_scale: the logarithm of its standard deviations.
        strength: a factor; 1 is Bayes' rule.
    """

    mean: list[Float[Array, "..."]]
    log_scale: list[Float[Array, "..."]]
    strength: Float[Array, ""]

    def __call__(self, model, at):
        means, scales = moments(model)
        total = jnp.zeros((), means[0].dtype)
        every = zip(means, scales, self.mean, self.log_scale, strict=True)
        for m, s, m0, s0 in every:
            ratio = jnp.exp(2 * (s - s0))
            square = ((m - m0) * jnp.exp(-s0)) ** 2
            total = total + 0.5 * jnp.sum(ratio + square - 1.0 - 2 * (s - s0))
        return self.strength * total / at.size


class VCL(AbstractMeanField):
    r"""Variational continual learning with mean-field Gaussians.

    $q_T$ maximizes $E_q[\log p(D_T \mid \theta)] - \mathrm{KL}(q \,\|\, q_{T-1})$.
    Trained with local reparametrization; before the first task $q_0$ is the prior of
    the `BNN`. For networks whose parameters are all in dense layers
    (`equinox.nn.Linear`).

    Args:
        scale: the standard deviation of the weights where the first training starts.
        strength: the KL is multiplied by this; 1 is Bayes' rule.
        draws: networks that predictions use.
        train: how to train on one task.

    Raises:
        TypeError: for a network with other parameters.
        ValueError: for a scale ≤ 0, or fewer than one draw.

    References: Nguyen et al. 2018 (arXiv 1710.10628); Kingma, Salimans, Welling 2015
    (arXiv 1506.02557).

    >>> VCL(draws=20).draws
    20
    """

    scale: float = 1e-3
    strength: float = 1.0
    draws: int = 30
    train: Train = Train()

    def __check_init__(self):
        need_mean_field("VCL", self.scale, self.draws, self.strength)

    def penalty(self, state, seen, *, key):
        del key
        leaves = jax.tree.leaves(parameters(seen.model))
        if state.memory is None:
            means = [jnp.zeros_like(leaf) for leaf in leaves]
            before = prior_log_scales(seen)
        else:
            means, before = leaves, state.memory.log_scales
        return KL(means, before, jnp.asarray(self.strength, seen.bnn.dtype))

    def more(self, state, seen, *, key):
        return None

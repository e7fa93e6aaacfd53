"""Variational continual learning: a mean-field posterior is the next prior."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import AbstractTraining
from ntkuq.models import AbstractPrior, Train, forward, parameters
from ntkuq.models.train import AbstractPenalty, Job
from ntkuq.posteriors.gaussian_weights import GaussianWeightsPosterior, draw
from ntkuq.posteriors.raveled import DiagonalGaussian


class Flat(AbstractPrior):
    """No prior: the penalty has it."""

    def precisions(self, parameters):
        return jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), parameters)

    def scaled(self, factor):
        del factor
        return self

    def log_prob(self, parameters):
        return jnp.zeros((), jax.tree.leaves(parameters)[0].dtype)


class Sampling(eqx.Module):
    r"""A dense layer with normal weights, its outputs drawn: local reparametrization.

    $W x + b \sim N(M x + m, (S^2 \cdot x^2) + s^2)$, exact for one example and with far
    less noise than a draw of the weights.

    Args:
        mean: the layer at the mean.
        log_scale: logarithm of the standard deviations, a layer of the same shape.
        key: of this call.
    """

    mean: eqx.nn.Linear
    log_scale: eqx.nn.Linear
    key: Array | None = None

    def __call__(self, x: Float[Array, " I"], *, key: Array | None = None):
        """One draw of the outputs."""
        del key
        center = self.mean(x)
        spread = jnp.exp(2 * self.log_scale.weight) @ x**2
        if self.log_scale.bias is not None:
            spread = spread + jnp.exp(2 * self.log_scale.bias)
        if self.key is None:
            return center
        noise = jax.random.normal(self.key, center.shape, center.dtype)
        return center + jnp.sqrt(spread) * noise


def sampled(model: PyTree, x: PyTree, key: Array) -> Float[Array, " C"]:
    """The outputs of a network whose dense layers draw theirs."""
    layers = _layers(model)
    keys = jax.random.split(key, len(layers))
    keyed = [
        eqx.tree_at(lambda m: m.key, layer, now, is_leaf=lambda leaf: leaf is None)
        for layer, now in zip(layers, keys, strict=True)
    ]
    return forward(eqx.tree_at(_layers, model, keyed), x)


def _layers(model: PyTree) -> list[Sampling]:
    leaves = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Sampling))
    return [leaf for leaf in leaves if isinstance(leaf, Sampling)]


def _linear(model: PyTree) -> list[eqx.nn.Linear]:
    leaves = jax.tree.leaves(
        model, is_leaf=lambda node: isinstance(node, eqx.nn.Linear)
    )
    return [leaf for leaf in leaves if isinstance(leaf, eqx.nn.Linear)]


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


def moments(model: PyTree) -> tuple[list[Array], list[Array]]:
    """Means and log standard deviations, the arrays of the layers in order."""
    layers = _layers(model)
    return (
        jax.tree.leaves([parameters(layer.mean) for layer in layers]),
        jax.tree.leaves([parameters(layer.log_scale) for layer in layers]),
    )


class VCL(AbstractTraining):
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
        if not self.scale > 0 or self.draws < 1 or not self.strength >= 0:
            raise ValueError(
                "VCL: expected scale > 0, strength >= 0 and draws >= 1, got "
                f"{self.scale}, {self.strength} and {self.draws}"
            )

    def job(self, state, seen, *, key):
        model, leaves = seen.model, jax.tree.leaves(parameters(seen.model))
        inside = [parameters(layer) for layer in _linear(model)]
        if len(jax.tree.leaves(inside)) != len(leaves):
            raise TypeError(
                "VCL: expected a network whose parameters are all in equinox.nn.Linear "
                "layers, got others as well: use OnlineLaplace, which takes any"
            )
        dtype = seen.bnn.dtype
        start = jnp.log(jnp.asarray(self.scale, dtype))
        if state.memory is None:
            scales = [jnp.full(leaf.shape, start, dtype) for leaf in leaves]
            precisions = jax.tree.leaves(seen.bnn.prior.precisions(parameters(model)))
            means = [jnp.zeros_like(leaf) for leaf in leaves]
            before = [
                jnp.full(leaf.shape, -0.5 * jnp.log(p), dtype)
                for leaf, p in zip(leaves, precisions, strict=True)
            ]
        else:
            means, before = leaves, state.memory
            scales = state.memory
        penalty = KL(means, before, jnp.asarray(self.strength, dtype))
        return Job(
            *(seen.bnn.with_prior(Flat()), _with_scales(model, scales)),
            *(seen.x, seen.y, key),
            penalty=penalty,
            call=sampled,
        )

    def learned(self, state, seen, trained, *, key):
        layers = _layers(trained.model)
        _, scales = moments(trained.model)
        model = eqx.tree_at(_layers, trained.model, [layer.mean for layer in layers])
        bnn = state.bnn.prepare(seen.data).with_model(model)
        leaves = jax.tree.leaves(parameters(model))
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        spread = jnp.concatenate([jnp.exp(s).reshape(-1) for s in scales])
        gaussian = DiagonalGaussian(flat, spread)
        after = GaussianWeightsPosterior(
            bnn=bnn,
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={"losses": [float(loss) for loss in trained.losses]},
            gaussian=gaussian,
            draws=draw(gaussian, self.draws, key=jax.random.fold_in(key, 1)),
        )
        return Learned.of(after, scales, state.tasks + 1)


def _with_scales(model: PyTree, scales: list[Array]) -> PyTree:
    """The network with dense layers that draw their outputs."""
    layers, left = [], iter(scales)
    for layer in _linear(model):
        tree = parameters(layer)
        count = len(jax.tree.leaves(tree))
        filled = jax.tree.unflatten(
            jax.tree.structure(tree), [next(left) for _ in range(count)]
        )
        layers.append(Sampling(layer, eqx.combine(filled, layer)))
    return eqx.tree_at(_linear, model, layers)

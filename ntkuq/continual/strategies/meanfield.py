"""Mean-field Gaussians over the weights, trained by local reparametrization."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned
from ntkuq.continual.strategies.base import AbstractTraining, Seen
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


def moments(model: PyTree) -> tuple[list[Array], list[Array]]:
    """Means and log standard deviations, the arrays of the layers in order."""
    layers = _layers(model)
    return (
        jax.tree.leaves([parameters(layer.mean) for layer in layers]),
        jax.tree.leaves([parameters(layer.log_scale) for layer in layers]),
    )


def means_of(model: PyTree) -> PyTree:
    """The network at the means of its dense layers."""
    return eqx.tree_at(_layers, model, [layer.mean for layer in _layers(model)])


class MeanField(NamedTuple):
    """What a mean-field strategy keeps beside the means, which are the network's.

    log_scales: logarithms of the standard deviations, one array a parameter.
    more: whatever else, such as examples.
    """

    log_scales: list[Float[Array, "..."]]
    more: PyTree


class AbstractMeanField(AbstractTraining):
    """A strategy that trains a mean-field Gaussian over all weights.

    For networks whose parameters are all in dense layers (`equinox.nn.Linear`).
    """

    train: eqx.AbstractVar[Train]
    #: Standard deviation of the weights where the first training starts.
    scale: eqx.AbstractVar[float]
    #: Networks that predictions use.
    draws: eqx.AbstractVar[int]

    @abc.abstractmethod
    def penalty(self, state: Learned, seen: Seen, *, key: Array) -> AbstractPenalty:
        """What stands for the divergence to the last posterior, or to the prior."""

    @abc.abstractmethod
    def more(self, state: Learned, seen: Seen, *, key: Array) -> PyTree:
        """What else is kept after the task."""

    def job(self, state, seen, *, key):
        model, leaves = seen.model, jax.tree.leaves(parameters(seen.model))
        need_dense(type(self).__name__, model)
        dtype = seen.bnn.dtype
        if state.memory is None:
            start = jnp.log(jnp.asarray(self.scale, dtype))
            scales = [jnp.full(leaf.shape, start, dtype) for leaf in leaves]
        else:
            scales = state.memory.log_scales
        return Job(
            *(seen.bnn.with_prior(Flat()), with_scales(model, scales)),
            *(seen.x, seen.y, key),
            penalty=self.penalty(state, seen, key=key),
            call=sampled,
        )

    def learned(self, state, seen, trained, *, key):
        _, scales = moments(trained.model)
        model = means_of(trained.model)
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
        more = self.more(state, seen._replace(bnn=bnn), key=key)
        return Learned.of(after, MeanField(scales, more), state.tasks + 1)


def prior_log_scales(seen: Seen) -> list[Array]:
    """Logarithms of the prior's standard deviations, one array a parameter."""
    tree = parameters(seen.model)
    leaves = jax.tree.leaves(tree)
    precisions = jax.tree.leaves(seen.bnn.prior.precisions(tree))
    return [
        jnp.full(leaf.shape, -0.5 * jnp.log(p), leaf.dtype)
        for leaf, p in zip(leaves, precisions, strict=True)
    ]


def need_dense(who: str, model: PyTree) -> None:
    """Raise `TypeError` for parameters that are not in dense layers."""
    leaves = jax.tree.leaves(parameters(model))
    inside = [parameters(layer) for layer in _linear(model)]
    if len(jax.tree.leaves(inside)) != len(leaves):
        raise TypeError(
            f"{who}: expected a network whose parameters are all in equinox.nn.Linear "
            "layers, got others as well: use OnlineLaplace, which takes any"
        )


def need_mean_field(who: str, scale: float, draws: int, strength: float) -> None:
    """Raise `ValueError` for settings without meaning."""
    if not scale > 0 or draws < 1 or not strength >= 0:
        raise ValueError(
            f"{who}: expected scale > 0, strength >= 0 and draws >= 1, got {scale}, "
            f"{strength} and {draws}"
        )


def with_scales(model: PyTree, scales: list[Array]) -> PyTree:
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

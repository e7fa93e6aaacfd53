"""Monte-Carlo dropout: networks with units left out, at prediction time too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_data
from ntkuq.linearize import map_chunks
from ntkuq.models import BNN, Frozen, Train
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.models.train import with_dropout
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.draws import CHUNK, NetworkFunctions
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, output_dtype


class MCDropout(AbstractMethod):
    r"""A network trained with dropout, and averaged over its masks.

    $p(y \mid x) = \frac1S \sum_s p(y \mid f(x, \hat\theta, m_s))$ with S masks $m_s$
    drawn as in training, by the key of `fit`. A mask belongs to a function: all inputs
    are predicted with the same S masks, so that samples of the function are functions.
    Fresh masks for each input, as in the original program, have the same distribution
    at each input, but no covariance between inputs.

    The network has dropout layers and takes a key: `network(x, key=key)` as well as
    `network(x)`, which is called with dropout off. `eqx.nn.Dropout(p)` leaves out units
    with probability p and divides the others by 1 - p.

    The prior enters as weight decay: the loss is that of `Train`,
    $-\frac1N [\sum_n \log p(y_n \mid f(x_n)) + \log p(\theta)]$. In the paper's
    variational bound a weight that follows dropout has $(1 - p) l^2$ where this loss
    has the prior's precision, l the prior length-scale: `NormalPrior((1 - p) * l**2)`
    is Gal and Ghahramani's. With Gaussian noise of scale sigma their
    $\tau = 1/\sigma^2$.

    Args:
        train: how the network is trained, from the builder; `None` keeps the weights of
            a trained network, which was trained with dropout.
        samples: masks for predictions.

    References: Gal and Ghahramani 2016 (arXiv 1506.02142), eq. 6, 7 and section 4.

    >>> MCDropout(Train(1e-2, steps=100), samples=50).samples
    50
    """

    train: Train | None = Train()
    samples: int = 30

    def __check_init__(self):
        if self.samples < 2:
            raise ValueError(f"MCDropout: expected samples >= 2, got {self.samples}")

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> MCDropoutPosterior:
        """Train with dropout on; the network in the posterior has it off.

        Args:
            bnn: the problem, with a builder of networks with dropout.
            data: training data.
            callback: called as `callback(steps, loss)` after each tenth of the steps.
            checkpoint: a file in which the training is kept; a fit that was interrupted
                goes on from there, with the same result bit for bit.
            key: chooses the start, batches, and masks.

        Raises:
            ValueError: for a network without dropout or that takes no key, and where
                network and data do not fit.
            TrainingError: where training diverges.
            StoreError: for the checkpoint of another fit.
        """
        data = as_data(data)
        bnn = bnn.prepare(data)
        progress = checkpoint_of(checkpoint, self, bnn, data, key=key)
        init, steps, masks = jax.random.split(key, 3)
        if self.train is not None:
            bnn = bnn.with_model(bnn.network.init(init))
        one = data.take_first(1) if isinstance(data, Batches) else data.take([0])
        _check(_awake(bnn.model), bnn.inputs(one.x), key=masks)
        losses: list[float] = []
        if self.train is not None:
            result = self.train.fit(
                bnn,
                _awake(bnn.model),
                data,
                call=with_dropout,
                callback=callback,
                checkpoint=progress,
                key=steps,
            )
            bnn = bnn.with_model(eqx.nn.inference_mode(result.model))
            losses = [float(loss) for loss in result.losses]
        return MCDropoutPosterior(
            bnn=bnn,
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={"masks": self.samples, "losses": losses},
            keys=jax.random.split(masks, self.samples),
        )

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        if self.train is None:
            return Cost(0.0, 0.0, 3)
        size = min(self.train.batch or len(data), len(data))
        steps = self.train.updates(len(data))
        # forward and backward: about 6 P operations an example
        return Cost(6.0 * bnn.size() * size * steps, 40.0 * bnn.size() + 2**26, 4)


class MCDropoutPosterior(AbstractPosterior):
    """A network and the masks that it is averaged over.

    Args:
        keys: (S,), of the masks that predictions use.
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]
    keys: Array

    @property
    def networks(self) -> PyTree:
        """The network with each mask of the predictions, stacked."""
        return _masked(self.bnn.model, self.keys)

    def predict(self, x: PyTree) -> Predictive:
        """The mixture over the masks at x (N, …)."""
        network, inputs = _awake(self.bnn.model), self.bnn.inputs(x)

        def part(rows: PyTree) -> Array:
            return _outputs(network, self.keys, rows)

        latent = jnp.swapaxes(map_chunks(part, inputs, CHUNK), 0, 1)
        return from_functions(self.bnn, latent, output_dtype(self.bnn))

    def sample(self, key: Array, n: int) -> PyTree:
        """The network with n fresh masks, stacked along a leading axis."""
        return _masked(self.bnn.model, jax.random.split(key, n))

    def sample_functions(self, key: Array, n: int) -> NetworkFunctions:
        """The network with n fresh masks, as functions of x in units of the data."""
        return NetworkFunctions(self.bnn, self.sample(key, n))


class Masked(eqx.Module):
    """x -> network(x, key=key): a network with the mask that a key draws.

    Args:
        network: with dropout on.
        key: of the mask, which is no parameter.
    """

    network: PyTree
    key: Frozen

    def __call__(self, x: PyTree) -> Array:
        return self.network(x, key=self.key.value)


@eqx.filter_jit
def _outputs(network: PyTree, keys: Array, x: PyTree) -> Float[Array, "N S C"]:
    def one(key: Array) -> Array:
        # the same mask for all inputs
        return jax.vmap(lambda a: with_dropout(network, a, key))(x)

    return jnp.swapaxes(jax.lax.map(one, keys), 0, 1)


def _awake(network: PyTree) -> PyTree:
    """The network with dropout on."""
    return eqx.nn.inference_mode(network, value=False)


def _masked(network: PyTree, keys: Array) -> PyTree:
    """Stacked networks with these masks: the same weights in each."""

    def several(array: PyTree) -> PyTree:
        if not eqx.is_array(array):
            return array
        return jnp.broadcast_to(array, (keys.shape[0], *array.shape))

    def is_whole(node: PyTree) -> bool:
        return isinstance(node, Frozen | eqx.nn.State)

    def repeat(node: PyTree) -> PyTree:
        # as the functions of draws.py take them: parameters and what is frozen
        if isinstance(node, Frozen):
            return jax.tree.map(several, node)
        return several(node) if eqx.is_inexact_array(node) else node

    repeated = jax.tree.map(repeat, _awake(network), is_leaf=is_whole)
    return Masked(repeated, Frozen(keys))


def _check(network: PyTree, x: PyTree, *, key: Array) -> None:
    """Raise `ValueError` where a network, its dropout on, draws no masks by a key."""
    name = type(network).__name__
    wanted = (
        "MCDropout: expected a network with dropout: eqx.nn.Dropout(p) with p > 0, "
        "called with key=… by network(x, key=key)"
    )
    try:
        inspect.signature(network.__call__).bind(x, key=key)
    except TypeError as error:
        raise ValueError(
            f"{wanted}; got {name}, whose __call__ takes no key: give it key=None and "
            "hand it on to its dropout layers"
        ) from error
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    try:
        program, *_ = eqx.filter_make_jaxpr(with_dropout)(network, example, key)
    # what a network raises when its key is not handed on, Dropout among others
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{wanted}; {name} raised {type(error).__name__}: {error}. Hand the key on "
            "to its dropout layers"
        ) from error
    if "random_bits" not in str(program):
        raise ValueError(
            f"{wanted}; got {name}, which draws nothing by its key: put dropout layers "
            "into it, or use DeepEnsemble or Laplace"
        )

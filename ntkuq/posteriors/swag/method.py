"""SWAG: a Gaussian over weights from the moments of SGD's iterates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, Checkpoint, DataLike, Dataset, as_data
from ntkuq.models import BNN, Train, TrainingError
from ntkuq.models.train import numbered
from ntkuq.models.train.problem import problem_dtype
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.gaussian_weights import GaussianWeightsPosterior, draw
from ntkuq.posteriors.raveled import (
    AbstractGaussian,
    DiagonalGaussian,
    LowRankGaussian,
    Raveled,
)
from ntkuq.posteriors.swag.moments import Collecting, Moments


class SWAG(AbstractMethod):
    r"""A Gaussian over weights with the moments of SGD's iterates.

    From a trained network, SGD goes on at a constant learning rate and the weights
    $\theta_1, \dots, \theta_n$ after every so many updates are collected:
    $p(\theta \mid y) \approx N(\bar\theta, \tfrac12 \mathrm{diag}(s^2) +
    \tfrac{1}{2(R-1)} D D^T)$
    with their mean $\bar\theta$, their variances $s^2 = \frac1n \sum_i
    (\theta_i - \bar\theta)^2$ and, in the columns of D, the last R deviations
    $\theta_i - \bar\theta_i$ from the mean until then. With `rank=0` the covariance is
    $\mathrm{diag}(s^2)$.

    A trained network of the `BNN` is where it starts; where there is none, one is built
    and trained. The spread comes from the noise of minibatches and from the learning
    rate, not from the posterior: it is as good as `rate` and `batch` are chosen, and
    weights that still move in one direction widen it.

    Args:
        train: how a network is trained first. Its `batch`, which must be smaller than
            the data, its `clip` and its `adversarial` are those of the collection too.
        collect: n, weights that are collected; 2 or more, and R at least.
        every: updates between them; `None` for one pass over the examples.
        rank: R, 0 or 2 and more.
        rate: the constant learning rate, on the loss of `Train` (minus the log
            posterior per datum), without momentum.
        samples: networks drawn once by the key of `fit`, for predictions.

    References: Maddox, Garipov, Izmailov, Vetrov, Wilson 2019 (arXiv 1902.02476),
    algorithm 1 (the starting weights are not counted, as in the authors' program);
    Mandt, Hoffman, Blei 2017 (arXiv 1704.04289) on what the iterates are draws of.

    >>> SWAG(collect=50, rate=1e-3).rank
    20
    """

    train: Train = Train(batch=32)
    collect: int = 40
    every: int | None = None
    rank: int = 20
    rate: float = 1e-2
    samples: int = 30

    def __check_init__(self):
        if self.rank < 0 or self.rank == 1:
            raise ValueError(
                "SWAG: expected rank=0 (diagonal), or rank >= 2 deviations, whose "
                f"spread is divided by rank - 1; got rank={self.rank}"
            )
        if self.collect < max(self.rank, 2):
            raise ValueError(
                "SWAG: expected to collect 2 weights at least, and no fewer than "
                f"rank, got collect={self.collect}, rank={self.rank}"
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"SWAG: expected every >= 1, got every={self.every}")
        if not 0 < self.rate < math.inf:
            raise ValueError(f"SWAG: expected a rate > 0, got {self.rate}")
        if self.samples < 2:
            raise ValueError(f"SWAG: expected samples >= 2, got {self.samples}")

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> GaussianWeightsPosterior:
        """Train where there is no trained network, then collect.

        Args:
            bnn: the problem, with a trained network or a builder.
            data: training data.
            callback: called as `callback(steps, loss)` after each tenth of the training
                and of the collection, steps counted over both.
            checkpoint: a file beside which the state is kept; a fit that was
                interrupted goes on from there, with the same result bit for bit.
            key: chooses the start, batches, and draws.

        Raises:
            ValueError: where network and data do not fit, or an update sees all data.
            TrainingError: where the training or the collection is not finite.
            StoreError: for the checkpoint of another fit.
        """
        data = as_data(data)
        bnn = bnn.prepare(data)
        batch = self._batch(data)
        progress = checkpoint_of(checkpoint, self, bnn, data, key=key)
        kept = [numbered(progress, number, 2) for number in range(2)]
        keys = jax.random.split(key, 4)
        before, losses = 0, []
        if not bnn.trained:
            result = self.train.fit(
                bnn,
                bnn.network.init(keys[0]),
                data,
                callback=callback,
                checkpoint=kept[0],
                key=keys[1],
            )
            before = self.train.updates(len(data))
            losses = [float(loss) for loss in result.losses]
            bnn = bnn.with_model(eqx.nn.inference_mode(result.model))

        def report(steps: int, loss: float) -> None:
            if callback is not None:
                callback(before + steps, loss)

        moments, found = self._moments(bnn, data, batch, report, kept[1], keys[2])
        gaussian = _gaussian(moments)
        return GaussianWeightsPosterior(
            bnn=bnn.with_model(Raveled(bnn.model).network(gaussian.mean)),
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={
                "parameters": bnn.size(),
                "collected": int(moments.collected),
                "updates between": self._every(data, batch),
                "losses": [*losses, *found],
            },
            gaussian=gaussian,
            draws=draw(gaussian, self.samples, key=keys[3]),
        )

    def _moments(
        self,
        bnn: BNN,
        data: Dataset | Batches,
        batch: int,
        report: Callable[[int, float], None],
        checkpoint: Checkpoint | None,
        key: Array,
    ) -> tuple[Moments, list[float]]:
        """The collection, from the trained network, and its losses."""
        every = self._every(data, batch)
        steps = every * self.collect
        collecting = Collecting(
            jnp.asarray(self.rate, problem_dtype(bnn.model)),
            jnp.asarray(every, jnp.int32),
            self.rank,
        )
        run = dataclasses.replace(
            self.train,
            optimizer=collecting.transformation(),
            steps=steps,
            epochs=None,
            stop=None,
        )
        result = run.attempt(
            bnn, bnn.model, data, callback=report, checkpoint=checkpoint, key=key
        )
        moments = result.record
        assert isinstance(moments, Moments)  # noqa: S101
        whole = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments))
        if result.diverged is not None or not whole:
            after = result.diverged or result.steps
            raise TrainingError(
                "SWAG: the collection diverged: the loss, a parameter or a moment is "
                f"not finite after step {after} of {steps}; lower rate={self.rate:g}, "
                "or check the scaling of inputs and targets"
            )
        return moments, [float(loss) for loss in result.losses]

    def _batch(self, data: Dataset | Batches) -> int:
        """Examples an update."""
        batch = self.train.batch
        if batch is None and isinstance(data, Batches):
            batch = len(next(iter(data))[1])
        if batch is None or batch >= len(data):
            raise ValueError(
                f"SWAG: expected train=Train(batch=…) below the {len(data)} examples, "
                f"got batch={batch}: the spread of the weights comes from the noise of "
                "minibatches, and with all examples in each update there is none"
            )
        return batch

    def _every(self, data: Dataset | Batches, batch: int) -> int:
        if self.every is not None:
            return self.every
        return max(round(len(data) / batch), 1)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        size, batch = bnn.size(), self._batch(data)
        steps = self.collect * self._every(data, batch)
        if not bnn.trained:
            steps += self.train.updates(len(data))
        # forward and backward, then the moments
        flops = (6.0 * batch + 8.0) * size * steps
        held = 8.0 * size * (self.rank + self.samples + 8)
        return Cost(flops, held + 2**26, 6)


@eqx.filter_jit
def _gaussian(moments: Moments) -> AbstractGaussian:
    """The distribution with these moments, of the raveled parameters."""
    mean, squares = _vector(moments.mean), _vector(moments.squares)
    variance = squares / moments.collected.astype(squares.dtype)
    columns = jax.vmap(_vector)(moments.deviations)
    rank = columns.shape[0]
    if rank == 0:
        return DiagonalGaussian(mean, jnp.sqrt(variance))
    factor = columns.T / math.sqrt(2.0 * (rank - 1))
    return LowRankGaussian(mean, factor, jnp.sqrt(0.5 * variance))


def _vector(tree: PyTree) -> Float[Array, " P"]:
    """All leaves of a tree of moments, in the order of `Raveled`."""
    leaves = jax.tree.leaves(tree)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(leaf.dtype for leaf in leaves))
    return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in leaves])

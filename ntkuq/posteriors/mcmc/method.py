"""NUTS: Markov chains over a network's weights, the reference of all other methods."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.data.npz import MAX_BYTES
from ntkuq.models import BNN, cast, check_finite, trainable
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.laplace.subsets import AbstractSubset, All
from ntkuq.posteriors.mcmc.build import posterior_of
from ntkuq.posteriors.mcmc.chains import Plan, run_chains
from ntkuq.posteriors.mcmc.mixing import NotMixed, advice, failures
from ntkuq.posteriors.mcmc.noise import AbstractNoisePrior
from ntkuq.posteriors.mcmc.posterior import NUTSPosterior
from ntkuq.posteriors.mcmc.target import Target, check_dtype, picked, target


class NUTS(AbstractMethod):
    r"""The posterior of the weights by the No-U-Turn sampler, without approximation.

    $p(\theta \mid D) \propto p(\theta) \prod_n p(y_n \mid f(x_n, \theta))$, by NumPyro,
    on weights in units of their prior standard deviation, all chains side by side. The
    chains are judged by their predictions, since weights are not identifiable; draws
    that fail are returned, with a warning, and are no reference.

    Each chain starts from an initialization of its own where the problem has a builder
    and all weights are sampled; else at the trained weights plus a draw from the prior.

    Args:
        chains: number of chains, 2 or more for a reference.
        warmup: transitions of each chain that adapt step size and mass matrix, and are
            thrown away.
        samples: transitions of each chain after that.
        depth: largest depth of a trajectory, which has up to 2^depth - 1 gradients of
            the whole data.
        target: acceptance probability that the step size is adapted to; nearer to 1
            for smaller steps.
        subset: `All()`, `LastLayer()`, `Select(where)`: which weights are sampled; the
            others stay as trained.
        thin: one draw is kept of so many transitions.
        noise: prior of the Gaussian noise scale, `HalfNormalNoise()` or
            `LogNormalNoise()`; `None` keeps the scale of the `BNN`.

    Raises:
        ValueError: for numbers that are too small, or `samples` that `thin` does not
            divide.

    References:
        Hoffman and Gelman 2014 (arXiv 1111.4246); Izmailov, Vikram, Hoffman and Wilson
        2021 (arXiv 2104.14421), on networks; Phan, Pradhan and Jankowiak 2019 (arXiv
        1912.11554), NumPyro.

    >>> NUTS(chains=2).subset
    All()
    """

    chains: int = 4
    warmup: int = 500
    samples: int = 500
    depth: int = 8
    target: float = 0.8
    subset: AbstractSubset = All()
    thin: int = 1
    noise: AbstractNoisePrior | None = None

    def __check_init__(self):
        for name, least in (("chains", 1), ("warmup", 1), ("depth", 1), ("thin", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"NUTS: expected {name} >= {least}, got {getattr(self, name)}"
                )
        if self.samples < 4 * self.thin or self.samples % self.thin:
            raise ValueError(
                "NUTS: expected samples to be a multiple of thin that keeps 4 draws or "
                f"more, got samples={self.samples}, thin={self.thin}"
            )
        if not 0 < self.target < 1:
            raise ValueError(
                f"NUTS: expected target between 0 and 1, got {self.target}"
            )

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> NUTSPosterior:
        """Run the chains on all data at once.

        Args:
            bnn: the problem; its builder, or its trained network.
            data: all training data; batches are put together.
            callback: called as `callback(transitions, potential)` after each block of
                draws, of `warmup + samples`, with minus the log joint density up to a
                constant, averaged over the chains.
            checkpoint: a file that is written after each block. The same call with the
                same file goes on from there, to the same draws.
            key: of starts and chains.

        Raises:
            ValueError: where network, likelihood and data do not fit, for a subset of
                a network that is not trained, or for a log posterior that is not
                finite.
            TypeError: for weights in half precision, or `noise` without Gaussian noise.
            StoreError: for the checkpoint of another fit.

        Warns:
            NotMixed: where the chains do not pass the gate of a reference.
        """
        whole = as_dataset(data)
        file = checkpoint_of(checkpoint, self, bnn, whole, key=key)
        bnn = bnn.prepare(whole)
        base_key, start_key, chain_key = jax.random.split(key, 3)
        model = self._model(bnn, base_key)
        dtype = check_dtype(model)
        with jax.enable_x64(dtype == np.float64):
            model = _in_dtype(model, dtype)
            check_finite(model)
            known = bnn.with_model(model)
            x, y = known.inputs(whole.x), known.targets(whole)
            density = target(known, model, x, y, self.subset, self.noise)
            if file is not None:
                self._check_size(density, dtype)
            found = run_chains(
                density,
                self._starts(bnn, density, dtype, start_key),
                Plan(self.warmup, self.samples // self.thin, self.thin, self.depth),
                self.target,
                checkpoint=file,
                callback=callback,
                key=chain_key,
            )
            posterior = posterior_of(self, bnn, density, found, whole.units)
        wrong = failures(posterior.diagnostics)
        if wrong:
            hint = advice(posterior.diagnostics, self)
            warnings.warn(
                f"NUTS: the chains are no reference: {'; '.join(wrong)}. To change "
                f"that {hint}",
                NotMixed,
                stacklevel=2,
            )
        return posterior

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        transitions = self.chains * (self.warmup + self.samples)
        # where nothing is known all trees are full; a gradient takes 6 P operations
        gradients = transitions * (2**self.depth - 1)
        draws = self.chains * self.samples // self.thin
        return Cost(
            6.0 * bnn.size() * len(data) * gradients, 16.0 * bnn.size() * draws, 6
        )

    def _model(self, bnn: BNN, key: Array) -> PyTree:
        """The network that lends its structure, and the weights that stay."""
        if bnn.trained:
            return bnn.model
        if not isinstance(self.subset, All):
            raise ValueError(
                f"NUTS(subset={type(self.subset).__name__}(…)): expected a trained "
                "network, whose other weights stay, got a builder only: train it "
                "first, bnn = MAP().fit(bnn, data, key=key).bnn"
            )
        return bnn.network.init(key)

    def _starts(
        self, bnn: BNN, density: Target, dtype: np.dtype, key: Array
    ) -> Float[Array, "chains K"]:
        white_key, key = jax.random.split(key)
        shape = (self.chains, density.size)
        white = jax.random.normal(white_key, shape, dtype)
        weights = density.size - density.outputs
        if bnn.network.build is not None and isinstance(self.subset, All):
            # leaves of one type, whatever the builder was written for
            inits = [
                picked(_in_dtype(bnn.network.init(one), dtype), density.subset)
                for one in jax.random.split(key, self.chains)
            ]
            own = jnp.stack([density.whiten(leaves) for leaves in inits])
        else:
            at = density.whiten(picked(density.model, density.subset))
            own = at + white[:, :weights]
        # the noise within a factor of about 2 of that of the BNN
        return jnp.concatenate([own, 0.3 * white[:, weights:]], axis=1)

    def _check_size(self, density: Target, dtype: np.dtype) -> None:
        draws = self.chains * self.samples // self.thin
        size = draws * density.size * dtype.itemsize
        if size > 0.9 * MAX_BYTES:
            raise ValueError(
                f"NUTS: expected draws of at most {0.9 * MAX_BYTES / 1e9:.1f} GB for a "
                f"checkpoint, got {draws} of {density.size:,} weights, {size / 1e9:.1f}"
                " GB: raise thin=, sample a subset, or leave checkpoint out"
            )


def _in_dtype(model: PyTree, dtype: np.dtype) -> PyTree:
    """The network with its parameters in `dtype`; constants stay what they are."""
    values, rest = eqx.partition(model, trainable(model))
    return eqx.combine(cast(values, dtype), rest)

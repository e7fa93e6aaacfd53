"""MAP: the trained network alone, with the noise of the likelihood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_data
from ntkuq.models import BNN, Train
from ntkuq.models.hyperparameters import (
    AbstractTune,
    Fixed,
    Hyperparameter,
    MarginalLikelihood,
)
from ntkuq.models.train import numbered
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.laplace.evidence import Tuned, effective
from ntkuq.posteriors.laplace.method import choose
from ntkuq.posteriors.laplace.posterior import retuned, tuned_hyperparameters
from ntkuq.posteriors.laplace.problem import Linearized, linearized_problem
from ntkuq.posteriors.laplace.structures import KFAC, AbstractStructure, Full
from ntkuq.posteriors.laplace.subsets import All
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, network_outputs, output_dtype


#: Up to this side the evidence inside `MAP` uses the full matrix, beyond it KFAC.
FULL_LIMIT = 1500


class MAP(AbstractMethod):
    """Train the network to its maximum a posteriori weights.

    With `tune=MarginalLikelihood()` prior precision and noise are set by the Laplace
    evidence between rounds of training, so that nothing is held out and nothing is
    left at an arbitrary value.

    Args:
        train: how to train; `None` keeps the weights of a trained network.
        tune: `MarginalLikelihood()` or `Fixed()`.
        rounds: how often the network is trained and then the evidence maximized; each
            round goes on from the weights of the last.

    References: MacKay 1992; Immer et al. 2021 (arXiv 2104.04975).

    >>> MAP(Train(1e-2, steps=100)).rounds
    8
    """

    train: Train | None = Train(steps=1_000)
    tune: AbstractTune = MarginalLikelihood()
    rounds: int = 8

    def __check_init__(self):
        if self.rounds < 1:
            raise ValueError(f"MAP: expected rounds >= 1, got {self.rounds}")

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> MAPPosterior:
        """The trained network; `callback(steps, loss)` counts over all rounds.

        With `checkpoint`, a file, the state of each round is kept beside it, and a fit
        that was interrupted goes on from there with the same result.

        Raises:
            ValueError: without a builder, or where network and data do not fit.
            TrainingError: where training diverges.
        """
        data = as_data(data)
        bnn = bnn.prepare(data)
        progress = checkpoint_of(checkpoint, self, bnn, data, key=key)
        init, steps = jax.random.split(key)
        losses: list[float] = []
        if self.train is not None:
            bnn = bnn.with_model(bnn.network.init(init))

        def one_round(bnn: BNN, number: int) -> tuple[BNN, Linearized, Tuned]:
            if self.train is not None:
                done = number * self.train.updates(len(data))

                def report(count: int, loss: float) -> None:
                    if callback is not None:
                        callback(done + count, loss)

                result = self.train.fit(
                    bnn,
                    bnn.network.trained,
                    data,
                    callback=report,
                    checkpoint=numbered(progress, number, self.rounds),
                    key=jax.random.fold_in(steps, number),
                )
                bnn = bnn.with_model(result.model)
                losses.extend(float(loss) for loss in result.losses)
            problem = linearized_problem(bnn, data, self._structure(bnn, data), All())
            tuned = choose(self.tune, problem)
            return retuned(bnn, problem.jacobian, tuned), problem, tuned

        bnn, problem, tuned = one_round(bnn, 0)
        once = self.train is None or isinstance(self.tune, Fixed)
        for number in range(1, 1 if once else self.rounds):
            bnn, problem, tuned = one_round(bnn, number)
        return MAPPosterior(
            bnn=bnn,
            hyperparameters=tuned_hyperparameters(
                bnn, tuned, data.units, problem.jacobian
            ),
            log_marginal_likelihood=tuned.log_evidence,
            diagnostics={
                "gradient norm": float(problem.gradient(tuned.tau, tuned.noise).norm),
                "effective parameters": effective(tuned.effective, tuned.covariance),
                "losses": losses,
            },
        )

    def _structure(self, bnn: BNN, data: Dataset | Batches) -> AbstractStructure:
        side = min(bnn.size(), len(data) * bnn.outputs(data))
        return Full() if side <= FULL_LIMIT else KFAC()

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        if self.train is None:
            return Cost(0.0, 0.0, 3)
        size = min(self.train.batch or len(data), len(data))
        rounds = 1 if isinstance(self.tune, Fixed) else self.rounds
        steps = rounds * self.train.updates(len(data))
        # forward and backward: about 6 P operations an example
        return Cost(6.0 * bnn.size() * size * steps, 40.0 * bnn.size() + 2**26, 6)


class MAPPosterior(AbstractPosterior):
    """The trained network: no uncertainty of the function, only noise."""

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float | None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """The network's outputs at x with the likelihood's noise."""
        outputs = network_outputs(self.bnn.model, self.bnn.inputs(x))
        return from_functions(self.bnn, outputs[None], output_dtype(self.bnn))

    def sample(self, key: Array, n: int) -> PyTree:
        """n copies of the network, stacked (there is nothing random)."""
        del key
        arrays, rest = eqx.partition(self.bnn.model, eqx.is_array)
        stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), arrays)
        return eqx.combine(stacked, rest)

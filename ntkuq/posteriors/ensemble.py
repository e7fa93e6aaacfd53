"""Deep ensembles: the same network trained from several initializations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_data
from ntkuq.models import BNN, Train, check_finite
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, network_outputs


class DeepEnsemble(AbstractMethod):
    """An equal mixture of networks trained from independent initializations.

    Each member minimizes the same minus log posterior, with the prior and likelihood of
    the `BNN`: where those have been tuned (`MAP(tune=MarginalLikelihood())`), every
    member profits.

    Args:
        size: number of members, 2 or more.
        train: how a member is trained.

    References: Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474).

    >>> DeepEnsemble(size=3).size
    3
    """

    size: int = 5
    train: Train = Train()

    def __check_init__(self):
        if self.size < 2:
            raise ValueError(
                f"DeepEnsemble: expected size >= 2, got {self.size}; for one network "
                "use MAP()"
            )

    @staticmethod
    def of(modules: Sequence[PyTree], bnn: BNN, data: Dataset) -> EnsemblePosterior:
        """The ensemble of networks that were trained elsewhere on `data`.

        Raises:
            ValueError: for fewer than two modules, weights that are not finite, or
                outputs that do not fit the likelihood.
        """
        if len(modules) < 2:
            raise ValueError(
                f"DeepEnsemble.of: expected 2 or more modules, got {len(modules)}"
            )
        bnn = bnn.prepare(data)
        for module in modules:
            bnn.with_model(module).prepare(data)
            check_finite(module)
        return _ensemble(bnn, list(modules), [])

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        key: Array,
    ) -> EnsemblePosterior:
        """Train the members; `callback(steps, loss)` counts steps over all of them.

        Raises:
            ValueError: without a builder.
            TrainingError: where a member diverges.
        """
        data = as_data(data)
        bnn = bnn.prepare(data)
        members: list[PyTree] = []
        losses: list[float] = []
        for number, member_key in enumerate(jax.random.split(key, self.size)):
            init, now = jax.random.split(member_key)

            def report(steps: int, loss: float, number=number) -> None:
                if callback is not None:
                    callback(number * self.train.steps + steps, loss)

            result = self.train.fit(
                bnn, bnn.network.init(init), data, callback=report, key=now
            )
            members.append(result.model)
            losses.append(float(result.losses[-1]))
        return _ensemble(bnn, members, losses)

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        size = len(data) if self.train.batch is None else self.train.batch
        steps = self.size * self.train.steps
        bytes_ = 40.0 * bnn.size() * self.size + 2**26
        return Cost(6.0 * bnn.size() * size * steps, bytes_, 3)


class EnsemblePosterior(AbstractPosterior):
    """Trained networks, equally weighted."""

    bnn: BNN
    members: tuple[PyTree, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the members' predictions at x (N, …)."""
        inputs = self.bnn.inputs(x)
        latent = jnp.stack([network_outputs(m, inputs) for m in self.members])
        return from_functions(self.bnn, latent, latent.dtype)

    def sample(self, key: Array, n: int) -> PyTree:
        """n members drawn with replacement, stacked along a leading axis.

        Raises:
            ValueError: where the members differ in more than their arrays.
        """
        drawn = jax.random.randint(key, (n,), 0, len(self.members)).tolist()
        parts = [eqx.partition(member, eqx.is_array) for member in self.members]
        if any(not eqx.tree_equal(rest, parts[0][1]) for _, rest in parts):
            raise ValueError(
                "sample: expected members of one architecture, which can be stacked, "
                "got different ones: use them one by one, posterior.members"
            )
        arrays = [parts[row][0] for row in drawn]
        return eqx.combine(jax.tree.map(lambda *a: jnp.stack(a), *arrays), parts[0][1])


def _ensemble(
    bnn: BNN, members: list[PyTree], losses: list[float]
) -> EnsemblePosterior:
    return EnsemblePosterior(
        bnn=bnn,
        members=tuple(eqx.nn.inference_mode(member) for member in members),
        hyperparameters=(),
        log_marginal_likelihood=None,
        diagnostics={"members": len(members), "final losses": losses},
    )

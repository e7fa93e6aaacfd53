"""Deep ensembles: the same network trained from several initializations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.data import Dataset
from ntkuq.models import BNN, Train, forward
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior, Cost
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions


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
    def of(
        modules: Sequence[PyTree], bnn: BNN, data: Dataset
    ) -> EnsemblePosterior:
        """The ensemble of networks that were trained elsewhere on `data`."""
        if len(modules) < 2:
            raise ValueError(
                f"DeepEnsemble.of: expected 2 or more modules, got {len(modules)}"
            )
        return _ensemble(bnn.prepare(data), list(modules), [])

    def fit(
        self,
        bnn: BNN,
        data: Dataset,
        *,
        callback: Callable[[int, float], None] | None = None,
        key: Array,
    ) -> EnsemblePosterior:
        """Train the members; `callback(steps, loss)` counts steps over all of them.

        Raises:
            ValueError: without a builder.
            TrainingError: where a member diverges.
        """
        bnn = bnn.prepare(data)
        x, y = bnn.inputs(data.x), bnn.targets(data)
        members, losses = [], []
        for number, member_key in enumerate(jax.random.split(key, self.size)):
            init, now = jax.random.split(member_key)

            def report(steps: int, loss: float, number=number) -> None:
                if callback is not None:
                    callback(number * self.train.steps + steps, loss)

            result = self.train.run(
                bnn, bnn.network.init(init), x, y, callback=report, key=now
            )
            members.append(result.model)
            losses.append(float(result.losses[-1]))
        return _ensemble(bnn, members, losses)

    def cost(self, bnn: BNN, data: Dataset) -> Cost:
        size = len(data) if self.train.batch is None else self.train.batch
        steps = self.size * self.train.steps
        bytes_ = 40.0 * bnn.size() * self.size + 2**26
        return Cost(6.0 * bnn.size() * size * steps, bytes_, 3)


class EnsemblePosterior(AbstractPosterior):
    """Members stacked along a leading axis, equally weighted."""

    bnn: BNN
    members: PyTree
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the members' predictions at x (N, …)."""
        latent = _outputs(self.members, self.bnn.inputs(x))
        return from_functions(self.bnn, latent, latent.dtype)

    def sample(self, key: Array, n: int) -> PyTree:
        """n members drawn with replacement, stacked."""
        size = jax.tree.leaves(eqx.filter(self.members, eqx.is_array))[0].shape[0]
        rows = jax.random.randint(key, (n,), 0, size)
        arrays, rest = eqx.partition(self.members, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda a: a[rows], arrays), rest)


def _ensemble(
    bnn: BNN, members: list[PyTree], losses: list[float]
) -> EnsemblePosterior:
    still = [eqx.nn.inference_mode(member) for member in members]
    arrays = [eqx.filter(member, eqx.is_array) for member in still]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    rest = eqx.filter(still[0], eqx.is_array, inverse=True)
    return EnsemblePosterior(
        bnn=bnn,
        members=eqx.combine(stacked, rest),
        hyperparameters=(),
        log_marginal_likelihood=None,
        diagnostics={"members": len(members), "final losses": losses},
    )


@eqx.filter_jit
def _outputs(members: PyTree, x: PyTree) -> Array:
    arrays, rest = eqx.partition(members, eqx.is_array)

    def one(member: PyTree) -> Array:
        model = eqx.combine(member, rest)
        return jax.vmap(lambda a: forward(model, a))(x)

    return jax.lax.map(one, arrays)



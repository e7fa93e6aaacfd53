"""What an ensemble knows: an equal mixture of networks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.linearize import map_chunks
from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.draws import CHUNK, NetworkFunctions
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, network_outputs


class EnsemblePosterior(AbstractPosterior):
    """Trained networks, equally weighted."""

    bnn: BNN
    members: tuple[PyTree, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    @staticmethod
    def of(
        bnn: BNN, members: list[PyTree], diagnostics: dict[str, Any]
    ) -> EnsemblePosterior:
        """The mixture of these networks."""
        return EnsemblePosterior(
            bnn=bnn,
            members=tuple(eqx.nn.inference_mode(member) for member in members),
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={"members": len(members), **diagnostics},
        )

    def predict(self, x: PyTree) -> Predictive:
        """The mixture of the members' predictions at x (N, …)."""
        inputs = self.bnn.with_model(self.members[0]).inputs(x)
        latent = jnp.stack([_outputs(member, inputs) for member in self.members])
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

    def sample_functions(self, key: Array, n: int) -> NetworkFunctions:
        """n of the members as functions of x in units of the data."""
        return NetworkFunctions(self.bnn, self.sample(key, n))


def _outputs(member: PyTree, x: PyTree) -> Array:
    return map_chunks(lambda part: network_outputs(member, part), x, CHUNK)

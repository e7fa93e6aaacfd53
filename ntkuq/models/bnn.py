"""`BNN`: the one problem that every method solves."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from ntkuq.data import Dataset
from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.models.network import Network, as_network, count, forward, parameters
from ntkuq.models.priors import AbstractPrior, NormalPrior
from ntkuq.models.scaling import AbstractScaling, Identity


def _as_scaling(value: AbstractScaling | None) -> AbstractScaling:
    return Identity() if value is None else value


class BNN(eqx.Module):
    """A network, likelihood, prior and scaling: one problem for every method.

    p(y | x, theta) = likelihood(y; f(x, theta)),  theta ~ prior.

    Args:
        network: a `Network`, a trained `eqx.Module`, or a builder key -> module.
        likelihood: `Gaussian`, `Categorical`, … in the network's (scaled) units.
        prior: `NormalPrior`, `FanInPrior`.
        scaling: `Standardize()` or `None`; fitted on the training data by `fit`, and
            undone in predictions, which are in the units of the data.

    >>> import equinox as eqx
    >>> from ntkuq.models import Gaussian
    >>> BNN(lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key), Gaussian()).trained
    False
    """

    network: Network = eqx.field(converter=as_network)
    likelihood: AbstractLikelihood
    prior: AbstractPrior = NormalPrior()
    scaling: AbstractScaling = eqx.field(converter=_as_scaling, default=None)

    @property
    def trained(self) -> bool:
        """Is there a trained network inside?"""
        return self.network.trained is not None

    @property
    def model(self) -> PyTree:
        """The trained network in inference mode (dropout and batch statistics off)."""
        if self.network.trained is None:
            raise ValueError(
                "expected a trained network, got a builder only: train it first, "
                "bnn = MAP().fit(bnn, data, key=key).bnn"
            )
        return eqx.nn.inference_mode(self.network.trained)

    @property
    def parameters(self) -> PyTree:
        """The trained parameters."""
        return parameters(self.model)

    @property
    def dtype(self) -> np.dtype:
        """The floating-point type of the parameters."""
        return jax.tree.leaves(self.parameters)[0].dtype

    def with_model(self, model: PyTree) -> BNN:
        """The same problem with this trained network."""
        return self._replace(network=Network(self.network.build, model))

    def with_noise(self, scale: ArrayLike) -> BNN:
        """The same problem with this Gaussian noise scale (network's units)."""
        return self._replace(likelihood=type(self.likelihood)(scale))

    def with_prior(self, prior: AbstractPrior) -> BNN:
        """The same problem with this prior."""
        return self._replace(prior=prior)

    def _replace(self, **changes) -> BNN:
        fields = {
            "network": self.network,
            "likelihood": self.likelihood,
            "prior": self.prior,
            "scaling": self.scaling,
        }
        return BNN(**(fields | changes))

    def prepare(self, data: Dataset) -> BNN:
        """The problem with its scaling fitted on `data`; checks outputs and targets."""
        y = np.asarray(data.y)
        if self.likelihood.classes and not np.issubdtype(y.dtype, np.integer):
            raise TypeError(
                f"{type(self.likelihood).__name__}: expected integer class codes "
                f"0, 1, …, got targets of type {y.dtype}"
            )
        scaling = self.scaling.fit(
            data.x, y, continuous=type(self.likelihood).continuous
        )
        bnn = self._replace(scaling=scaling)
        bnn.check_outputs(data)
        return bnn

    def check_outputs(self, data: Dataset) -> None:
        """Raise `ValueError` where outputs, likelihood and targets do not fit."""
        found, expected = self.outputs(data), self.likelihood.outputs(data.y)
        name = type(self.likelihood).__name__
        enough = found >= expected if self.likelihood.classes else found == expected
        if self.likelihood.classes and found == 1 and expected > 1:
            enough = False
        if not enough:
            raise ValueError(
                f"{name} asks for {expected} network output(s) for these targets; "
                f"the network has {found}: change its last layer or the likelihood"
            )

    def outputs(self, data: Dataset) -> int:
        """The number of network outputs C (nothing is computed)."""
        example = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.float32), data.x
        )

        def shape(model, x):
            return forward(model, x)

        if self.trained:
            model = self.model
        else:
            model = eqx.filter_eval_shape(self.network.build, jax.random.key(0))
        try:
            return eqx.filter_eval_shape(shape, model, example).shape[0]
        except (TypeError, ValueError) as error:
            shapes = [leaf.shape for leaf in jax.tree.leaves(example)]
            raise ValueError(
                f"the network does not take one example of this data (shape "
                f"{shapes[0] if len(shapes) == 1 else shapes}): {error}"
            ) from error

    def size(self) -> int:
        """The number of parameters P."""
        if self.trained:
            return count(self.model)
        return count(eqx.filter_eval_shape(self.network.build, jax.random.key(0)))

    def inputs(self, x: PyTree, dtype: np.dtype | None = None) -> PyTree:
        """Network inputs (N, …): scaled, in the network's or the given dtype."""
        dtype = dtype or (self.dtype if self.trained else jnp.zeros(()).dtype)
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), self.scaling.inputs(x))

    def targets(self, data: Dataset, dtype: np.dtype | None = None) -> Array:
        """Targets: (N, D) scaled floats, or (N,) class codes or counts as int32."""
        if not self.likelihood.continuous:
            return jnp.asarray(np.asarray(data.y, np.int32))
        dtype = dtype or (self.dtype if self.trained else jnp.zeros(()).dtype)
        y = np.asarray(data.y, np.float64).reshape(len(data), -1)
        return jnp.asarray((y - self.scaling.loc()) / self.scaling.scale(), dtype)

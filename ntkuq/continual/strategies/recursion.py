"""What kernel theory says of training on tasks in turn: ridge on a fixed kernel."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.learned import Learned
from ntkuq.continual.ridge import dual, need_room
from ntkuq.continual.strategies.base import AbstractStrategy
from ntkuq.data import Dataset
from ntkuq.linearize import Jacobian
from ntkuq.models import BNN, Gaussian, forward
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, output_dtype


class ShiftedPosterior(AbstractPosterior):
    """A network linearized where it began, its parameters moved: a point, no posterior.

    Args:
        shift: of the raveled leaves, in float64.
    """

    bnn: BNN
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: float | None
    diagnostics: dict[str, Any]
    shift: list[Float[Array, " _"]]

    def predict(self, x: PyTree) -> Predictive:
        """The linearized network's outputs at x with the likelihood's noise."""
        with jax.enable_x64(True):
            inputs = self.bnn.inputs(x, np.float64)
            outputs = _linear(_jacobian(self.bnn, inputs), self.shift, inputs)
        outputs = jnp.asarray(np.asarray(outputs), output_dtype(self.bnn))
        return from_functions(self.bnn, outputs[None], output_dtype(self.bnn))


class KernelRecursion(AbstractStrategy):
    r"""Ridge regression of each task's residuals on the fixed empirical NTK.

    $f_k(x) = f_{k-1}(x) + \Theta(x, X_k) (\Theta(X_k, X_k) + \beta I)^{-1}
    (y_k - f_{k-1}(X_k))$ with Θ at initialization: what a network in the lazy regime
    becomes when it is trained on the tasks in turn (to the end for β → 0). Exact for
    a linear network. Only the shift of the parameters is kept. In float64.

    Args:
        ridge: β, in squared units of the network's targets; `None` for the noise
            variance of the likelihood over the prior variance.

    Raises:
        TypeError: for a likelihood that is not Gaussian: regress on coded classes.
        ValueError: for β < 0, or a kernel matrix too large to hold.

    References: Bennani, Doan, Sugiyama 2020 (arXiv 2006.11942).

    >>> KernelRecursion(1e-3).ridge
    0.001
    """

    ridge: float | None = None

    def __check_init__(self):
        if self.ridge is not None and not self.ridge >= 0:
            raise ValueError(f"KernelRecursion: expected ridge >= 0, got {self.ridge}")

    def update_many(self, states, data, *, callback=None, keys):
        return [self._updated(state, data) for state in states]

    def _updated(self, state: Learned, data: Dataset) -> Learned:
        bnn = state.bnn.prepare(data)
        if not isinstance(bnn.likelihood, Gaussian):
            raise TypeError(
                "KernelRecursion: expected a Gaussian likelihood, got "
                f"{type(bnn.likelihood).__name__}: regress on coded classes instead"
            )
        need_room("KernelRecursion", bnn, data)
        with jax.enable_x64(True):
            x = bnn.inputs(data.x, np.float64)
            y: Any = bnn.targets(data, np.float64)
            jacobian = _jacobian(bnn, x)
            shift = state.memory
            if shift is None:
                shift = [jnp.zeros(leaf.size, np.float64) for leaf in jacobian.leaves]
            ridge = jnp.asarray(self._ridge(bnn), np.float64)
            shift = _stepped(jacobian, shift, x, y, ridge)
        after = ShiftedPosterior(bnn, (), None, {"ridge": float(ridge)}, shift)
        return Learned.of(after, shift, state.tasks + 1)

    def _ridge(self, bnn: BNN) -> float:
        if self.ridge is not None:
            return self.ridge
        (precision, *rest) = {
            float(p) for p in jax.tree.leaves(bnn.prior.precisions(bnn.parameters))
        }
        if rest:
            raise ValueError(
                "KernelRecursion: expected a prior of one precision, which gives the "
                "ridge, got several: say ridge="
            )
        return float(np.mean(np.asarray(bnn.likelihood.scale) ** 2)) * precision  # pyright: ignore[reportAttributeAccessIssue]


def _jacobian(bnn: BNN, x: PyTree) -> Jacobian:
    example = jax.tree.map(lambda leaf: leaf[0], x)
    return Jacobian.at(bnn.model, example).cast(np.dtype(np.float64))


@eqx.filter_jit
def _linear(jacobian: Jacobian, shift: list[Array], x: PyTree) -> Float[Array, "N C"]:
    return jacobian.linear(x, shift)


@eqx.filter_jit
def _stepped(
    jacobian: Jacobian, shift: list[Array], x: PyTree, y: Array, ridge: Array
) -> list[Array]:
    """The shift after J^T (J J^T + beta)^-1 r."""
    factors = jacobian.factors(x)
    weights = dual(factors, y - _linear(jacobian, shift, x), ridge)

    def outputs(leaves: list[Array]) -> Array:
        model = jacobian.replace(leaves)
        return jax.vmap(lambda a: forward(model, a))(x)

    (pulled,) = jax.vjp(outputs, jacobian.leaves)[1](weights)
    return [s + p.reshape(-1) for s, p in zip(shift, pulled, strict=True)]

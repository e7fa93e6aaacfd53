"""What a fixed kernel predicts of the drift on old inputs, and what happened."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.continual.ridge import dual, need_room
from ntkuq.data import Dataset
from ntkuq.linearize import Jacobian, gram
from ntkuq.models import BNN, Gaussian, forward


class Drift(NamedTuple):
    r"""Predicted and measured change of the outputs at old inputs.

    Args:
        predicted: $\Theta(x, X_2) (\Theta_{22} + \beta I)^{-1} (y_2 - f_1(X_2))$,
            (N, C), in the network's units.
        measured: $f_2(x) - f_1(x)$, (N, C).
    """

    predicted: Float[np.ndarray, "N C"]
    measured: Float[np.ndarray, "N C"]

    @property
    def r2(self) -> float:
        """Share of the measured change that the prediction explains, as it stands."""
        total = float(np.sum(self.measured**2))
        left = float(np.sum((self.measured - self.predicted) ** 2))
        return 1.0 - left / total if total > 0 else float("nan")

    @property
    def slope(self) -> float:
        """Measured on predicted, least squares through the origin; 1 in theory."""
        size = float(np.sum(self.predicted**2))
        along = float(np.sum(self.predicted * self.measured))
        return along / size if size > 0 else float("nan")


def drift(
    before: BNN, after: BNN, new: Dataset, old_x: PyTree, *, ridge: float | None = None
) -> Drift:
    r"""How the outputs at old inputs moved while a new task was learned.

    The prediction is that of the lazy regime: $\Delta(x) = \Theta(x, X_2) (\Theta_{22}
    + \beta I)^{-1} (y_2 - f_1(X_2))$ with the empirical NTK of the network before the
    new task, trained to the end under squared loss. It vanishes where the cross-kernel
    does, and nothing in it vanishes with width. In float64.

    Args:
        before: the problem with the network that the old task left.
        after: with the network after the new task.
        new: data of the new task.
        old_x: inputs of the old task, (N, …).
        ridge: β in squared network units; `None` for the noise variance of the
            likelihood (as for a unit prior around the weights before).

    Raises:
        TypeError: for a likelihood that is not Gaussian.
        ValueError: for a kernel matrix too large to hold.

    References: Bennani, Doan, Sugiyama 2020 (arXiv 2006.11942); Doan et al. 2021
    (arXiv 2010.04003).
    """
    if not isinstance(before.likelihood, Gaussian):
        raise TypeError(
            "drift: expected a Gaussian likelihood, whose training has a closed form, "
            f"got {type(before.likelihood).__name__}: regress on coded classes"
        )
    need_room("drift", before, new)
    if ridge is None:
        ridge = float(np.mean(np.asarray(before.likelihood.scale) ** 2))
    with jax.enable_x64(True):
        x, old = (before.inputs(part, np.float64) for part in (new.x, old_x))
        y: Any = before.targets(new, np.float64)
        example = jax.tree.map(lambda leaf: leaf[0], x)
        jacobian = Jacobian.at(before.model, example).cast(np.dtype(np.float64))
        other = Jacobian.at(after.model, example).cast(np.dtype(np.float64))
        found = _drift(jacobian, other.model, x, y, old, jnp.asarray(ridge, np.float64))
    return Drift(*map(np.asarray, found))


@eqx.filter_jit
def _drift(
    jacobian: Jacobian, after: PyTree, x: PyTree, y: Array, old: PyTree, ridge: Array
) -> tuple[Array, Array]:
    new, past = jacobian.factors(x), jacobian.factors(old)
    weights = dual(new, y - new.outputs, ridge).reshape(-1)
    ones = [jnp.ones((), ridge.dtype) for _ in jacobian.leaves]
    cross = gram(past, new, ones).reshape(-1, weights.size)
    measured = jax.vmap(lambda a: forward(after, a))(old) - past.outputs
    return (cross @ weights).reshape(past.outputs.shape), measured

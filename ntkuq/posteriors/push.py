"""From network outputs, in scaled units, to a `Predictive` in the units of the data."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.models import BNN, Marginal, forward
from ntkuq.posteriors.base import Joint
from ntkuq.posteriors.predictive import Predictive


def output_dtype(bnn: BNN) -> np.dtype:
    """The floating-point type of predictions: that of the network.

    Ask for it outside `jax.enable_x64`, since an untrained network has the default.
    """
    return bnn.dtype if bnn.trained else jnp.zeros(()).dtype


@eqx.filter_jit
def network_outputs(model: PyTree, x: PyTree) -> Float[Array, "N C"]:
    """The outputs of a network at scaled inputs x (N, …)."""
    return jax.vmap(lambda a: forward(model, a))(x)


def from_latent(
    bnn: BNN,
    mean: Float[Array, "N C"],
    covariance: Float[Array, "N C C"],
    dtype: np.dtype,
) -> Predictive:
    """Gaussian outputs with this mean and covariance, and the likelihood's noise.

    Args:
        mean, covariance: of the network's outputs, in its (scaled) units.
        dtype: floating-point type of the result (`output_dtype`).
    """
    # float64 whatever came: a covariance between classes is nearly singular
    with jax.enable_x64(True):
        mean, covariance = (
            jax.lax.convert_element_type(a, jnp.float64) for a in (mean, covariance)
        )
        loc, scale = _units(bnn, mean.dtype)
        shifted, factor = bnn.likelihood.shift(mean, loc, scale)
        spread = covariance * factor[:, None] * factor
        likelihood = bnn.likelihood.rescale(loc, scale)
        return _predictive(likelihood.marginalize(shifted, spread), dtype)


def from_functions(
    bnn: BNN, latent: Float[Array, "S N C"], dtype: np.dtype
) -> Predictive:
    """S equally likely outputs (an ensemble, posterior samples)."""
    loc, scale = _units(bnn, latent.dtype)
    shifted, _ = bnn.likelihood.shift(latent, loc, scale)
    likelihood = bnn.likelihood.rescale(loc, scale)
    return _predictive(likelihood.mixture(shifted), dtype)


def joint_units(bnn: BNN, joint: Joint) -> Joint:
    """A joint distribution of outputs in the units of the data."""
    loc, scale = _units(bnn, joint.mean.dtype)
    mean, factor = bnn.likelihood.shift(joint.mean, loc, scale)
    flat = jnp.tile(factor, joint.mean.shape[0])
    return Joint(mean, joint.covariance * flat[:, None] * flat)


def _units(bnn: BNN, dtype: np.dtype) -> tuple[Array, Array]:
    return (
        jnp.asarray(bnn.scaling.loc(), dtype),
        jnp.asarray(bnn.scaling.scale(), dtype),
    )


def _predictive(marginal: Marginal, dtype: np.dtype) -> Predictive:
    predictive = Predictive(
        latent=marginal.latent,
        observed=marginal.observed,
        epistemic=marginal.epistemic,
        aleatoric=marginal.aleatoric,
    )
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf,
        predictive,
    )

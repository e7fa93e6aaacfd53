"""A trained problem as arrays, to be stored and found again."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.models import BNN, Gaussian, parameters


def pack(fitted: BNN, bnn: BNN) -> dict[str, np.ndarray]:
    """A trained problem as arrays: weights, factor on the prior precision, noise."""
    leaves = jax.tree.leaves(parameters(fitted.network.trained))
    found = {f"network.{n:04d}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    found["network.factor"] = np.asarray(_factor(fitted, bnn), np.float64)
    if isinstance(fitted.likelihood, Gaussian):
        found["network.noise"] = np.asarray(fitted.likelihood.scale, np.float64)
    return found


def _factor(fitted: BNN, bnn: BNN) -> float:
    """By how much the precision of the prior was multiplied."""
    new, old = (
        np.float64(jax.tree.leaves(b.prior.precisions(fitted.parameters))[0].ravel()[0])
        for b in (fitted, bnn)
    )
    return float(new / old)


def unpack(arrays: Mapping[str, np.ndarray], bnn: BNN) -> BNN:
    """The problem with stored weights, precision and noise."""
    model = bnn.network.trained
    if model is None:
        model = bnn.network.init(jax.random.key(0))
    numbers = sorted(name for name in arrays if name[-4:].isdigit())
    leaves = [jnp.asarray(arrays[name]) for name in numbers]
    tree = jax.tree.unflatten(jax.tree.structure(parameters(model)), leaves)
    trained = eqx.combine(tree, eqx.filter(model, eqx.is_inexact_array, inverse=True))
    factor = float(arrays["network.factor"])
    bnn = bnn.with_model(trained).with_prior(bnn.prior.scaled(factor))
    if "network.noise" in arrays:
        scale = arrays["network.noise"]
        bnn = bnn.with_noise(float(scale) if scale.ndim == 0 else jnp.asarray(scale))
    return bnn

"""From whitened draws to a posterior that knows whether its chains have mixed."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.models import BNN
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractMethod
from ntkuq.posteriors.mcmc.chains import Chains, Statistics
from ntkuq.posteriors.mcmc.mixing import diagnose, judged_rows, mixing
from ntkuq.posteriors.mcmc.posterior import NUTSPosterior, leaf_outputs
from ntkuq.posteriors.mcmc.target import Target


def posterior_of(
    method: AbstractMethod,
    bnn: BNN,
    density: Target,
    found: Chains,
    units: str | None,
) -> NUTSPosterior:
    """The posterior of these draws, judged at training inputs.

    Args:
        method: how they were made.
        bnn: the prepared problem.
        density: the target of the chains.
        found: their draws.
        units: of the observations.

    Raises:
        ValueError: where a drawn network's outputs are not finite.
    """
    chains = found.z.shape[1]
    # the draws of a chain together
    z = jnp.asarray(np.swapaxes(found.z, 0, 1).reshape(-1, density.size))
    leaves, noise = _unwhitened(density, z)
    rows = judged_rows(jax.tree.leaves(density.x)[0].shape[0])
    inputs = jax.tree.map(lambda a: a[rows], density.x)
    values = leaf_outputs(density.model, density.subset, leaves, inputs)
    values = np.asarray(values).reshape(len(z), -1)
    if not np.isfinite(values).all():
        raise ValueError(
            "NUTS: expected finite outputs of the drawn networks at the training "
            "inputs, got others: check the network, or use float64"
        )
    if noise is not None:
        # predictions hang on the noise too
        values = np.concatenate([values, np.log(np.asarray(noise))], axis=1)
    return NUTSPosterior(
        bnn=bnn,
        method=method,
        model=density.model,
        leaves=leaves,
        noise=noise,
        chains=chains,
        statistics=_by_chain(found.statistics),
        subset=density.subset,
        hyperparameters=_noise_scales(bnn, noise, units),
        log_marginal_likelihood=None,
        diagnostics=diagnose(found, mixing(values[:, None], chains), len(rows)),
    )


@eqx.filter_jit
def _unwhitened(density: Target, z: Float[Array, "S K"]):
    """The sampled leaves (S, …), and the noise scales (S, D) where sampled."""
    leaves = jax.lax.map(density.leaves, z)
    if density.noise is None:
        return leaves, None
    return leaves, jax.lax.map(lambda one: jnp.ravel(density.scale(one)), z)


def _by_chain(seen: Statistics) -> dict[str, np.ndarray]:
    """Statistics of each draw, (chains, draws), named as ArviZ names them."""
    return {
        "lp": -np.asarray(seen.potential).T,
        "acceptance_rate": np.asarray(seen.acceptance).T,
        "diverging": np.asarray(seen.divergences).T > 0,
        "n_steps": np.asarray(seen.steps).T,
    }


def _noise_scales(
    bnn: BNN, noise: Array | None, units: str | None
) -> tuple[Hyperparameter, ...]:
    """Posterior mean and standard deviation of the noise scales that were sampled."""
    if noise is None:
        return ()
    scales = np.asarray(noise, np.float64) * bnn.scaling.scale()
    means, errors = scales.mean(axis=0), scales.std(axis=0)
    names = [
        f"noise scale [{n}]" if len(means) > 1 else "noise scale"
        for n in range(len(means))
    ]
    return tuple(
        Hyperparameter(name, float(mean), float(error), unit=units)
        for name, mean, error in zip(names, means, errors, strict=True)
    )

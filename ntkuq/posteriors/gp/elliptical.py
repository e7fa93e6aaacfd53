"""Elliptical slice sampling of latent GPs under a likelihood that is not Gaussian."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, LogValues
from ntkuq.kernels.solve import check, cholesky
from ntkuq.linearize.triangular import solve_lower
from ntkuq.models import BNN, AbstractLikelihood
from ntkuq.models.hyperparameters import Hyperparameter
from ntkuq.posteriors.base import AbstractPosterior
from ntkuq.posteriors.gp import latent
from ntkuq.posteriors.gp.inference import EllipticalSlice
from ntkuq.posteriors.gp.inputs import concatenate, inputs
from ntkuq.posteriors.join import concatenate as join
from ntkuq.posteriors.predictive import Predictive
from ntkuq.posteriors.push import from_functions, output_dtype


#: Function values at so many training inputs are judged for mixing.
JUDGED = 200
#: Chains are called mixed below this R-hat (Vehtari et al. 2021) ...
LARGEST_RHAT = 1.01
#: ... and with so many effective draws for each chain.
LEAST_DRAWS = 100
#: Numbers held at a time while predicting: draws x inputs x outputs.
NUMBERS = 2**23
#: A bracket that has shrunk so often has come back to where it began.
SHRINKS = 200


class Chains(NamedTuple):
    """Draws of the latent function at the training inputs.

    weights: K^-1 f of each draw, (S, N, C), the draws of a chain together. values: f.
    """

    weights: Float[Array, "S N C"]
    values: Float[Array, "S N C"]


@eqx.filter_jit
def run_chains(
    likelihood: AbstractLikelihood,
    lower: Float[Array, "N N"],
    y: Array,
    start: Float[Array, "H N C"],
    warmup: int,
    samples: int,
    thin: int,
    key: Array,
) -> Chains:
    r"""Sample $p(f \mid y) \propto p(y \mid f) \prod_c N(f_c; 0, L L^T)$.

    A step draws an ellipse through f, $f' = f\cos\theta + L\nu\sin\theta$ with standard
    normal $\nu$, and a level below $\log p(y \mid f)$, and shrinks a bracket of angles
    until f' is above it: no step size, no rejection. Chains run side by side.

    Args:
        likelihood: log p(y | f) of one datum.
        lower: L.
        y: targets, leading axis N.
        start: whitened first states $L^{-1} f$, one a chain.
        warmup: steps that are thrown away.
        samples: draws kept of each chain.
        thin: steps for each draw kept.
        key: for the chains.

    References:
        Murray, Adams and MacKay, *Elliptical slice sampling*, AISTATS 2010.
    """

    def log_prob(f: Array) -> Array:
        return jnp.sum(jax.vmap(likelihood.log_prob)(f, y))

    def step(state: tuple[Array, Array, Array], key: Array):
        white, f, value = state
        normal_key, level_key, angle_key, shrink_key = jax.random.split(key, 4)
        other = jax.random.normal(normal_key, white.shape, white.dtype)
        g = lower @ other
        level = value - jax.random.exponential(level_key, dtype=f.dtype)
        angle = jax.random.uniform(angle_key, dtype=f.dtype, maxval=2.0 * np.pi)

        def at(angle: Array) -> Array:
            return f * jnp.cos(angle) + g * jnp.sin(angle)

        def below(trial: tuple[Array, ...]) -> Array:
            *_, found, count = trial
            return ~(found > level) & (count < SHRINKS)

        def shrink(trial: tuple[Array, ...]) -> tuple[Array, ...]:
            low, high, angle, _, count = trial
            low = jnp.where(angle < 0.0, angle, low)
            high = jnp.where(angle < 0.0, high, angle)
            share = jax.random.uniform(
                jax.random.fold_in(shrink_key, count), dtype=f.dtype
            )
            angle = low + share * (high - low)
            return low, high, angle, log_prob(at(angle)), count + 1

        first = (
            angle - 2.0 * np.pi,
            angle,
            angle,
            log_prob(at(angle)),
            jnp.zeros((), jnp.int32),
        )
        *_, angle, found, _ = jax.lax.while_loop(below, shrink, first)
        # a bracket that never got above the level leaves the state as it was
        stays = ~(found > level)
        angle = jnp.where(stays, 0.0, angle)
        new = white * jnp.cos(angle) + other * jnp.sin(angle)
        return new, at(angle), jnp.where(stays, value, found)

    def several(state, keys):
        return jax.lax.scan(lambda s, k: (step(s, k), None), state, keys)[0]

    def chain(white: Array, key: Array) -> Chains:
        warm_key, key = jax.random.split(key)
        f = lower @ white
        state = (white, f, log_prob(f))
        state = several(state, jax.random.split(warm_key, warmup))

        def draw(state, key):
            state = several(state, jax.random.split(key, thin))
            return state, (state[0], state[1])

        _, (white, f) = jax.lax.scan(draw, state, jax.random.split(key, samples))
        return Chains(white, f)

    found = jax.vmap(chain)(start, jax.random.split(key, start.shape[0]))
    white, values = (a.reshape(-1, *a.shape[2:]) for a in found)
    # K^-1 f = L^-T w, all draws at once
    rows = jnp.moveaxis(white, 0, 1).reshape(white.shape[1], -1)
    weights = jax.scipy.linalg.solve_triangular(lower, rows, lower=True, trans=1)
    weights = jnp.moveaxis(weights.reshape(white.shape[1], *white[:, 0].shape), 0, 1)
    return Chains(weights, values)


class SampledLatentPosterior(AbstractPosterior):
    """A latent GP under a likelihood that is not Gaussian, by draws of its function.

    At new inputs each draw continues as the GP given its values at the training inputs;
    a prediction is the mixture over draws. `diagnostics` have R-hat and the number of
    effective draws of the function at the training inputs, and "converged". There is
    no log marginal likelihood; Laplace's approximation to it is in `diagnostics`.
    """

    bnn: BNN
    data: Dataset
    covariance: AbstractCovariance
    params: LogValues
    lower: Float[Array, "N N"]
    weights: Float[Array, "S N C"]
    sampler: EllipticalSlice
    hyperparameters: tuple[Hyperparameter, ...]
    log_marginal_likelihood: None
    diagnostics: dict[str, Any]

    def predict(self, x: PyTree) -> Predictive:
        """Predictions at the inputs x (N, …)."""
        dtype = output_dtype(self.bnn)
        draws, _, outputs = self.weights.shape
        with jax.enable_x64(True):
            train, new = inputs(self.bnn, self.data.x), inputs(self.bnn, x)
            rows = max(1, NUMBERS // (draws * outputs))
            # arrays alone: the numbers in a posterior would be compiled in
            held = self.covariance, self.params, self.lower, self.weights
            parts = [
                from_functions(
                    self.bnn, _functions(*held, train, new[i : i + rows]), dtype
                )
                for i in range(0, max(new.shape[0], 1), rows)
            ]
        return join(parts)

    def update(self, data: Dataset, *, key: Array) -> SampledLatentPosterior:
        """The posterior given more data: sampled anew, the hyper-parameters kept.

        Args:
            data: new observations.
            key: for the chains.
        """
        return sample(
            self.bnn,
            concatenate(self.data, data),
            self.covariance,
            self.params,
            self.sampler,
            self.hyperparameters,
            self.diagnostics,
            outputs=self.weights.shape[2],
            key=key,
        )


def sample(
    bnn: BNN,
    data: Dataset,
    covariance: AbstractCovariance,
    params: LogValues,
    sampler: EllipticalSlice,
    hyperparameters: tuple[Hyperparameter, ...],
    diagnostics: dict[str, Any],
    *,
    outputs: int,
    key: Array,
) -> SampledLatentPosterior:
    """Chains for a prepared problem whose hyper-parameters are chosen.

    They start around the mode of the posterior, spread as wide as the prior.

    Raises:
        NotPositiveDefinite: when the covariance cannot be factored.
    """
    start_key, key = jax.random.split(key)
    with jax.enable_x64(True):
        x, y = inputs(bnn, data.x), jnp.asarray(bnn.targets(data))
        lower, jitter, mode, evidence = _begin(
            bnn.likelihood, covariance.at(x), params, y, outputs, sampler.max_steps
        )
        jitter = check(jitter, "GP: prior of the latent function")
        shape = (sampler.chains, *mode.shape)
        start = mode + jax.random.normal(start_key, shape, jnp.float64)
        chains = run_chains(
            bnn.likelihood,
            lower,
            y,
            start,
            sampler.warmup,
            sampler.samples,
            sampler.thin,
            key,
        )
    rhat, least = mixing(np.asarray(chains.values), sampler.chains)
    return SampledLatentPosterior(
        bnn=bnn,
        data=data,
        covariance=covariance,
        params=params,
        lower=lower,
        weights=chains.weights,
        sampler=sampler,
        hyperparameters=hyperparameters,
        log_marginal_likelihood=None,
        diagnostics={
            **diagnostics,
            "jitter": jitter,
            "Laplace log evidence": float(evidence),
            "draws": sampler.chains * sampler.samples,
            "R-hat": rhat,
            "effective draws": least,
            "converged": rhat < LARGEST_RHAT and least > LEAST_DRAWS * sampler.chains,
        },
    )


def mixing(values: Float[np.ndarray, "S N C"], chains: int) -> tuple[float, float]:
    """The largest R-hat and the fewest effective draws of the function values.

    Args:
        values: of all draws, those of a chain together.
        chains: their number.

    Returns:
        Rank-normalized split R-hat and bulk effective sample size, over at most
        `JUDGED` training inputs and all outputs; NaN where draws do not vary.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Burkner, *Rank-normalization, folding,
        and localization: an improved R-hat*, Bayesian Analysis 2021.
    """
    # ArviZ takes a second to import
    from arviz_stats.base.array import array_stats

    rows = np.linspace(0, values.shape[1] - 1, min(JUDGED, values.shape[1]), dtype=int)
    flat = values[:, rows].reshape(chains, len(values) // chains, -1)
    flat = np.moveaxis(flat, -1, 0)
    rhat = array_stats.rhat(flat, chain_axis=1, draw_axis=2)
    effective = array_stats.ess(flat, chain_axis=1, draw_axis=2)
    return float(np.max(rhat)), float(np.min(effective))


@eqx.filter_jit
def _begin(likelihood, gram, params, y, outputs, max_steps):
    """L, its jitter, the whitened mode and Laplace's evidence."""
    kernel = gram(params)
    lower, jitter = cholesky(kernel)
    start = jnp.zeros((kernel.shape[0], outputs), kernel.dtype)
    mode = latent.find_mode(likelihood, kernel, y, start, max_steps)
    return lower, jitter, lower.T @ mode.a, latent.log_evidence(mode)


@eqx.filter_jit
def _functions(covariance, params, lower, weights, train, new):
    """One function value of each draw at new inputs, (S, M, C)."""
    cross = covariance.gram(params, new, train)
    half = solve_lower(lower, cross.T)
    rest = covariance.diagonal(params, new) - jnp.sum(half**2, axis=0)
    mean = jnp.einsum("mn,snc->smc", cross, weights)
    draws, _, outputs = weights.shape
    # the same at every input: only its own distribution is predicted there
    noise = np.random.default_rng(0).standard_normal((draws, 1, outputs))
    scale = jnp.sqrt(jnp.maximum(rest, 0.0))[None, :, None]
    return mean + scale * jnp.asarray(noise, mean.dtype)

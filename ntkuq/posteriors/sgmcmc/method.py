"""Cyclical stochastic-gradient MCMC over all weights of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.data import Batches, DataLike, Dataset, as_dataset
from ntkuq.models import BNN, as_arrays, parameters
from ntkuq.posteriors.base import AbstractMethod, Cost
from ntkuq.posteriors.checkpoints import checkpoint_of
from ntkuq.posteriors.draws import SampledPosterior, draw_outputs
from ntkuq.posteriors.gp.elliptical import (
    JUDGED,
    LARGEST_RHAT,
    LEAST_DRAWS,
    mixing,
)
from ntkuq.posteriors.raveled import Raveled, Target
from ntkuq.posteriors.sgmcmc.kernels import SGHMC, AbstractKernel
from ntkuq.posteriors.sgmcmc.loop import in_tenths
from ntkuq.posteriors.sgmcmc.schedule import Schedule, cyclical


#: R-hat splits each chain in two, and needs two draws in each half.
LEAST_JUDGED = 4


class SGMCMC(AbstractMethod):
    r"""Cyclical stochastic-gradient MCMC.

    Each cycle begins with large steps that look for a mode, without noise, and ends
    with small noisy ones that sample it; the draws of all cycles and chains are equally
    likely. Chains start at networks that are freshly built, each at its own, or, where
    there is no builder, all at the trained one.

    There is no Metropolis correction: whatever R-hat says, draws are biased by the step
    size and by the noise of minibatch gradients. `NUTS` is the reference.

    Args:
        kernel: `SGLD()` or `SGHMC(friction)`.
        step_size: h at the start of a cycle, in units of minus the log posterior per
            datum: the learning rate that SGD would have on the loss of `Train`.
        steps: of a chain, over all cycles.
        cycles: their number; they have equal length.
        samples: draws that are kept of each cycle.
        batch: examples a step, drawn with replacement, their log likelihood scaled by
            N/batch; `None` for all.
        chains: independent chains, side by side.
        temperature: T, samples $p(\theta \mid y)^{1/T}$; 1 for the posterior.
        exploration: share of a cycle without noise.

    References: Zhang, Li, Zhang, Chen, Wilson 2020 (arXiv 1902.03932); Welling and Teh
    2011; Chen, Fox, Guestrin 2014 (arXiv 1402.4102); Wenzel et al. 2020
    (arXiv 2002.02405, temperature).

    >>> SGMCMC(SGHMC(0.2), 1e-3, steps=400).cycles
    4
    """

    kernel: AbstractKernel = SGHMC()
    step_size: float = 1e-3
    steps: int = 20_000
    cycles: int = 4
    samples: int = 10
    batch: int | None = None
    chains: int = 2
    temperature: float = 1.0
    exploration: float = 0.5

    def __check_init__(self):
        counts = {
            name: getattr(self, name)
            for name in ("steps", "cycles", "samples", "batch", "chains")
        }
        if any(value is not None and value < 1 for value in counts.values()):
            raise ValueError(
                "SGMCMC: expected steps, cycles, samples, batch and chains >= 1, got "
                + ", ".join(f"{name}={value}" for name, value in counts.items())
            )
        for name in ("step_size", "temperature"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"SGMCMC: expected {name} > 0, got {value}")
        if not 0 <= self.exploration < 1:
            raise ValueError(
                "SGMCMC: expected exploration (a share of each cycle) at least 0 and "
                f"below 1, got {self.exploration}"
            )
        self.schedule()

    def schedule(self) -> Schedule:
        """Rates, noise and draws of all steps."""
        return cyclical(self.steps, self.cycles, self.samples, self.exploration)

    def fit(
        self,
        bnn: BNN,
        data: DataLike,
        *,
        callback: Callable[[int, float], None] | None = None,
        checkpoint: str | Path | None = None,
        key: Array,
    ) -> SampledPosterior:
        """The posterior; data that come in batches are put together first.

        Args:
            bnn: the problem.
            data: all examples.
            callback: called as `callback(steps, loss)` after each tenth of the steps,
                with the mean loss over it and over chains: minus the log posterior per
                datum.
            checkpoint: a file in which the run is kept after each tenth. The same call
                goes on from it, to the same posterior bit for bit.
            key: chooses the start, batches, and noise.

        Returns:
            Networks, those of a chain together. `diagnostics` have R-hat and the
            number of effective draws of the network's outputs at training inputs, each
            cycle of each chain judged as a chain of its own; `None` where that takes
            more cycles, chains or samples, or outputs that do not vary.

        Raises:
            ValueError: where network and data do not fit.
            TrainingError: where a step is not finite.
            StoreError: for the checkpoint of another fit.
        """
        data = as_dataset(data)
        bnn = bnn.prepare(data)
        kept = checkpoint_of(checkpoint, self, bnn, data, key=key)
        init, steps_key = jax.random.split(key)
        model, first = self._starts(bnn, init)
        target = Target.of(bnn.with_model(model), data)
        schedule, dtype = self.schedule(), first.dtype
        draws = self.cycles * self.samples
        held = jnp.zeros((self.chains, draws + 1, first.shape[1]), dtype)
        kernel = as_arrays(self.kernel, dtype)
        tau = jnp.asarray(self.temperature / target.size, dtype)
        batch = self.batch
        if batch is not None and batch >= target.size:
            batch = None
        mapped = _grouped_is_slow(model)

        def advance(state: _State, start: int, length: int):
            now = slice(start, start + length)
            rates = jnp.asarray(self.step_size * schedule.rates[now], dtype)
            plan = _Plan(
                rates,
                jnp.where(schedule.noisy[now], tau, jnp.zeros_like(tau)),
                jnp.asarray(schedule.rows[now], jnp.int32),
            )
            keys = jax.random.split(
                jax.random.fold_in(steps_key, start), (self.chains, length)
            )
            return _advance(target, kernel, plan, state, batch, mapped, keys)

        state, losses = in_tenths(
            advance,
            _State(first, jnp.zeros_like(first), held),
            self.steps,
            callback=callback,
            checkpoint=kept,
        )
        thetas = state.held[:, :draws].reshape(self.chains * draws, -1)
        networks = target.raveled.networks(thetas)
        return SampledPosterior(
            bnn=bnn,
            hyperparameters=(),
            log_marginal_likelihood=None,
            diagnostics={**self._mixing(networks, target), "losses": losses},
            networks=networks,
        )

    def _starts(self, bnn: BNN, key: Array) -> tuple[PyTree, Float[Array, "H P"]]:
        """A network, and the parameters at which each chain starts."""
        if bnn.network.build is None:
            theta = Raveled(bnn.model).vector
            return bnn.model, jnp.tile(theta, (self.chains, 1))
        models = [bnn.network.init(k) for k in jax.random.split(key, self.chains)]
        return models[0], jnp.stack([Raveled(model).vector for model in models])

    def _mixing(self, networks: PyTree, target: Target) -> dict[str, Any]:
        groups = self.chains * self.cycles
        rhat = effective = converged = None
        if groups > 1 and self.samples >= LEAST_JUDGED:
            rows = np.linspace(0, target.size - 1, min(JUDGED, target.size), dtype=int)
            x = jax.tree.map(lambda leaf: leaf[rows], target.x)
            values = np.asarray(draw_outputs(networks, x))
            found = mixing(values, groups)
            if all(math.isfinite(number) for number in found):
                rhat, effective = found
                converged = rhat < LARGEST_RHAT and effective > LEAST_DRAWS * groups
        return {
            "draws": groups * self.samples,
            "R-hat": rhat,
            "effective draws": effective,
            "converged": converged,
            "bias": "draws are biased by the step size and by minibatch noise, which "
            "R-hat does not show",
        }

    def cost(self, bnn: BNN, data: Dataset | Batches) -> Cost:
        batch = len(data) if self.batch is None else min(self.batch, len(data))
        size, chains = bnn.size(), self.chains
        held = 8.0 * size * chains * (self.cycles * self.samples + 6)
        flops = 6.0 * size * batch * self.steps * chains
        return Cost(flops, held + 2**26, 4)


class _State(NamedTuple):
    """Chains: where they are, and the draws that are kept."""

    theta: Float[Array, "H P"]
    velocity: Float[Array, "H P"]
    held: Float[Array, "H S P"]


class _Plan(NamedTuple):
    """Step size, T/N where there is noise, and row of the draws, for each step."""

    rates: Float[Array, " K"]
    taus: Float[Array, " K"]
    rows: Int[Array, " K"]


def _grouped_is_slow(model: PyTree) -> bool:
    """Whether chains run one after the other.

    On a CPU, XLA is slow at convolutions whose weights differ within a batch.
    """
    flat = all(leaf.ndim < 3 for leaf in jax.tree.leaves(parameters(model)))
    return not flat and jax.default_backend() == "cpu"


@eqx.filter_jit
def _advance(
    target: Target,
    kernel: AbstractKernel,
    plan: _Plan,
    state: _State,
    batch: int | None,
    mapped: bool,
    keys: Array,
):
    """Some steps of all chains; keys (H, K)."""

    def step(state: _State, now: tuple[_Plan, Array]):
        (rate, tau, row), key = now
        rows_key, noise_key = jax.random.split(key)
        x, y = target.draw(batch, rows_key)
        loss, gradient = jax.value_and_grad(target.loss)(state.theta, x, y)
        theta, velocity = kernel.step(
            state.theta, state.velocity, gradient, rate, tau, key=noise_key
        )
        held = state.held.at[row].set(theta)
        finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(theta))
        return _State(theta, velocity, held), (loss, finite)

    def chain(one: tuple[_State, Array]):
        state, keys = one
        return jax.lax.scan(step, state, (plan, keys))

    several = (state, keys)
    run = jax.lax.map(chain, several) if mapped else jax.vmap(chain)(several)
    state, (losses, finite) = run
    return state, jnp.mean(losses, axis=0), jnp.all(finite, axis=0)

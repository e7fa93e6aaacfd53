"""A policy over any method of ntkuq, which is fitted anew on a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.data import Dataset
from ntkuq.decisions.bandits.environments import AbstractEnvironment
from ntkuq.decisions.bandits.model import AbstractSchedule, Geometric
from ntkuq.decisions.bandits.policies import AbstractPolicy
from ntkuq.kernels import Empirical
from ntkuq.models import BNN, Gaussian, mlp
from ntkuq.posteriors import MAP, NTKGP, Laplace, SampledLaplace
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior
from ntkuq.posteriors.predictive import current


#: Pairs of context and arm that are predicted together.
TOGETHER = 4096
SCHEDULE: AbstractSchedule = Geometric(20, growth=1.3)


class ArmPredictions(NamedTuple):
    """Mean and standard deviation of the expected reward, and of the reward, (N, K)."""

    mean: Float[np.ndarray, "N K"]
    std: Float[np.ndarray, "N K"]
    spread: Float[np.ndarray, "N K"]


def encode(context: Float[np.ndarray, "N *K d"], arms: int) -> np.ndarray:
    r"""Inputs of all arms (N, K, …): $x \otimes e_k$, or each arm's own context.

    >>> encode(np.array([[7.0]]), 2)[0].tolist()
    [[7.0, 0.0], [0.0, 7.0]]
    """
    if context.ndim == 3:
        return context
    blocks = np.einsum("kj,nd->nkjd", np.eye(arms, dtype=context.dtype), context)
    return blocks.reshape(len(context), arms, -1)


def default_problem(inputs: int) -> BNN:
    """50 hidden units, one output, Gaussian noise."""
    return BNN(mlp(inputs, 1, width=50), Gaussian(0.3))


def predict_arms(posterior: AbstractPosterior, x: np.ndarray) -> ArmPredictions:
    """Predictions at encoded inputs (N, K, D)."""
    size, arms = x.shape[:2]
    flat = x.reshape(size * arms, -1)
    rows = []
    for start in range(0, len(flat), TOGETHER):
        p = posterior.predict(flat[start : start + TOGETHER])
        if p.is_classification or p.latent is None:
            raise TypeError(
                "problem: expected predictions of a reward on a scale with a "
                "distribution of its expectation: use Gaussian(), and a method with one"
            )
        latent, observed = current(p.latent), current(p.observed)
        rows.append(
            [
                np.asarray(latent.mean, np.float64).reshape(-1),
                np.asarray(latent.variance, np.float64).reshape(-1),
                np.asarray(observed.variance, np.float64).reshape(-1),
            ]
        )
    mean, variance, total = np.concatenate(rows, axis=1)
    shape = (size, arms)
    return ArmPredictions(
        mean.reshape(shape),
        np.sqrt(np.maximum(variance, 0.0)).reshape(shape),
        np.sqrt(total).reshape(shape),
    )


def run_method(
    policy: AbstractPolicy,
    environment: AbstractEnvironment,
    problem: BNN | None,
    *,
    rounds: int,
    keys: Array,
    progress: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    """All rounds of all seeds, seed by seed; names as in `BanditResult`."""
    seeds, done = [], 0
    for key in keys:
        seeds.append(_one(policy, environment, problem, rounds, key))
        done += rounds
        if progress is not None:
            progress(done, rounds * len(keys))
    return {name: np.stack([seed[name] for seed in seeds]) for name in seeds[0]}


def _one(policy, environment, problem, rounds, key) -> dict[str, np.ndarray]:
    # keys of the contexts as in `loop.begin` and `loop.play`: seeds pair across paths
    _, second, third = jax.random.split(key, 3)
    rounds_key, reward_key, choose_key = jax.random.split(third, 3)
    offers = _offers(environment, environment.begin(key=second), rounds, rounds_key)
    context, expected, noise = (np.asarray(each) for each in offers)
    arms = environment.arms
    out = {name: np.full(rounds, np.nan) for name in ("mean", "std", "spread")}
    out |= {"regrets": np.zeros(rounds), "rewards": np.zeros(rounds)}
    out["arms"] = np.zeros(rounds, np.int32)
    times = SCHEDULE.times(rounds)
    posterior: AbstractPosterior | None = None
    chosen: list[np.ndarray] = []
    for start, stop in zip((0, *times), (*times, rounds), strict=True):
        if start == stop:
            continue
        x = encode(context[start:stop], arms)
        seen = None if posterior is None else predict_arms(posterior, x)
        t = np.arange(start, stop)
        each = jax.vmap(lambda i: jax.random.fold_in(choose_key, i))(t)
        if seen is None:
            arm = np.asarray(
                jax.vmap(lambda k: jax.random.randint(k, (), 0, arms))(each)
            )
        else:
            mean = jnp.asarray(seen.mean, jnp.float32)
            std = jnp.asarray(seen.std, jnp.float32)
            pick = jax.vmap(lambda m, s, k: policy.choose(m, s, key=k))
            arm = np.asarray(pick(mean, std, each))
        row = np.arange(stop - start)
        extra = jax.vmap(
            lambda i: jax.random.normal(jax.random.fold_in(reward_key, i))
        )(t)
        scale = np.broadcast_to(
            noise[start:stop].reshape(stop - start, -1), (stop - start, arms)
        )
        value = expected[start:stop][row, arm]
        out["arms"][start:stop] = arm
        out["regrets"][start:stop] = expected[start:stop].max(axis=1) - value
        out["rewards"][start:stop] = value + scale[row, arm] * np.asarray(extra)
        if seen is not None:
            for name, table in seen._asdict().items():
                out[name][start:stop] = table[row, arm]
        chosen.append(x[row, arm])
        if stop < rounds:
            inputs = np.concatenate(chosen)
            bnn = default_problem(inputs.shape[1]) if problem is None else problem
            data = Dataset(inputs, out["rewards"][:stop].astype(np.float32))
            fit_key = jax.random.fold_in(key, stop)
            posterior = _fitted(policy.model, bnn, data, key=fit_key)
    return out


def _fitted(
    method: AbstractMethod, bnn: BNN, data: Dataset, *, key: Array
) -> AbstractPosterior:
    """The method's posterior; a network that it linearizes is trained first."""
    linearizes = isinstance(method, Laplace | SampledLaplace)
    if isinstance(method, NTKGP):
        linearizes = isinstance(method.kernel, Empirical)
    if linearizes and not bnn.trained:
        train, key = jax.random.split(key)
        bnn = MAP().fit(bnn, data, key=train).bnn
    return method.fit(bnn, data, key=key)


def _offers(environment, drawn, rounds, key):
    """Contexts, expected rewards and noise of all rounds, for one seed."""
    one = jax.jit(jax.vmap(lambda t: environment.round(drawn, t, key=key)))
    parts = [
        one(np.arange(start, min(start + 1024, rounds)))
        for start in range(0, rounds, 1024)
    ]
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)

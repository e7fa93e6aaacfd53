"""A policy over any method of ntkuq, which is fitted anew on a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkuq.data import Dataset
from ntkuq.decisions.bandits.environments import AbstractEnvironment, Round
from ntkuq.decisions.bandits.feedback import AbstractFeedback, Immediate
from ntkuq.decisions.bandits.model import AbstractSchedule, Geometric
from ntkuq.decisions.bandits.policies import (
    AbstractPolicy,
    Greedy,
    JointThompson,
    Uniform,
)
from ntkuq.kernels import Empirical
from ntkuq.models import BNN, Gaussian, mlp
from ntkuq.posteriors import MAP, NTKGP, Laplace, SampledLaplace
from ntkuq.posteriors.base import AbstractMethod, AbstractPosterior
from ntkuq.posteriors.predictive import current


#: Pairs of context and arm that are predicted together.
TOGETHER = 4096
#: The same where their joint covariance is made.
JOINTLY = 512


class Refitted(eqx.Module):
    """A method of ntkuq as a model of rewards, fitted anew on a schedule.

    Args:
        method: such as `Laplace()`.
        schedule: when; before the first fit arms are random, and there is none while
            all rewards are equal, which tell neither a noise nor a precision.
        feedback: when rewards become known.

    >>> from ntkuq.posteriors import GP
    >>> Refitted(GP()).schedule.times(60)
    (20, 26, 34, 44, 57)
    """

    method: AbstractMethod
    schedule: AbstractSchedule = Geometric(20, growth=1.3)
    feedback: AbstractFeedback = Immediate()


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


def predict_arms(
    posterior: AbstractPosterior, context: np.ndarray, arms: int
) -> ArmPredictions:
    """Predictions for all arms at contexts (N, d) or (N, K, d), some at a time."""
    parts = [
        _predicted(posterior, encode(context[rows], arms))
        for rows in _slices(len(context), arms)
    ]
    return ArmPredictions(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _slices(rows: int, arms: int, together: int = TOGETHER) -> list[slice]:
    step = max(together // arms, 1)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _predicted(posterior: AbstractPosterior, x: np.ndarray) -> ArmPredictions:
    size, arms = x.shape[:2]
    p = posterior.predict(x.reshape(size * arms, -1))
    if p.is_classification or p.latent is None:
        raise TypeError(
            "problem: expected predictions of a reward on a scale with a "
            "distribution of its expectation: use Gaussian(), and a method with one"
        )
    latent, observed = current(p.latent), current(p.observed)
    mean, variance, total = (
        np.asarray(each, np.float64).reshape(size, arms)
        for each in (latent.mean, latent.variance, observed.variance)
    )
    return ArmPredictions(mean, np.sqrt(np.maximum(variance, 0.0)), np.sqrt(total))


def _drawn(
    posterior: Any, context: np.ndarray, arms: int, width: Any, *, key: Array
) -> np.ndarray:
    """Scores of all arms (N, K): the mean, and `width` times what one draw deviates."""
    mean = predict_arms(posterior, context, arms).mean
    parts = []
    if hasattr(posterior, "sample_functions"):
        draw = posterior.sample_functions(key, 1)
        for rows in _slices(len(context), arms):
            x = encode(context[rows], arms)
            value = np.asarray(draw(x.reshape(-1, x.shape[-1])), np.float64)
            parts.append(value.reshape(x.shape[:2]))
    elif hasattr(posterior, "joint"):
        # the function goes on from one context to the next within a slice only
        for rows in _slices(len(context), arms, JOINTLY):
            x = encode(context[rows], arms)
            found = posterior.joint(x.reshape(-1, x.shape[-1]))
            values, vectors = np.linalg.eigh(np.asarray(found.covariance, np.float64))
            now = jax.random.fold_in(key, rows.start)
            noise = np.asarray(jax.random.normal(now, values.shape), np.float64)
            deviation = vectors @ (np.sqrt(np.maximum(values, 0.0)) * noise)
            value = np.asarray(found.mean, np.float64).reshape(-1) + deviation
            parts.append(value.reshape(x.shape[:2]))
    else:
        raise TypeError(
            "JointThompson: expected a posterior with sample_functions or joint, got "
            f"{type(posterior).__name__}: use Thompson"
        )
    return mean + float(width) * (np.concatenate(parts) - mean)


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
    drawn = environment.begin(key=second)
    offers: Round = _offers(environment, drawn, rounds, rounds_key)
    context, expected, noise = (np.asarray(each) for each in offers[:3])
    best = expected
    if offers.offered is not None:
        best = np.where(np.asarray(offers.offered), expected, -np.inf)
    model, arms = policy.model, environment.arms
    out = {name: np.full(rounds, np.nan) for name in ("mean", "std", "spread")}
    out |= {"regrets": np.zeros(rounds), "rewards": np.zeros(rounds)}
    out["arms"] = np.zeros(rounds, np.int32)
    times = model.schedule.times(rounds)
    posterior: AbstractPosterior | None = None
    chosen = np.zeros((0, 0), context.dtype)
    for start, stop in zip((0, *times), (*times, rounds), strict=True):
        if start == stop:
            continue
        now = slice(start, stop)
        seen, score = None, np.zeros((stop - start, arms))
        choose: Any = policy.choose
        if posterior is None:
            choose = Uniform().choose
        else:
            seen = predict_arms(posterior, context[now], arms)
            score = seen.mean
            if isinstance(policy, JointThompson):
                follow = jax.random.fold_in(choose_key, start)
                score = _drawn(posterior, context[now], arms, policy.width, key=follow)
                choose = Greedy(None).choose
        if offers.offered is not None:
            score = np.where(np.asarray(offers.offered[now]), score, -np.inf)
        arm = _chosen(choose, score, seen, choose_key, start)
        row = np.arange(stop - start)
        value = expected[now][row, arm]
        scale = np.broadcast_to(
            noise[now].reshape(stop - start, -1), (stop - start, arms)
        )
        paid = value + scale[row, arm] * _normals(reward_key, start, stop)
        check_rewards(paid[None], start)
        out["arms"][now] = arm
        out["regrets"][now] = best[now].max(axis=1) - value
        out["rewards"][now] = paid
        if seen is not None:
            for name, table in seen._asdict().items():
                out[name][now] = table[row, arm]
        inputs = _inputs(context[now], arm, arms)
        chosen = inputs if not chosen.size else np.concatenate([chosen, inputs])
        known = int(model.feedback.known(jnp.asarray(stop)))
        if stop < rounds and known and np.ptp(out["rewards"][:known]) > 0:
            bnn = default_problem(chosen.shape[1]) if problem is None else problem
            data = Dataset(chosen[:known], out["rewards"][:known].astype(np.float32))
            fit_key = jax.random.fold_in(key, stop)
            posterior = fitted(model.method, bnn, data, key=fit_key)
    return out


def _chosen(choose, score, seen, key, start) -> np.ndarray:
    """The arms of some rounds."""
    mean = jnp.asarray(score, jnp.float32)
    std = jnp.zeros_like(mean) if seen is None else jnp.asarray(seen.std, jnp.float32)
    t = np.arange(start, start + len(mean))
    pick = jax.vmap(
        lambda m, s, i: choose(m, s, key=jax.random.fold_in(key, i)), (0, 0, 0)
    )
    return np.asarray(pick(mean, std, t))


def _normals(key, start, stop) -> np.ndarray:
    each = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))
    return np.asarray(each(np.arange(start, stop)))


def _inputs(context: np.ndarray, arm: np.ndarray, arms: int) -> np.ndarray:
    """Inputs of the chosen arms, (N, K d) or (N, d)."""
    rows = np.arange(len(context))
    if context.ndim == 3:
        return context[rows, arm]
    out = np.zeros((len(context), arms, context.shape[1]), context.dtype)
    out[rows, arm] = context
    return out.reshape(len(context), -1)


def check_rewards(rewards: Float[np.ndarray, "S n"], start: int) -> None:
    """Rewards of rounds from `start` on are numbers.

    Raises:
        ValueError: where one is not finite; nothing has learned from it.
    """
    if not np.isfinite(rewards).all():
        seed, at = np.argwhere(~np.isfinite(rewards))[0]
        raise ValueError(
            f"environment: expected finite rewards, got {rewards[seed, at]} in round "
            f"{start + at} of seed {seed}"
        )


def check_spread(std: Float[np.ndarray, "S n"], start: int) -> None:
    """Standard deviations of rounds from `start` on are numbers.

    Raises:
        ValueError: where one is not finite: contexts of a size that overflows.
    """
    if not np.isfinite(std).all():
        seed, at = np.argwhere(~np.isfinite(std))[0]
        raise ValueError(
            f"environment: the covariance is not finite in round {start + at} of seed "
            f"{seed}: expected contexts of about unit scale, standardize them"
        )


def fitted(
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

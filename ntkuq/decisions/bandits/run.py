"""`run_bandit`: a policy in an environment, over seeds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkuq.data import Checkpoint
from ntkuq.decisions.bandits.environments import AbstractEnvironment
from ntkuq.decisions.bandits.general import (
    Refitted,
    check_rewards,
    check_spread,
    run_method,
)
from ntkuq.decisions.bandits.loop import LoopState
from ntkuq.decisions.bandits.model import Every, NeuralRewards
from ntkuq.decisions.bandits.network import Perceptron
from ntkuq.decisions.bandits.policies import AbstractPolicy, Uniform
from ntkuq.decisions.bandits.result import BanditResult
from ntkuq.decisions.bandits.seeds import Seeds, gathered
from ntkuq.models import BNN
from ntkuq.models.train.plans import AbstractPlan, default_plan
from ntkuq.posteriors.base import AbstractMethod


#: Of the states in a checkpoint; another one is not read.
FORMAT = 3


def run_bandit(
    policy: AbstractPolicy,
    environment: AbstractEnvironment,
    problem: BNN | None = None,
    *,
    rounds: int,
    keys: Array,
    plan: AbstractPlan | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> BanditResult:
    """Play a policy for some rounds, once for each key.

    With a `NeuralRewards` model the rounds between two trainings and the training are
    one compiled program. A method of ntkuq is fitted anew after
    `Geometric(20, growth=1.3)` rounds, or when `Refitted` says; before the first fit,
    arms are random.

    Args:
        policy: such as `UCB(NeuralRewards())` or `Thompson(nq.Laplace())`.
        environment: where the rewards come from.
        problem: what a method solves: a network of the disjoint encoding, K d inputs
            and one output (K = 1 where arms have their own contexts), with a
            likelihood; by default 50 hidden units and Gaussian noise.
        rounds: T.
        keys: (S,) random keys, one a seed; policies with the same keys see the same
            contexts.
        plan: how seeds share the machine with `NeuralRewards`: `Threads`, one program
            in a few threads, where a seed is the same alone and beside others, or
            `Vectorized`, all mapped in one; `None` for what suits the device.
        progress: called with rounds done and rounds in all.
        checkpoint: a file that is written after each training and read at the start: a
            run that was killed goes on after the last one. `NeuralRewards` only.

    Returns:
        Regret, rewards and predictions of all rounds.

    Raises:
        ValueError: for rounds below 1, no key, a model that is neither, or a reward or
            a covariance that is not finite.

    >>> from ntkuq.decisions.bandits import Rows
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> result = run_bandit(Uniform(), Rows(np.eye(3), np.eye(3)), rounds=30, keys=keys)
    >>> result.regrets.shape
    (2, 30)
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected 1 or more, got {rounds}")
    if keys.shape[0] < 1:
        raise ValueError("keys: expected one key a seed, got none")
    start = time.perf_counter()
    model = policy.model
    if isinstance(policy, Uniform):
        idle = NeuralRewards(network=Perceptron(depth=0), schedule=Every(rounds + 1))
        policy, model = Uniform(idle), idle
    if isinstance(model, AbstractMethod):
        model = Refitted(model)
        policy = eqx.tree_at(lambda p: p.model, policy, model)
    if isinstance(model, Refitted):
        for name, value in {"checkpoint": checkpoint, "plan": plan}.items():
            if value is not None:
                raise ValueError(
                    f"{name}: expected a NeuralRewards model, got "
                    f"{type(model.method).__name__}: leave it out"
                )
        found = run_method(
            policy, environment, problem, rounds=rounds, keys=keys, progress=progress
        )
    elif isinstance(model, NeuralRewards):
        found = _neural(policy, environment, rounds, keys, plan, progress, checkpoint)
    else:
        raise ValueError(
            "policy: expected a model that is NeuralRewards or a method such as "
            f"Laplace(), got {type(model).__name__}"
        )
    return BanditResult(**found, seconds=time.perf_counter() - start)


def _neural(policy, environment, rounds, keys, plan, progress, checkpoint):
    model: NeuralRewards = policy.model
    times = model.schedule.times(rounds)
    seeds = Seeds(default_plan() if plan is None else plan, keys.shape[0])
    states = seeds.begin(model, environment, rounds, keys)
    done, file = 0, None
    if checkpoint is not None:
        file = Checkpoint(checkpoint, _identity(policy, environment, rounds, keys))
        stored = file.read()
        if stored is not None:
            done, states = _restored(stored, states)
    stops = [*times, *(() if times and times[-1] == rounds else (rounds,))]
    for stop in stops:
        if stop <= done:
            continue
        fixed = (policy, environment, stop in times)
        states = seeds.advance(fixed, states, done, stop)
        check_rewards(gathered(states, "reward")[:, done:stop], done)
        check_spread(gathered(states, "std")[:, done:stop], done)
        done = stop
        if file is not None:
            file.write(_stored(done, states))
        if progress is not None:
            jax.block_until_ready([state.regret for state in states])
            progress(done, rounds)
    names = {"regrets": "regret", "rewards": "reward", "arms": "arm"}
    names |= {name: name for name in ("mean", "std", "spread")}
    found = {to: gathered(states, name)[:, :rounds] for to, name in names.items()}
    first = times[0] if times else rounds
    spread = found["spread"].copy()
    spread[:, :first] = np.nan
    last: dict[str, Any] = {"spread": spread}
    if times:
        names = ("ratio", "noise", "at_an_end")
        last |= {name: gathered(states, name) for name in names}
    return found | last


def _identity(policy, environment, rounds: int, keys: Array) -> str:
    """A digest of all that determines the run."""
    text = f"{FORMAT} {policy!r} {environment!r} {rounds}"
    sha = hashlib.sha256(text.encode())
    for leaf in jax.tree.leaves((policy, environment, jax.random.key_data(keys))):
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def _stored(done: int, states: list[LoopState]) -> dict[str, np.ndarray]:
    """Leaves of all seeds, whatever the plan."""
    leaves = zip(*(jax.tree.leaves(state) for state in states), strict=True)
    whole = (np.concatenate([np.asarray(a) for a in leaf]) for leaf in leaves)
    return {"done": np.asarray(done)} | {f"leaf{i}": a for i, a in enumerate(whole)}


def _restored(stored, states: list[LoopState]) -> tuple[int, list[LoopState]]:
    found, first = [], 0
    for state in states:
        leaves, tree = jax.tree.flatten(state)
        last = first + leaves[0].shape[0]
        new = [jnp.asarray(stored[f"leaf{i}"][first:last]) for i in range(len(leaves))]
        found.append(jax.tree.unflatten(tree, new))
        first = last
    return int(stored["done"]), found

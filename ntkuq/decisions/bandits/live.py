"""A bandit for a live user: `ask` for an arm, `tell` what it paid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from ntkuq.decisions.bandits.environments import AbstractEnvironment, Round
from ntkuq.decisions.bandits.loop import (
    CHUNK,
    Chosen,
    LoopState,
    begin,
    choose,
    enlarged,
    learn,
    record,
    train,
)
from ntkuq.decisions.bandits.model import NeuralRewards
from ntkuq.decisions.bandits.policies import AbstractPolicy


class _Nowhere(AbstractEnvironment):
    """The sizes of a problem whose rounds come from the user."""

    arms: int = eqx.field(static=True)
    features: int = eqx.field(static=True)
    per_arm: bool = eqx.field(static=True)

    def begin(self, *, key):
        return jnp.zeros(())

    def round(self, drawn, t, *, key) -> Round:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LiveState:
    """Everything a live bandit knows; replaced and never changed.

    Args:
        loop: what was learned, and the rounds told in the order of telling.
        asked, told: numbers of rounds.
        pending: (Q,) numbers of the rounds asked for and not told.
        context: (Q, d) of the arms chosen in them.
        arm: (Q,) chosen.
        predicted: (Q, 3) mean, std and spread before the reward.
    """

    loop: LoopState
    asked: int
    told: int
    pending: Int[np.ndarray, " Q"]
    context: Float[np.ndarray, "Q d"]
    arm: Int[np.ndarray, " Q"]
    predicted: Float[np.ndarray, "Q 3"]

    def arrays(self) -> dict[str, np.ndarray]:
        """What `LiveBandit.restored` needs, for a `Checkpoint` or `np.savez`."""
        leaves = jax.tree.leaves(self.loop)
        found = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        own = ("asked", "told", "pending", "context", "arm", "predicted")
        return found | {name: np.asarray(getattr(self, name)) for name in own}


@dataclasses.dataclass(frozen=True)
class LiveBandit:
    """A policy that is asked for an arm and told its reward, by a user.

    Rewards may come late, in any order, one by one: the policy learns from each when it
    is told. After as many told rounds as the model's schedule says, `tell` trains.

    Args:
        policy: over a `NeuralRewards`.
        arms: K.
        features: d.
        per_arm: whether each arm has its own context.

    Raises:
        TypeError: for a policy over another model.

    >>> from ntkuq.decisions.bandits import UCB, NeuralRewards, Perceptron
    >>> live = LiveBandit(UCB(NeuralRewards(Perceptron(width=4))), arms=2, features=3)
    >>> state = live.init(key=jax.random.key(0))
    >>> arm, state = live.ask(state, np.ones(3))
    >>> state = live.tell(state, 1.0)
    >>> state.asked, state.told
    (1, 1)
    """

    policy: AbstractPolicy
    arms: int
    features: int
    per_arm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.policy.model, NeuralRewards):
            raise TypeError(
                "policy: expected one over NeuralRewards, got "
                f"{type(self.policy.model).__name__}"
            )

    def init(self, *, key: Array) -> LiveState:
        """The state before the first round."""
        world = _Nowhere(self.arms, self.features, self.per_arm)
        loop = begin(self.policy.model, world, CHUNK, key=key)
        none = np.zeros(0, np.int64)
        context = np.zeros((0, self.features), np.float32)
        return LiveState(loop, 0, 0, none, context, none, np.zeros((0, 3), np.float32))

    def ask(
        self, state: LiveState, context: ArrayLike, *, offered: ArrayLike | None = None
    ) -> tuple[int, LiveState]:
        """The arm for a context.

        Args:
            state: the bandit's.
            context: (d,), or (K, d) where each arm has its own.
            offered: (K,) which arms can be chosen now; all, where not given.

        Returns:
            The arm, and the state in which this round, `state.asked` before, waits for
            its reward.

        Raises:
            ValueError: for another shape, numbers that are not finite, or no arm
                offered; the state is as before.
        """
        x = np.asarray(context, np.float32)
        shape = (self.arms, self.features) if self.per_arm else (self.features,)
        if x.shape != shape:
            raise ValueError(f"context: expected shape {shape}, got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("context: expected finite numbers, got NaN or infinity")
        free = np.ones(self.arms, bool) if offered is None else np.asarray(offered)
        if free.shape != (self.arms,) or free.dtype != bool or not free.any():
            raise ValueError(
                f"offered: expected {self.arms} of True and False, one of them True, "
                f"got {free.tolist()}"
            )
        x = np.broadcast_to(x, (self.arms, self.features))
        chosen = _ask(self.policy, state.loop, x, free, jnp.asarray(state.asked))
        arm = int(chosen.arm)
        row = [[float(v) for v in (chosen.mean, chosen.std, chosen.spread)]]
        return arm, dataclasses.replace(
            state,
            asked=state.asked + 1,
            pending=np.append(state.pending, state.asked),
            context=np.concatenate([state.context, x[arm][None]]),
            arm=np.append(state.arm, arm),
            predicted=np.concatenate([state.predicted, np.asarray(row, np.float32)]),
        )

    def tell(
        self, state: LiveState, reward: float, *, number: int | None = None
    ) -> LiveState:
        """The state that has learned a reward.

        Args:
            state: the bandit's.
            reward: what the arm of that round paid.
            number: of its round (the first `ask` was round 0); the oldest that waits,
                where not given.

        Raises:
            ValueError: for a reward that is not finite, or a round that does not wait;
                nothing is learned and the round still waits.
        """
        value = float(reward)
        if not math.isfinite(value):
            raise ValueError(f"reward: expected a finite number, got {value}")
        if not state.pending.size:
            raise ValueError(
                f"tell: expected a round that waits for its reward, got none: all "
                f"{state.asked} rounds asked for were told"
            )
        told = int(state.pending[0]) if number is None else number
        at = np.flatnonzero(state.pending == told)
        if not at.size:
            waiting = ", ".join(str(n) for n in state.pending[:5].tolist())
            raise ValueError(
                f"number: expected a round that waits for its reward ({waiting}"
                f"{', …' if state.pending.size > 5 else ''}), got {number}"
            )
        row, model, t = int(at[0]), self.policy.model, state.told
        loop = state.loop
        if t == loop.reward.shape[0]:
            loop = enlarged(model, loop, 2 * t)
        mean, std, spread = state.predicted[row]
        loop = _tell(
            model,
            loop,
            jnp.asarray(t),
            state.context[row],
            jnp.asarray(state.arm[row], jnp.int32),
            (mean, std, spread),
            jnp.asarray(value, loop.reward.dtype),
        )
        if t + 1 in model.schedule.times(t + 1)[-1:]:
            loop = _train(model, loop, jnp.asarray(t + 1))
        keep = np.arange(state.pending.size) != row
        return LiveState(
            loop,
            state.asked,
            t + 1,
            state.pending[keep],
            state.context[keep],
            state.arm[keep],
            state.predicted[keep],
        )

    def restored(self, arrays: Mapping[str, np.ndarray], *, key: Array) -> LiveState:
        """The state whose `arrays()` these are; the key is only that of its shapes.

        Raises:
            ValueError: for the arrays of another policy or problem.
        """
        empty = self.init(key=key)
        loop = empty.loop
        leaves, tree = jax.tree.flatten(loop)
        names = [f"leaf{i}" for i in range(len(leaves))]
        own = ("asked", "told", "pending", "context", "arm", "predicted")
        missing = [name for name in (*names, *own) if name not in arrays]
        if missing or f"leaf{len(leaves)}" in arrays:
            raise ValueError(
                f"arrays: expected those of this policy, {len(leaves)} leaves, got "
                f"{sum(name.startswith('leaf') for name in arrays)}"
            )
        rows = _rows(arrays, tree, len(leaves))
        if rows != loop.reward.shape[0]:
            loop = enlarged(self.policy.model, loop, rows)
            leaves = jax.tree.leaves(loop)
        for name, leaf in zip(names, leaves, strict=True):
            if arrays[name].shape != leaf.shape:
                raise ValueError(
                    f"arrays: expected {name} of shape {leaf.shape}, got "
                    f"{arrays[name].shape}: they are of another policy or problem"
                )
        loop = jax.tree.unflatten(tree, [jnp.asarray(arrays[name]) for name in names])
        rest = {name: np.asarray(arrays[name]) for name in own[2:]}
        return LiveState(loop, int(arrays["asked"]), int(arrays["told"]), **rest)


def _rows(arrays: Mapping[str, np.ndarray], tree: Any, count: int) -> int:
    """Of the buffers in a saved loop."""
    loop = jax.tree.unflatten(tree, [arrays[f"leaf{i}"] for i in range(count)])
    return len(loop.reward)


@eqx.filter_jit
def _ask(policy, loop, x, offered, t) -> Chosen:
    key = jax.random.wrap_key_data(loop.key)
    _, _, choose_key = jax.random.split(key, 3)
    now = jax.random.fold_in(choose_key, t)
    return choose(policy, loop, x, offered, t, key=now)


@eqx.filter_jit
def _tell(model, loop, t, x, arm, predicted, reward) -> LoopState:
    mean, std, spread = predicted
    # `record` reads no values
    loop = record(loop, t, x, Chosen(arm, mean, std, spread, None, None))
    loop = loop._replace(reward=loop.reward.at[t].set(reward))
    return learn(model, loop, t)


@eqx.filter_jit
def _train(model, loop, seen) -> LoopState:
    return train(model, loop, seen)

"""The compiled loop: rounds between two trainings, and the training."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ntkuq.decisions.bandits.coefficients import Progress
from ntkuq.decisions.bandits.covariances import Chunk, Seen
from ntkuq.decisions.bandits.environments import AbstractEnvironment, Round
from ntkuq.decisions.bandits.feedback import Immediate
from ntkuq.decisions.bandits.model import NeuralRewards
from ntkuq.decisions.bandits.network import Values
from ntkuq.decisions.bandits.policies import AbstractPolicy, JointThompson


#: Rounds whose gradients are taken together after a training.
CHUNK = 128
#: Decimal logarithms of the ends of the values of lambda, and their number.
GRID = (-4.0, 4.0, 65)
#: Units of rounding of the largest eigenvalue, below which no lambda is tried.
RESOLUTION = 8.0


class LoopState(NamedTuple):
    """Everything a seed knows; buffers have room for all rounds.

    Args:
        weights, origin: of the network, now and at the start.
        covariance: state of the covariance.
        ratio, noise, log_determinant: lambda, sigma, and ln det ratio.
        at_an_end: whether the evidence took the smallest or largest lambda it could.
        context, arm, reward: (T, …) what was seen, chosen and paid.
        regret: (T,) best expected reward minus that of the chosen arm.
        mean, std, spread: (T,) before the reward: its mean, standard deviation of the
            expected reward as the policy used it, and of the reward itself.
        drawn: what the environment drew.
        key: random key of the seed, as data.
    """

    weights: tuple[Array, ...]
    origin: tuple[Array, ...]
    covariance: Any
    ratio: Array
    noise: Array
    log_determinant: Array
    at_an_end: Array
    context: Float[Array, "T d"]
    arm: Int[Array, " T"]
    reward: Float[Array, " T"]
    regret: Float[Array, " T"]
    mean: Float[Array, " T"]
    std: Float[Array, " T"]
    spread: Float[Array, " T"]
    drawn: Any
    key: Array


def begin(
    model: NeuralRewards, environment: AbstractEnvironment, rounds: int, *, key: Array
) -> LoopState:
    """The state before the first round."""
    room = -(-rounds // CHUNK) * CHUNK
    # features, arms, per_arm are fields of every environment, ratio of a coefficient
    world: Any = environment
    coefficient: Any = model.coefficient
    first, second, third = jax.random.split(key, 3)
    weights = model.network.init(
        world.features,
        world.arms,
        per_arm=world.per_arm,
        key=first,
    )
    shapes: Any = [w.shape for w in weights]
    ratio = jnp.asarray(coefficient.ratio, weights[0].dtype)
    covariance = model.covariance.init(shapes, room)
    zeros = jnp.asarray(0)
    nothing = Seen(lambda i: _chunk(model, empty, i, zeros), zeros)
    zero = jnp.zeros(room)
    empty = LoopState(
        weights=weights,
        origin=weights,
        covariance=covariance,
        ratio=ratio,
        noise=jnp.ones(()),
        log_determinant=jnp.zeros(()),
        at_an_end=jnp.asarray(False),
        context=jnp.zeros((room, world.features)),
        arm=jnp.zeros(room, jnp.int32),
        reward=zero,
        regret=zero,
        mean=zero,
        std=zero,
        spread=zero,
        drawn=environment.begin(key=second),
        key=jax.random.key_data(third),
    )
    return empty._replace(covariance=model.covariance.refit(covariance, nothing, ratio))


class Chosen(NamedTuple):
    """What was chosen, and what was thought of it before its reward was known."""

    arm: Int[Array, ""]
    mean: Float[Array, ""]
    std: Float[Array, ""]
    spread: Float[Array, ""]
    values: Values | None
    known: Array | None


def choose(
    policy: AbstractPolicy,
    state: LoopState,
    x: Float[Array, "K d"],
    offered: Array | None,
    t: Array,
    *,
    key: Array,
) -> Chosen:
    """The arm for these contexts in round t."""
    model: NeuralRewards = policy.model
    arms = jnp.arange(x.shape[0])
    found = model.network.values(state.weights, x, arms)
    mean = model.covariance.mean(state.covariance, found)
    variance, rows = model.covariance.look(state.covariance, found, state.ratio)
    variance = jnp.maximum(variance, 0.0)
    gamma = model.coefficient(
        Progress(
            jnp.maximum(t, 1).astype(mean.dtype),
            state.log_determinant,
            state.ratio,
            state.noise,
            max(model.network.width, 1),
            model.network.depth + 1,
        )
    )
    std = gamma * jnp.sqrt(variance)
    score = mean if offered is None else jnp.where(offered, mean, -jnp.inf)
    if isinstance(policy, JointThompson):
        cross = model.covariance.cross(state.covariance, found, state.ratio)
        arm = policy.choose_jointly(score, gamma**2 * cross, key=key)
    else:
        arm = policy.choose(score, std, key=key)
    spread = jnp.sqrt(state.noise**2 * (1.0 + variance[arm]))
    chosen, known = jax.tree.map(lambda leaf: leaf[arm][None], (found, rows))
    arm = arm.astype(jnp.int32)
    return Chosen(arm, mean[arm], std[arm], spread, chosen, known)


def record(state: LoopState, t: Array, x: Array, chosen: Chosen) -> LoopState:
    """The choice of round t in the buffers; x (d,) is its context."""
    return state._replace(
        context=state.context.at[t].set(x),
        arm=state.arm.at[t].set(chosen.arm),
        mean=state.mean.at[t].set(chosen.mean),
        std=state.std.at[t].set(chosen.std),
        spread=state.spread.at[t].set(chosen.spread),
    )


def enlarged(model: NeuralRewards, state: LoopState, rounds: int) -> LoopState:
    """The same state with room for more rounds."""
    room = -(-rounds // CHUNK) * CHUNK
    buffers = ("context", "arm", "reward", "regret", "mean", "std", "spread")

    def padded(buffer: Array) -> Array:
        more = room - buffer.shape[0]
        return jnp.pad(buffer, [(0, more)] + [(0, 0)] * (buffer.ndim - 1))

    return state._replace(
        covariance=model.covariance.grown(state.covariance, room),
        **{name: padded(getattr(state, name)) for name in buffers},
    )


def play(
    policy: AbstractPolicy,
    environment: AbstractEnvironment,
    state: LoopState,
    start: Array,
    stop: Array,
) -> LoopState:
    """Rounds start to stop - 1."""
    model: NeuralRewards = policy.model
    world: Any = environment
    key = jax.random.wrap_key_data(state.key)
    rounds_key, reward_key, choose_key = jax.random.split(key, 3)

    def one(t: Array, s: LoopState) -> LoopState:
        offer: Round = environment.round(s.drawn, t, key=rounds_key)
        x = offer.context
        if not world.per_arm:
            x = jnp.broadcast_to(x, (world.arms, world.features))
        now = jax.random.fold_in(choose_key, t)
        chosen = choose(policy, s, x, offer.offered, t, key=now)
        arm, expected = chosen.arm, offer.expected
        noise = jnp.broadcast_to(offer.noise, expected.shape)[arm]
        reward = expected[arm] + noise * jax.random.normal(
            jax.random.fold_in(reward_key, t)
        )
        best = expected
        if offer.offered is not None:
            best = jnp.where(offer.offered, expected, -jnp.inf)
        s = record(s, t, x[arm], chosen)
        s = s._replace(
            reward=s.reward.at[t].set(reward),
            regret=s.regret.at[t].set(best.max() - expected[arm]),
        )
        if isinstance(model.feedback, Immediate):
            return _learn(model, s, chosen.values, reward[None], chosen.known)

        def late(i, s):
            return learn(model, s, i)

        before, now_known = model.feedback.known(t), model.feedback.known(t + 1)
        return jax.lax.fori_loop(before, now_known, late, s)

    return jax.lax.fori_loop(start, stop, one, state)


def learn(model: NeuralRewards, state: LoopState, i: Array) -> LoopState:
    """The covariance with round i, whose reward is in the buffer."""
    found = model.network.values(
        state.weights, state.context[i][None], state.arm[i][None]
    )
    return _learn(model, state, found, state.reward[i][None])


def _learn(
    model: NeuralRewards, s: LoopState, found: Any, reward: Array, known: Any = None
) -> LoopState:
    new = model.covariance.add(s.covariance, found, reward, s.ratio, known)
    if not model.coefficient.follows:
        return s._replace(covariance=new)
    variance = model.covariance.variance(s.covariance, found, s.ratio)
    more = model.covariance.growth(s.covariance, found, variance, s.ratio)
    return s._replace(covariance=new, log_determinant=s.log_determinant + more)


def train(model: NeuralRewards, state: LoopState, seen: Array) -> LoopState:
    """Train on the first `seen` rounds; then covariance, noise and lambda anew."""
    how = model.training
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), seen + 7)

    count = seen.astype(state.reward.dtype)

    def loss(weights, rows):
        error = model.network.rewards(weights, state.context[rows], state.arm[rows])
        fit = 0.5 * jnp.mean((error - state.reward[rows]) ** 2)
        return fit + 0.5 * how.decay / count * _distance(weights, state.origin)

    def step(i, carry):
        weights, first, second = carry
        rows = jax.random.randint(jax.random.fold_in(key, i), (how.batch,), 0, seen)
        g = jax.grad(loss)(weights, rows)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, g)
        n = (i + 1).astype(count.dtype)
        rate = how.rate * 0.5 * (1.0 + jnp.cos(jnp.pi * (n - 1.0) / how.steps))
        rate = rate * jnp.sqrt(1 - 0.999**n) / (1 - 0.9**n)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, first, second
        )
        return weights, first, second

    zero = jax.tree.map(jnp.zeros_like, state.weights)
    weights, _, _ = jax.lax.fori_loop(0, how.steps, step, (state.weights, zero, zero))
    return renew(model, state._replace(weights=weights), seen)


def renew(model: NeuralRewards, state: LoopState, seen: Array) -> LoopState:
    """The covariance of the first `seen` rounds, noise and lambda."""
    count = seen.astype(state.reward.dtype)
    every = Seen(lambda i: _chunk(model, state, i, seen), -(-seen // CHUNK))
    covariance = model.covariance.refit(state.covariance, every, state.ratio)

    def squares(i, total):
        c = every.at(i)
        mean = model.covariance.mean(covariance, c.values)
        return total + jnp.sum(c.weight * (mean - c.reward) ** 2)

    rss = jax.lax.fori_loop(0, every.chunks, squares, jnp.zeros(()))
    penalty = _distance(state.weights, state.origin)
    ratio, noise = state.ratio, jnp.sqrt(jnp.maximum(rss / count, 1e-8))
    at_an_end = state.at_an_end
    coefficient: Any = model.coefficient
    if coefficient.tuned:
        e = model.covariance.eigenvalues(covariance)
        grid = jnp.logspace(*GRID)
        misfit = model.covariance.misfit(covariance, rss, penalty, grid)
        logs = jax.lax.map(lambda r: jnp.sum(jnp.log1p(e / r)), grid)
        # with the best noise for each lambda, misfit / n, in closed form
        evidence = (
            -0.5 * count * jnp.log(jnp.maximum(misfit / count, 1e-8)) - 0.5 * logs
        )
        # a smaller lambda is lost in rounding, see `resolved`
        rounding = jnp.maximum(RESOLUTION * jnp.max(e), jnp.sum(e))
        fine = grid >= jnp.finfo(e.dtype).eps * rounding
        fine = fine.at[-1].set(True)
        best = jnp.argmax(jnp.where(fine, evidence, -jnp.inf))
        at_an_end = (best == jnp.argmax(fine)) | (best == len(grid) - 1)
        ratio, noise = grid[best], jnp.sqrt(jnp.maximum(misfit[best] / count, 1e-8))
        covariance = model.covariance.reweighted(covariance, every, ratio)
    state = state._replace(
        covariance=covariance, ratio=ratio, noise=noise, at_an_end=at_an_end
    )
    if not model.coefficient.follows:
        return state
    exact = model.covariance.log_determinant(covariance, ratio)
    return state._replace(log_determinant=exact)


def _chunk(model: NeuralRewards, state: LoopState, i: Array, seen: Array) -> Chunk:
    start = i * CHUNK
    x = jax.lax.dynamic_slice_in_dim(state.context, start, CHUNK)
    arm = jax.lax.dynamic_slice_in_dim(state.arm, start, CHUNK)
    reward = jax.lax.dynamic_slice_in_dim(state.reward, start, CHUNK)
    weight = (start + jnp.arange(CHUNK) < seen).astype(x.dtype)
    return Chunk(model.network.values(state.weights, x, arm), reward, weight)


def _distance(weights: tuple[Array, ...], origin: tuple[Array, ...]) -> Array:
    return sum(
        (jnp.sum((w - o) ** 2) for w, o in zip(weights, origin, strict=True)),
        start=jnp.zeros(()),
    )


@eqx.filter_jit
def begin_all(model, environment, rounds, keys):
    """`begin` for each seed."""
    return jax.vmap(lambda key: begin(model, environment, rounds, key=key))(keys)


@eqx.filter_jit(donate="all-except-first")
def advance(fixed, states, start, stop):
    """`play` then, where the model is trained at `stop`, `train`; for each seed."""
    policy, environment, trains = fixed

    def one(state):
        state = play(policy, environment, state, start, stop)
        if not trains:
            return state
        seen = policy.model.feedback.known(stop)
        return jax.lax.cond(
            seen > 0,
            lambda s: train(policy.model, s, jnp.maximum(seen, 1)),
            lambda s: s,
            state,
        )

    if states.key.shape[0] > 1:
        return jax.vmap(one)(states)
    # products and indices of one seed are faster without an axis of length 1
    alone = one(jax.tree.map(lambda leaf: leaf[0], states))
    return jax.tree.map(lambda leaf: leaf[None], alone)

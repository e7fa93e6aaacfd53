"""NumPyro's NUTS on a target, chains side by side, in blocks that can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkuq.data import Checkpoint
from ntkuq.data.store import StoreError
from ntkuq.posteriors.mcmc.target import Target


#: Draws between two reports, and between two writes of the checkpoint.
BLOCK = 50


class Plan(NamedTuple):
    """How many transitions: static numbers of one run.

    Args:
        warmup: transitions that adapt step size and mass matrix, thrown away.
        draws: draws kept of each chain.
        thin: transitions for each of them.
        depth: largest depth of a tree, which has up to 2^depth - 1 steps.
    """

    warmup: int
    draws: int
    thin: int
    depth: int


class Statistics(NamedTuple):
    """What happened in the transitions of each draw, (…, chains).

    Args:
        potential: U at the draw.
        acceptance: mean acceptance probability.
        divergences: transitions that diverged.
        saturated: transitions whose tree was cut at its largest depth.
        steps: gradient evaluations.
        transitions: how many there were.
    """

    potential: Float[Array | np.ndarray, "*draws chains"]
    acceptance: Float[Array | np.ndarray, "*draws chains"]
    divergences: Int[Array | np.ndarray, "*draws chains"]
    saturated: Int[Array | np.ndarray, "*draws chains"]
    steps: Int[Array | np.ndarray, "*draws chains"]
    transitions: Int[Array | np.ndarray, "*draws chains"]


class Chains(NamedTuple):
    """Draws of whitened weights (draws, chains, K), statistics, last step sizes."""

    z: np.ndarray
    statistics: Statistics
    step_size: np.ndarray


def run_chains(
    target: Target,
    start: Float[Array, "chains K"],
    plan: Plan,
    accept: float,
    *,
    checkpoint: Checkpoint | None = None,
    callback: Callable[[int, float], None] | None = None,
    key: Array,
) -> Chains:
    """Warm up and sample, block by block.

    Args:
        target: U(z).
        start: first states, one a chain.
        plan: how many transitions.
        accept: acceptance probability that the step size is adapted to.
        checkpoint: written after each block; where it has been before, the run goes on
            from there, to the same draws.
        callback: called as `callback(transitions, potential)` after each block, with
            the mean of U over the chains.
        key: of the chains.

    Raises:
        ValueError: where U is not finite at a first state.
        StoreError: for the checkpoint of a run with other arrays.
    """
    target_accept = jnp.asarray(accept, start.dtype)
    # how many draws is no part of a program
    static = plan._replace(draws=0, thin=0)
    state = _begin(target, static, target_accept, start, key)
    potential = np.asarray(state.potential_energy)
    if not np.isfinite(potential).all():
        raise ValueError(
            "NUTS: expected a finite log posterior at the first state of each chain, "
            f"got minus {potential.tolist()}: check the data, the likelihood's scale "
            "and the network's outputs"
        )
    done, blocks = 0, []
    saved = None if checkpoint is None else checkpoint.read()
    if checkpoint is not None and saved is not None:
        state, done, blocks = _restored(checkpoint, state, saved)
    total = plan.warmup + plan.draws * plan.thin
    while done < total:
        warm = done < plan.warmup
        kept = (done - plan.warmup) // plan.thin
        count = min(BLOCK, plan.warmup - done if warm else plan.draws - kept)
        thin = 1 if warm else plan.thin
        state, z, statistics = _advance(
            target,
            static,
            target_accept,
            state,
            jnp.asarray(count, jnp.int32),
            jnp.asarray(thin, jnp.int32),
        )
        if not warm:
            rows = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], (z, statistics))
            blocks.append(rows)
        done += count * thin
        if checkpoint is not None:
            blocks = [_joined(blocks)] if blocks else []
            checkpoint.write(_record(state, done, blocks))
        if callback is not None:
            callback(done, float(np.mean(np.asarray(state.potential_energy))))
    z, statistics = _joined(blocks)
    return Chains(z, statistics, np.asarray(state.adapt_state.step_size))


def _kernel(target: Target, plan: Plan, accept: Array, z: Array, keys: Array):
    """NumPyro's kernel for this target, and its first state."""
    # takes a second to import
    from numpyro.infer import NUTS as Kernel

    kernel = Kernel(
        potential_fn=target.potential,
        # an array: another target does not compile anew
        target_accept_prob=accept,  # pyright: ignore[reportArgumentType]
        max_tree_depth=plan.depth,
    )
    return kernel, kernel.init(keys, plan.warmup, z, (), {})


@eqx.filter_jit
def _begin(target: Target, plan: Plan, accept: Array, start: Array, key: Array) -> Any:
    # NumPyro relies on the standard rules of promotion
    with jax.numpy_dtype_promotion("standard"):
        keys = jax.random.split(key, start.shape[0])
        return _strong(_kernel(target, plan, accept, start, keys)[1])


@eqx.filter_jit
def _advance(
    target: Target, plan: Plan, accept: Array, state: Any, count: Array, thin: Array
) -> tuple[Any, Array, Statistics]:
    """`count` draws (at most `BLOCK`), each after `thin` transitions."""
    with jax.numpy_dtype_promotion("standard"):
        # sets up the adaptation; its first state is not used, so not computed either
        kernel, _ = _kernel(target, plan, accept, state.z, state.rng_key)
        longest = 2**plan.depth - 1

        def transition(_, carry):
            state, statistics = carry
            state = _strong(kernel.sample(state, (), {}))
            found = Statistics(
                state.potential_energy,
                statistics.acceptance + state.accept_prob / thin,
                statistics.divergences + state.diverging.astype(jnp.int32),
                statistics.saturated + (state.num_steps >= longest).astype(jnp.int32),
                statistics.steps + state.num_steps.astype(jnp.int32),
                statistics.transitions + 1,
            )
            return state, found

        def draw(row, carry):
            state, z, statistics = carry
            now = _nothing(state, ())
            state, now = jax.lax.fori_loop(0, thin, transition, (state, now))
            z = z.at[row].set(state.z)
            write = jax.tree.map(lambda a, b: a.at[row].set(b), statistics, now)
            return state, z, write

        empty = jnp.zeros((BLOCK, *state.z.shape), state.z.dtype)
        carry = (state, empty, _nothing(state, (BLOCK,)))
        return jax.lax.fori_loop(0, count, draw, carry)


def _nothing(state: Any, shape: tuple[int, ...]) -> Statistics:
    shape = (*shape, *state.potential_energy.shape)
    real = jnp.zeros(shape, state.potential_energy.dtype)
    whole = jnp.zeros(shape, jnp.int32)
    return Statistics(real, real, whole, whole, whole, whole)


def _strong(state: Any) -> Any:
    """Types that do not depend on where the values came from (a file, a program)."""

    def one(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(one, state)


def _joined(blocks: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *blocks)


def _record(state: Any, done: int, blocks: list[Any]) -> dict[str, np.ndarray]:
    """All that a run needs to go on."""
    arrays = {"done": np.array(done)}
    for number, leaf in enumerate(jax.tree.leaves(state)):
        arrays[f"state {number}"] = np.asarray(_plain(leaf))
    for number, leaf in enumerate(jax.tree.leaves(blocks)):
        arrays[f"draws {number}"] = leaf
    return arrays


def _restored(
    checkpoint: Checkpoint, like: Any, arrays: dict[str, np.ndarray]
) -> tuple[Any, int, list[Any]]:
    leaves, structure = jax.tree.flatten(like)
    found = []
    for number, leaf in enumerate(leaves):
        saved, now = arrays.get(f"state {number}"), _plain(leaf)
        same = saved is not None and saved.shape == now.shape
        if saved is None or not same or saved.dtype != now.dtype:
            raise StoreError(
                f"{checkpoint.path}: expected chains of type {like.z.dtype} and "
                f"shape {like.z.shape}, came another one: run as it was begun "
                "(float64 enabled or not), or remove the file to begin anew"
            )
        array = jnp.asarray(saved)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        found.append(array)
    state = jax.tree.unflatten(structure, found)
    names = [f"draws {n}" for n in range(1 + len(Statistics._fields))]
    rows = [arrays[name] for name in names if name in arrays]
    blocks = [(rows[0], Statistics(*rows[1:]))] if rows else []
    return state, int(arrays["done"]), blocks


def _plain(leaf: Array) -> Array:
    """Keys as the numbers that they are."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf

"""A bandit by ask and tell: the same rounds as the loop, late rewards, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.decisions import bandits as nb


def live(covariance, first=10):
    model = nb.NeuralRewards(
        nb.Perceptron(width=6),
        covariance,
        nb.Constant(0.5),
        nb.Geometric(first, growth=2.0),
        nb.Adam(steps=20, batch=16),
    )
    return nb.LiveBandit(nb.UCB(model), arms=3, features=2)


def play(bandit, state, contexts, rewards):
    arms = []
    for x, reward in zip(contexts, rewards, strict=True):
        arm, state = bandit.ask(state, x)
        state = bandit.tell(state, float(reward[arm]))
        arms.append(arm)
    return arms, state


def problem(rounds):
    random = np.random.default_rng(0)
    contexts = random.normal(size=(rounds, 2)).astype(np.float32)
    return contexts, random.normal(size=(rounds, 3)).astype(np.float32)


@pytest.mark.parametrize("covariance", [nb.LastLayer(), nb.FunctionSpace()])
def test_it_plays_as_the_compiled_loop(covariance):
    contexts, rewards = problem(60)
    bandit, key = live(covariance), jax.random.key(3)

    world = nb.Rows(contexts, rewards)
    result = nb.run_bandit(bandit.policy, world, rounds=60, keys=key[None])
    # the loop draws an order of the rows; the live user meets them in it
    order = world.begin(key=jax.random.split(key, 3)[1])
    contexts, rewards = contexts[np.asarray(order)], rewards[np.asarray(order)]
    arms, state = play(bandit, bandit.init(key=key), contexts, rewards)
    assert arms == result.arms[0].tolist()
    np.testing.assert_allclose(
        np.asarray(state.loop.std[:60]), result.std[0], rtol=1e-3, atol=1e-5
    )


def test_more_rounds_than_the_first_buffers_hold():
    """140 rounds need the second buffers; the covariance is that of all of them."""
    contexts, rewards = problem(140)
    bandit = live(nb.FunctionSpace(), first=1000)
    _, state = play(bandit, bandit.init(key=jax.random.key(0)), contexts, rewards)
    network, loop = bandit.policy.model.network, state.loop

    def gradients(x, arm):
        def one(x, a):
            return jax.grad(lambda w: network.rewards(w, x[None], a[None])[0])(
                loop.weights
            )

        each = jax.vmap(one)(x, arm)
        flat = [np.asarray(g, np.float64).reshape(len(x), -1) for g in each]
        return np.concatenate(flat, axis=1)

    every = gradients(contexts, loop.arm[:140])
    new = gradients(contexts[:3], jnp.arange(3))
    z = np.eye(every.shape[1]) + every.T @ every
    want = np.einsum("np,pq,nq->n", new, np.linalg.inv(z), new)
    at = network.values(loop.weights, jnp.asarray(contexts[:3]), jnp.arange(3))
    got = nb.FunctionSpace().variance(loop.covariance, at, loop.ratio)
    assert state.told == 140
    # float32, 140 updates of a matrix of condition about 140
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-3)


def test_rewards_in_any_order_and_a_saved_state(tmp_path):
    contexts, rewards = problem(6)
    bandit = live(nb.LastLayer(), first=4)
    state = bandit.init(key=jax.random.key(0))
    arms = []
    for x in contexts:
        arm, state = bandit.ask(state, x)
        arms.append(arm)
    for number in (4, 0, 5):
        state = bandit.tell(state, float(rewards[number, arms[number]]), number=number)
    file = nq.data.Checkpoint(tmp_path / "live.npz", "this bandit")
    file.write(state.arrays())
    stored = file.read()
    assert stored is not None
    again = bandit.restored(stored, key=jax.random.key(9))
    assert again.pending.tolist() == [1, 2, 3]
    # the fourth told trains; both go on alike
    for number in (1, 2, 3):
        reward = float(rewards[number, arms[number]])
        state = bandit.tell(state, reward, number=number)
        again = bandit.tell(again, reward)
    for one, other in zip(
        jax.tree.leaves(state.loop), jax.tree.leaves(again.loop), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert bandit.ask(state, contexts[0])[0] == bandit.ask(again, contexts[0])[0]


def test_bad_input_is_named_and_nothing_is_lost():
    bandit = live(nb.LastLayer())
    state = bandit.init(key=jax.random.key(0))
    with pytest.raises(ValueError, match="all 0 rounds asked for were told"):
        bandit.tell(state, 1.0)
    with pytest.raises(ValueError, match=r"context: expected shape \(2,\), got \(3,\)"):
        bandit.ask(state, np.ones(3))
    with pytest.raises(ValueError, match="context: expected finite"):
        bandit.ask(state, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="one of them True"):
        bandit.ask(state, np.ones(2), offered=np.zeros(3, bool))
    arm, state = bandit.ask(state, np.ones(2), offered=np.arange(3) == 1)
    assert arm == 1
    with pytest.raises(ValueError, match="reward: expected a finite number, got nan"):
        bandit.tell(state, float("nan"))
    with pytest.raises(ValueError, match=r"waits for its reward \(0\), got 7"):
        bandit.tell(state, 1.0, number=7)
    assert bandit.tell(state, 1.0).told == 1
    other = nb.LiveBandit(bandit.policy, arms=4, features=2)
    with pytest.raises(ValueError, match="another policy or problem"):
        other.restored(state.arrays(), key=jax.random.key(0))
    with pytest.raises(TypeError, match="over NeuralRewards, got GP"):
        nb.LiveBandit(nb.UCB(nq.GP()), arms=2, features=2)

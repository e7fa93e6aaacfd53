"""Bandits: covariances against dense ones, coefficients, environments, the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.decisions import bandits as nb
from ntkuq.decisions.bandits import covariances as nc
from ntkuq.decisions.bandits.loop import begin, train
from ntkuq.decisions.bandits.network import rewards, values


FEATURES, ARMS, ROUNDS = 3, 3, 12


def dense(weights, x, arm):
    """Gradients by automatic differentiation, (N, P)."""

    def one(x, arm):
        g = jax.grad(lambda w: rewards(w, x[None], arm[None])[0])(weights)
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(g)])

    return jax.jit(jax.vmap(one))(x, arm)


def setting(getkey, network, *, per_arm=False):
    """Weights away from the symmetric start, contexts, arms and rewards in float64."""
    weights = network.init(FEATURES, ARMS, per_arm=per_arm, key=getkey())
    weights = tuple(
        w.astype(jnp.float64) + 0.3 * jax.random.normal(getkey(), w.shape, jnp.float64)
        for w in weights
    )
    x = jax.random.normal(getkey(), (ROUNDS, FEATURES), jnp.float64)
    arm = jax.random.randint(getkey(), (ROUNDS,), 0, ARMS)
    reward = jax.random.normal(getkey(), (ROUNDS,), jnp.float64)
    return weights, x, arm, reward


def filled(covariance, weights, x, arm, reward, ratio):
    """The state after adding the rounds one by one."""
    shapes = [w.shape for w in weights]
    with jax.enable_x64(True):
        state = covariance.init(shapes, ROUNDS)
        nothing = values(weights, x[:1], arm[:1])
        empty = nc.Chunk(nothing, reward[:1], jnp.zeros(1, jnp.float64))
        state = jax.tree.map(
            lambda leaf: (
                leaf.astype(jnp.float64)
                if jnp.issubdtype(leaf.dtype, jnp.floating)
                else leaf
            ),
            state,
        )
        state = covariance.refit(state, nc.Seen(lambda i: empty, jnp.asarray(1)), ratio)

        @jax.jit
        def add(state, x, arm, reward):
            return covariance.add(state, values(weights, x, arm), reward, ratio)

        for t in range(ROUNDS):
            state = add(state, x[t][None], arm[t][None], reward[t][None])
    return state


NETWORKS = [
    nb.Perceptron(width=4),
    nb.Perceptron(width=4, disjoint=False),
    nb.Perceptron(width=4, depth=2),
    nb.Perceptron(depth=0),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("per_arm", [False, True])
def test_factors_are_the_gradient(getkey, network, per_arm):
    with jax.enable_x64(True):
        weights, x, arm, _ = setting(getkey, network, per_arm=per_arm)
        found = values(weights, x, arm)
        g = dense(weights, x, arm)
        rows = []
        for w, f in zip(weights, found.factors, strict=True):
            one = jax.nn.one_hot(f.block, w.shape[0], dtype=jnp.float64)
            rows.append(jnp.einsum("nk,no,ni->nkoi", one, f.delta, f.inputs))
        mine = np.concatenate([np.asarray(r).reshape(ROUNDS, -1) for r in rows], axis=1)
        # exact but for the order of sums
        np.testing.assert_allclose(mine, np.asarray(g), atol=1e-13)
        np.testing.assert_allclose(
            np.asarray(found.reward), np.asarray(rewards(weights, x, arm)), atol=1e-13
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_function_space_by_rounds_equals_refitting(getkey, network):
    with jax.enable_x64(True):
        weights, x, arm, reward = setting(getkey, network)
        ratio = jnp.asarray(0.3)
        covariance = nb.FunctionSpace()
        state = filled(covariance, weights, x, arm, reward, ratio)
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        every = jnp.arange(ARMS)
        got = covariance.variance(state, values(weights, at, every), ratio)
        g, new = dense(weights, x, arm), dense(weights, at, every)
        z = 0.3 * jnp.eye(g.shape[1]) + g.T @ g
        want = jnp.einsum("np,pq,nq->n", new, jnp.linalg.inv(z), new)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-8)


def test_relinearized_function_space_equals_one_by_one(getkey):
    with jax.enable_x64(True):
        weights, x, arm, reward = setting(getkey, nb.Perceptron(width=4))
        ratio = jnp.asarray(0.3)
        steps = filled(nb.FunctionSpace(), weights, x, arm, reward, ratio)
        at_once = nb.FunctionSpace(relinearize=True)
        chunk = nc.Chunk(values(weights, x, arm), reward, jnp.ones(ROUNDS))
        empty = jax.tree.map(jnp.zeros_like, steps)
        new = at_once.refit(
            empty, nc.Seen(lambda i: chunk, jnp.asarray(1, jnp.int32)), ratio
        )
        found = values(weights, x[:ARMS] + 1.0, jnp.arange(ARMS))
        a = nb.FunctionSpace().variance(steps, found, ratio)
        b = at_once.variance(new, found, ratio)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-8)


@pytest.mark.parametrize("network", NETWORKS)
def test_last_layer_by_rounds_is_ridge_regression(getkey, network):
    with jax.enable_x64(True):
        weights, x, arm, reward = setting(getkey, network)
        ratio = jnp.asarray(0.3)
        state = filled(nb.LastLayer(), weights, x, arm, reward, ratio)
        g, heads = [], weights[-1].shape[0]
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        for inputs, arms in ((x, arm), (at, jnp.arange(ARMS))):
            last = values(weights, inputs, arms).factors[-1]
            one = jax.nn.one_hot(last.block, heads, dtype=jnp.float64)
            g.append(
                jnp.einsum("nk,ni->nki", one, last.inputs).reshape(len(inputs), -1)
            )
        z = 0.3 * jnp.eye(g[0].shape[1]) + g[0].T @ g[0]
        found = values(weights, at, jnp.arange(ARMS))
        want = g[1] @ jnp.linalg.solve(z, g[0].T @ reward)
        np.testing.assert_allclose(
            np.asarray(nb.LastLayer().mean(state, found)), np.asarray(want), rtol=1e-8
        )
        spread = jnp.sum(g[1] * jnp.linalg.solve(z, g[1].T).T, axis=1)
        np.testing.assert_allclose(
            np.asarray(nb.LastLayer().variance(state, found, ratio)),
            np.asarray(spread),
            rtol=1e-8,
        )


def test_diagonal_is_that_of_the_dense_sum(getkey):
    with jax.enable_x64(True):
        weights, x, arm, reward = setting(getkey, nb.Perceptron(width=4, depth=2))
        ratio = jnp.asarray(0.3)
        state = filled(nb.Diagonal(), weights, x, arm, reward, ratio)
        g, new = dense(weights, x, arm), dense(weights, x[:ARMS], jnp.arange(ARMS))
        want = jnp.sum(new**2 / (0.3 + jnp.sum(g**2, axis=0)), axis=1)
        found = values(weights, x[:ARMS], jnp.arange(ARMS))
        got = nb.Diagonal().variance(state, found, ratio)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-12)


def test_kronecker_is_exact_for_one_round(getkey):
    with jax.enable_x64(True):
        weights, x, _, _ = setting(getkey, nb.Perceptron(depth=0))
        arm, ratio = jnp.zeros(1, jnp.int32), jnp.asarray(0.3)
        covariance = nb.Kronecker()
        state = covariance.init([w.shape for w in weights], ROUNDS)
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
        found = values(weights, x[:1], arm)
        chunk = nc.Chunk(found, jnp.zeros(1), jnp.ones(1))
        state = covariance.refit(state, nc.Seen(lambda i: chunk, jnp.asarray(1)), ratio)
        square = jnp.sum(found.factors[0].inputs ** 2)
        # phi' (lambda I + phi phi')^-1 phi = s / (lambda + s)
        want = float(square / (ratio + square))
        assert float(covariance.variance(state, found, ratio)[0]) == pytest.approx(want)


def test_the_network_is_zero_at_the_start(getkey):
    for network in NETWORKS:
        weights = network.init(FEATURES, ARMS, per_arm=False, key=getkey())
        x = jax.random.normal(getkey(), (5, FEATURES))
        got = rewards(weights, x, jnp.zeros(5, jnp.int32))
        # pairs cancel up to rounding of a sum of order one
        assert float(jnp.max(jnp.abs(got))) < 1e-5


def test_theory_tends_to_its_limit():
    numbers = [jnp.asarray(v, jnp.float32) for v in (3.0, 5.0, 1.0, 1.0)]
    progress = nb.Progress(*numbers, width=10**60, depth=2)
    # without the optimization term: step 1 / (m lambda)
    theory = nb.Theoretical(step=1e-60)(progress)
    limit = nb.InfiniteWidth()(progress)
    # what is left is m^(-1/6) sqrt(ln m) = 1e-10 * 11.8, times about 1e4 at most
    assert float(theory) == pytest.approx(float(limit), rel=1e-4)
    assert float(limit) == pytest.approx(np.sqrt(5 - 2 * np.log(0.1)) + 1, rel=1e-5)


def test_evidence_finds_the_noise(getkey):
    environment = nb.Synthetic(nb.Cosine(), features=4, arms=3, noise=0.5)
    model = nb.NeuralRewards(
        nb.Perceptron(width=20, disjoint=False), nb.LastLayer(), schedule=nb.Every(300)
    )
    found = nb.run_bandit(
        nb.UCB(model), environment, rounds=600, keys=jax.random.split(getkey(), 2)
    )
    spread = found.spread[:, 300:]
    # noise 0.5, of which 300 rounds tell 4 % (1 / sqrt(600)); the network misses a bit
    assert 0.42 < spread.mean() < 0.65
    assert np.isnan(found.spread[:, :300]).all()
    coverage = found.calibration(2)[1]["coverage_90"]["mean"]
    # 600 rewards: standard error 0.012, and the network's own misfit
    assert 0.8 < coverage < 0.97


def test_uniform_regret_is_that_of_chance(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    result = nb.run_bandit(
        nb.Uniform(), environment, rounds=800, keys=jax.random.split(getkey(), 4)
    )
    # 3/4 a round; standard error of the mean of 4 seeds: sqrt(800 * 3/16 / 4) = 6
    assert abs(result.regret.mean - 600) < 5 * 6.2
    assert result.exponent.mean == pytest.approx(1.0, abs=0.1)


def test_learning_beats_chance_and_seeds_pair(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    keys = jax.random.split(getkey(), 5)
    model = nb.NeuralRewards(nb.Perceptron(width=10), training=nb.Adam(rate=1e-2))
    good = nb.run_bandit(nb.Thompson(model), environment, rounds=300, keys=keys)
    chance = nb.run_bandit(nb.Uniform(), environment, rounds=300, keys=keys)
    gap = good.difference(chance)
    # chance loses 3 of 4 rounds; a network that fails to learn shows in one seed
    assert gap.upper < -100
    assert np.median(good.regrets[:, 150:].mean(axis=1)) < 0.1
    document = good.to_dict()
    assert document["schema"] == "ntkuq/bandit/1"
    assert len(document["curve"]) == 200
    assert document["curve"][-1]["mean"] == pytest.approx(good.regret.mean)


def test_delay_is_kept(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(depth=0), nb.LastLayer(), delay=10)
    keys = jax.random.split(getkey(), 2)
    found = nb.run_bandit(nb.UCB(model), environment, rounds=15, keys=keys)
    # nothing is known before round 11: all means are zero
    assert np.all(found.mean[:, :11] == 0)
    assert np.any(found.mean[:, 11:] != 0)


def test_a_killed_run_goes_on(getkey, tmp_path):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(width=10), training=nb.Adam(steps=20))
    keys = jax.random.split(getkey(), 2)
    whole = nb.run_bandit(nb.UCB(model), environment, rounds=120, keys=keys)

    def stop(done, total):
        if done > 50:
            raise KeyboardInterrupt

    options = {"rounds": 120, "keys": keys, "checkpoint": tmp_path / "c.npz"}
    with pytest.raises(KeyboardInterrupt):
        nb.run_bandit(nb.UCB(model), environment, progress=stop, **options)
    seen = []
    again = nb.run_bandit(
        nb.UCB(model), environment, progress=lambda d, t: seen.append(d), **options
    )
    assert seen[0] > 50
    np.testing.assert_array_equal(again.arms, whole.arms)
    np.testing.assert_array_equal(again.mean, whole.mean)
    other = nb.UCB(model, width=2.0)
    with pytest.raises(nq.data.StoreError, match="another"):
        nb.run_bandit(other, environment, **options)


@pytest.mark.parametrize("method", [nq.GP(), nq.Laplace(), nq.DeepEnsemble(size=2)])
def test_any_method_drives_the_loop(getkey, method):
    environment = nb.Rows(np.eye(3), np.eye(3))
    keys = jax.random.split(getkey(), 1)
    found = nb.run_bandit(nb.UCB(method), environment, rounds=40, keys=keys)
    assert np.isnan(found.mean[:, :20]).all()
    assert np.isfinite(found.spread[:, 20:]).all()
    chance = nb.run_bandit(nb.Uniform(), environment, rounds=40, keys=keys)
    assert found.regrets[:, 26:].mean() <= chance.regrets.mean()


def test_the_wheel_pays_where_it_says(getkey):
    wheel = nb.Wheel(0.5)
    drawn = wheel.begin(key=getkey())
    key = getkey()
    offers = jax.vmap(lambda t: wheel.round(drawn, t, key=key))(jnp.arange(2000))
    radius = np.linalg.norm(np.asarray(offers.context), axis=1)
    outside = radius > 0.5
    # a share of 3/4, standard error 0.01
    assert abs(outside.mean() - 0.75) < 0.05
    best = np.asarray(offers.expected).max(axis=1)
    np.testing.assert_allclose(best, np.where(outside, 50.0, 1.2), rtol=1e-6)


def test_bad_input_is_named(getkey):
    with pytest.raises(ValueError, match="NaN"):
        nb.Rows(np.full((2, 2), np.nan), np.eye(2))
    with pytest.raises(ValueError, match="2 arms"):
        nb.Rows(np.zeros((2, 3, 2)), np.eye(2))
    with pytest.raises(ValueError, match="labels"):
        nb.classification(np.eye(2), np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="even width"):
        nb.Perceptron(width=3)
    with pytest.raises(ValueError, match="rounds"):
        nb.run_bandit(
            nb.Uniform(),
            nb.Rows(np.eye(2), np.eye(2)),
            rounds=0,
            keys=jax.random.split(getkey(), 1),
        )
    with pytest.raises(ValueError, match="mushroom"):
        nb.table("iris")


def test_training_lowers_the_loss(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(width=10), nb.Diagonal())
    state = begin(model, environment, 128, key=getkey())
    rows = jnp.arange(128) % 4
    state = state._replace(
        context=jnp.eye(4)[rows],
        arm=rows.astype(jnp.int32),
        reward=(rows % 2).astype(jnp.float32),
    )
    trained = train(model, state, jnp.asarray(128))
    assert float(trained.noise) < 0.1


def test_the_full_covariance_follows_a_new_ratio(getkey):
    with jax.enable_x64(True):
        weights, x, arm, reward = setting(getkey, NETWORKS[0])
        covariance, ratio = nb.FunctionSpace(), jnp.asarray(0.3)
        state = filled(covariance, weights, x, arm, reward, jnp.asarray(5.0))
        # what the evidence does between two rounds
        state = covariance.refit(state, None, ratio)
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        every = jnp.arange(ARMS)
        got = covariance.variance(state, values(weights, at, every), ratio)
        g, new = dense(weights, x, arm), dense(weights, at, every)
        z = 0.3 * jnp.eye(g.shape[1]) + g.T @ g
        want = jnp.einsum("np,pq,nq->n", new, jnp.linalg.inv(z), new)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-8)


def test_a_late_regret_has_an_exponent():
    regrets = np.zeros((2, 1000))
    regrets[0, 200:] = 1.0
    empty = np.zeros((2, 1000))
    result = nb.BanditResult(regrets, empty, empty, empty, empty, empty, 0.0)
    # from none to linear regret: more than linear on logarithms; none at all is none
    assert result.exponents[0] > 1.0
    assert np.isnan(result.exponents[1])


def test_theory_asks_for_a_followed_determinant():
    with pytest.raises(ValueError, match="LastLayer"):
        nb.NeuralRewards(covariance=nb.Diagonal(), coefficient=nb.InfiniteWidth())

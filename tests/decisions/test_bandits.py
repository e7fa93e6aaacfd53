"""Bandits: covariances against dense ones, coefficients, environments, the loop."""

from typing import Any

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
        shapes: Any = [w.shape for w in weights]
        state = covariance.init(shapes, ROUNDS)
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
    model = nb.NeuralRewards(
        nb.Perceptron(depth=0), nb.LastLayer(), feedback=nb.Delayed(10)
    )
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
        nothing: Any = None  # it reads no rounds again
        state = covariance.reweighted(state, nothing, ratio)
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


COVARIANCES = [
    nb.Diagonal(),
    nb.LastLayer(),
    nb.FunctionSpace(),
    nb.Full(),
    nb.FunctionSpace(relinearize=True),
    nb.Kronecker(),
    nb.LowRank(4),
]


def refitted(covariance, weights, x, arm, reward, ratio):
    """The state after all rounds at once."""
    rounds = nc.Chunk(values(weights, x, arm), reward, jnp.ones_like(reward))
    state = covariance.init([w.shape for w in weights], len(x))
    state = jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.float64)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        state,
    )
    return covariance.refit(state, nc.Seen(lambda i: rounds, jnp.asarray(1)), ratio)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_variances_are_the_diagonal_of_the_cross_covariance(getkey, covariance):
    network = NETWORKS[1] if isinstance(covariance, nb.LastLayer) else NETWORKS[0]
    with jax.enable_x64(True):
        ratio = jnp.asarray(0.7)
        weights, x, arm, reward = setting(getkey, network)
        state = refitted(covariance, weights, x, arm, reward, ratio)
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        found = values(weights, at, jnp.arange(ARMS))
        cross = np.asarray(covariance.cross(state, found, ratio))
        variance = np.asarray(covariance.variance(state, found, ratio))
    np.testing.assert_allclose(np.diag(cross), variance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cross, cross.T, atol=1e-12)
    assert np.linalg.eigvalsh(cross).min() > -1e-10


@pytest.mark.parametrize("network", NETWORKS[:2])
@pytest.mark.parametrize("covariance", [nb.FunctionSpace(), nb.Full()])
def test_the_full_cross_covariance_is_the_dense_one(getkey, network, covariance):
    with jax.enable_x64(True):
        ratio = jnp.asarray(0.7)
        weights, x, arm, reward = setting(getkey, network)
        state = filled(covariance, weights, x, arm, reward, ratio)
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        every = jnp.arange(ARMS)
        got = covariance.cross(state, values(weights, at, every), ratio)
        g, new = dense(weights, x, arm), dense(weights, at, every)
        z = 0.7 * jnp.eye(g.shape[1]) + g.T @ g
        want = new @ jnp.linalg.solve(z, new.T)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=1e-10)


@pytest.mark.parametrize("network", NETWORKS[:2])
def test_low_rank_of_full_rank_is_the_full_covariance(getkey, network):
    with jax.enable_x64(True):
        ratio = jnp.asarray(0.7)
        weights, x, arm, reward = setting(getkey, network)
        # 12 rounds have at most 12 directions: a subspace of 12 holds them all
        covariance = nb.LowRank(ROUNDS, iterations=30)
        state = refitted(covariance, weights, x, arm, reward, ratio)
        at = jax.random.normal(getkey(), (ARMS, FEATURES), jnp.float64)
        every = jnp.arange(ARMS)
        got = covariance.variance(state, values(weights, at, every), ratio)
        g, new = dense(weights, x, arm), dense(weights, at, every)
        z = 0.7 * jnp.eye(g.shape[1]) + g.T @ g
        want = jnp.einsum("np,pq,nq->n", new, jnp.linalg.inv(z), new)
        # slowly where the third eigenvalue is near the fourth
        fewer = nb.LowRank(3, iterations=1000)
        low = refitted(fewer, weights, x, arm, reward, ratio)
        above = fewer.variance(low, values(weights, at, every), ratio)
        leading = np.asarray(jnp.linalg.eigvalsh(g @ g.T)[-3:])
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-7)
    # fewer directions claim to know less, never more
    assert np.all(np.asarray(above) >= np.asarray(want) - 1e-12)
    np.testing.assert_allclose(np.asarray(low.values), leading, rtol=1e-4)


@pytest.mark.parametrize("network", NETWORKS[:2])
@pytest.mark.parametrize("covariance", COVARIANCES[:4])
def test_the_determinant_grows_round_by_round(getkey, network, covariance):
    with jax.enable_x64(True):
        ratio = jnp.asarray(0.7)
        weights, x, arm, reward = setting(getkey, network)
        none = jnp.zeros(ROUNDS, jnp.float64)
        rounds = nc.Chunk(values(weights, x, arm), reward, none)
        state = refitted(covariance, weights, x, arm, reward, ratio)
        zero = jax.tree.map(jnp.zeros_like, state)
        # at the start no round counts
        state = covariance.refit(zero, nc.Seen(lambda i: rounds, jnp.asarray(1)), ratio)
        total = 0.0
        for t in range(ROUNDS):
            found = values(weights, x[t][None], arm[t][None])
            variance = covariance.variance(state, found, ratio)
            total += covariance.growth(state, found, variance, ratio)
            state = covariance.add(state, found, reward[t][None], ratio)
        want = covariance.log_determinant(state, ratio)
        dense_g = dense(weights, x, arm)
        full = jnp.linalg.slogdet(jnp.eye(ROUNDS) + dense_g @ dense_g.T / ratio)[1]
    assert float(total) == pytest.approx(float(want), rel=1e-8)
    if isinstance(covariance, nb.FunctionSpace | nb.Full):
        assert float(want) == pytest.approx(float(full), rel=1e-8)


@pytest.mark.parametrize("depth", [1, 2])
def test_in_ntk_parametrization_the_kernel_keeps_its_size(getkey, depth):
    """The tangent kernel at the start: of order one at any width, unlike standard."""
    x = jax.random.normal(getkey(), (40, 8))
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True) * jnp.sqrt(8.0)

    def size(width, parametrization):
        network = nb.Perceptron(width, depth, parametrization=parametrization)
        weights = network.init(8, 1, per_arm=True, key=getkey())
        found = network.values(weights, x, jnp.zeros(40, jnp.int32))
        assert float(jnp.abs(found.reward).max()) < 1e-3
        own = sum(
            jnp.sum(f.delta**2, axis=1) * jnp.sum(f.inputs**2, axis=1)
            for f in found.factors
        )
        return float(jnp.mean(own))

    ntk = nq.models.NTK()
    # means over 40 inputs of averages over units: within a fifth at width 64
    assert size(1024, ntk) == pytest.approx(size(64, ntk), rel=0.4)
    standard = nq.models.Standard()
    assert size(1024, standard) > 8 * size(64, standard)


def test_ntk_factors_are_the_gradient_by_the_weights_that_learn(getkey):
    way = nq.models.NTK(weight_std=1.3, bias_std=0.4)
    network = nb.Perceptron(4, 2, parametrization=way)
    with jax.enable_x64(True):
        weights, x, arm, _ = setting(getkey, network)
        found = network.values(weights, x, arm)

        def one(x, arm):
            value = lambda w: network.rewards(w, x[None], arm[None])[0]  # noqa: E731
            return jax.grad(value)(weights)

        for f, g in zip(found.factors, jax.vmap(one)(x, arm), strict=True):
            got = jnp.einsum("no,ni->noi", f.delta, f.inputs)
            want = g[jnp.arange(ROUNDS), f.block]
            np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_coefficients_of_the_theory_go_with_every_covariance(getkey, covariance):
    model = nb.NeuralRewards(
        nb.Perceptron(width=4), covariance, nb.InfiniteWidth(), nb.Every(20)
    )
    environment = nb.Synthetic(features=3, arms=2)
    keys = jax.random.split(getkey(), 2)
    result = nb.run_bandit(nb.UCB(model), environment, rounds=50, keys=keys)
    assert np.isfinite(result.std).all()


def test_joint_thompson_moves_arms_together(getkey):
    mean = jnp.zeros(3)
    # arms 0 and 1 are one random variable, arm 2 another, and the smaller
    cov = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1e-6]])
    keys = jax.random.split(getkey(), 2000)
    rule = nb.JointThompson(None)
    arms = jax.vmap(lambda k: rule.choose_jointly(mean, cov, key=k))(keys)
    # arm 2 wins where the shared draw is negative: half; independent draws: a quarter
    assert abs(float(jnp.mean(arms == 2)) - 0.5) < 4 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize(
    "policy",
    [
        nb.Uniform(),
        nb.EpsilonGreedy(nb.NeuralRewards(nb.Perceptron(depth=0)), 0.5),
        nb.UCB(nb.NeuralRewards(nb.Perceptron(depth=0))),
        nb.JointThompson(nb.NeuralRewards(nb.Perceptron(depth=0))),
        nb.JointThompson(nb.Refitted(nq.GP(), nb.Every(40), nb.Delayed(5))),
    ],
)
def test_an_arm_that_is_not_offered_is_never_chosen(getkey, policy):
    class Vanishing(nb.Synthetic):
        def round(self, drawn, t, *, key):
            offer = super().round(drawn, t, key=key)
            return offer._replace(offered=jnp.arange(self.arms) != t % self.arms)

    environment = Vanishing(features=2, arms=3)
    result = nb.run_bandit(
        policy, environment, rounds=60, keys=jax.random.split(getkey(), 2)
    )
    assert not np.any(result.arms == np.arange(60) % 3)
    assert np.all(result.regrets >= 0)
    assert all(np.any(result.arms == arm) for arm in range(3))


def test_batched_rewards_are_learned_at_the_end_of_a_batch(getkey):
    environment = nb.Synthetic(features=3, arms=2)
    keys = jax.random.split(getkey(), 1)

    def stds(feedback):
        model = nb.NeuralRewards(
            nb.Perceptron(depth=0),
            coefficient=nb.Constant(1.0),
            schedule=nb.Every(1000),
            feedback=feedback,
        )
        policy = nb.UCB(model, width=0.0)
        return nb.run_bandit(policy, environment, rounds=40, keys=keys)

    batched, at_once = stds(nb.Batched(20)), stds(nb.Immediate())
    # the prior until the batch is known: lambda = 1, so the norm with the bias
    np.testing.assert_allclose(batched.std[0, :20], np.sqrt(2.0), rtol=1e-5)
    assert np.all(at_once.std[0, 1:20] < np.sqrt(2.0) * 0.9999)
    assert np.all(batched.std[0, 20:] < np.sqrt(2.0) * 0.9)


@pytest.mark.parametrize(
    "model", [nb.NeuralRewards(nb.Perceptron(depth=0), schedule=nb.Every(5)), nq.GP()]
)
def test_a_reward_that_is_no_number_stops_the_run_before_it_is_learned(getkey, model):
    class Broken(nb.Synthetic):
        def round(self, drawn, t, *, key):
            offer = super().round(drawn, t, key=key)
            bad = jnp.where(t == 7, jnp.nan, 0.0)
            return offer._replace(expected=offer.expected + bad)

    seen = []
    with pytest.raises(ValueError, match=r"got nan in round 7 of seed 0"):
        nb.run_bandit(
            nb.UCB(model),
            Broken(features=2, arms=2),
            rounds=100_000 if isinstance(model, nb.NeuralRewards) else 40,
            keys=jax.random.split(getkey(), 1),
            progress=lambda done, total: seen.append(done),
        )
    assert all(done <= 5 for done in seen)


def test_the_claims_are_decided_by_paired_seeds():
    def result(slope, spread):
        regrets = slope * np.ones((4, 200)) + spread * np.arange(4)[:, None]
        empty = np.zeros_like(regrets)
        return nb.BanditResult(regrets, empty, empty, empty, empty, empty, 0.0)

    # every seed has its own level; what differs between policies is the same in all
    found = nb.bandit_claims(
        result(0.1, 0.5),
        theory=result(0.4, 0.5),
        greedy=result(0.2, 0.5),
        uniform=result(0.8, 0.5),
    )
    assert [claim.word for claim in found[:2]] == ["refuted", "confirmed"]
    assert found[2].statistic is not None
    # the same regret in every round: linear
    assert found[2].statistic.value == pytest.approx(1.0, abs=1e-6)
    statistic = found[0].statistic
    assert statistic is not None
    assert statistic.value == pytest.approx(60.0)
    assert found[0].values["share of the regret of random arms"] < 1.0
    none = np.zeros((4, 9))
    short, one = nb.BanditResult(none, none, none, none, none, none, 0.0), result(1, 0)
    with pytest.raises(ValueError, match="same keys"):
        nb.bandit_claims(short, theory=one, greedy=one, uniform=one)

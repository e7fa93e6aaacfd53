"""Covariances of bandits against dense ones, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.decisions import bandits as nb
from ntkuq.decisions.bandits import covariances as nc
from ntkuq.decisions.bandits.network import rewards, values
from tests.decisions.bandit_oracle import (
    ARMS,
    COVARIANCES,
    FEATURES,
    NETWORKS,
    ROUNDS,
    dense,
    filled,
    refitted,
    setting,
    variances,
)


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
        want = variances(g, new, 0.3)
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
        want = variances(g, new, 0.3)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-8)


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
        want = variances(g, new, 0.7)
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


@pytest.mark.parametrize(
    "covariance", [nb.LastLayer(), nb.Full(), nb.FunctionSpace(relinearize=True)]
)
def test_collinear_features_and_a_tiny_lambda_are_resolved(getkey, covariance):
    # features in a plane: the Gram matrix is singular, and in float32 lambda is far
    # below the rounding of its largest eigenvalue
    x = 30.0 * jax.random.normal(getkey(), (200, 2))
    x = x @ jax.random.normal(getkey(), (2, FEATURES))
    arm = jax.random.randint(getkey(), (200,), 0, ARMS)
    weights = nb.Perceptron(depth=0).init(FEATURES, ARMS, per_arm=False, key=getkey())
    ratio = jnp.asarray(1e-5)
    chunk = nc.Chunk(values(weights, x, arm), jnp.ones(200), jnp.ones(200))
    state = covariance.init([w.shape for w in weights], 200)
    state = covariance.refit(state, nc.Seen(lambda i: chunk, jnp.asarray(1)), ratio)
    state = covariance.reweighted(
        state, nc.Seen(lambda i: chunk, jnp.asarray(1)), ratio
    )
    used = max(float(state.ratio), 1e-5)
    assert used < 0.5
    found = values(weights, x[:ARMS], jnp.arange(ARMS))
    got = covariance.variance(state, found, ratio)
    one = jax.nn.one_hot(jnp.concatenate([arm, jnp.arange(ARMS)]), ARMS)
    inputs = jnp.concatenate([x, x[:ARMS]])
    phi = np.einsum("nk,ni->nki", one, np.c_[inputs, np.ones(len(inputs))])
    phi = phi.reshape(len(inputs), -1).astype(float)
    gram = phi[:200].T @ phi[:200]
    z = gram + used * np.eye(phi.shape[1])
    want = np.einsum("np,pq,nq->n", phi[200:], np.linalg.inv(z), phi[200:])
    # float32: the largest eigenvalue is 1e5, so that directions without data are
    # wrong by its rounding beside lambda; those with data are right
    np.testing.assert_allclose(np.asarray(got), want, rtol=0.3)
    if not isinstance(covariance, nb.LastLayer):
        determinant = np.linalg.slogdet(z / used)[1]
        got = covariance.log_determinant(state, ratio)
        assert float(got) == pytest.approx(determinant, rel=0.15)
    one = values(weights, x[:1], arm[:1])
    for _ in range(3):
        state = covariance.add(state, one, jnp.ones(1), ratio)
    after = covariance.variance(state, one, ratio)
    assert 0 <= float(after[0]) < 0.3


def test_the_misfit_of_the_last_layer_is_the_dense_one_where_the_fit_is_good(getkey):
    weights = nb.Perceptron(depth=0).init(FEATURES, 1, per_arm=True, key=getkey())
    x = jax.random.normal(getkey(), (500, FEATURES))
    reward = 3.0 + x @ jnp.asarray([1.0, 2.0, 3.0])
    reward += 1e-3 * jax.random.normal(getkey(), (500,))
    found = values(weights, x, jnp.zeros(500, jnp.int32))
    chunk = nc.Chunk(found, reward, jnp.ones(500))
    covariance, ratio = nb.LastLayer(), jnp.asarray(0.01)
    state = covariance.init([w.shape for w in weights], 500)
    state = covariance.refit(state, nc.Seen(lambda i: chunk, jnp.asarray(1)), ratio)
    rss = jnp.sum((covariance.mean(state, found) - reward) ** 2)
    grid = jnp.asarray([1e-4, 0.01, 1.0])
    got = covariance.misfit(state, rss, jnp.zeros(()), grid)
    phi = np.c_[np.asarray(x, float), np.ones(500)]
    want = []
    for r in np.asarray(grid, float):
        gram = phi.T @ phi + r * np.eye(4)
        w = np.linalg.solve(gram, phi.T @ np.asarray(reward, float))
        want.append(np.sum((phi @ w - np.asarray(reward)) ** 2) + r * w @ w)
    # float32: residuals of 1e-3 beside rewards of 3 have 1e-3 of relative rounding; the
    # difference y'y - b'(G + lambda)^-1 b of 1e4 would be wrong by more than it is
    np.testing.assert_allclose(np.asarray(got), want, rtol=0.02)

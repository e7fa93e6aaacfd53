"""Variational inference over function values: its divergence, and what it keeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.continual import SFSVI, RandomPoints
from ntkuq.continual.learned import Learned, point
from ntkuq.continual.strategies.meanfield import with_scales
from ntkuq.continual.strategies.sequential import divergence, values_of
from ntkuq.data import Dataset
from ntkuq.models import BNN, Gaussian, NormalPrior, Train, forward, mlp, parameters
from ntkuq.models.train import At
from tests.continual.problems import classifier, seen, two_tasks


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def double(model):
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )


def begun(bnn):
    model = double(bnn.network.init(jax.random.key(0)))
    return Learned.of(point(bnn.with_model(model)), None, 0)


def scales_like(model, seed):
    rng = np.random.default_rng(seed)
    leaves = jax.tree.leaves(parameters(model))
    return [jnp.asarray(0.5 * rng.normal(size=leaf.shape)) for leaf in leaves]


def kl(m, k, m0, k0):
    """Of two Gaussians, by their covariances."""
    inverse = np.linalg.inv(k0)
    logs = np.linalg.slogdet(k0)[1] - np.linalg.slogdet(k)[1]
    off = m - m0
    return 0.5 * (np.trace(inverse @ k) + off @ inverse @ off - len(m) + logs)


@pytest.mark.parametrize("joint", [True, False])
def test_the_divergence_on_a_linear_network_is_that_of_its_function_values(joint):
    # f = W x + b is Gaussian: the linearization is no approximation
    one, two = (double(eqx.nn.Linear(4, 2, key=jax.random.key(n))) for n in (0, 1))
    x = np.random.default_rng(3).normal(size=(5, 4))
    design = np.concatenate([x, np.ones((5, 1))], axis=1)
    total, found = 0.0, []
    moments = []
    for model, seed in ((one, 5), (two, 6)):
        scales = scales_like(model, seed)
        found.append(values_of(model, scales, jnp.asarray(x), joint=joint))
        weight, bias = (np.exp(2 * np.asarray(s)) for s in scales)
        moments.append((np.asarray(jax.vmap(model)(x)), weight, bias))
    for c in range(2):
        each = []
        for mean, weight, bias in moments:
            kernel = (design * np.append(weight[c], bias[c])) @ design.T
            each += [mean[:, c], kernel if joint else np.diag(np.diag(kernel))]
        total += kl(*each)
    # the jitter, 1.5e-8 of the diagonal, over the smallest eigenvalue of five points
    assert np.isclose(divergence(*found), total, rtol=1e-5 if joint else 1e-12)
    assert np.isclose(divergence(found[0], found[0]), 0.0, atol=1e-12)


def test_variances_are_those_of_the_dense_jacobian():
    model = double(mlp(3, 2, width=5, depth=2)(jax.random.key(0)))
    scales = scales_like(model, 1)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)))
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def f(theta):
        now = eqx.combine(unravel(theta), model)
        return jax.vmap(lambda a: forward(now, a))(x)

    j = np.asarray(jax.jacrev(f)(flat))
    variance = np.exp(2 * np.concatenate([np.ravel(s) for s in scales]))
    want = np.einsum("ncp,p,mcp->cnm", j, variance, j)
    found = values_of(model, scales, x, joint=True)
    assert np.allclose(found.kernel, want, rtol=1e-10)
    alone = values_of(model, scales, x, joint=False)
    assert np.allclose(alone.kernel, np.einsum("cnn->cn", want), rtol=1e-10)
    assert np.allclose(alone.mean, f(flat))


def test_the_penalty_compares_with_the_last_posterior_at_kept_inputs():
    tasks = two_tasks()
    strategy = SFSVI(
        Train(optax.adam(1e-2), epochs=2, batch=40),
        memory=RandomPoints(5),
        context=7,
        joint=True,
        strength=3.0,
        draws=2,
    )
    state = strategy.update(begun(classifier()), tasks[0].train, key=jax.random.key(1))
    now = seen(state.bnn, tasks[1].train)
    penalty = strategy.penalty(state, now, key=jax.random.key(2))
    points = state.memory.more
    assert int(points.count) == 5
    assert points.y is None
    at = At(now.x, now.y, jnp.asarray(40.0), now.bnn.likelihood, jax.random.key(3))
    # nothing at the last posterior itself
    same = with_scales(now.model, state.memory.log_scales)
    assert np.isclose(penalty(same, at), 0.0, atol=1e-9)
    scales = [s + 0.3 for s in state.memory.log_scales]
    x, _, _ = points.draw(7, key=at.key)
    want = divergence(
        values_of(now.model, scales, x, joint=True),
        values_of(now.model, state.memory.log_scales, x, joint=True),
    )
    found = penalty(with_scales(now.model, scales), at)
    assert np.isclose(found, 3.0 * want / 40.0, rtol=1e-9)
    assert float(found) > 1e-3
    after = strategy.update(state, tasks[1].train, key=jax.random.key(4))
    assert int(after.memory.more.count) == 10


def test_on_a_line_it_is_bayesian_regression_where_the_context_determines_it():
    # one weight, no bias: the value at one input is the weight up to a factor, so that
    # the divergence of values is that of weights, however many tasks there are
    bnn = BNN(
        lambda key: eqx.nn.Linear(1, 1, use_bias=False, key=key),
        Gaussian(0.5),
        NormalPrior(2.0),
    )
    state = begun(bnn)
    precision = 2.0
    shift = precision * float(jax.tree.leaves(parameters(state.bnn.model))[0][0, 0])
    strategy = SFSVI(
        Train(1e-2, steps=4_000),
        scale=0.1,
        draws=1,
        memory=RandomPoints(3),
        context=1,
    )
    rng = np.random.default_rng(3)
    for number in range(2):
        x = rng.normal(size=(30, 1))
        y = 0.7 * x[:, 0] + 0.5 * rng.normal(size=30)
        state = strategy.update(state, Dataset(x, y), key=jax.random.key(number))
        precision = precision + x[:, 0] @ x[:, 0] / 0.25
        shift = shift + x[:, 0] @ y / 0.25
        gaussian = state.posterior.gaussian
        # Monte-Carlo noise of the gradients at a rate that decays to zero
        error = abs(float(gaussian.mean[0]) - shift / precision)
        assert error < 0.1 / np.sqrt(precision)
        assert float(gaussian.scale[0]) == pytest.approx(precision**-0.5, rel=0.1)

"""Where a closed form is known: linear networks, and the kernel's recursion."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.continual import (
    VCL,
    KernelRecursion,
    OnlineLaplace,
    drift,
    subspace_overlap,
)
from ntkuq.continual.learned import Learned, point
from ntkuq.data import Dataset
from ntkuq.linearize import Jacobian
from ntkuq.models import (
    BNN,
    Categorical,
    Fixed,
    Gaussian,
    NormalPrior,
    Train,
    forward,
    mlp,
    parameters,
)
from ntkuq.posteriors import Full
from tests.continual.problems import classifier, line, regression


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def begun(bnn, key=0):
    model = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a,
        bnn.network.init(jax.random.key(key)),
    )
    return Learned.of(point(bnn.with_model(model)), None, 0)


def test_online_full_laplace_is_bayesian_regression_on_all_data():
    train = Train(optax.lbfgs(), steps=60)
    strategy = OnlineLaplace(train, structure=Full(), tune=Fixed())
    state, tasks = begun(line()), regression()
    rng = np.random.default_rng(9)
    new = rng.normal(size=(5, 4))
    for number, task in enumerate(tasks):
        state = strategy.update(state, task, key=jax.random.key(number))
        x = np.concatenate([np.asarray(t.x) for t in tasks[: number + 1]])
        y = np.concatenate([np.asarray(t.y) for t in tasks[: number + 1]])

        def ones(a):
            return np.concatenate([a, np.ones((len(a), 1))], axis=1)

        precision = 2.0 * np.eye(5) + ones(x).T @ ones(x) / 0.25
        mean = np.linalg.solve(precision, ones(x).T @ y / 0.25)
        variance = np.sum(ones(new) * np.linalg.solve(precision, ones(new).T).T, 1)
        p = state.predict(new)
        assert np.allclose(p.mean, ones(new) @ mean, rtol=0, atol=1e-9)
        assert np.allclose(p.latent.variance, variance, rtol=1e-9)


def test_the_recursion_is_training_on_the_tasks_in_turn():
    ridge = 0.3
    strategy, state = KernelRecursion(ridge), begun(line())
    theta = np.concatenate(
        [np.ravel(a) for a in jax.tree.leaves(parameters(state.bnn.model))]
    )
    new = np.random.default_rng(9).normal(size=(5, 4))

    def ones(a):
        return np.concatenate([a, np.ones((len(a), 1))], axis=1)

    for task in regression():
        state = strategy.update(state, task, key=jax.random.key(0))
        j = ones(np.asarray(task.x))
        # min |y - J theta|^2 + ridge |theta - theta_before|^2, in weight space
        left = j.T @ j + ridge * np.eye(5)
        theta = theta + np.linalg.solve(left, j.T @ (np.asarray(task.y) - j @ theta))
        assert np.allclose(state.predict(new).mean, ones(new) @ theta, atol=1e-9)


def test_the_recursion_takes_a_network_through_its_kernel():
    bnn = BNN(mlp(4, 1, width=6, depth=1), Gaussian(0.5), NormalPrior(2.0))
    state = begun(bnn)
    first, second = regression(tasks=2)
    strategy = KernelRecursion()
    after = strategy.update(
        strategy.update(state, first, key=jax.random.key(0)),
        second,
        key=jax.random.key(0),
    )
    model = state.bnn.model
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def f(theta, x):
        now = eqx.combine(unravel(theta), model)
        return jax.vmap(lambda a: forward(now, a)[0])(jnp.asarray(x))

    x = [np.asarray(first.x), np.asarray(second.x)]
    new = np.random.default_rng(9).normal(size=(5, 4))
    j = [np.asarray(jax.jacrev(f)(flat, a)) for a in (*x, new)]
    # noise variance over prior variance
    ridge = 0.25 * 2.0
    start = [np.asarray(f(flat, a)) for a in (*x, new)]
    shift = np.zeros(flat.size)
    for k, task in enumerate((first, second)):
        residual = np.asarray(task.y) - start[k] - j[k] @ shift
        kernel = j[k] @ j[k].T + ridge * np.eye(len(residual))
        shift = shift + j[k].T @ np.linalg.solve(kernel, residual)
    assert np.allclose(after.predict(new).mean, start[2] + j[2] @ shift, atol=1e-9)
    labels, other = Dataset(np.ones((2, 6)), [0, 1]), begun(classifier())
    with pytest.raises(TypeError, match="Gaussian likelihood"):
        strategy.update(other, labels, key=jax.random.key(0))


def test_drift_is_exact_where_the_network_is_linear():
    ridge = 0.2
    state = begun(line())
    first, second = regression(tasks=2)
    strategy = KernelRecursion(ridge)
    one = strategy.update(state, first, key=jax.random.key(0))
    two = strategy.update(one, second, key=jax.random.key(0))

    def settled(state):
        """The linear network at the shifted parameters."""
        model = state.bnn.model
        leaves, structure = jax.tree.flatten(parameters(model))
        moved = [
            leaf + s.reshape(leaf.shape)
            for leaf, s in zip(leaves, state.memory, strict=True)
        ]
        return state.bnn.with_model(
            eqx.combine(jax.tree.unflatten(structure, moved), model)
        )

    found = drift(settled(one), settled(two), second, first.x, ridge=ridge)
    assert np.allclose(found.predicted, found.measured, atol=1e-9)
    assert found.r2 == pytest.approx(1.0)
    assert found.slope == pytest.approx(1.0)
    assert np.abs(found.measured).max() > 1e-2
    # with another ridge it is another prediction
    off = drift(settled(one), settled(two), second, first.x, ridge=50.0)
    assert off.r2 < 0.95


def test_subspace_overlap_equals_the_principal_angles(getkey):
    model = mlp(3, 2, width=5, depth=1)(getkey())
    model = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    x, z = jax.random.normal(getkey(), (2, 4, 3))
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def rows(inputs):
        def outputs(theta):
            now = eqx.combine(unravel(theta), model)
            return jax.vmap(lambda a: forward(now, a))(inputs)

        return np.asarray(jax.jacrev(outputs)(flat)).reshape(-1, flat.size)

    at = Jacobian.at(model, x[0])
    for rank in (1, 3):
        v1, v2 = (np.linalg.svd(rows(a))[2][:rank] for a in (x, z))
        want = np.sum(np.linalg.svd(v1 @ v2.T)[1] ** 2) / rank
        found = subspace_overlap(at.factors(x), at.factors(z), rank)
        assert np.isclose(found, want, rtol=1e-8)
    with pytest.raises(ValueError, match="rank from 1 to 8"):
        subspace_overlap(at.factors(x), at.factors(z), 9)


def test_vcl_on_one_weight_is_the_exact_posterior():
    # one weight and no bias: mean field is no restriction
    bnn = BNN(
        lambda key: eqx.nn.Linear(1, 1, use_bias=False, key=key),
        Gaussian(0.5),
        NormalPrior(2.0),
    )
    rng = np.random.default_rng(3)
    tasks = []
    for _ in range(2):
        x = rng.normal(size=(30, 1))
        tasks.append(Dataset(x, 0.7 * x[:, 0] + 0.5 * rng.normal(size=30)))
    strategy = VCL(Train(1e-2, steps=6_000), scale=0.1, draws=1)
    state, precision, shift = begun(bnn), 2.0, 0.0
    for number, task in enumerate(tasks):
        state = strategy.update(state, task, key=jax.random.key(number))
        x, y = np.asarray(task.x)[:, 0], np.asarray(task.y)
        precision, shift = precision + x @ x / 0.25, shift + x @ y / 0.25
        mean = float(state.posterior.gaussian.mean[0])
        scale = float(state.posterior.gaussian.scale[0])
        # Monte-Carlo noise of the gradients at a rate that decays to zero
        assert mean == pytest.approx(shift / precision, abs=0.1 / np.sqrt(precision))
        assert scale == pytest.approx(precision**-0.5, rel=0.1)


def test_vcl_refuses_other_layers():
    def build(key):
        return eqx.nn.Sequential([eqx.nn.Linear(6, 4, key=key), eqx.nn.LayerNorm(4)])

    state = begun(BNN(build, Categorical()))
    with pytest.raises(TypeError, match="Linear layers"):
        VCL().update(state, Dataset(np.ones((2, 6)), [0, 1]), key=jax.random.key(0))

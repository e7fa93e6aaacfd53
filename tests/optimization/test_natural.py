"""Natural-gradient steps against the dense Gauss-Newton step in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.linearize import Jacobian
from ntkuq.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Poisson,
    forward,
    log_likelihoods,
    mlp,
    parameters,
)
from ntkuq.optimization import NaturalGradientState, natural_gradient, natural_step


def targets(likelihood, n: int, outputs: int, key):
    if isinstance(likelihood, Categorical):
        return jax.random.randint(key, (n,), 0, outputs)
    if isinstance(likelihood, Bernoulli):
        return jax.random.randint(key, (n,), 0, 2)
    if isinstance(likelihood, Poisson):
        return jax.random.randint(key, (n,), 0, 5)
    columns = 1 if isinstance(likelihood, HeteroscedasticGaussian) else outputs
    return jax.random.normal(key, (n, columns))


def dense_step(model, likelihood, x, y, damping):
    """(J^T H J + damping I)^-1 J^T r with explicit matrices."""
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def outputs(theta):
        now = eqx.combine(unravel(theta), model)
        return jax.vmap(lambda a: forward(now, a))(x)

    f, j = outputs(flat), jax.jacrev(outputs)(flat)
    h = jax.vmap(likelihood.hessian)(f)
    r = jax.vmap(jax.grad(likelihood.log_prob))(f, y)
    ggn = jnp.einsum("ncp,ncd,ndq->pq", j, h, j)
    return np.linalg.solve(
        np.asarray(ggn) + damping * np.eye(flat.size), np.einsum("ncp,nc->p", j, r)
    )


@pytest.mark.parametrize("n", [5, 60], ids=["function space", "weight space"])
@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        (Gaussian(0.5), 2),
        (HeteroscedasticGaussian(), 2),
        (Categorical(), 3),
        (Bernoulli(), 1),
        (Poisson(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_step_equals_the_dense_gauss_newton_step(likelihood, outputs, n, getkey):
    with jax.enable_x64(True):
        model = mlp(3, outputs, width=5, depth=1)(getkey())
        model = jax.tree.map(
            lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
        )
        x = jax.random.normal(getkey(), (n, 3))
        y = targets(likelihood, n, outputs, getkey())
        params = parameters(model)
        transform = natural_gradient(model, likelihood, damping=0.1)
        run = jax.jit(lambda p: transform.update(p, transform.init(p), p, x=x, y=y))
        updates, state = run(params)
        found = jax.flatten_util.ravel_pytree(updates)[0]
        expected = dense_step(model, likelihood, x, y, 0.1)
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-10)
        assert found.dtype == np.float64
        assert isinstance(state[0], NaturalGradientState)
        assert float(state[0].jitter) == 0.0


def test_both_views_agree(getkey):
    with jax.enable_x64(True):
        model = eqx.nn.Linear(3, 2, key=getkey(), dtype=jnp.float64)
        x = jax.random.normal(getkey(), (10, 3))
        r = jax.random.normal(getkey(), (10, 2))
        weight = natural_step(Jacobian.at(model, x[0]).factors(x), r, 0.3)
        # 8 parameters: the first 3 examples take function space
        few = natural_step(Jacobian.at(model, x[0]).factors(x[:3]), r[:3], 0.3)
        for rows, found in ((10, weight), (3, few)):
            j = np.concatenate(
                [
                    np.asarray(leaf.dense()).reshape(rows * 2, -1)
                    for leaf in Jacobian.at(model, x[0]).factors(x[:rows]).leaves
                ],
                axis=1,
            )
            expected = j.T @ np.linalg.solve(
                j @ j.T + 0.3 * np.eye(2 * rows), np.asarray(r[:rows]).reshape(-1)
            )
            assert np.allclose(np.concatenate(found.step), expected, atol=1e-11)


def test_one_step_solves_a_linear_least_squares_problem(getkey):
    with jax.enable_x64(True):
        model = eqx.nn.Linear(3, 1, key=getkey(), dtype=jnp.float64)
        x = jax.random.normal(getkey(), (30, 3))
        y = jax.random.normal(getkey(), (30, 1))
        transform = natural_gradient(model, Gaussian(), damping=0.0)
        params = parameters(model)
        updates, _ = transform.update(params, transform.init(params), params, x=x, y=y)
        solved = eqx.apply_updates(model, updates)
        design = np.column_stack([x, np.ones(30)])
        best = np.linalg.lstsq(design, np.asarray(y)[:, 0])[0]
        found = [*np.asarray(solved.weight)[0], *np.asarray(solved.bias)]
        assert np.allclose(found, best, atol=1e-10)


def test_it_fits_a_network_in_few_steps_and_chains_with_a_schedule(getkey):
    model = mlp(1, 1, width=20, depth=1)(getkey())
    x = jnp.linspace(-2.0, 2.0, 16)[:, None]
    y = jnp.sin(2.0 * x)
    transform = optax.chain(
        natural_gradient(
            model,
            Gaussian(),
            damping=1e-2,
            learning_rate=optax.constant_schedule(1.0),
        ),
        optax.clip_by_global_norm(100.0),
    )

    @eqx.filter_jit
    def step(model, state):
        params = parameters(model)
        updates, state = transform.update(params, state, params, x=x, y=y)
        return eqx.apply_updates(model, updates), state

    state = transform.init(parameters(model))
    for _ in range(30):
        model, state = step(model, state)
    error = jax.vmap(model)(x) - y
    assert float(jnp.mean(error**2)) < 1e-3 * float(jnp.var(y))


def test_a_small_step_increases_the_likelihood(getkey):
    model = mlp(2, 3, width=6, depth=1)(getkey())
    x = jax.random.normal(getkey(), (8, 2))
    y = jax.random.randint(getkey(), (8,), 0, 3)
    transform = natural_gradient(model, Categorical(), damping=1.0, learning_rate=0.1)
    params = parameters(model)
    updates, _ = transform.update(params, transform.init(params), params, x=x, y=y)
    before = log_likelihoods(Categorical(), model, x, y).sum()
    after = log_likelihoods(
        Categorical(), eqx.apply_updates(model, updates), x, y
    ).sum()
    assert after > before


def test_duplicate_inputs_are_reported(getkey):
    model = mlp(1, 1, width=20, depth=1)(getkey())
    x = jnp.ones((4, 1))
    factors = Jacobian.at(model, x[0]).factors(x)
    found = natural_step(factors, jnp.ones((4, 1)), damping=0.0)
    assert float(found.jitter) > 0.0


def test_what_does_not_fit_is_refused(getkey):
    model = mlp(1, 1, width=4, depth=1)(getkey())
    with pytest.raises(ValueError, match="damping >= 0"):
        natural_gradient(model, Gaussian(), damping=-1.0)
    transform = natural_gradient(model, Gaussian(), damping=1.0)
    state = transform.init(parameters(model))
    x = jnp.ones((4, 1))
    with pytest.raises(ValueError, match="expected the parameters"):
        transform.update(parameters(model), state, x=x, y=x)
    with pytest.raises(ValueError, match="and the examples"):
        transform.update(parameters(model), state, parameters(model), x=x)

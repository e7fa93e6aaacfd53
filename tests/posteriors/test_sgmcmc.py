"""Stochastic-gradient MCMC: exact laws of linear networks, schedules, interruptions."""

import dataclasses
import math

import equinox as eqx
import jax
import numpy as np
import pytest

from ntkuq.data import Batches, Dataset, StoreError
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    NormalPrior,
    Standardize,
    TrainingError,
    cast,
    mlp,
)
from ntkuq.posteriors import load, save
from ntkuq.posteriors.raveled import Raveled, Target
from ntkuq.posteriors.record import LoadError
from ntkuq.posteriors.sgmcmc import SGHMC, SGLD, SGMCMC, method as method_module
from ntkuq.posteriors.sgmcmc.loop import tenths
from ntkuq.posteriors.sgmcmc.schedule import cyclical
from tests.models.test_train import assert_close, small_cnn


KEY = jax.random.key(0)
NOISE, PRECISION = 0.5, 2.0
X = np.random.default_rng(0).standard_normal((20, 2)) @ np.array([[1.0, 0.5], [0, 1]])
Y = X @ [1.0, -2.0] + 0.3 + NOISE * np.random.default_rng(1).standard_normal(20)
DATA = Dataset(X, Y)
BUILD = mlp(2, 1, width=4, depth=1)
SHORT = SGMCMC(SGHMC(), 1e-3, steps=120, cycles=2, samples=5, batch=6)


def linear(dtype=np.float32):
    """A linear network of 3 parameters, trained (whatever that means here)."""
    model = eqx.nn.Linear(2, 1, key=KEY, dtype=dtype)
    return BNN(model, Gaussian(NOISE), NormalPrior(PRECISION))


def closed_form():
    """Precision and mean of Bayesian linear regression."""
    design = np.c_[X, np.ones(len(X))]
    precision = PRECISION * np.eye(3) + design.T @ design / NOISE**2
    return precision, np.linalg.solve(precision, design.T @ Y / NOISE**2)


def raveled(networks):
    leaves = jax.tree.leaves(eqx.filter(networks, eqx.is_inexact_array))
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def law(method, start):
    """Mean and covariance of each draw: the chain is linear with Gaussian noise."""
    precision, mode = closed_form()
    n, p = len(X), len(mode)
    plan, eye, zero = method.schedule(), np.eye(p), np.zeros((p, p))
    # state (theta - mode, velocity)
    mean = np.r_[start - mode, np.zeros(p)]
    cov, found = np.zeros((2 * p, 2 * p)), []
    for share, noisy, row in zip(plan.rates, plan.noisy, plan.rows, strict=True):
        h = method.step_size * share
        tau = method.temperature / n if noisy else 0.0
        push = h * precision / n
        if isinstance(method.kernel, SGLD):
            step = np.block([[eye - push, zero], [zero, eye]])
            noise = np.block([[2 * h * tau * eye, zero], [zero, zero]])
        else:
            a = method.kernel.friction
            step = np.block([[eye - push, (1 - a) * eye], [-push, (1 - a) * eye]])
            noise = 2 * a * h * tau * np.block([[eye, eye], [eye, eye]])
        mean, cov = step @ mean, step @ cov @ step.T + noise
        if row < method.cycles * method.samples:
            found.append((mode + mean[:p], cov[:p, :p]))
    return found


@pytest.mark.parametrize(
    ("kernel", "step_size", "temperature"),
    [(SGLD(), 0.05, 1.0), (SGHMC(0.2), 0.01, 0.5)],
    ids=["langevin", "hamiltonian"],
)
def test_a_linear_network_follows_the_exact_law_of_its_chain(
    kernel, step_size, temperature
):
    chains = 4000
    method = SGMCMC(
        kernel,
        step_size,
        steps=1600,
        cycles=2,
        samples=2,
        chains=chains,
        temperature=temperature,
        exploration=0.25,
    )
    with jax.enable_x64(True):
        bnn = linear(np.float64)
        start = np.asarray(Raveled(bnn.model).vector)
        networks = method.fit(bnn, DATA, key=KEY).networks
    draws = raveled(networks).reshape(chains, 4, 3)
    expected = law(method, start)
    for number, (mean, cov) in enumerate(expected):
        sd = np.sqrt(np.diag(cov))
        z = (draws[:, number].mean(0) - mean) / (sd / math.sqrt(chains))
        assert np.abs(z).max() < 4.5
        # covariances in units of the exact one: entries have variance 1/n or 2/n
        lower = np.linalg.cholesky(cov)
        white = np.linalg.solve(lower, np.cov(draws[:, number].T))
        white = np.linalg.solve(lower, white.T)
        assert np.abs(white - np.eye(3)).max() < 4.5 * math.sqrt(2 / chains)
    # and this law is near the posterior: the start is forgotten, and the step size,
    # which inflates variances by h lambda / 2N < 0.17 at its largest, has shrunk
    precision, mode = closed_form()
    exact = temperature * np.linalg.inv(precision)
    mean, cov = expected[-1]
    sd = np.sqrt(np.diag(exact))
    assert np.abs((mean - mode) / sd).max() < 0.05
    assert np.abs(np.diag(cov) / sd**2 - 1).max() < 0.05


def test_minibatch_gradients_are_unbiased():
    with jax.enable_x64(True):
        bnn = linear(np.float64).prepare(DATA)
        target = Target.of(bnn, DATA)
        theta = target.raveled.vector
        gradient = jax.jit(jax.grad(target.loss))
        whole = gradient(theta, target.x, target.y)
        each = [
            gradient(theta, target.x[n : n + 1], target.y[n : n + 1]) for n in range(20)
        ]
        # a batch of one is each datum with the same probability
        np.testing.assert_allclose(np.mean(each, axis=0), whole, rtol=1e-12)
        precision, mode = closed_form()
        exact = precision @ (np.asarray(theta) - mode) / 20
        np.testing.assert_allclose(whole, exact, rtol=1e-10)
        x, _ = target.draw(20_000, KEY)
    counts = [int((np.asarray(x) == row).all(1).sum()) for row in X]
    # chi-square with 19 degrees of freedom: 99.99 % quantile is 53
    assert sum((c - 1000) ** 2 / 1000 for c in counts) < 53
    assert sum(counts) == 20_000


def test_schedule_is_that_of_the_paper():
    plan = cyclical(200, 2, 5, exploration=0.6)
    k = np.arange(1, 201)
    # Zhang et al. 2020, eq. 1
    rate = 0.5 * (np.cos(np.pi * np.mod(k - 1, 100) / 100) + 1)
    np.testing.assert_allclose(plan.rates, rate, rtol=1e-12)
    np.testing.assert_array_equal(plan.noisy, np.mod(k - 1, 100) / 100 >= 0.6)
    np.testing.assert_array_equal(
        np.flatnonzero(plan.rows < 10) + 1, np.r_[68:101:8, 168:201:8]
    )
    assert plan.rows[plan.rows < 10].tolist() == list(range(10))
    assert sum(length for _, length in tenths(37)) == 37


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_key_same_draws_in_the_dtype_of_the_network(dtype):
    with jax.enable_x64(dtype == np.float64):
        bnn = BNN(cast(BUILD(KEY), dtype), Gaussian(NOISE), scaling=Standardize())
        one, two = (SHORT.fit(bnn, DATA, key=KEY) for _ in range(2))
        other = SHORT.fit(bnn, DATA, key=jax.random.key(1))
        whole = SHORT.fit(bnn, Batches.of(DATA, size=7), key=KEY)
        assert eqx.tree_equal(one.networks, two.networks, whole.networks)
        weight = one.networks.layers[0].weight
        assert weight.dtype == one.predict(X).mean.dtype == dtype
    assert not eqx.tree_equal(one.networks, other.networks)
    assert weight.shape == (2 * 2 * 5, 4, 2)
    assert one.log_marginal_likelihood is None
    assert one.diagnostics["draws"] == 20
    assert len(one.diagnostics["losses"]) == 10
    assert "biased" in one.diagnostics["bias"]


class Killed(Exception):
    pass


def killed_after(count):
    def callback(steps, loss):
        if steps >= count:
            raise Killed

    return callback


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    bnn, method = BNN(BUILD, Gaussian(NOISE), scaling=Standardize()), SHORT
    whole = method.fit(bnn, DATA, key=KEY)
    path, seen = tmp_path / "run.npz", []
    with pytest.raises(Killed):
        method.fit(bnn, DATA, callback=killed_after(60), checkpoint=path, key=KEY)
    again = method.fit(
        bnn, DATA, callback=lambda *at: seen.append(at), checkpoint=path, key=KEY
    )
    assert [steps for steps, _ in seen] == [72, 84, 96, 108, 120]
    assert eqx.tree_equal(whole.networks, again.networks)
    assert whole.diagnostics == again.diagnostics
    with pytest.raises(StoreError, match="another method, problem, data or key"):
        method.fit(bnn, DATA, checkpoint=path, key=jax.random.key(1))
    with (
        jax.enable_x64(True),
        pytest.raises(StoreError, match=r"state of float64.*, came float32"),
    ):
        method.fit(bnn, DATA, checkpoint=path, key=KEY)


def test_new_numbers_compile_nothing(caplog):
    def fit(number, step_size, temperature, key, y):
        bnn = BNN(Network(BUILD), Gaussian(number), NormalPrior(number))
        method = dataclasses.replace(
            SHORT,
            kernel=SGHMC(number / 10),
            step_size=step_size,
            temperature=temperature,
        )
        method.fit(bnn, Dataset(X, y), key=jax.random.key(key))

    fit(1.0, 1e-3, 1.0, 0, Y)
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        fit(2.0, 2e-3, 0.5, 1, Y + 1)
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not names


def test_classes_are_told_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    bnn = BNN(mlp(2, 3, width=8, depth=1), Categorical())
    method = SGMCMC(SGHMC(), 1e-2, steps=2000, cycles=2, samples=5, batch=6)
    assert method.cost(bnn, Dataset(x, y)).flops > method.steps * 6 * bnn.size()
    posterior = method.fit(bnn, Dataset(x, y), key=KEY)
    p = posterior.predict(x)
    shares = np.bincount(y) / len(y)
    constant = np.log(shares)[y].mean()
    assert float(p.log_prob(y).mean()) > constant + 0.5
    assert (np.asarray(p.epistemic) > 0).all()
    assert posterior.diagnostics["R-hat"] > 1
    assert posterior.diagnostics["converged"] is False


def test_convolutions_run_one_chain_after_the_other(monkeypatch):
    rng = np.random.default_rng(0)
    data = Dataset(rng.standard_normal((12, 1, 5, 5)), rng.integers(0, 3, 12))
    method = SGMCMC(SGLD(), 1e-2, steps=20, cycles=1, samples=4, batch=6)
    found = []
    for mapped in (True, False):
        monkeypatch.setattr(method_module, "_grouped_is_slow", lambda _, m=mapped: m)
        posterior = method.fit(BNN(small_cnn, Categorical()), data, key=KEY)
        found.append(posterior.networks)
    assert_close(*found, 1e-4)
    assert posterior.predict(data.x).mean.shape == (12, 3)


def test_too_few_draws_are_not_judged():
    few = dataclasses.replace(SHORT, samples=3)
    alone = dataclasses.replace(SHORT, cycles=1, chains=1)
    for method in (few, alone):
        found = method.fit(BNN(BUILD, Gaussian()), DATA, key=KEY).diagnostics
        assert found["R-hat"] is found["effective draws"] is found["converged"] is None


def test_a_step_that_diverges_is_named():
    method = SGMCMC(SGLD(), 1e6, steps=100, cycles=1)
    with pytest.raises(TrainingError, match=r"after step \d+ of 100; lower the step"):
        method.fit(linear(), DATA, key=KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size > 0, got 0.0"),
        ({"temperature": -1.0}, "temperature > 0, got -1"),
        ({"chains": 0}, "chains=0"),
        ({"batch": 0}, "batch=0"),
        ({"exploration": 1.0}, "below 1, got 1.0"),
        ({"steps": 101}, "take 100 or 104"),
        ({"steps": 40, "samples": 6}, "samples=6 sampling steps in a cycle, got 5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SGMCMC(**options)


@pytest.mark.parametrize("friction", [0.0, 1.5, -0.1, math.nan])
def test_friction_is_a_share(friction):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        SGHMC(friction)


def test_stacked_networks_are_saved_and_read_again(tmp_path):
    x = np.random.default_rng(2).standard_normal((20, 2))
    data = Dataset(x, x[:, 0])
    bnn = BNN(mlp(2, 1, width=3), Gaussian(0.3))
    method = SGMCMC(SGLD(), steps=40, cycles=2, samples=2, batch=5)
    posterior = method.fit(bnn, data, key=jax.random.key(0))
    save(tmp_path / "draws.ntkuq", posterior)
    again = load(tmp_path / "draws.ntkuq", bnn)
    np.testing.assert_array_equal(again.predict(x).mean, posterior.predict(x).mean)
    # and a network of another size is still refused
    with pytest.raises(LoadError, match="build it as it was"):
        load(tmp_path / "draws.ntkuq", BNN(mlp(2, 1, width=4), Gaussian(0.3)))

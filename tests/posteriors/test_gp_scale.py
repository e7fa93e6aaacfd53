"""GP posteriors with every solver: agreement, update, files, programs, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.kernels import (
    RBF,
    Cholesky,
    ComputationAware,
    ConjugateGradients,
    Empirical,
    Inducing,
    NotEnoughMemory,
    Nystrom,
    SubsetOfData,
)
from ntkuq.kernels.solvers import memory
from ntkuq.models import BNN, Bernoulli, Gaussian, Standardize, mlp
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors import estimate, load, save
from ntkuq.posteriors.gp import GP, NTKGP, posteriors


RNG = np.random.default_rng(5)
KEY = jax.random.key(0)
N, FEW = 60, 40


def toy(size=N, outputs=1):
    x = RNG.standard_normal((size, 2))
    signal = np.sin(2 * x[:, :1]) + 0.5 * x[:, 1:]
    return Dataset(x, signal + 0.1 * RNG.standard_normal((size, outputs)))


def network(outputs=1):
    return BNN(mlp(2, outputs, width=4, activation=jax.nn.relu), Gaussian(0.3))


SOLVERS = [
    ConjugateGradients(preconditioner=Nystrom(20)),
    ComputationAware(steps=50, probes=4),
    Inducing(points=N),
    SubsetOfData(points=N),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_solvers_agree_and_their_posteriors_return_from_files(solver, tmp_path):
    """All of them are exact at this size, also two outputs with one system."""
    data, new = toy(outputs=2), RNG.standard_normal((5, 2))
    bnn = network(2)
    kernel = RBF(ard=False)
    exact = GP(kernel, tune=Fixed()).fit(bnn, data, key=KEY)
    posterior = GP(kernel, tune=Fixed(), solver=solver).fit(bnn, data, key=KEY)
    with jax.enable_x64(True):
        one, two = exact.joint(new), posterior.joint(new)
        deviation = float(jnp.sqrt(jnp.max(jnp.diagonal(one.covariance))))
        np.testing.assert_allclose(two.mean, one.mean, atol=1e-6 * deviation)
        np.testing.assert_allclose(
            two.covariance, one.covariance, atol=1e-6 * deviation**2
        )
    se = posterior.diagnostics.get("evidence standard error", 0.0)
    gap = posterior.log_marginal_likelihood - exact.log_marginal_likelihood
    assert abs(gap) < 4 * se + 1e-5
    assert posterior.diagnostics["solver"] == type(solver).__name__
    save(tmp_path / "gp", posterior, data=data)
    again = load(tmp_path / "gp", bnn, data=data)
    np.testing.assert_array_equal(again.predict(new).mean, posterior.predict(new).mean)
    assert again.solver == solver


def test_update_with_another_solver_conditions_anew():
    """The subset is drawn from old and new data alike."""
    method = GP(RBF(ard=False), tune=Fixed(), solver=SubsetOfData(FEW))
    start = method.fit(network(), toy(), key=KEY)
    more = start.update(toy(N), key=KEY)
    assert len(more.data) == 2 * N
    assert more.solution.rows.shape == (FEW,)
    assert (np.asarray(more.solution.rows) >= N).any()
    np.testing.assert_array_equal(more.center, start.center)


def test_update_keeps_center_and_equals_conditioning_on_all():
    first, second = toy(FEW), toy(N - FEW)
    both = Dataset(
        np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    )
    start = NTKGP(tune=Fixed()).fit(network(), first, key=KEY)
    np.testing.assert_allclose(start.center[0], first.y.mean(axis=0), rtol=1e-6)
    again = start.update(second, key=KEY)
    anew = posteriors.condition(
        start.bnn,
        both,
        start.covariance,
        start.params,
        (),
        {},
        solver=Cholesky(),
        key=KEY,
        center=start.center,
    )
    new = RNG.standard_normal((5, 2))
    with jax.enable_x64(True):
        for one, two in zip(again.joint(new), anew.joint(new), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-11)
    assert again.log_marginal_likelihood == pytest.approx(
        anew.log_marginal_likelihood, rel=1e-12
    )
    np.testing.assert_array_equal(again.center, start.center)


def test_a_second_fit_compiles_nothing(caplog):
    """Fitted numbers are arguments of the programs, no part of them."""
    method = GP(RBF(ard=False), tune=MarginalLikelihood(max_steps=5))
    bnn, new = network(), RNG.standard_normal((7, 2))
    bnn = BNN(bnn.network, bnn.likelihood, scaling=Standardize())
    compiled = []
    # a size of its own: nothing is compiled for it before
    for data in (toy(N + 1), toy(N + 1)):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level("WARNING"):
            method.fit(bnn, data, key=KEY).predict(new).mean.block_until_ready()
        messages = [r.getMessage()[:80] for r in caplog.records]
        compiled.append([m for m in messages if "Compiling" in m])
    assert any("_gaussian_marginals" in m for m in compiled[0])
    assert not compiled[1]


def test_chunks_of_new_inputs_give_what_one_gives(monkeypatch):
    data, new = toy(), RNG.standard_normal((11, 2))
    posterior = NTKGP(tune=Fixed()).fit(network(), data, key=KEY)
    whole = posterior.predict(new)
    monkeypatch.setattr(posteriors, "CHUNK_NUMBERS", 4 * N)
    parts = posterior.predict(new)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.epistemic, whole.epistemic, rtol=1e-6)


def test_hyperparameters_are_fitted_on_some_of_the_data():
    data = toy()
    tune = MarginalLikelihood(max_steps=5)
    few = GP(RBF(False), tune=tune, solver=Cholesky(tune_points=30))
    posterior = few.fit(network(), data, key=KEY)
    assert posterior.diagnostics["tuned on"] == 30
    assert posterior.solution.lower.shape == (N, N)
    every = GP(RBF(False), tune=tune).fit(network(), data, key=KEY)
    assert every.diagnostics["tuned on"] == N
    assert posterior.hyperparameters != every.hyperparameters


def test_refusals(monkeypatch):
    data = toy(20)
    with pytest.raises(TypeError, match=r"expected solver=Cholesky\(\) with Empirical"):
        NTKGP(kernel=Empirical(), solver=Inducing()).fit(network(), data, key=KEY)
    labels = Dataset(data.x, (data.y[:, 0] > 0).astype(int))
    classes = BNN(network().network, Bernoulli())
    with pytest.raises(TypeError, match="Bernoulli likelihood, got Inducing"):
        GP(solver=Inducing()).fit(classes, labels, key=KEY)
    few = GP(RBF(False), tune=Fixed(), solver=SubsetOfData(12))
    assert len(few.fit(classes, labels, key=KEY).data) == 12
    uneven = Dataset(data.x, data.y, noise_scale=RNG.uniform(0.1, 1.0, 20))
    with pytest.raises(TypeError, match="noise that differs by datum"):
        GP(tune=Fixed(), solver=Inducing()).fit(network(), uneven, key=KEY)
    monkeypatch.setattr(memory, "available_bytes", lambda: 5e3)
    with pytest.raises(NotEnoughMemory, match=r"20 rows .* ComputationAware\(\)"):
        GP(tune=Fixed()).fit(network(), data, key=KEY)
    with pytest.raises(NotEnoughMemory, match="20 rows and 1 output"):
        GP(tune=Fixed()).fit(classes, labels, key=KEY)


def test_costs_follow_the_solver():
    x = np.zeros((30_000, 2))
    data = Dataset(x, np.arange(30_000.0))
    exact = estimate(GP(tune=Fixed()), network(), data)
    aware = estimate(GP(tune=Fixed(), solver=ComputationAware()), network(), data)
    subset = estimate(GP(tune=Fixed(), solver=SubsetOfData(100)), network(), data)
    assert exact.bytes > 3 * 8 * 30_000**2 > 10 * aware.bytes
    assert subset.bytes < aware.bytes
    assert exact.seconds > aware.seconds > subset.seconds

"""Variational posteriors: closed forms on linear networks, interruptions, refusals."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Batches, Dataset, StoreError
from ntkuq.linearize import EmpiricalFisher
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    NormalPrior,
    Standardize,
    TrainingError,
    mlp,
)
from ntkuq.posteriors import raveled as raveled_module
from ntkuq.posteriors.laplace.structures import (
    EKFAC,
    KFAC,
    Diagonal,
    Full,
    LowRank,
    TooLarge,
    WeightSpace,
)
from ntkuq.posteriors.raveled import Raveled
from ntkuq.posteriors.saving import load, save
from ntkuq.posteriors.variational import Variational
from tests.models.test_train import small_cnn


KEY = jax.random.key(0)
NOISE = 0.5
X = np.random.default_rng(0).standard_normal((20, 2)) @ np.array([[1.0, 0.7], [0, 0.7]])
Y = X @ [1.0, -2.0] + 0.3 + NOISE * np.random.default_rng(1).standard_normal(20)
DATA = Dataset(X, Y)
# one precision for the weights, another for the bias
PRECISIONS = np.array([2.0, 2.0, 0.5])


def linear():
    """A network with 3 parameters, in float64, not trained."""

    def build(key):
        return eqx.nn.Linear(2, 1, key=key, dtype=np.float64)

    shapes = eqx.filter_eval_shape(build, KEY)
    prior = eqx.tree_at(lambda m: (m.weight, m.bias), shapes, (2.0, 0.5))
    return BNN(Network(build), Gaussian(NOISE), NormalPrior(prior))


def closed_form():
    """Precision, mean and log evidence of Bayesian linear regression."""
    design = np.c_[X, np.ones(len(X))]
    precision = np.diag(PRECISIONS) + design.T @ design / NOISE**2
    mean = np.linalg.solve(precision, design.T @ Y / NOISE**2)
    marginal = design / PRECISIONS @ design.T + NOISE**2 * np.eye(len(X))
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    evidence = -0.5 * (log_det + Y @ np.linalg.solve(marginal, Y))
    return precision, mean, evidence


def relative(found, exact):
    """The largest deviation in units of the exact posterior's standard deviations."""
    sd = np.sqrt(np.diag(exact))
    return np.abs((np.asarray(found) - exact) / np.outer(sd, sd)).max()


@pytest.mark.parametrize("structure", [Full(), LowRank(3)], ids=["full", "rank 3"])
def test_with_the_exact_family_it_is_the_exact_posterior(structure, monkeypatch):
    monkeypatch.setattr(raveled_module, "CHUNK", 7)  # the bound adds over chunks
    # where q is exact the gradient has no noise left, and the bound is the evidence
    close = 1e-10
    with jax.enable_x64(True):
        method = Variational(structure, 5e-2, steps=4000)
        posterior = method.fit(linear(), DATA, key=KEY)
        covariance = posterior.gaussian.covariance()
        predicted = posterior.predict(X)
        moments = predicted.mean, predicted.epistemic
    precision, mean, evidence = closed_form()
    exact = np.linalg.inv(precision)
    deviation = (np.asarray(posterior.gaussian.mean) - mean) / np.sqrt(np.diag(exact))
    assert np.abs(deviation).max() < close
    assert relative(covariance, exact) < close
    found = posterior.diagnostics
    assert abs(found["evidence lower bound"] - evidence) < close
    assert found["evidence lower bound standard error"] < close
    assert posterior.log_marginal_likelihood is None
    # losses are minus the bound per datum
    assert abs(20 * found["losses"][-1] + evidence) < 20 * close
    # predictions are those of the draws
    f = np.c_[X, np.ones(20)] @ np.asarray(posterior.draws).T
    np.testing.assert_allclose(moments[0], f.mean(1), rtol=1e-9)
    np.testing.assert_allclose(moments[1], f.var(1), rtol=1e-8)


def test_a_diagonal_is_the_mean_field_solution():
    with jax.enable_x64(True):
        method = Variational(Diagonal(), 2e-2, steps=3000, particles=16, samples=2000)
        posterior = method.fit(linear(), DATA, key=KEY)
    precision, mean, evidence = closed_form()
    scale = np.diag(precision) ** -0.5
    marginal = np.sqrt(np.diag(np.linalg.inv(precision)))
    assert (marginal / scale).max() > 1.5  # so that the two can be told apart
    # gradient noise is left where q is not exact; over keys it moves the mean by
    # about 0.01 scale and the scale by about 0.002
    deviation = (np.asarray(posterior.gaussian.mean) - mean) / scale
    assert np.abs(deviation).max() < 0.05
    np.testing.assert_allclose(posterior.gaussian.scale, scale, rtol=0.01)
    # KL(N(m, diag(P)^-1) || N(m, P^-1))
    _, log_det = np.linalg.slogdet(precision)
    gap = 0.5 * (np.sum(np.log(np.diag(precision))) - log_det)
    found = posterior.diagnostics
    se = found["evidence lower bound standard error"]
    assert se < 0.1 * gap
    assert abs(found["evidence lower bound"] - (evidence - gap)) < 4 * se


def test_minibatches_weigh_the_prior_rightly():
    # an error of the factor N/batch would leave the posterior of 5 data, not of 20
    with jax.enable_x64(True):
        method = Variational(Full(), 1e-2, steps=6000, batch=5, particles=4)
        posterior = method.fit(linear(), DATA, key=KEY)
        covariance = np.asarray(posterior.gaussian.covariance())
    precision, mean, _ = closed_form()
    exact = np.linalg.inv(precision)
    deviation = (np.asarray(posterior.gaussian.mean) - mean) / np.sqrt(np.diag(exact))
    assert np.abs(deviation).max() < 0.3
    np.testing.assert_allclose(np.diag(covariance), np.diag(exact), rtol=0.2)


BUILD = mlp(2, 1, width=4, depth=1)
FAST = {"steps": 50, "batch": 6, "samples": 5}


@pytest.mark.parametrize("structure", [Diagonal(), LowRank(2), Full()], ids=str)
def test_sampling_saving_and_keys(structure, tmp_path):
    bnn = BNN(Network(BUILD, BUILD(KEY)), Gaussian(NOISE), scaling=Standardize())
    method = Variational(structure, **FAST)
    one = method.fit(bnn, DATA, key=KEY)
    two = method.fit(bnn, Batches.of(DATA, size=7), key=KEY)
    other = method.fit(bnn, DATA, key=jax.random.key(1))
    assert eqx.tree_equal(one.gaussian, two.gaussian)
    assert eqx.tree_equal(one.draws, two.draws)
    assert not eqx.tree_equal(one.gaussian, other.gaussian)
    for leaf in jax.tree.leaves((one.gaussian, one.draws, one.predict(X))):
        assert not eqx.is_inexact_array(leaf) or leaf.dtype == jnp.float32
    # fresh networks have the mean and covariance of q
    n = 20_000
    drawn = one.sample(KEY, n)
    assert drawn.layers[0].weight.shape == (n, 4, 2)
    thetas = np.asarray(one.gaussian.sample(KEY, n), np.float64)
    leaves = jax.tree.leaves(eqx.filter(drawn, eqx.is_inexact_array))
    flat = np.concatenate([leaf.reshape(n, -1) for leaf in leaves], axis=1)
    # one draw compiled, one not: they round differently
    np.testing.assert_allclose(flat, thetas, rtol=0, atol=3e-7)
    covariance = np.asarray(one.gaussian.covariance(), np.float64)
    sd = np.sqrt(np.diag(covariance))
    z = (thetas.mean(0) - np.asarray(one.gaussian.mean)) / sd * math.sqrt(n)
    assert np.abs(z).max() < 4.5
    # 17 x 17 entries, each with variance at most 2/n
    assert relative(np.cov(thetas.T), covariance) < 4.5 * math.sqrt(2 / n)
    # the density is that of this mean and covariance
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    apart = thetas[:3] - np.asarray(one.gaussian.mean)
    squares = np.einsum("si,ij,sj->s", apart, np.linalg.inv(covariance), apart)
    np.testing.assert_allclose(
        one.gaussian.distribution().log_prob(jnp.asarray(thetas[:3], jnp.float32)),
        -0.5 * (log_det + squares),
        rtol=1e-3,
    )
    functions = one.sample_functions(KEY, 3)
    assert functions(X).shape == (3, 20)
    np.testing.assert_array_equal(functions(X), functions(X))
    path = tmp_path / "posterior"
    save(path, one, data=DATA)
    again = load(path, bnn, data=DATA)
    assert bool(eqx.tree_equal(one, again, typematch=True))
    np.testing.assert_array_equal(one.predict(X).mean, again.predict(X).mean)


def test_it_starts_at_the_trained_network():
    bnn = BNN(Network(BUILD, BUILD(KEY)), Gaussian(NOISE))
    still = Variational(optimizer=1e-12, initial_scale=0.02, **FAST)
    found = still.fit(bnn, DATA, key=KEY).gaussian
    np.testing.assert_allclose(found.mean, Raveled(bnn.model).vector, rtol=1e-6)
    np.testing.assert_allclose(found.scale, np.full(found.mean.size, 0.02), rtol=1e-5)
    # but no wider than the prior, and where nothing is trained, at a new network
    narrow = BNN(BUILD, Gaussian(NOISE), NormalPrior(1e6))
    found = still.fit(narrow, DATA, key=KEY).gaussian
    np.testing.assert_allclose(found.scale, np.full(found.mean.size, 1e-3), rtol=1e-5)
    assert np.abs(found.mean - Raveled(bnn.model).vector).max() > 0.1


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    bnn = BNN(BUILD, Gaussian(NOISE), scaling=Standardize())
    method = Variational(LowRank(2), **FAST)
    whole, path, seen = method.fit(bnn, DATA, key=KEY), tmp_path / "run.npz", []

    def kill(steps, loss):
        seen.append((steps, loss))
        if steps == 25:
            raise Killed

    with pytest.raises(Killed):
        method.fit(bnn, DATA, callback=kill, checkpoint=path, key=KEY)
    again = method.fit(
        bnn, DATA, callback=lambda *at: seen.append(at), checkpoint=path, key=KEY
    )
    assert seen == list(zip(range(5, 51, 5), whole.diagnostics["losses"], strict=True))
    assert eqx.tree_equal(whole.gaussian, again.gaussian)
    assert eqx.tree_equal(whole.draws, again.draws)
    assert whole.diagnostics == again.diagnostics
    with pytest.raises(StoreError, match="another method, problem, data or key"):
        method.fit(bnn, Dataset(X, Y + 1), checkpoint=path, key=KEY)


def test_new_numbers_compile_nothing(caplog):
    def fit(number, key):
        bnn = BNN(
            Network(BUILD, BUILD(jax.random.key(key))),
            Gaussian(number),
            NormalPrior(number),
        )
        method = Variational(
            Diagonal(), number / 100, initial_scale=number / 50, **FAST
        )
        method.fit(bnn, Dataset(X, Y * number), key=jax.random.key(key))

    fit(1.0, 0)
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        fit(2.0, 1)
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not names


def test_classes_are_told_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    bnn = BNN(mlp(2, 3, width=8, depth=1), Categorical())
    method = Variational(optimizer=optax.adam(2e-2), steps=1000, batch=20)
    assert method.cost(bnn, Dataset(x, y)).flops > method.steps * 20 * bnn.size()
    p = method.fit(bnn, Dataset(x, y), key=KEY).predict(x)
    constant = np.log(np.bincount(y) / len(y))[y].mean()
    assert float(p.log_prob(y).mean()) > constant + 0.4
    assert (np.asarray(p.epistemic) > 0).all()


def test_networks_of_all_kinds():
    rng = np.random.default_rng(0)
    images = Dataset(rng.standard_normal((12, 1, 5, 5)), rng.integers(0, 3, 12))
    method = Variational(**FAST)
    posterior = method.fit(BNN(small_cnn, Categorical()), images, key=KEY)
    assert posterior.predict(images.x).mean.shape == (12, 3)
    # a float32 network where the default is float64
    model = BUILD(KEY)
    with jax.enable_x64(True):
        method = Variational(Full(), **FAST)
        posterior = method.fit(BNN(model, Gaussian()), DATA, key=KEY)
        assert posterior.gaussian.lower.dtype == posterior.draws.dtype == np.float32


class Exploding(eqx.Module):
    """A network whose output grows with the square of a parameter that SGD blows up."""

    w: jax.Array

    def __call__(self, x):
        return self.w * self.w * x[:1]


def test_a_step_that_diverges_is_named():
    bnn = BNN(lambda key: Exploding(jnp.ones(1)), Gaussian())
    with pytest.raises(TrainingError, match=r"after step \d+ of 50; lower the step"):
        Variational(optimizer=optax.sgd(100.0), steps=50).fit(bnn, DATA, key=KEY)


def test_bad_options_are_refused():
    for structure in (KFAC(), EKFAC()):
        name = type(structure).__name__
        with pytest.raises(TypeError, match=rf"got {name}\(\).*use Laplace"):
            Variational(structure)
    for structure in (Full(WeightSpace()), Diagonal(EmpiricalFisher())):
        with pytest.raises(ValueError, match="without view and fisher"):
            Variational(structure)
    for options, message in (
        ({"optimizer": 0.0}, "learning rate > 0, got 0.0"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"particles": 0}, "particles=0"),
        ({"samples": 1}, "samples >= 2, got 1"),
        ({"initial_scale": -1.0}, "initial_scale > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Variational(**options)
    wide = BNN(mlp(2, 1, width=100, depth=2), Gaussian())
    with pytest.raises(TooLarge, match=r"8,192 parameters, got 10,501.*LowRank"):
        Variational(Full()).fit(wide, DATA, key=KEY)

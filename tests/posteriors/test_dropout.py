"""Monte-Carlo dropout: closed forms, masks that belong to functions, refusals."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Batches, Dataset, StoreError
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    NormalPrior,
    Standardize,
    Train,
    TrainingError,
    mlp,
)
from ntkuq.models.train import loop
from ntkuq.models.train.convolutions import slow_in_loops
from ntkuq.posteriors import load, save
from ntkuq.posteriors.dropout import MCDropout


KEY = jax.random.key(4)
RNG = np.random.default_rng(4)
X = RNG.standard_normal((40, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.3 + 0.5 * RNG.standard_normal(40)
DATA = Dataset(X, Y)
P, NOISE, PRECISION = 0.4, 0.5, 2.0


class Dropped(eqx.Module):
    """A linear layer after dropout."""

    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear

    def __init__(self, p, *, key, dtype=None):
        self.dropout = eqx.nn.Dropout(p)
        self.linear = eqx.nn.Linear(3, 1, key=key, dtype=dtype)

    def __call__(self, x, key=None):
        return self.linear(self.dropout(x, key=key))


def linear(key):
    return Dropped(P, key=key)


def deep(outputs):
    def build(key):
        first, last = jax.random.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, 16, key=first),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Dropout(0.2),
                eqx.nn.Linear(16, outputs, key=last),
            ]
        )

    return build


SHORT = MCDropout(Train(1e-2, steps=100, batch=8), samples=10)
PROBLEM = BNN(Network(deep(1)), Gaussian(NOISE), NormalPrior(0.1))


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_a_linear_layer_has_the_closed_form(wide):
    r"""f = b + sum_i w_i x_i m_i / (1 - p): variance p/(1-p) sum_i w_i^2 x_i^2."""
    count = 3000
    with jax.enable_x64(wide):
        model = linear(KEY)
        bnn = BNN(model, Gaussian(NOISE))
        posterior = MCDropout(None, samples=count).fit(bnn, DATA, key=KEY)
        p = posterior.predict(X[:9])
        functions = posterior.sample_functions(jax.random.key(9), count)
        values = np.asarray(functions(X[:9]))
        predicted, epistemic, aleatoric = map(
            np.asarray, (p.mean, p.epistemic, p.aleatoric)
        )
        line = np.asarray(functions(np.stack([X[0], X[1], X[0] + X[1], 0 * X[0]])))
    assert values.dtype == (np.float64 if wide else np.float32)
    parts = (X[:9] * np.ravel(model.linear.weight)) ** 2
    variance = P / (1 - P) * parts.sum(1)
    mean = X[:9] @ np.ravel(model.linear.weight) + np.ravel(model.linear.bias)
    # m / (1 - p) has the fourth cumulant q (1 - 6 q (1 - q)) p / q^4, q = 1 - p
    q = 1 - P
    fourth = P * q * (1 - 6 * P * q) / q**4 * (parts**2).sum(1)
    error = np.sqrt((fourth + 2 * variance**2) / count)
    draws = (np.ravel(predicted), np.ravel(epistemic)), (values.mean(0), values.var(0))
    for found_mean, found_variance in draws:
        z = (found_mean - mean) / np.sqrt(variance / count)
        assert np.abs(z).max() < 4.5
        assert (np.abs(found_variance - variance) < 4.5 * error).all()
        # sharp enough to tell p/(1-p) from p(1-p) or 1/(1-p)
        assert (4.5 * error < 0.3 * variance).all()
    np.testing.assert_allclose(aleatoric, NOISE**2, rtol=1e-5)
    # one mask for all inputs: functions are linear in x
    residual = line[:, 2] + line[:, 3] - line[:, 0] - line[:, 1]
    np.testing.assert_allclose(residual, 0, atol=1e-12 if wide else 1e-5)


def test_training_with_dropout_is_ridge_regression():
    r"""The expected loss has the penalty p/(1-p) sum_i w_i^2 E[x_i^2] in closed form.

    Wager, Wang, Liang 2013 (arXiv 1307.1493): for a linear layer, dropout adds the
    variance of its noise; weight decay is the prior.
    """
    train = Train(optax.sgd(optax.polynomial_schedule(0.02, 1e-4, 1, 4000)), steps=4000)
    bnn = BNN(linear, Gaussian(NOISE), NormalPrior(PRECISION))
    found = MCDropout(train).fit(bnn, DATA, key=KEY).bnn.model.linear
    design = np.c_[X, np.ones(40)]
    gram = design.T @ design / NOISE**2 + PRECISION * np.eye(4)
    gram += P / (1 - P) / NOISE**2 * np.diag([*(X**2).sum(0), 0.0])
    exact = np.linalg.solve(gram, design.T @ Y / NOISE**2)
    weights = np.r_[np.ravel(found.weight), np.ravel(found.bias)]
    plain = np.linalg.solve(
        design.T @ design / NOISE**2 + PRECISION * np.eye(4), design.T @ Y / NOISE**2
    )
    # iterates at a rate that falls to zero: far nearer than dropout's shift is
    shift = np.linalg.norm(plain - exact)
    assert np.linalg.norm(weights - exact) < 0.1 * shift


@pytest.fixture(scope="module")
def posterior():
    bnn = PROBLEM._replace(scaling=Standardize())
    return SHORT.fit(bnn, DATA, key=KEY)


def test_predictions_average_fixed_masks(posterior):
    p = posterior.predict(X)
    np.testing.assert_array_equal(p.mean, posterior.predict(X).mean)
    # a part of the inputs has the same masks
    np.testing.assert_allclose(p.mean[:5], posterior.predict(X[:5]).mean, rtol=1e-5)
    # by hand, network by network
    network = eqx.nn.inference_mode(posterior.bnn.model, value=False)
    inputs = posterior.bnn.inputs(X)
    values = np.stack(
        [jax.vmap(lambda x, k=k: network(x, key=k))(inputs) for k in posterior.keys]
    )
    values = values[..., 0] * Y.std() + Y.mean()
    np.testing.assert_allclose(np.ravel(p.mean), values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.ravel(p.epistemic), values.var(0), rtol=1e-3)
    assert np.ravel(p.epistemic).min() > 1e-3
    functions = posterior.sample_functions(KEY, 4)
    np.testing.assert_array_equal(functions(X), functions(X))
    np.testing.assert_allclose(functions[2](X), functions(X)[2], rtol=1e-5)
    assert posterior.networks.network.layers[0].weight.shape == (10, 16, 3)
    assert len(posterior.diagnostics["losses"]) == 10


def test_the_network_inside_has_dropout_off(posterior):
    x = posterior.bnn.inputs(X)
    one, two = (jax.vmap(posterior.bnn.model)(x) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_dropout_is_on_while_training():
    quiet = BNN(Network(deep(1)), Gaussian(NOISE), NormalPrior(0.1)).prepare(DATA)
    init, steps, _ = jax.random.split(KEY, 3)
    model = quiet.network.init(init)
    without = SHORT.train.fit(quiet, model, DATA, key=steps).model
    found = SHORT.fit(PROBLEM, DATA, key=KEY).bnn.model
    away = np.abs(found.layers[0].weight - without.layers[0].weight)
    assert away.max() > 1e-3


def test_it_is_saved_and_loaded(posterior, tmp_path):
    save(tmp_path / "dropout.ntkuq", posterior, data=DATA)
    for like in (posterior.bnn, PROBLEM):
        again = load(tmp_path / "dropout.ntkuq", like, data=DATA)
        one, two = posterior.predict(X), again.predict(X)
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.epistemic, two.epistemic)
        functions = again.sample_functions(KEY, 3)(X)
        np.testing.assert_array_equal(functions, posterior.sample_functions(KEY, 3)(X))


def test_classes_from_batches():
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    bnn = BNN(deep(3), Categorical(), NormalPrior(0.1))
    method = MCDropout(Train(3e-2, steps=150))
    p = method.fit(bnn, Batches.of(Dataset(X, y), size=10), key=KEY).predict(X)
    constant = np.log(np.bincount(y) / len(y))[y].mean()
    assert float(p.log_prob(y).mean()) > constant + 0.4
    assert (np.asarray(p.epistemic) > 0).all()
    assert 0 < method.cost(bnn, Dataset(X, y)).flops < 1e9


def test_convolutions_with_dropout_on_are_found():
    """The loop is chosen by tracing the network, which has no key then."""
    layers = [eqx.nn.Conv2d(1, 2, 3, key=KEY), eqx.nn.Dropout(0.5)]
    found = slow_in_loops(eqx.nn.Sequential(layers), jnp.zeros((4, 1, 5, 5)))
    assert found == (jax.default_backend() == "cpu")


class Kill(Exception):
    pass


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path, monkeypatch, posterior):
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    bnn = PROBLEM._replace(scaling=Standardize())
    path = tmp_path / "fit.npz"
    again = []

    def kill(steps, loss):
        if steps == 40:
            raise Kill

    with pytest.raises(Kill):
        SHORT.fit(bnn, DATA, callback=kill, checkpoint=path, key=KEY)
    with pytest.raises(StoreError, match="another method, problem, data or key"):
        SHORT.fit(bnn, DATA, checkpoint=path, key=jax.random.key(9))
    resumed = SHORT.fit(
        bnn, DATA, callback=lambda *at: again.append(at[0]), checkpoint=path, key=KEY
    )
    assert again == [*range(40, 101, 10)]
    np.testing.assert_array_equal(resumed.predict(X).mean, posterior.predict(X).mean)
    assert resumed.diagnostics == posterior.diagnostics
    # finished, it is only read
    again.clear()
    SHORT.fit(
        bnn, DATA, callback=lambda *at: again.append(at[0]), checkpoint=path, key=KEY
    )
    assert again == [100]


def test_new_numbers_compile_nothing(caplog):
    def fit(number, rate, key, y):
        bnn = BNN(Network(deep(1)), Gaussian(number), NormalPrior(number))
        method = dataclasses.replace(SHORT, train=Train(rate, steps=100, batch=8))
        method.fit(bnn, Dataset(X, y), key=jax.random.key(key)).predict(X)

    fit(1.0, 1e-3, 0, Y)
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        fit(2.0, 2e-3, 1, Y + 1)
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not names


class Deaf(eqx.Module):
    """Takes no key."""

    linear: eqx.nn.Linear

    def __call__(self, x):
        return self.linear(x)


class Forgetful(eqx.Module):
    """Takes a key that does not reach its dropout."""

    inner: Dropped

    def __call__(self, x, key=None):
        return self.inner(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (mlp(3, 1), r"expected a network with dropout: eqx.nn.Dropout\(p\)"),
        (lambda key: eqx.nn.MLP(3, 1, 4, 1, key=key), "draws nothing by its key"),
        (lambda key: Dropped(0.0, key=key), "draws nothing by its key"),
        (lambda key: Deaf(eqx.nn.Linear(3, 1, key=key)), "__call__ takes no key"),
        (lambda key: Forgetful(linear(key)), "Forgetful raised .* Hand the key on"),
    ],
    ids=["mlp", "no dropout", "p = 0", "no key", "key is lost"],
)
def test_networks_without_dropout_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        SHORT.fit(BNN(build, Gaussian()), DATA, key=KEY)
    with pytest.raises(ValueError, match=message):
        MCDropout(None).fit(BNN(build(KEY), Gaussian()), DATA, key=KEY)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="samples >= 2"):
        MCDropout(samples=1)
    with pytest.raises(ValueError, match="needs a builder"):
        SHORT.fit(BNN(linear(KEY), Gaussian()), DATA, key=KEY)
    with pytest.raises(ValueError, match="expected a trained network"):
        MCDropout(None).fit(PROBLEM, DATA, key=KEY)
    wild = MCDropout(Train(optax.sgd(1e9), steps=20))
    with pytest.raises(TrainingError, match=r"not finite after step \d+ of 20"):
        wild.fit(BNN(linear, Gaussian(NOISE)), DATA, key=KEY)
    assert math.isfinite(MCDropout(None).cost(PROBLEM, DATA).flops)

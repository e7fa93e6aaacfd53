"""MAP and deep ensembles: training, evidence between rounds, predictions."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Dataset
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    Standardize,
    Train,
    TrainingError,
    mlp,
)
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors.ensemble import DeepEnsemble
from ntkuq.posteriors.map import MAP


KEY = jax.random.key(0)
SHORT = Train(1e-2, steps=40)


def data(n=30, outputs=None):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 2))
    y = np.sin(x[:, 0]) + 0.1 * rng.standard_normal(n)
    return Dataset(x, y if outputs is None else np.stack([y, -y], axis=1))


def problem(**options):
    build = mlp(2, 1, width=5, depth=1)
    return BNN(Network(build), Gaussian(), scaling=Standardize(), **options)


def compiled(caplog):
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    return [n for n in names if "_chunk" in n], names


def test_training_compiles_once_over_rounds_and_members(caplog):
    train = Train(1e-2, steps=30)
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        first = MAP(train, rounds=3).fit(problem(), data(), key=KEY)
        chunks, _ = compiled(caplog)
        assert len(chunks) <= 2  # one, and one for a longer last chunk
        caplog.clear()
        again = MAP(train, rounds=3).fit(problem(), data(), key=KEY)
        DeepEnsemble(3, train).fit(first.bnn, data(), key=KEY)
        chunks, _ = compiled(caplog)
        assert not chunks
    # the same key gives the same network, another key another
    assert eqx.tree_equal(first.bnn.model, again.bnn.model)
    other = MAP(train, rounds=1).fit(problem(), data(), key=jax.random.key(1))
    assert not eqx.tree_equal(first.bnn.model, other.bnn.model)


def test_rounds_set_prior_and_noise_and_count_on():
    seen = []
    posterior = MAP(SHORT, rounds=2).fit(
        problem(), data(), callback=lambda *at: seen.append(at), key=KEY
    )
    steps = [step for step, _ in seen]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2 * SHORT.steps
    assert all(math.isfinite(loss) for _, loss in seen)
    names = [h.name for h in posterior.hyperparameters]
    assert names == ["prior precision", "noise scale"]
    assert posterior.bnn.likelihood.scale != 1.0
    assert posterior.hyperparameters[0].value == posterior.bnn.prior.precision
    assert math.isfinite(posterior.log_marginal_likelihood)
    assert len(posterior.diagnostics["losses"]) == len(seen)


def test_fixed_trains_once_and_keeps_everything():
    seen = []
    posterior = MAP(SHORT, tune=Fixed(), rounds=5).fit(
        problem(), data(), callback=lambda *at: seen.append(at), key=KEY
    )
    assert seen[-1][0] == SHORT.steps
    assert posterior.bnn.likelihood.scale == 1.0
    assert posterior.bnn.prior.precision == 1.0


def test_training_lowers_minus_log_posterior_to_its_minimum():
    # a linear network has the ridge solution
    def build(key):
        return eqx.nn.Linear(2, 1, use_bias=False, key=key)

    with jax.enable_x64(True):
        d = data()
        bnn = BNN(build, Gaussian(0.5))
        train = Train(5e-2, steps=1500)
        posterior = MAP(train, tune=Fixed()).fit(bnn, d, key=KEY)
        expected = np.linalg.solve(d.x.T @ d.x / 0.25 + np.eye(2), d.x.T @ d.y / 0.25)
        got = posterior.bnn.model.weight[0]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        assert posterior.bnn.dtype == np.float64
        assert posterior.predict(d.x).mean.dtype == jnp.float64


def test_predictions_are_the_network_with_its_noise():
    d = data(outputs=2)
    bnn = BNN(Network(mlp(2, 2, width=5)), Gaussian(0.3), scaling=Standardize())
    posterior = MAP(SHORT, tune=Fixed()).fit(bnn, d, key=KEY)
    p = posterior.predict(d.x)
    x = (d.x - d.x.mean(0)) / d.x.std(0)
    f = jax.vmap(posterior.bnn.model)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(p.mean, f * d.y.std(0) + d.y.mean(0), rtol=1e-5)
    np.testing.assert_allclose(p.aleatoric[0], (0.3 * d.y.std(0)) ** 2, rtol=1e-5)
    assert (np.asarray(p.epistemic) == 0).all()
    for leaf in jax.tree.leaves((p, posterior.bnn.model)):
        assert not eqx.is_inexact_array(leaf) or leaf.dtype == jnp.float32
    stacked = posterior.sample(KEY, 3)
    assert stacked.layers[0].weight.shape == (3, 5, 2)


def test_a_trained_network_is_kept():
    trained = mlp(2, 1, width=5)(KEY)
    kept = MAP(train=None, tune=Fixed()).fit(BNN(trained, Gaussian()), data(), key=KEY)
    assert eqx.tree_equal(kept.bnn.model, trained)


def test_batches_and_any_optimizer():
    train = Train(optax.sgd(1e-2), steps=25, batch=7)
    posterior = MAP(train, tune=Fixed()).fit(problem(), data(), key=KEY)
    assert math.isfinite(posterior.diagnostics["losses"][-1])


def test_classes():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 2))
    d = Dataset(x, (x[:, 0] > 0).astype(int))
    bnn = BNN(Network(mlp(2, 3, width=5, depth=1)), Categorical())
    posterior = MAP(SHORT, rounds=2).fit(bnn, d, key=KEY)
    p = posterior.predict(x)
    np.testing.assert_allclose(np.asarray(p.mean).sum(-1), 1.0, rtol=1e-6)
    assert [h.name for h in posterior.hyperparameters] == ["prior precision"]


class Exploding(eqx.Module):
    """A network whose output grows with the square of a parameter that SGD blows up."""

    w: jax.Array

    def __call__(self, x):
        return self.w * self.w * x[:1]


def test_diverging_training_names_the_step():
    bnn = BNN(lambda key: Exploding(jnp.ones(1)), Gaussian())
    train = Train(optax.sgd(10.0), steps=50)
    with pytest.raises(TrainingError, match=r"after step \d of 50"):
        MAP(train).fit(bnn, data(), key=KEY)
    with pytest.raises(TrainingError, match="learning rate"):
        DeepEnsemble(2, train).fit(bnn, data(), key=KEY)


def test_dropout_is_off_and_a_network_with_a_state_is_refused():
    def build(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(2, 4, key=key),
                eqx.nn.Dropout(0.5),
                eqx.nn.Linear(4, 1, key=key),
            ]
        )

    # trained here or elsewhere, it is used in inference mode
    fitted = MAP(SHORT, tune=Fixed()).fit(BNN(build, Gaussian()), data(), key=KEY)
    assert fitted.bnn.model.layers[1].inference
    MAP(train=None, tune=Fixed()).fit(BNN(build(KEY), Gaussian()), data(), key=KEY)

    def stateful(key):
        return eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "b", mode="batch")[0]

    with pytest.raises(ValueError, match="without a key or a state"):
        MAP(SHORT).fit(BNN(stateful, Gaussian()), data(), key=KEY)


def test_bad_input_says_what_to_do():
    trained = mlp(2, 1, width=5)(KEY)
    d = data()
    for method in (MAP(SHORT), DeepEnsemble(2, SHORT)):
        with pytest.raises(ValueError, match=r"needs a builder \(key -> eqx.Module\)"):
            method.fit(BNN(trained, Gaussian()), d, key=KEY)
    with pytest.raises(ValueError, match="train it first"):
        MAP(train=None).fit(problem(), d, key=KEY)
    with pytest.raises(ValueError, match="rounds >= 1, got 0"):
        MAP(rounds=0)
    with pytest.raises(ValueError, match="steps >= 1"):
        Train(1e-2, steps=0)
    with pytest.raises(ValueError, match="learning rate > 0, got -1"):
        Train(-1.0)
    with pytest.raises(ValueError, match="size >= 2, got 1"):
        DeepEnsemble(1)

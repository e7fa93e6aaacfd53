"""The leave-one-out density against leaving one out; errors of its maximizer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkuq.data import Dataset
from ntkuq.models import BNN, Bernoulli, Gaussian, Standardize
from ntkuq.models.hyperparameters import Fixed, LeaveOneOut, MarginalLikelihood
from ntkuq.posteriors.gp import GP, NNGP
from ntkuq.posteriors.gp.leave_one_out import leave_one_out, standard_errors


RNG = np.random.default_rng(7)
KEY = jax.random.key(0)


def network(outputs=1):
    return lambda key: eqx.nn.MLP(2, outputs, 8, 2, jax.nn.relu, key=key)


def by_leaving_out(covariance, y):
    """sum_i log p(y_i | y_-i), each from the other rows alone."""
    total = 0.0
    for i in range(len(y)):
        rest = np.delete(np.arange(len(y)), i)
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, i])
        mean = weights @ y[rest]
        variance = covariance[i, i] - weights @ covariance[rest, i]
        total += stats.norm(mean, np.sqrt(variance)).logpdf(y[i]).sum()
    return total


def test_value_and_derivatives():
    with jax.enable_x64(True):
        half = jnp.asarray(RNG.standard_normal((7, 7)))
        k, y = half @ half.T, jnp.asarray(RNG.standard_normal((7, 2)))
        noise = jnp.asarray(0.3)
        found = leave_one_out(k, y, noise)
        expected = by_leaving_out(np.asarray(k) + 0.3 * np.eye(7), np.asarray(y))
        assert float(found.value) == pytest.approx(expected, rel=1e-12)
        direction = jnp.asarray(RNG.standard_normal((7, 7)))
        direction = direction + direction.T
        step = 1e-5
        score = jax.jit(lambda k, noise: leave_one_out(k, y, noise).value)
        ends = [score(k + s * step * direction, noise) for s in (1.0, -1.0)]
        slope = float(jnp.sum(found.kernel_bar * direction))
        assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)
        ends = [score(k, noise + s * step) for s in (1.0, -1.0)]
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert float(found.noise_bar) == pytest.approx(slope, rel=1e-6)


def test_one_point_is_its_prior():
    with jax.enable_x64(True):
        found = leave_one_out(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.asarray(3.0))
    assert float(found.value) == pytest.approx(stats.norm(0.0, 2.0).logpdf(1.0))


class Toy(eqx.Module):
    """exp(a) times a fixed kernel, plus noise exp(b)."""

    k: jax.Array

    def __call__(self, values, group):
        eye = jnp.eye(self.k.shape[0], dtype=self.k.dtype)
        return jnp.exp(values["a"]) * self.k + jnp.exp(values["b"]) * eye


def test_errors_are_the_spread_over_data_sets():
    """The maximizer of 300 simulated data sets, and the sandwich at the truth."""
    size, sets = 40, 300
    x = np.linspace(0.0, 4.0, size)
    kernel = np.exp(-0.5 * (x[:, None] - x) ** 2)
    truth = {"a": np.log(1.5), "b": np.log(0.2)}
    with jax.enable_x64(True):
        toy = Toy(jnp.asarray(kernel))
        values = {name: jnp.asarray(v) for name, v in truth.items()}
        directions = {"a": jnp.asarray([1.0, 0.0]), "b": jnp.asarray([0.0, 1.0])}
        se = standard_errors(toy, values, directions, np.array([1.0]))
        sigma = np.asarray(toy(values, 0))
        y = RNG.multivariate_normal(np.zeros(size), sigma, size=sets)

        def derivatives(position, y):
            full = toy({"a": position[0], "b": position[1]}, 0)
            bar = leave_one_out(full, y[:, None], jnp.zeros(())).kernel_bar
            scaled = jnp.exp(position[0]) * toy.k
            noise = jnp.exp(position[1]) * jnp.trace(bar)
            return jnp.stack([jnp.sum(bar * scaled), noise])

        scores_at = jax.jit(jax.vmap(derivatives, (None, 0)))
        at, step = np.array(list(truth.values())), 1e-4

        def mean_score(move):
            return np.asarray(scores_at(jnp.asarray(at + move), jnp.asarray(y))).mean(0)

        scores = np.asarray(scores_at(jnp.asarray(at), jnp.asarray(y)))
        moves = step * np.eye(2)
        bend = np.stack([mean_score(m) - mean_score(-m) for m in moves]) / (2 * step)
    steps = scores @ np.linalg.inv(-bend)
    spread = steps.std(axis=0)
    # the first order of the maximizer is -H^-1 s; a standard deviation of 300 draws
    # has an error of 4 %, and so has H
    np.testing.assert_allclose(se, spread, rtol=0.2)
    np.testing.assert_allclose(scores.mean(axis=0), 0.0, atol=4 * scores.std() / 17)


@pytest.mark.parametrize("outputs", [None, 2])
def test_tuning_reaches_the_maximum(outputs):
    x = RNG.standard_normal((40, 2))
    signal = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    noise = 0.1 * RNG.standard_normal((40, 2))
    y = signal + noise[:, 0] if outputs is None else signal[:, None] + noise
    bnn = BNN(network(outputs or 1), Gaussian(), scaling=Standardize())
    data = Dataset(x, y)
    posterior = GP(tune=LeaveOneOut(restarts=2)).fit(bnn, data, key=KEY)
    by_evidence = GP(tune=MarginalLikelihood()).fit(bnn, data, key=KEY)
    start = GP(tune=Fixed()).fit(bnn, data, key=KEY)

    def score(fitted):
        with jax.enable_x64(True):
            inputs = fitted.bnn.inputs(data.x, np.float64)
            y = np.asarray(fitted.bnn.targets(data, np.float64))
            k = np.asarray(fitted.covariance.gram(fitted.params, inputs))
        k = k + float(fitted.bnn.likelihood.scale) ** 2 * np.eye(len(k))
        return by_leaving_out(k, y - y.mean(axis=0))

    assert score(posterior) >= score(by_evidence) - 1e-5
    assert score(posterior) > score(start)
    assert posterior.diagnostics["gradient norm"] < 0.1
    assert posterior.diagnostics["restarts"] == 2
    errors = [h.se for h in posterior.hyperparameters if not h.at_bound]
    assert all(se is not None and se > 0 for se in errors)
    # the evidence is the more efficient of the two where the model is true
    assert by_evidence.log_marginal_likelihood >= posterior.log_marginal_likelihood


def test_bounds_are_flagged_and_other_models_refused():
    x = RNG.standard_normal((12, 2))
    data = Dataset(x, np.full(12, 2.0))
    posterior = NNGP(tune=LeaveOneOut(max_steps=30)).fit(
        BNN(network(), Gaussian()), data, key=KEY
    )
    assert any(h.at_bound for h in posterior.hyperparameters)
    with pytest.raises(TypeError, match="needs a Gaussian likelihood, got Bernoulli"):
        GP(tune=LeaveOneOut()).fit(
            BNN(network(), Bernoulli()), Dataset(x, np.arange(12) % 2), key=KEY
        )
    with pytest.raises(ValueError, match="restarts >= 1"):
        LeaveOneOut(restarts=0)

"""Posteriors as ArviZ's groups: shapes, densities by hand, and leave-one-out."""

import arviz_stats
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ntkuq.calibration import to_datatree
from ntkuq.data import Batches, Dataset
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    Standardize,
    mlp,
)
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors import (
    MAP,
    AbstractPosterior,
    DeepEnsemble,
    Laplace,
    Predictive,
)
from ntkuq.posteriors.arviz import posterior_groups, weights_by_path
from ntkuq.posteriors.mcmc import NUTS, NUTSPosterior
from ntkuq.posteriors.mcmc.mixing import failures


KEY = jax.random.key(0)
NOISE, PRECISION = 0.5, 2.0


def data(n=30, seed=0):
    rng = np.random.default_rng(seed)
    x = 3.0 * rng.standard_normal((n, 2)) + 1.0
    y = 5.0 + 2.0 * x[:, 0] - x[:, 1] + 3.0 * rng.standard_normal(n)
    return Dataset(x, y)


def scaled(d):
    x = np.c_[(d.x - d.x.mean(0)) / d.x.std(0), np.ones(len(d.y))]
    return x, (d.y - d.y.mean()) / d.y.std()


def exact_weights(d):
    """Mean and covariance of the weights of linear regression, scaled units."""
    x, y = scaled(d)
    cov = np.linalg.inv(x.T @ x / NOISE**2 + PRECISION * np.eye(3))
    return cov @ x.T @ y / NOISE**2, cov


def reference(d, draws=500, chains=4, seed=0, noise=None):
    """What NUTS would return: independent draws of linear regression in chains."""
    rng = np.random.default_rng(seed)
    mean, cov = exact_weights(d)
    theta = rng.multivariate_normal(mean, cov, size=chains * draws)
    model = eqx.nn.Linear(2, 1, key=KEY)
    bnn = BNN(
        model, Gaussian(NOISE), NormalPrior(PRECISION), scaling=Standardize()
    ).prepare(d)
    good = {
        "chains": chains,
        "draws": chains * draws,
        "R-hat": 1.001,
        "bulk ESS": 2000.0,
        "tail ESS": 2000.0,
        "divergences": 0,
        "saturated trees": 0.0,
    }
    assert not failures(good)
    return NUTSPosterior(
        bnn=bnn,
        method=NUTS(),
        model=model,
        leaves=[
            jnp.asarray(theta[:, None, :2], jnp.float32),
            jnp.asarray(theta[:, 2:], jnp.float32),
        ],
        noise=noise,
        chains=chains,
        statistics={"lp": np.zeros((chains, draws))},
        subset=(0, 1),
        hyperparameters=(),
        log_marginal_likelihood=None,
        diagnostics=good,
    )


def log_density(y, f, sigma):
    return -0.5 * ((y - f) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)


def left_out(d):
    """log p(y_n | all others) of linear regression, summed, in units of the data."""
    x, y = scaled(d)
    total = 0.0
    for n in range(len(y)):
        keep = np.arange(len(y)) != n
        a, b = x[keep], y[keep]
        cov = np.linalg.inv(a.T @ a / NOISE**2 + PRECISION * np.eye(3))
        mean = cov @ a.T @ b / NOISE**2
        sd = np.sqrt(x[n] @ cov @ x[n] + NOISE**2)
        total += log_density(y[n], x[n] @ mean, sd) - np.log(d.y.std())
    return total


def test_chains_give_all_groups():
    d = data()
    posterior = reference(d)
    tree = to_datatree(posterior, d, key=KEY)
    assert tree["posterior"]["weight"].shape == (4, 500, 1, 2)
    assert tree["posterior"]["bias"].shape == (4, 500, 1)
    assert tree["sample_stats"]["lp"].shape == (4, 500)
    assert tree["posterior"]["weight"].dims[:2] == ("chain", "draw")
    second = np.asarray(posterior.leaves[0])[500:1000]
    np.testing.assert_array_equal(tree["posterior"]["weight"][1], second)
    # the density of each draw in the units of the data, by hand
    x, _ = scaled(d)
    theta = np.c_[posterior.leaves[0][:, 0], posterior.leaves[1]].astype(np.float64)
    f = theta @ x.T * d.y.std() + d.y.mean()
    expected = log_density(d.y, f, NOISE * d.y.std()).reshape(4, 500, 30)
    found = tree["log_likelihood"]["y"]
    assert found.dtype == np.float64
    assert found.dims == ("chain", "draw", "obs_id")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(tree["observed_data"]["y"], d.y)
    # 2000 new observations: six standard errors of mean and variance, 30 points
    y = np.asarray(tree["posterior_predictive"]["y"]).reshape(2000, 30)
    p = posterior.predict(d.x)
    sd = np.sqrt(np.asarray(p.observed.variance))
    assert np.max(np.abs(y.mean(0) - p.mean) / sd) < 6 / np.sqrt(2000)
    assert np.max(np.abs(y.var(0) / sd**2 - 1)) < 6 * np.sqrt(2 / 2000)


@pytest.mark.parametrize("method", ["chains", "Laplace", "GP"])
def test_leave_one_out_is_that_of_the_closed_form(method):
    """PSIS-LOO of 8000 draws; the same model three times."""
    d = data()
    posterior = reference(d, draws=2000)
    if method == "Laplace":
        mean, _ = exact_weights(d)
        model = eqx.tree_at(
            lambda m: (m.weight, m.bias),
            posterior.model,
            (jnp.float32(mean[None, :2]), jnp.float32(mean[2:])),
        )
        posterior = Laplace(tune=Fixed()).fit(posterior.bnn.with_model(model), d)
    if method == "GP":
        posterior = LinearGP(posterior.bnn, (), None, {}, d)
    tree = to_datatree(posterior, d, key=KEY, samples=8000)
    found = arviz_stats.loo(tree, pointwise=True)
    # over seeds: standard deviation 0.03, and 0.03 too high, as PSIS is
    assert abs(found.elpd - left_out(d)) < 0.15
    # without leaving out it would be higher by about the number of weights
    assert found.p > 2.0
    assert np.max(found.pareto_k) < 0.7


class LinearGP(AbstractPosterior):
    """Linear regression as a Gaussian process: no weights."""

    bnn: BNN
    hyperparameters: tuple
    log_marginal_likelihood: None
    diagnostics: dict
    data: Dataset

    def predict(self, x):
        d = self.data
        mean, cov = exact_weights(d)
        a = np.c_[(x - d.x.mean(0)) / d.x.std(0), np.ones(len(x))]
        unit = d.y.std()
        f = a @ mean * unit + d.y.mean()
        variance = np.einsum("ni,ij,nj->n", a, cov, a) * unit**2
        noise = np.full(len(x), (NOISE * unit) ** 2)
        return Predictive(
            latent=dist.Normal(f, np.sqrt(variance)),
            observed=dist.Normal(f, np.sqrt(variance + noise)),
            epistemic=variance,
            aleatoric=noise,
        )


def test_sampled_noise_enters_each_density():
    d = data()
    noise = jnp.float32(np.random.default_rng(1).uniform(0.3, 0.8, (2000, 1)))
    posterior = reference(d, noise=noise)
    groups = posterior_groups(posterior, d, key=KEY)
    x, _ = scaled(d)
    theta = np.c_[posterior.leaves[0][:, 0], posterior.leaves[1]].astype(np.float64)
    f = theta @ x.T * d.y.std() + d.y.mean()
    expected = log_density(d.y, f, np.asarray(noise, np.float64) * d.y.std())
    found = groups["log_likelihood"]["y"].reshape(2000, 30)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # the mixture over draws is the prediction
    p = posterior.predict(d.x)
    mixed = np.log(np.exp(found).mean(0))
    np.testing.assert_allclose(p.log_prob(d.y), mixed, rtol=1e-4)


def test_ensembles_and_one_network():
    d = data()
    build = mlp(2, 1, width=5, depth=1)
    bnn = BNN(build, Gaussian(NOISE), scaling=Standardize())
    members = [build(jax.random.key(n)) for n in range(3)]
    posterior = DeepEnsemble.of(members, bnn, d)
    tree = to_datatree(posterior, d, key=KEY)
    assert tree["posterior"]["layers[0].weight"].shape == (1, 3, 5, 2)
    assert tree["posterior_predictive"]["y"].shape == (1, 3, 30)
    density = np.asarray(tree["log_likelihood"]["y"])[0]
    mixed = np.log(np.exp(density).mean(0))
    np.testing.assert_allclose(mixed, posterior.predict(d.x).log_prob(d.y), rtol=1e-4)
    one = MAP(None, tune=Fixed()).fit(bnn.with_model(members[0]), d, key=KEY)
    tree = to_datatree(one, Batches([(d.x, d.y)]), key=KEY)
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0], density[:1], rtol=1e-4)


def test_several_outputs_are_variables_of_their_own():
    d = data()
    both = Dataset(d.x, np.c_[d.y, -d.y])
    build = mlp(2, 2, width=5, depth=1)
    bnn = BNN(build, Gaussian(NOISE), scaling=Standardize())
    members = [build(jax.random.key(n)) for n in range(3)]
    posterior = DeepEnsemble.of(members, bnn, both)
    tree = to_datatree(posterior, both, key=KEY)
    assert set(tree["observed_data"].data_vars) == {"y_0", "y_1"}
    assert tree["posterior_predictive"]["y_1"].shape == (1, 3, 30)
    assert tree["log_likelihood"]["y"].shape == (1, 3, 30)
    np.testing.assert_array_equal(tree["observed_data"]["y_1"], -d.y)
    # predictions alone are exported alike
    tree = to_datatree(posterior.predict(d.x), both.y, key=KEY, samples=50)
    assert tree["posterior_predictive"]["y_0"].shape == (1, 50, 30)


def test_classes():
    d = data()
    labels = Dataset(d.x, np.digitize(d.y, [0.0, 8.0]))
    model = mlp(2, 3, width=4, depth=1)(KEY)
    posterior = Laplace(tune=Fixed()).fit(BNN(model, Categorical()), labels)
    tree = to_datatree(posterior, labels, key=KEY, samples=40)
    density = np.asarray(tree["log_likelihood"]["y"])
    f = np.asarray(posterior.sample_functions(jax.random.split(KEY)[0], 40)(d.x))
    expected = jax.nn.log_softmax(f.astype(np.float32))
    chosen = np.take_along_axis(np.asarray(expected), labels.y[None, :, None], 2)
    np.testing.assert_allclose(density[0], chosen[..., 0], rtol=1e-4, atol=1e-5)
    assert set(np.unique(tree["posterior_predictive"]["y"])) <= {0, 1, 2}


class Guess(AbstractPosterior):
    """Class probabilities, and nothing that a likelihood could be evaluated at."""

    bnn: BNN
    hyperparameters: tuple
    log_marginal_likelihood: None
    diagnostics: dict

    def predict(self, x):
        return Predictive.probabilities(np.tile([0.2, 0.5, 0.3], (len(x), 1)))


def test_without_draws_the_predictions_are_exported():
    d = data(12)
    labels = Dataset(d.x, np.arange(12) % 3)
    posterior = Guess(BNN(mlp(2, 3), Categorical()), (), None, {})
    assert posterior_groups(posterior, labels, key=KEY) is None
    tree = to_datatree(posterior, labels, key=KEY, samples=20)
    assert "posterior" not in tree.children
    expected = np.log(np.array([0.2, 0.5, 0.3]))[labels.y]
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0, 0], expected, rtol=1e-5)


def test_known_noise_enters_the_density():
    d = data()
    noise = np.linspace(1.0, 4.0, 30)
    known = Dataset(d.x, d.y, noise_scale=noise)
    posterior = reference(d)
    posterior = eqx.tree_at(lambda p: p.bnn, posterior, posterior.bnn.prepare(known))
    groups = posterior_groups(posterior, known, key=KEY)
    x, _ = scaled(d)
    theta = np.c_[posterior.leaves[0][:, 0], posterior.leaves[1]].astype(np.float64)
    f = theta @ x.T * d.y.std() + d.y.mean()
    found = groups["log_likelihood"]["y"].reshape(2000, 30)
    np.testing.assert_allclose(found, log_density(d.y, f, noise), rtol=1e-4, atol=1e-4)
    # of other data the noise is that of the likelihood
    groups = posterior_groups(posterior, d, key=KEY)
    found = groups["log_likelihood"]["y"].reshape(2000, 30)
    expected = log_density(d.y, f, NOISE * d.y.std())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_names_have_no_slash():
    names = weights_by_path({"a/b": jnp.zeros(2), "c": eqx.nn.Linear(1, 1, key=KEY)})
    assert set(names) == {"['a|b']", "['c'].weight", "['c'].bias"}


def test_a_posterior_asks_for_data():
    d = data()
    with pytest.raises(TypeError, match="expected a data set with a posterior"):
        to_datatree(reference(d), d.y, key=KEY)

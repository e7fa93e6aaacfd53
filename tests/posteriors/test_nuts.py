"""NUTS against closed forms, and what it says where chains have not mixed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.data.store import StoreError
from ntkuq.kernels import Empirical
from ntkuq.models import (
    BNN,
    Bernoulli,
    Gaussian,
    LogDensity,
    Network,
    NormalPrior,
    Standardize,
    mlp,
)
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors import NTKGP, Full, Laplace, LastLayer, load, save
from ntkuq.posteriors.mcmc import (
    NUTS,
    HalfNormalNoise,
    LogNormalNoise,
    NotAReference,
    NotMixed,
)
from ntkuq.posteriors.mcmc.chains import BLOCK, Plan, run_chains
from ntkuq.posteriors.mcmc.mixing import mixing
from ntkuq.posteriors.mcmc.target import target
from tests.posteriors.problems import problem as double_problem


KEY = jax.random.key(0)
#: Standard errors that a correct chain exceeds with probability 1e-5 a comparison.
Z = 4.4
NOISY = NUTS(warmup=200, samples=1000, depth=6, noise=HalfNormalNoise())


def linear_data(seed=0, n=25):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)) * [1.0, 3.0] + [0.0, 5.0]
    y = 7.0 + 4.0 * x[:, 0] - x[:, 1] + 1.5 * rng.standard_normal(n)
    return Dataset(x, y, units="m")


def linear(precision=2.0, noise=0.5):
    build = eqx.nn.Linear
    return BNN(
        Network(lambda key: build(2, 1, key=key)),
        Gaussian(noise),
        NormalPrior(precision),
        scaling=Standardize(),
    )


@pytest.fixture(scope="module")
def noisy():
    return NOISY.fit(linear(), linear_data(), key=KEY)


def effective(values, chains=4):
    """Bulk ESS of each column of draws (S, n)."""
    from arviz_stats.base.array import array_stats

    flat = np.moveaxis(np.asarray(values).reshape(chains, -1, values.shape[1]), -1, 0)
    return array_stats.ess(flat.astype(np.float64))


def agrees(draws, mean, sd):
    """Mean and variance of draws (S, n) are these, within their Monte-Carlo error."""
    draws = np.asarray(draws, np.float64)
    error = sd / np.sqrt(effective(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), Z * error)
    square = (draws - mean) ** 2
    # of the squares themselves, so that tails that are not Gaussian count
    error = square.std(0) / np.sqrt(effective(square))
    np.testing.assert_array_less(np.abs(square.mean(0) - sd**2), Z * error)


def test_linear_regression_with_unknown_noise(noisy):
    """Bayesian linear regression, the noise scale integrated on a grid."""
    d = linear_data()
    x = np.c_[(d.x - d.x.mean(0)) / d.x.std(0), np.ones(len(d.y))]
    y = (d.y - d.y.mean()) / d.y.std()
    grid = np.linspace(0.02, 3.0, 3000)
    moments, density = [], []
    for sigma in grid:
        cov = np.linalg.inv(x.T @ x / sigma**2 + 2.0 * np.eye(3))
        mean = cov @ x.T @ y / sigma**2
        total = sigma**2 * np.eye(len(y)) + x @ x.T / 2.0
        _, logdet = np.linalg.slogdet(total)
        density.append(-0.5 * (logdet + y @ np.linalg.solve(total, y) + sigma**2))
        moments.append((x @ mean, np.einsum("ni,ij,nj->n", x, cov, x)))
    weight = np.exp(density - np.max(density))
    weight /= weight.sum()
    means, variances = (np.stack(part) for part in zip(*moments, strict=True))
    mean = weight @ means
    sd = np.sqrt(weight @ (variances + (means - mean) ** 2))
    agrees(noisy.outputs(d.x)[:, :, 0], mean, sd)
    sigma = weight @ grid
    spread = np.sqrt(weight @ (grid - sigma) ** 2)
    agrees(noisy.noise, sigma, spread)
    # in the units of the data
    (noise,) = noisy.hyperparameters
    np.testing.assert_allclose(noise.value, sigma * d.y.std(), rtol=0.05)
    assert (noise.name, noise.unit) == ("noise scale", "m")
    assert 0.5 < noise.se / (spread * d.y.std()) < 1.5
    p = noisy.predict(d.x)
    f = np.asarray(noisy.outputs(d.x)[:, :, 0]) * d.y.std() + d.y.mean()
    np.testing.assert_allclose(p.mean, f.mean(0), rtol=1e-4)
    np.testing.assert_allclose(p.epistemic, f.var(0), rtol=1e-3)
    scale = np.asarray(noisy.noise) * d.y.std()
    np.testing.assert_allclose(p.aleatoric, np.full(25, (scale**2).mean()), rtol=1e-4)
    each = np.exp(-0.5 * ((d.y - f) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(p.log_prob(d.y), np.log(each.mean(0)), rtol=1e-3)


def test_the_linearized_network_is_the_ntk_gp():
    """In float64, which the weights have."""
    with jax.enable_x64(True):
        bnn, data, new = double_problem("gaussian")
        tangent = Tangent.of(bnn.model)
        exact = BNN(tangent, bnn.likelihood, _prior_of(bnn, tangent))
        posterior = NUTS(warmup=200, samples=800, depth=5).fit(exact, data, key=KEY)
        assert posterior.leaves[0].dtype == np.float64
        assert posterior.predict(new).mean.dtype == np.float64
        assert posterior.is_reference
        f = posterior.outputs(new)[:, :, 0]
        gp = NTKGP(kernel=Empirical(), tune=Fixed()).fit(bnn, data, key=KEY)
        p = gp.predict(new)
        agrees(f, np.asarray(p.mean), np.sqrt(np.asarray(p.epistemic)))
        # Laplace has the same covariance, at the network's own mean
        spread = Laplace(Full(), tune=Fixed()).fit(bnn, data).predict(new).epistemic
        agrees(f, np.asarray(p.mean), np.sqrt(np.asarray(spread)))


def test_weights_in_float32_stay_so_where_float64_is_the_default(noisy):
    bnn = linear().with_model(eqx.nn.Linear(2, 1, key=KEY))
    with jax.enable_x64(True):
        again = NOISY.fit(bnn, linear_data(), key=KEY)
        mean = again.predict(linear_data().x).mean
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(again.leaves[0], noisy.leaves[0])
    np.testing.assert_array_equal(mean, noisy.predict(linear_data().x).mean)


class Tangent(eqx.Module):
    """f(x, t0) + J(x) (t - t0): linear in its parameters t."""

    moving: list
    at: object  # a function: arrays would count as parameters
    rest: eqx.Module
    structure: object = eqx.field(static=True)

    @staticmethod
    def of(model):
        values, rest = eqx.partition(model, eqx.is_inexact_array)
        leaves, structure = jax.tree.flatten(values)
        return Tangent(leaves, lambda: leaves, rest, structure)

    def __call__(self, x):
        def outputs(leaves):
            return eqx.combine(jax.tree.unflatten(self.structure, leaves), self.rest)(x)

        move = [a - b for a, b in zip(self.moving, self.at(), strict=True)]
        value, slope = jax.jvp(outputs, (self.at(),), (move,))
        return value + slope


def _prior_of(bnn, tangent):
    """The same precisions, leaf by leaf, for the tangent's parameters."""
    precisions = jax.tree.leaves(bnn.prior.precisions(bnn.parameters))
    places = eqx.filter(tangent, eqx.is_inexact_array)
    numbers = [float(precision) for precision in precisions]
    return NormalPrior(eqx.tree_at(lambda t: t.moving, places, numbers))


def test_the_last_layer_is_laplace():
    """A last layer under Gaussian noise is linear regression on its inputs."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((30, 3))
    data = Dataset(x, np.sin(x[:, 0]) + 0.4 * rng.standard_normal(30))
    model = mlp(3, 1, width=4, depth=1)(KEY)
    hidden = jax.vmap(lambda a: jnp.tanh(model.layers[0](a)))(
        jnp.asarray(x, np.float32)
    )
    features = np.c_[np.asarray(hidden), np.ones(30)]
    best = np.linalg.solve(
        features.T @ features / 0.4**2 + 1.5 * np.eye(5), features.T @ data.y / 0.4**2
    )
    model = eqx.tree_at(
        lambda m: (m.layers[1].weight, m.layers[1].bias),
        model,
        (jnp.asarray(best[None, :4], jnp.float32), jnp.asarray(best[4:], jnp.float32)),
    )
    bnn = BNN(model, Gaussian(0.4), NormalPrior(1.5))
    subset = LastLayer()
    posterior = NUTS(warmup=200, samples=1000, depth=5, subset=subset).fit(
        bnn, data, key=KEY
    )
    exact = Laplace(subset=subset, tune=Fixed()).fit(bnn, data)
    new = rng.standard_normal((7, 3))
    p = exact.predict(new)
    draws = posterior.outputs(new)[:, :, 0]
    agrees(draws, np.asarray(p.mean), np.sqrt(np.asarray(p.epistemic)))
    # the other weights stay; networks, functions and outputs are the same thing
    stacked = posterior.networks
    np.testing.assert_array_equal(stacked.layers[0].weight[17], model.layers[0].weight)
    one = jax.tree.map(lambda a: a[17] if eqx.is_array(a) else a, stacked)
    f = jax.vmap(one)(jnp.asarray(new, jnp.float32))[:, 0]
    np.testing.assert_allclose(f, draws[17], rtol=1e-4, atol=1e-5)
    functions = posterior.sample_functions(KEY, 3)
    drawn = posterior.sample(KEY, 3)
    two = jax.tree.map(lambda a: a[2] if eqx.is_array(a) else a, drawn)
    f = jax.vmap(two)(jnp.asarray(new, jnp.float32))[:, 0]
    np.testing.assert_allclose(functions(new)[2], f, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected a trained network"):
        NUTS(subset=subset).fit(BNN(mlp(3, 1), Gaussian()), data, key=KEY)


def test_logistic_regression_on_a_grid():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((12, 1))
    data = Dataset(x, (x[:, 0] + 0.5 * rng.standard_normal(12) > 0.3).astype(int))
    bnn = BNN(lambda key: eqx.nn.Linear(1, 1, key=key), Bernoulli(), NormalPrior(0.3))
    posterior = NUTS(warmup=200, samples=1500, depth=5).fit(bnn, data, key=KEY)
    axis = np.linspace(-14, 14, 561)
    w, b = np.meshgrid(axis, axis, indexing="ij")
    f = w[..., None] * x[:, 0] + b[..., None]
    sign = np.where(data.y == 1, 1.0, -1.0)
    log = -np.logaddexp(0, -sign * f).sum(-1) - 0.15 * (w**2 + b**2)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    new = np.array([[-2.0], [0.0], [0.4], [3.0]])
    p = 1 / (1 + np.exp(-(w[..., None] * new[:, 0] + b[..., None])))
    mean = np.einsum("ij,ijn->n", weight, p)
    sd = np.sqrt(np.einsum("ij,ijn->n", weight, (p - mean) ** 2))
    drawn = 1 / (1 + np.exp(-np.asarray(posterior.outputs(new)[:, :, 0])))
    agrees(drawn, mean, sd)
    np.testing.assert_allclose(posterior.predict(new).mean[:, 1], drawn.mean(0), 1e-5)


def test_an_interrupted_run_goes_on_to_the_same_draws(noisy, tmp_path):
    """Stopped in the warm-up, then among the draws."""
    seen = []
    for stop in (2 * BLOCK, 600):

        def stopping(done, value, stop=stop):
            assert np.isfinite(value)
            seen.append(done)
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            NOISY.fit(
                linear(),
                linear_data(),
                callback=stopping,
                checkpoint=tmp_path / "a.npz",
                key=KEY,
            )
    again = NOISY.fit(
        linear(),
        linear_data(),
        callback=lambda done, _: seen.append(done),
        checkpoint=tmp_path / "a.npz",
        key=KEY,
    )
    assert seen == list(range(BLOCK, 1201, BLOCK))
    for one, two in zip(noisy.leaves, again.leaves, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(noisy.noise, again.noise)
    assert noisy.diagnostics == again.diagnostics
    for name, values in noisy.statistics.items():
        np.testing.assert_array_equal(again.statistics[name], values)
    other = jax.random.key(1)
    with pytest.raises(StoreError, match="another method, problem, data or key"):
        NOISY.fit(linear(), linear_data(), checkpoint=tmp_path / "a.npz", key=other)


def test_other_numbers_compile_nothing(noisy, caplog):
    method = NUTS(
        warmup=200, samples=1000, depth=6, target=0.9, noise=HalfNormalNoise(2.0)
    )
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        other = method.fit(linear(3.0, 0.6), linear_data(1), key=jax.random.key(2))
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not names
    assert not np.array_equal(other.leaves[0], noisy.leaves[0])
    assert other.diagnostics["acceptance"] > noisy.diagnostics["acceptance"]


def test_thinning_keeps_each_second_draw(noisy):
    method = eqx.tree_at(lambda m: (m.thin, m.samples), NOISY, (2, 1000))
    thin = method.fit(linear(), linear_data(), key=KEY)
    assert thin.draws == 2000
    whole = np.asarray(noisy.leaves[0]).reshape(4, 1000, -1)
    half = np.asarray(thin.leaves[0]).reshape(4, 500, -1)
    np.testing.assert_array_equal(half, whole[:, 1::2])
    steps = noisy.statistics["n_steps"]
    expected = steps[:, ::2] + steps[:, 1::2]
    np.testing.assert_array_equal(thin.statistics["n_steps"], expected)


def test_few_draws_are_no_reference():
    method = eqx.tree_at(lambda m: m.samples, NOISY, 50)
    with pytest.warns(NotMixed, match="are effective.*more samples= .now 50.") as seen:
        posterior = method.fit(linear(), linear_data(), key=KEY)
    assert len(seen) == 1
    assert not posterior.is_reference
    assert not posterior.diagnostics["converged"]
    assert "no reference" in posterior.diagnostics["verdict"]
    with pytest.raises(NotAReference, match="400 are asked"):
        posterior.check()
    # predictions are there all the same
    assert np.isfinite(posterior.predict(linear_data().x).mean).all()


def test_chains_in_two_modes_are_no_reference():
    """f is 1 or -1, and no chain crosses."""
    data = Dataset(np.ones((5, 1)), np.zeros(5))
    likelihood = LogDensity(lambda f, y: -20.0 * (f[0] ** 2 - 1.0) ** 2 + 0.0 * y)
    bnn = BNN(lambda key: eqx.nn.Linear(1, 1, use_bias=False, key=key), likelihood)
    with pytest.warns(NotMixed, match="R-hat of the predictions is up to"):
        posterior = NUTS(warmup=100, samples=500, depth=4).fit(
            bnn, data, key=jax.random.key(4)
        )
    values = np.asarray(posterior.leaves[0]).reshape(4, 500)
    assert {-1, 1} == set(np.sign(values.mean(1)))
    np.testing.assert_allclose(np.abs(values), 1.0, atol=0.3)
    assert posterior.diagnostics["R-hat"] > 1.5
    with pytest.raises(NotAReference, match="prior with more precision"):
        posterior.check()


def test_the_gate_looks_at_each_condition(noisy):
    def with_numbers(**numbers):
        diagnostics = {**noisy.diagnostics, **numbers}
        return eqx.tree_at(lambda p: p.diagnostics, noisy, diagnostics)

    assert noisy.is_reference
    noisy.check()
    assert "serve as a reference" in noisy.diagnostics["verdict"]
    for numbers, words in [
        ({"R-hat": 1.0101}, "R-hat of the predictions is up to 1.010"),
        ({"tail ESS": 399.0}, "399 are effective in the tail"),
        ({"divergences": 1}, "target= nearer to 1 .now 0.8.; weights in float64"),
        ({"chains": 1}, "one chain"),
        ({"R-hat": 1.2, "saturated trees": 0.96}, "depth= above 6 .96 % of the trees"),
        ({"R-hat": np.nan, "bulk ESS": np.nan}, "the draws do not vary"),
    ]:
        with pytest.raises(NotAReference, match=words):
            with_numbers(**numbers).check()


def test_mixing_is_that_of_independent_draws():
    """ESS of independent draws is their number; a shifted chain is seen."""
    draws = np.random.default_rng(0).standard_normal((2000, 10, 1))
    found = mixing(draws, 4)
    assert found.rhat < 1.01
    # the worst of 10: standard deviation of an ESS estimate about 5 %
    assert 1500 < found.bulk < 2300
    assert 1300 < found.tail < 2300
    moved = draws.copy()
    moved[:500, 7] += 0.5
    assert mixing(moved, 4).rhat > 1.02
    # scale alone: only the folded ranks see it
    wide = draws.copy()
    wide[:500, 7] *= 2.0
    assert mixing(wide, 4).rhat > 1.02
    assert np.isnan(mixing(0.0 * draws, 4).rhat)


def test_a_saved_posterior_predicts_the_same(noisy, tmp_path):
    save(tmp_path / "a", noisy, data=linear_data())
    again = load(tmp_path / "a", linear(), data=linear_data())
    x = linear_data(1).x
    np.testing.assert_array_equal(again.predict(x).mean, noisy.predict(x).mean)
    assert again.is_reference
    assert again.method == NOISY
    assert again.chains == 4
    one, two = (p.sample(KEY, 5).weight for p in (again, noisy))
    np.testing.assert_array_equal(one, two)


def test_the_chains_average_to_the_prediction(noisy):
    x = linear_data(1).x
    parts = noisy.predict_chains(x)
    assert len(parts) == 4
    mean = np.mean([part.mean for part in parts], axis=0)
    np.testing.assert_allclose(mean, noisy.predict(x).mean, rtol=1e-5)
    assert not np.allclose(parts[0].mean, parts[1].mean, rtol=1e-5)


def test_a_first_state_without_a_density_is_refused():
    data = linear_data()
    bnn = linear().prepare(data)
    model = bnn.network.init(KEY)
    known = bnn.with_model(model)
    density = target(
        known, model, known.inputs(data.x), known.targets(data), NUTS().subset, None
    )
    with pytest.raises(ValueError, match="finite log posterior at the first state"):
        run_chains(density, jnp.full((2, 3), jnp.nan), Plan(2, 4, 1, 2), 0.8, key=KEY)


def test_whitening_and_the_density():
    """U is minus the log joint, up to a constant, in weights over their prior scale."""
    data = linear_data()
    bnn = linear(precision=4.0).prepare(data)
    model = bnn.network.init(KEY)
    known = bnn.with_model(model)
    for noise, k in ((None, 3), (HalfNormalNoise(0.7), 4), (LogNormalNoise(0.6), 4)):
        density = target(
            known,
            model,
            known.inputs(data.x),
            known.targets(data),
            NUTS().subset,
            noise,
        )
        assert density.size == k
        z = jax.random.normal(KEY, (2, k))
        found = [float(density.potential(one)) for one in z]
        expected = []
        for one in np.asarray(z, np.float64):
            theta = one[:3] / 2.0
            shift = one[3] if noise is not None else 0.0
            sigma = 0.5 * np.exp(shift)
            x = (data.x - data.x.mean(0)) / data.x.std(0)
            y = (data.y - data.y.mean()) / data.y.std()
            f = x @ theta[:2] + theta[2]
            value = 0.5 * np.sum(((y - f) / sigma) ** 2) + len(y) * np.log(sigma)
            value += 2.0 * theta @ theta
            if isinstance(noise, HalfNormalNoise):
                value += 0.5 * (sigma / 0.7) ** 2 - np.log(sigma)
            if isinstance(noise, LogNormalNoise):
                value += 0.5 * (shift / 0.6) ** 2
            expected.append(value)
        np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-4)


def test_bad_input():
    data = linear_data()
    half = jax.tree.map(
        lambda a: a.astype(jnp.float16) if eqx.is_inexact_array(a) else a,
        eqx.nn.Linear(2, 1, key=KEY),
    )
    with pytest.raises(TypeError, match="float32 or float64, got float16"):
        NUTS().fit(BNN(half, Gaussian()), data, key=KEY)
    classes = Dataset(data.x, (data.y > 0).astype(int))
    with pytest.raises(TypeError, match="leave noise out"):
        NUTS(noise=LogNormalNoise()).fit(
            BNN(eqx.nn.Linear(2, 1, key=KEY), Bernoulli()), classes, key=KEY
        )
    broken = eqx.tree_at(
        lambda m: m.bias, eqx.nn.Linear(2, 1, key=KEY), jnp.full(1, jnp.nan)
    )
    with pytest.raises(ValueError, match="finite weights"):
        NUTS().fit(BNN(broken, Gaussian()), data, key=KEY)
    for options, words in [
        ({"chains": 0}, "chains >= 1"),
        ({"warmup": 0}, "warmup >= 1"),
        ({"samples": 10, "thin": 4}, "multiple of thin"),
        ({"samples": 3}, "keeps 4 draws"),
        ({"target": 1.0}, "between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            NUTS(**options)
    with pytest.raises(ValueError, match="scale > 0"):
        HalfNormalNoise(0.0)
    with pytest.raises(ValueError, match="spread > 0"):
        LogNormalNoise(-1.0)


def test_cost_grows_with_the_trees():
    data, bnn = linear_data(), linear()
    deep, flat = NUTS(depth=9).cost(bnn, data), NUTS(depth=8).cost(bnn, data)
    np.testing.assert_allclose(deep.flops / flat.flops, 511 / 255)
    assert NUTS(samples=1000).cost(bnn, data).bytes == 2 * flat.bytes

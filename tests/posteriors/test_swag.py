"""SWAG: exact moments, the law of SGD's iterates, interruptions, refusals."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

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
    cast,
    mlp,
)
from ntkuq.models.train import loop, method as train_method, programs
from ntkuq.models.train.rows import Rows
from ntkuq.posteriors import load, save
from ntkuq.posteriors.swag import SWAG
from ntkuq.posteriors.swag.moments import Moments
from tests.models.test_train import small_cnn


KEY = jax.random.key(3)
RNG = np.random.default_rng(3)
X = RNG.standard_normal((30, 2))
Y = X @ [1.0, -2.0] + 0.3 + 0.5 * RNG.standard_normal(30)
DATA = Dataset(X, Y)
NOISE, PRECISION = 0.5, 2.0
BUILD = mlp(2, 1, width=4, depth=1)
PROBLEM = BNN(Network(BUILD), Gaussian(NOISE), NormalPrior(PRECISION))
SHORT = SWAG(Train(1e-2, steps=50, batch=8), collect=20, every=3, rank=5, rate=1e-2)


def moments_of(thetas, rank):
    """Mean, variance and the last deviations from the running mean, in float64."""
    thetas = np.asarray(thetas, np.float64)
    running = np.cumsum(thetas, 0) / np.arange(1, len(thetas) + 1)[:, None]
    return thetas.mean(0), thetas.var(0), (thetas - running)[len(thetas) - rank :]


@pytest.mark.parametrize("rank", [0, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_those_of_the_trajectory(dtype, rank):
    """Weights far from zero: E[theta^2] - E[theta]^2 would lose all digits."""
    with jax.enable_x64(True):
        far = 2e2 if dtype == np.float32 else 1e6
        thetas = (far + 0.05 * RNG.standard_normal((36, 4))).astype(dtype)
        run = jax.jit(lambda m, theta: m.after({"w": theta}, jnp.asarray(3)))
        moments = Moments.start({"w": jnp.zeros(4, dtype)}, rank)
        for theta in thetas:
            moments = run(moments, jnp.asarray(theta))
        moments = jax.tree.map(np.asarray, moments)
    assert (int(moments.seen), int(moments.collected)) == (36, 12)
    mean, variance, deviations = moments_of(thetas[2::3], rank)
    assert moments.mean["w"].dtype == dtype
    # each step rounds the mean by half a unit in the last place at most
    unit = 12 * np.spacing(dtype(far)) / 2
    np.testing.assert_allclose(moments.mean["w"], mean, rtol=0, atol=unit)
    # (a + e)^2 of 12 deviations of 0.05 with errors below the unit
    tolerance = 2 * 0.05 * 3 * unit + unit**2
    assert tolerance < 0.1 * variance.min()
    np.testing.assert_allclose(moments.squares["w"] / 12, variance, atol=tolerance)
    rows = [number % max(rank, 1) for number in range(12 - rank, 12)]
    held = np.asarray(moments.deviations["w"])
    assert held.shape == (rank, 4)
    np.testing.assert_allclose(held[rows], deviations, rtol=0, atol=unit)


def test_variances_are_never_negative():
    """Equal weights, and weights that differ by the last digit."""
    near = np.nextafter(np.float32(0.1), np.float32(1))
    for values in ([0.1] * 9, [0.1, near] * 5, [near, 0.1, 0.1] * 4):
        moments = Moments.start(jnp.zeros(1), 2)
        for value in values:
            moments = moments.after(jnp.full(1, value, jnp.float32), jnp.asarray(1))
        assert 0 <= float(moments.squares[0]) < 1e-14


def numpy_sgd(theta, rows, rate):
    """SGD on a linear network with weights (w1, w2, b): the weights after each step."""
    design = np.c_[X, np.ones(30)]
    found = []
    for batch in rows:
        residual = design[batch] @ theta - Y[batch]
        gradient = design[batch].T @ residual / len(batch) / NOISE**2
        theta = theta - rate * (gradient + PRECISION * theta / 30)
        found.append(theta)
    return np.stack(found)


@pytest.mark.parametrize(("wide", "rank"), [(False, 6), (True, 6), (True, 0)], ids=str)
def test_a_fit_is_sgd_in_numpy(wide, rank):
    method = SWAG(Train(batch=7), collect=25, every=2, rank=rank, rate=0.03)
    with jax.enable_x64(wide):
        bnn = BNN(eqx.nn.Linear(2, 1, key=KEY), Gaussian(NOISE), NormalPrior(PRECISION))
        start = bnn.model
        posterior = method.fit(bnn, DATA, key=KEY)
        found = np.asarray(posterior.gaussian.covariance())
        networks = posterior.sample(jax.random.key(5), 3000)
    assert posterior.draws.dtype == (np.float64 if wide else np.float32)
    rows = Rows(
        jax.random.fold_in(jax.random.split(KEY, 4)[2], 0), np.ones(30, int), 7
    )(0, 50)
    theta = np.r_[np.ravel(start.weight), np.ravel(start.bias)].astype(np.float64)
    iterates = numpy_sgd(theta, rows, 0.03)[1::2]
    mean, variance, deviations = moments_of(iterates, rank)
    covariance = np.diag(variance)
    if rank:
        low = deviations.T @ deviations / (2 * (rank - 1))
        covariance = 0.5 * covariance + low
    close = {"rtol": 1e-9 if wide else 1e-3, "atol": 0 if wide else 1e-6}
    np.testing.assert_allclose(posterior.gaussian.mean, mean, **close)
    np.testing.assert_allclose(found, covariance, **close)
    model = posterior.bnn.model
    np.testing.assert_array_equal(
        np.r_[np.ravel(model.weight), np.ravel(model.bias)], posterior.gaussian.mean
    )
    # draws of networks have this law: z z^T of 3 000 white draws is Wishart
    drawn = np.c_[np.asarray(networks.weight)[:, 0], networks.bias].astype(np.float64)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean).T)
    assert 3000 * np.sum(white.mean(1) ** 2) < scipy.stats.chi2.ppf(1 - 1e-4, 3)
    # entries of the covariance of white draws have variances 1/n, on the diagonal 2/n
    assert np.abs(np.cov(white) - np.eye(3)).max() < 4.5 * math.sqrt(2 / 3000)


class Constant(eqx.Module):
    """x -> w: the loss is quadratic with the same curvature everywhere."""

    value: jax.Array

    def __call__(self, x):
        return self.value + 0 * x


def test_iterates_have_the_stationary_law_of_sgd():
    r"""w <- w - h a (w - y_n), each datum seen once: an AR(1) with known moments.

    Mandt et al. 2017, eq. 12: Sigma A + A Sigma = h C, here Sigma = h C / (2 a) up to
    terms of higher order in h a; exactly h C / (a (2 - h a)). Four pairs of outputs
    with correlation 0.8 are four repetitions.
    """
    size, every, a, deviation = 40_000, 20, 1 / 0.5**2, 0.5
    rate = 0.15 / a
    collect = size // every - 40
    law = deviation**2 * np.array([[1.0, 0.8], [0.8, 1.0]])
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((size, 4, 2)) @ np.linalg.cholesky(law).T
    data = Dataset(np.zeros((size, 8)), 1.0 + noise.reshape(size, 8))
    # it starts in the stationary law's middle
    bnn = BNN(Constant(jnp.ones(8)), Gaussian(0.5), NormalPrior(1e-6))
    method = SWAG(Train(batch=1), collect=collect, every=every, rank=collect, rate=rate)
    posterior = method.fit(bnn, data, key=KEY)
    # gradients a (w - y) have covariance C = a^2 law
    stationary = rate * a * law / (2 - rate * a)
    np.testing.assert_allclose(stationary, rate * a**2 * law / (2 * a), rtol=0.09)
    rho = (1 - rate * a) ** every
    samples = collect * (1 - rho**2) / (1 + rho**2)
    covariance = np.asarray(posterior.gaussian.covariance())
    found = np.mean([covariance[i : i + 2, i : i + 2] for i in (0, 2, 4, 6)], axis=0)
    # half the diagonal, and half the covariance of all deviations; those from a running
    # mean are short of log(n)/n < 0.4 %
    expected = 0.5 * np.diag(np.diag(stationary)) + 0.5 * stationary
    error = math.sqrt(2 / (4 * samples))
    np.testing.assert_allclose(found, expected, rtol=4.5 * error + 0.004)
    # pairs are independent of one another
    cross = covariance[:2, 2:] / stationary[0, 0]
    assert np.abs(cross).max() < 4.5 * 0.5 / math.sqrt(samples)
    # the mean forgets the noise of the iterates
    spread = stationary[0, 0] * (1 + rho) / (1 - rho) / collect
    away = np.asarray(posterior.gaussian.mean) - 1.0
    assert np.abs(away).max() < 4.5 * math.sqrt(spread)
    assert math.sqrt(spread) < 0.05 * math.sqrt(stationary[0, 0])


def test_the_mean_is_at_the_optimum():
    """On a quadratic loss SGD's bias vanishes; single iterates stay away."""
    design = np.c_[X, np.ones(30)]
    precision = design.T @ design / NOISE**2 + PRECISION * np.eye(3)
    optimum = np.linalg.solve(precision, design.T @ Y / NOISE**2)
    method = SWAG(Train(batch=5), collect=2000, every=4, rank=0, rate=0.02)
    model = eqx.tree_at(
        lambda m: (m.weight, m.bias),
        eqx.nn.Linear(2, 1, key=KEY),
        (jnp.asarray(optimum[None, :2]), jnp.asarray(optimum[2:])),
    )
    model = cast(model, np.float32)
    bnn = BNN(model, Gaussian(NOISE), NormalPrior(PRECISION))
    found = method.fit(bnn, DATA, key=KEY).gaussian
    spread = np.asarray(found.scale)
    # batches of a pass balance one another: closer than independent iterates would be,
    # of which one relaxation, 1/(h a) > 10 updates, makes one
    effective = 2000 * 4 / (2 / (0.02 * np.linalg.eigvalsh(precision)[0] / 30))
    assert effective > 200
    assert (np.abs(found.mean - optimum) < 4.5 * spread / math.sqrt(effective)).all()


@pytest.fixture(scope="module")
def posterior():
    bnn = PROBLEM._replace(scaling=Standardize())
    return SHORT.fit(bnn, DATA, key=KEY)


def test_predictions_are_the_mixture_of_fixed_draws(posterior):
    p = posterior.predict(X[:7])
    np.testing.assert_array_equal(p.mean, posterior.predict(X[:7]).mean)
    functions = posterior.sample_functions(jax.random.key(1), 3000)
    values = np.asarray(functions(X[:7]))
    np.testing.assert_array_equal(values[4], functions[4](X[:7]))
    # 30 draws against 3 000: the mean of 30 has a 30th of the variance
    z = (np.ravel(p.mean) - values.mean(0)) / (values.std(0) / math.sqrt(30))
    assert np.abs(z).max() < 4.5
    ratio = np.ravel(p.epistemic) / values.var(0)
    low, high = scipy.stats.chi2.ppf([1e-5, 1 - 1e-5], 29) / 29
    assert ((low < ratio) & (ratio < high)).all()
    # the noise is that of the likelihood, in the units of the data
    np.testing.assert_allclose(p.aleatoric, (NOISE * Y.std()) ** 2, rtol=1e-3)
    diagnostics = posterior.diagnostics
    assert diagnostics["collected"] == 20
    assert len(diagnostics["losses"]) == 20


def test_it_is_saved_and_loaded(posterior, tmp_path):
    save(tmp_path / "swag.ntkuq", posterior, data=DATA)
    again = load(tmp_path / "swag.ntkuq", posterior.bnn, data=DATA)
    one, two = posterior.predict(X), again.predict(X)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.epistemic, two.epistemic)
    for a, b in zip(
        jax.tree.leaves(posterior.sample(KEY, 2)),
        jax.tree.leaves(again.sample(KEY, 2)),
        strict=True,
    ):
        if eqx.is_array(a):
            np.testing.assert_array_equal(a, b)


def test_a_trained_network_is_where_it_starts():
    trained = PROBLEM.with_model(BUILD(KEY))
    method = dataclasses.replace(SHORT, rate=1e-7)
    found = method.fit(trained, DATA, key=jax.random.key(8))
    for a, b in zip(
        jax.tree.leaves(trained.parameters),
        jax.tree.leaves(found.bnn.parameters),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    assert len(found.diagnostics["losses"]) == 10


def test_batches_are_collected_as_they_come():
    trained = PROBLEM.with_model(BUILD(KEY))
    method = dataclasses.replace(SHORT, train=Train(), every=None)
    found = method.fit(trained, Batches.of(DATA, size=10), key=KEY)
    assert found.diagnostics["updates between"] == 3
    one = method.fit(trained, Batches.of(DATA, size=10), key=KEY)
    np.testing.assert_array_equal(one.draws, found.draws)
    np.testing.assert_array_less(0, found.gaussian.scale)


def test_classes():
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    data = Dataset(X, y)
    bnn = BNN(mlp(2, 3, width=8, depth=1), Categorical(), NormalPrior(0.1))
    method = SWAG(Train(3e-2, steps=120, batch=10), rate=0.05)
    assert 0 < method.cost(bnn, data).flops < 1e9
    p = method.fit(bnn, data, key=KEY).predict(X)
    constant = np.log(np.bincount(y) / len(y))[y].mean()
    assert float(p.log_prob(y).mean()) > constant + 0.4
    assert (np.asarray(p.epistemic) > 0).all()


def test_convolutions_take_their_steps_from_the_host(monkeypatch):
    data = Dataset(RNG.standard_normal((12, 1, 5, 5)), RNG.integers(0, 3, 12))
    method = SWAG(Train(batch=4), collect=10, every=2, rank=3)
    found = []
    for slow in (True, False):
        monkeypatch.setattr(train_method, "slow_in_loops", lambda *_, s=slow: s)
        fit = method.fit(BNN(small_cnn(KEY), Categorical()), data, key=KEY)
        found.append(fit.gaussian)
    assert fit.predict(data.x).mean.shape == (12, 3)
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0].factor, found[1].factor, rtol=1e-2, atol=1e-5)


class Kill(Exception):
    pass


@pytest.mark.parametrize("after", [4, 14], ids=["training", "collection"])
def test_an_interrupted_fit_goes_on_bit_for_bit(after, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    path = tmp_path / "fit.npz"
    seen, again = [], []
    whole = SHORT.fit(PROBLEM, DATA, callback=lambda *at: again.append(at), key=KEY)
    steps = [step for step, _ in again]
    assert steps == [*range(5, 51, 5), *range(56, 111, 6)]
    again.clear()

    def kill(*at):
        seen.append(at)
        if len(seen) == after:
            raise Kill

    with pytest.raises(Kill):
        SHORT.fit(PROBLEM, DATA, callback=kill, checkpoint=path, key=KEY)
    with pytest.raises(StoreError, match="another method, problem, data or key"):
        SHORT.fit(PROBLEM, DATA, checkpoint=path, key=jax.random.key(9))
    resumed = SHORT.fit(
        PROBLEM, DATA, callback=lambda *at: again.append(at), checkpoint=path, key=KEY
    )
    np.testing.assert_array_equal(whole.draws, resumed.draws)
    assert whole.diagnostics == resumed.diagnostics
    # what was done is not done again
    assert [step for step, _ in again if step < seen[-1][0]] in ([], [50])
    # finished, it is only read: one report for each of the two trainings
    again.clear()
    read = SHORT.fit(
        PROBLEM, DATA, callback=lambda *at: again.append(at), checkpoint=path, key=KEY
    )
    assert len(again) == 2
    np.testing.assert_array_equal(whole.draws, read.draws)


def test_new_numbers_compile_nothing(caplog):
    def fit(number, every, rate, key, y):
        bnn = BNN(Network(BUILD), Gaussian(number), NormalPrior(number))
        method = dataclasses.replace(
            SHORT, rate=rate, every=every, collect=60 // every, rank=5
        )
        method.fit(bnn, Dataset(X, y), key=jax.random.key(key)).predict(X)

    fit(1.0, 3, 1e-3, 0, Y)
    size = programs.ONE.advance._cached._cache_size()
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        fit(2.0, 2, 2e-3, 1, Y + 1)
    names = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not names
    assert programs.ONE.advance._cached._cache_size() == size


def test_a_collection_that_diverges_says_so():
    trained = PROBLEM.with_model(BUILD(KEY))
    with pytest.raises(TrainingError, match=r"after step \d+ of 60; lower rate=1e\+06"):
        dataclasses.replace(SHORT, rate=1e6).fit(trained, DATA, key=KEY)
    # where only a moment is too large for its type
    huge = trained.with_model(Constant(jnp.full(1, 1e25)))
    huge = huge.with_noise(1e18).with_prior(NormalPrior(1e-30))
    data = Dataset(np.zeros((30, 1)), 1e10 * RNG.standard_normal(30))
    method = dataclasses.replace(SHORT, rate=1e36)
    with pytest.raises(TrainingError, match="a moment is not finite"):
        method.fit(huge, data, key=KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 1}, "rank=0 .* or rank >= 2"),
        ({"rank": -1}, "rank=0 .* or rank >= 2"),
        ({"collect": 4}, "no fewer than rank, got collect=4, rank=5"),
        ({"collect": 1, "rank": 0}, "collect 2 weights"),
        ({"every": 0}, "every >= 1"),
        ({"rate": 0.0}, "rate > 0"),
        ({"rate": math.nan}, "rate > 0"),
        ({"samples": 1}, "samples >= 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **options)


@pytest.mark.parametrize("batch", [None, 30, 64])
def test_full_batches_have_no_noise_to_collect(batch):
    method = dataclasses.replace(SHORT, train=Train(1e-2, steps=5, batch=batch))
    with pytest.raises(ValueError, match=r"batch=… below the 30 examples|minibatches"):
        method.fit(PROBLEM, DATA, key=KEY)

"""Members of ensembles: what each starts from, and the posteriors they are draws of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ntkuq.data import Batches, Dataset
from ntkuq.kernels import PriorKernel
from ntkuq.models import (
    BNN,
    Categorical,
    EarlyStopping,
    FanInPrior,
    Fixed,
    Gaussian,
    HeteroscedasticGaussian,
    Network,
    NormalPrior,
    Train,
    TrainingError,
    Vectorized,
    mlp,
)
from ntkuq.models.train import loop
from ntkuq.posteriors import (
    MAP,
    NTKGP,
    Anchored,
    Bootstrap,
    DeepEnsemble,
    Diagonal,
    Laplace,
    Mixture,
    NTKGPFn,
    NTKGPLin,
    NTKGPParam,
    Plain,
    Predictive,
    RandomizedPrior,
    Snapshot,
    load,
    mix,
    save,
)


KEY = jax.random.key(1)
RNG = np.random.default_rng(1)
X = RNG.standard_normal((12, 2))
DATA = Dataset(X, X @ [1.0, -0.5] + 0.3 * RNG.standard_normal(12))
EXACT = (RandomizedPrior(), Anchored(), NTKGPParam(), NTKGPFn(), NTKGPLin())
NAMES = [type(member).__name__ for member in EXACT]


def linear(key):
    return eqx.nn.Linear(2, 1, use_bias=False, key=key)


def weights(member):
    """The weights of the linear function that a member is."""
    return jax.vmap(member)(jnp.eye(2))[:, 0]


@pytest.mark.parametrize("member", EXACT, ids=NAMES)
def test_members_of_a_linear_network_are_draws_of_its_posterior(member):
    """Mean and covariance of 100 members against Bayesian linear regression."""
    noise, precision, count = 0.3, 2.0, 100
    with jax.enable_x64(True):
        bnn = BNN(linear, Gaussian(noise), NormalPrior(precision))
        train = Train(
            optax.adam(optax.cosine_decay_schedule(0.1, 300)),
            steps=300,
            plan=Vectorized(),
        )
        ensemble = DeepEnsemble(count, train, member).fit(bnn, DATA, key=KEY)
        drawn = np.stack([weights(one) for one in ensemble.members])
    covariance = np.linalg.inv(X.T @ X / noise**2 + precision * np.eye(2))
    mean = covariance @ X.T @ DATA.y / noise**2
    # Hotelling's statistic has mean 2; S^-1/2 drawn S^-1/2 is Wishart
    white = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean).T).T
    statistic = count * np.sum(white.mean(0) ** 2)
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-4, 2)
    spread = np.sum((white - white.mean(0)) ** 2, axis=0)
    low, high = scipy.stats.chi2.ppf([5e-5, 1 - 5e-5], count - 1)
    assert ((low < spread) & (spread < high)).all()
    correlation = np.corrcoef(white.T)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(count)


def test_a_plain_member_is_the_mode_whatever_it_starts_from():
    bnn = BNN(linear, Gaussian(0.3), NormalPrior(2.0))
    found = DeepEnsemble(3, Train(0.1, steps=400)).fit(bnn, DATA, key=KEY)
    covariance = np.linalg.inv(X.T @ X / 0.09 + 2.0 * np.eye(2))
    for member in found.members:
        np.testing.assert_allclose(
            weights(member), covariance @ X.T @ DATA.y / 0.09, rtol=1e-3
        )


def test_a_bootstrap_member_fits_its_sample_of_the_data():
    bnn = BNN(linear, Gaussian(0.3), NormalPrior(2.0))
    found = DeepEnsemble(40, Train(0.1, steps=300), Bootstrap()).fit(bnn, DATA, key=KEY)
    drawn = np.stack([weights(one) for one in found.members])
    # the bootstrap of the ridge estimate, by NumPy
    expected = []
    for _ in range(4_000):
        rows = RNG.integers(0, 12, 12)
        gram = X[rows].T @ X[rows] / 0.09 + 2.0 * np.eye(2)
        expected.append(np.linalg.solve(gram, X[rows].T @ DATA.y[rows] / 0.09))
    expected = np.stack(expected)
    error = expected.std(0) / np.sqrt(40)
    assert (np.abs(drawn.mean(0) - expected.mean(0)) < 4 * error).all()
    ratio = drawn.var(0, ddof=1) / expected.var(0)
    # heavier tails than normal: twice the normal theory's spread of a variance
    assert (np.abs(ratio - 1) < 4 * 2 * np.sqrt(2 / 39)).all()


def wide(x):
    return jax.scipy.special.erf(x)


@pytest.fixture(scope="module")
def regime():
    """A wide network on a few points, and the NTK-GP that it approaches."""
    x = np.linspace(-1.5, 1.5, 6)[:, None]
    data = Dataset(x, x[:, 0] * np.sin(2 * x[:, 0]))
    build = mlp(1, 1, width=512, depth=1, activation=wide)
    prior = FanInPrior(weight_std=1.5, bias_std=0.5)
    bnn = BNN(Network(build), Gaussian(0.1), prior)
    gp = NTKGP(kernel=PriorKernel(), tune=Fixed()).fit(bnn, data, key=KEY)
    grid = np.linspace(-3.0, 3.0, 25)[:, None]
    return bnn, data, gp.joint(grid), grid


def distance(functions, joint):
    """Normalized Wasserstein distance, averaged over points."""
    mean, std = joint.mean[:, 0], np.sqrt(np.diagonal(joint.covariance))
    shift = functions.mean(0) - mean
    spread = functions.std(0, ddof=1) - std
    return np.mean(np.sqrt(shift**2 + spread**2) / std)


SIZE = 16


@pytest.fixture(scope="module")
def floor(regime):
    """The distance of as many exact draws of the GP: mean and 95 % quantile."""
    joint = jax.tree.map(np.asarray, regime[2])
    lower = np.linalg.cholesky(joint.covariance + 1e-9 * np.eye(25))
    rng = np.random.default_rng(0)
    found = [
        distance(joint.mean[:, 0] + rng.standard_normal((SIZE, 25)) @ lower.T, joint)
        for _ in range(400)
    ]
    return np.mean(found), np.quantile(found, 0.95)


@pytest.mark.parametrize(
    "member",
    [
        NTKGPParam(),
        pytest.param(NTKGPFn(), marks=pytest.mark.long),
        pytest.param(NTKGPLin(), marks=pytest.mark.long),
    ],
    ids=["NTKGPParam", "NTKGPFn", "NTKGPLin"],
)
def test_wide_corrected_members_are_draws_of_the_ntk_gp(member, regime, floor):
    bnn, data, joint, grid = regime
    ensemble = DeepEnsemble(SIZE, Train(3e-3, steps=2_000), member).fit(
        bnn, data, key=KEY
    )
    found = distance(outputs(ensemble, grid), jax.tree.map(np.asarray, joint))
    assert found < floor[1]


def test_plain_members_do_not_get_there(regime, floor):
    bnn, data, joint, grid = regime
    for member in (Plain(), Anchored()):
        ensemble = DeepEnsemble(SIZE, Train(3e-3, steps=1_000), member).fit(
            bnn, data, key=KEY
        )
        found = distance(outputs(ensemble, grid), jax.tree.map(np.asarray, joint))
        assert found > floor[1]


def outputs(ensemble, grid):
    x = jnp.asarray(grid, jnp.float32)
    return np.stack([jax.vmap(m)(x)[:, 0] for m in ensemble.members])


def test_snapshots_come_from_one_training():
    build = mlp(2, 1, width=6)
    bnn = BNN(build, Gaussian(0.3))
    seen = []
    found = DeepEnsemble(3, Train(1e-2, steps=30), Snapshot()).fit(
        bnn, DATA, callback=lambda *at: seen.append(at[0]), key=KEY
    )
    assert seen[-1] == 30
    assert len(found.members) == 3
    keys = jax.random.split(KEY, 4)
    model = build(keys[0])
    for now, member in zip(keys[1:], found.members, strict=True):
        trained = Train(1e-2, steps=10).fit(bnn.with_model(model), model, DATA, key=now)
        model = trained.model
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(member), strict=True):
            if eqx.is_array(a):
                np.testing.assert_array_equal(a, b)


class Kill(Exception):
    pass


SHORT = Train(1e-2, steps=50, batch=5)


@pytest.mark.parametrize(
    "method",
    [
        DeepEnsemble(3, SHORT, RandomizedPrior()),
        pytest.param(DeepEnsemble(3, SHORT, Snapshot()), marks=pytest.mark.long),
        pytest.param(MAP(SHORT, rounds=3), marks=pytest.mark.long),
        Mixture(Laplace(structure=Diagonal(), tune=Fixed()), 2, MAP(SHORT, rounds=2)),
    ],
    ids=["ensemble", "snapshots", "MAP", "mixture"],
)
def test_an_interrupted_fit_goes_on_bit_for_bit(method, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    bnn = BNN(mlp(2, 1, width=4), Gaussian(0.3))
    path = tmp_path / "fit.npz"
    whole = method.fit(bnn, DATA, key=KEY)
    count = 0

    def kill(steps, loss):
        nonlocal count
        count += 1
        if count == 14:
            raise Kill

    with pytest.raises(Kill):
        method.fit(bnn, DATA, callback=kill, checkpoint=path, key=KEY)
    assert list(tmp_path.iterdir())
    again = []
    resumed = method.fit(
        bnn, DATA, callback=lambda *at: again.append(at), checkpoint=path, key=KEY
    )
    assert len(again) < 40
    x = DATA.x[:4]
    np.testing.assert_array_equal(whole.predict(x).mean, resumed.predict(x).mean)
    # finished, it is only read: one report for each training
    again.clear()
    method.fit(
        bnn, DATA, callback=lambda *at: again.append(at), checkpoint=path, key=KEY
    )
    assert len(again) <= 4


def test_a_diverging_member_is_reported_and_the_others_are_kept():
    def build(key):
        model = linear(key)
        size = jnp.where(jax.random.bernoulli(key, 0.3), 1e30, 1.0)
        return eqx.tree_at(lambda m: m.weight, model, model.weight * size)

    bnn = BNN(build, Gaussian(0.3))
    method = DeepEnsemble(6, Train(1e-2, steps=20))
    with pytest.warns(UserWarning, match="diverged for member") as caught:
        found = method.fit(bnn, DATA, key=KEY)
    assert 2 <= found.diagnostics["members"] < 6
    assert "after step" in found.diagnostics["diverged"]
    assert len(caught) == 1
    assert np.isfinite(found.predict(DATA.x).mean).all()
    with pytest.raises(TrainingError, match="0 of 2 members are left"):
        DeepEnsemble(2, Train(optax.sgd(1e30), steps=20)).fit(
            BNN(linear, Gaussian(0.3)), DATA, key=KEY
        )


def test_mean_and_variance_heads_adversarial_examples_and_stopping():
    noise = np.exp(0.5 * X[:, 0] - 1)
    data = Dataset(X, X @ [1.0, -0.5] + noise * RNG.standard_normal(12))
    bnn = BNN(mlp(2, 2, width=6), HeteroscedasticGaussian())
    for member in (Plain(), RandomizedPrior()):
        train = Train(
            1e-2, steps=60, adversarial=0.01, stop=EarlyStopping(0.25, every=10)
        )
        found = DeepEnsemble(3, train, member).fit(bnn, data, key=KEY)
        p = found.predict(X)
        assert np.isfinite(p.log_prob(data.y)).all()
        assert len(found.diagnostics["validation scores"]) == 3
    with pytest.raises(ValueError, match="asks for 2 network"):
        DeepEnsemble(2).fit(BNN(mlp(2, 1), HeteroscedasticGaussian()), data, key=KEY)


def test_batches_serve_members_that_share_data_and_prior():
    bnn = BNN(mlp(2, 1, width=4), Gaussian(0.3))
    train = Train(1e-2, steps=10)
    found = DeepEnsemble(2, train).fit(bnn, Batches.of(DATA, size=4), key=KEY)
    assert found.predict(X).mean.shape == (12,)
    with pytest.raises(ValueError, match="a Dataset for Bootstrap"):
        DeepEnsemble(2, train, Bootstrap()).fit(bnn, Batches.of(DATA, size=4), key=KEY)


def test_a_prior_by_leaf_reaches_wrapped_networks():
    build = mlp(2, 1, width=4)
    tree = jax.tree.map(lambda leaf: 3.0, eqx.filter(build(KEY), eqx.is_inexact_array))
    train = Train(1e-2, steps=20)
    found = [
        DeepEnsemble(2, train, RandomizedPrior()).fit(
            BNN(build, Gaussian(0.3), prior), DATA, key=KEY
        )
        for prior in (NormalPrior(3.0), NormalPrior(tree))
    ]
    np.testing.assert_allclose(
        found[0].predict(X).mean, found[1].predict(X).mean, rtol=1e-5
    )


def test_members_are_saved_sampled_and_functions(tmp_path):
    bnn = BNN(mlp(2, 1, width=4), Gaussian(0.3))
    found = DeepEnsemble(2, Train(1e-2, steps=10), RandomizedPrior()).fit(
        bnn, DATA, key=KEY
    )
    path = tmp_path / "ensemble.ntkuq"
    save(path, found)
    np.testing.assert_array_equal(
        load(path, bnn).predict(X).mean, found.predict(X).mean
    )
    functions = found.sample_functions(KEY, 3)
    values = np.asarray(functions(X))
    assert values.shape == (3, 12)
    every = np.stack(
        [jax.vmap(m)(jnp.asarray(X, jnp.float32))[:, 0] for m in found.members]
    )
    for row in values:
        assert min(np.abs(row - one).max() for one in every) < 1e-5
    np.testing.assert_array_equal(functions[1](X), values[1])


def test_a_mixture_of_posteriors_obeys_the_law_of_total_variance():
    bnn = BNN(mlp(2, 1, width=4), Gaussian(0.3))
    trainer = MAP(Train(1e-2, steps=30), tune=Fixed())
    method = Mixture(Laplace(structure=Diagonal(), tune=Fixed()), 3, trainer)
    found = method.fit(bnn, DATA, key=KEY)
    parts = [part.predict(X) for part in found.parts]
    means = np.stack([p.mean for p in parts])
    p = found.predict(X)
    np.testing.assert_allclose(p.mean, means.mean(0), rtol=1e-5)
    inside = np.mean([np.asarray(q.epistemic) for q in parts], axis=0)
    np.testing.assert_allclose(p.epistemic, inside + means.var(0), rtol=1e-4)
    density = np.mean([np.exp(np.asarray(q.log_prob(DATA.y))) for q in parts], axis=0)
    np.testing.assert_allclose(p.log_prob(DATA.y), np.log(density), rtol=1e-4)
    assert found.sample(KEY, 4).layers[0].weight.shape == (4, 4, 2)
    labels = Dataset(X, (X[:, 0] > 0).astype(int))
    classes = Mixture(Laplace(structure=Diagonal(), tune=Fixed()), 2, trainer).fit(
        BNN(mlp(2, 2, width=4), Categorical()), labels, key=KEY
    )
    p = classes.predict(X)
    parts = [part.predict(X) for part in classes.parts]
    probs = np.mean([np.asarray(q.mean) for q in parts], axis=0)
    np.testing.assert_allclose(p.mean, probs, rtol=1e-5)
    entropy = -np.sum(probs * np.log(probs), axis=-1)
    np.testing.assert_allclose(p.epistemic + p.aleatoric, entropy, rtol=1e-4)


def test_mixing_mixtures_keeps_every_component():
    two = mix([Predictive.normal(np.zeros(3), np.ones(3) * s) for s in (1.0, 2.0)])
    three = mix([two, Predictive.normal(np.ones(3), np.ones(3))])
    y = np.array([-1.0, 0.2, 3.0])
    density = (
        0.25 * scipy.stats.norm.pdf(y)
        + 0.25 * scipy.stats.norm.pdf(y, scale=2.0)
        + 0.5 * scipy.stats.norm.pdf(y, loc=1.0)
    )
    np.testing.assert_allclose(three.log_prob(y), np.log(density), rtol=1e-5)
    with pytest.raises(TypeError, match="normal, mixtures of normals, or classes"):
        mix([Predictive.samples(np.zeros((4, 3)))])
    with pytest.raises(ValueError, match="same points"):
        mix([two, Predictive.normal(np.zeros(2), np.ones(2))])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomizedPrior(scale=0.0), "scale > 0"),
        (lambda: Mixture(size=1), "size >= 2"),
        (lambda: Mixture(trainer=MAP(None)), "a trainer that trains"),
        (lambda: mix([]), "at least one"),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
    with pytest.raises(TypeError, match="expected a FanInPrior"):
        NTKGP(kernel=PriorKernel()).fit(BNN(mlp(2, 1), Gaussian()), DATA, key=KEY)

"""Images, sequences, known noise and one's own densities through MAP and Laplace."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.stats as st
import numpy as np
import pytest

from ntkuq.calibration import score
from ntkuq.data import Dataset
from ntkuq.models import (
    BNN,
    Categorical,
    Fixed,
    Gaussian,
    LogDensity,
    NormalPrior,
    Probit,
    Standardize,
    Train,
    mlp,
)
from ntkuq.posteriors import KFAC, MAP, Full, Laplace
from tests.oracle import dense as oracle


RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


class Blur(eqx.Module):
    """Images (1, H, W) to images (1, H, W)."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Conv2d(1, 2, 3, padding=1, key=one)
        self.second = eqx.nn.Conv2d(2, 1, 3, padding=1, key=two)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Tagger(eqx.Module):
    """A class for each of T words: tokens (T,) to logits (T, 3)."""

    table: eqx.nn.Embedding
    head: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.table = eqx.nn.Embedding(5, 4, key=one)
        self.head = eqx.nn.Linear(4, 3, key=two)

    def __call__(self, x):
        words = jax.vmap(self.table)(x)
        context = jnp.tanh(words + jnp.mean(words, axis=0))
        return jax.vmap(self.head)(context)


def images(n=20, size=(3, 4)):
    x = RNG.standard_normal((n, 1, *size))
    y = np.tanh(x[:, 0]) + np.roll(x[:, 0], 1, axis=2)
    return Dataset(x, 3.0 + 2.0 * (y + 0.2 * RNG.standard_normal(y.shape)))


def dense_covariance(posterior, data, new):
    """J* (L + J^T H J)^-1 J*^T at the network of a posterior, for all of `new`."""
    bnn = posterior.bnn
    with jax.enable_x64(True):
        model = oracle.double(bnn.model)
        x, z = bnn.inputs(data.x, np.float64), bnn.inputs(new, np.float64)
        f = oracle.outputs(model, x)
        j, jn = oracle.jacobian(model, x), oracle.jacobian(model, z)
        blocks = jax.jit(jax.vmap(bnn.likelihood.hessian))(
            f, bnn.targets(data, np.float64)
        )
        h = jax.scipy.linalg.block_diag(*blocks)
        precision = np.full(j.shape[1], float(bnn.prior.precision))
        return jn @ oracle.covariance(oracle.ggn(j, np.asarray(h)), precision) @ jn.T


@pytest.mark.parametrize("structure", [Full(), KFAC()], ids=["full", "kfac"])
def test_images_to_images(structure):
    data = images()
    bnn = BNN(Blur, Gaussian(0.5), NormalPrior(0.1), scaling=Standardize())
    bnn = MAP(Train(1e-2, steps=60), tune=Fixed()).fit(bnn, data, key=KEY).bnn
    posterior = Laplace(structure=structure, tune=Fixed()).fit(bnn, data, key=KEY)
    p = posterior.predict(data.x)
    for part in (p.mean, p.epistemic, p.aleatoric, p.latent.variance, p.quantile(0.1)):
        assert part.shape == data.y.shape
    assert p.log_prob(data.y).shape == (20,)
    # the network's own outputs, in the units of the data
    f = jax.vmap(bnn.model)(bnn.inputs(data.x))[:, 0]
    loc, scale = bnn.scaling.loc()[0], bnn.scaling.scale()[0]
    np.testing.assert_allclose(p.mean, loc + scale * f, rtol=1e-4, atol=1e-4)
    if not isinstance(structure, Full):
        return
    exact = scale**2 * dense_covariance(posterior, data, data.x[:2])
    variance = np.diag(exact).reshape(2, 3, 4)
    np.testing.assert_allclose(p.epistemic[:2], variance, rtol=1e-3)
    # covariances across pixels stay available
    joint = posterior.joint(data.x[:2])
    np.testing.assert_allclose(joint.covariance, exact, rtol=1e-3, atol=1e-5)
    scores = score(p, data.y)
    assert scores.n == 20
    np.testing.assert_allclose(
        scores["rmse"].value, np.sqrt(np.mean((data.y - p.mean) ** 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        scores["nll"].value, -p.log_prob(data.y).mean(), rtol=1e-5
    )
    plain = MAP(train=None, tune=Fixed()).fit(bnn, data, key=KEY).predict(data.x)
    assert plain.mean.shape == plain.epistemic.shape == data.y.shape


def test_a_class_for_every_word():
    x = RNG.integers(0, 5, (24, 4))
    y = np.minimum((x + x[:, :1]) // 2, 2)
    data = Dataset(x, y)
    bnn = BNN(Tagger, Categorical(), NormalPrior(0.5))
    bnn = MAP(Train(3e-2, steps=80), tune=Fixed()).fit(bnn, data, key=KEY).bnn
    posterior = Laplace(structure=Full(), tune=Fixed()).fit(bnn, data, key=KEY)
    p = posterior.predict(x)
    assert p.mean.shape == (24, 4, 3)
    assert p.epistemic.shape == p.aleatoric.shape == (24, 4)
    logs = np.log(np.take_along_axis(np.asarray(p.mean), y[..., None], -1))[..., 0]
    np.testing.assert_allclose(p.log_prob(y), logs.sum(1), rtol=1e-4)
    exact = dense_covariance(posterior, data, x[:2])
    np.testing.assert_allclose(
        posterior.joint(x[:2]).covariance, exact, rtol=1e-3, atol=1e-5
    )
    blocks = [exact[i * 3 : i * 3 + 3, i * 3 : i * 3 + 3] for i in range(8)]
    f = jax.vmap(bnn.model)(bnn.inputs(x[:2])).reshape(8, 3)
    one = Categorical().marginalize(f, jnp.asarray(np.stack(blocks), jnp.float32))
    np.testing.assert_allclose(p.mean[:2].reshape(8, 3), one.observed.probs, atol=2e-3)
    scores = score(p, y)
    assert scores.n == scores["accuracy"].n == 24
    share = np.mean(np.asarray(p.mean).argmax(-1) == y)
    np.testing.assert_allclose(scores["accuracy"].value, share, rtol=1e-6)
    with pytest.raises(KeyError, match="not independent"):
        scores["ece"]
    assert MAP(train=None).fit(bnn, data, key=KEY).predict(x).mean.shape == (24, 4, 3)


def noisy_line(n=30):
    x = RNG.uniform(-1, 1, (n, 2))
    s = RNG.uniform(0.05, 1.0, n)
    return x, 1.0 + x @ [2.0, -1.0] + s * RNG.standard_normal(n), s


def test_known_noise_is_weighted_regression():
    """A linear network: in closed form; predictions have the noise of the Gaussian."""
    x, y, s = noisy_line()
    data = Dataset(x, y, noise_scale=s)
    phi = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    precision = phi.T @ (phi / s[:, None] ** 2) + 0.5 * np.eye(3)
    w = np.linalg.solve(precision, phi.T @ (y / s**2))
    model = eqx.nn.Linear(2, 1, key=KEY)
    model = eqx.tree_at(
        lambda m: (m.weight, m.bias),
        model,
        (jnp.asarray(w[None, :2], jnp.float32), jnp.asarray(w[2:], jnp.float32)),
    )
    bnn = BNN(model, Gaussian(0.3), NormalPrior(0.5))
    posterior = Laplace(structure=Full(), tune=Fixed()).fit(bnn, data, key=KEY)
    assert posterior.diagnostics["gradient norm"] < 1e-2
    new = RNG.standard_normal((4, 2))
    basis = np.concatenate([new, np.ones((4, 1))], axis=1)
    exact = np.einsum("ni,ij,nj->n", basis, np.linalg.inv(precision), basis)
    p = posterior.predict(new)
    np.testing.assert_allclose(p.epistemic, exact, rtol=1e-4)
    np.testing.assert_allclose(p.aleatoric, 0.09, rtol=1e-5)
    cov = phi @ phi.T / 0.5 + np.diag(s**2)
    _, log_det = np.linalg.slogdet(cov)
    fit = y @ np.linalg.solve(cov, y)
    evidence = -0.5 * (fit + log_det + len(y) * np.log(2 * np.pi))
    np.testing.assert_allclose(posterior.log_marginal_likelihood, evidence, rtol=1e-5)
    # the noise is known: only the prior precision is fitted
    tuned = Laplace(structure=Full()).fit(bnn, data, key=KEY)
    assert [h.name for h in tuned.hyperparameters] == ["prior precision"]


def student(f, y):
    return st.t.logpdf(y, 4.0, f[0], 0.3)


def draw(key, f):
    z = jax.random.normal(key, (5,), f.dtype)
    return f[0] + 0.3 * z[0] / jnp.sqrt(jnp.mean(z[1:] ** 2))


@pytest.mark.parametrize("structure", [Full(), KFAC()], ids=["full", "kfac"])
def test_robust_regression_from_a_density(structure):
    x = RNG.uniform(-1, 1, (40, 2))
    y = 10 + 4 * np.tanh(x @ [2.0, -1.0])
    y[::8] += 30.0  # outliers, on one side
    data = Dataset(x, y)
    train = MAP(Train(2e-2, steps=250), tune=Fixed())
    plain, robust = (
        BNN(mlp(2, 1, width=8, depth=1), one, NormalPrior(0.1), scaling=Standardize())
        for one in (Gaussian(0.3), LogDensity(student, sample=draw))
    )
    clean = np.arange(40) % 8 != 0
    errors = []
    for bnn in (plain, robust):
        bnn = train.fit(bnn, data, key=KEY).bnn
        posterior = Laplace(structure=structure, tune=Fixed()).fit(bnn, data, key=KEY)
        p = posterior.predict(x)
        errors.append(np.abs(np.asarray(p.log_prob(y)))[clean].mean())
    # outliers do not widen the noise of a heavy-tailed density for the others
    assert errors[1] < errors[0]
    if isinstance(structure, Full):
        exact = dense_covariance(posterior, data, x)
        np.testing.assert_allclose(p.latent.variance, np.diag(exact), rtol=2e-3)
        scores = score(p, y)
        np.testing.assert_allclose(
            scores["nll"].value, -p.log_prob(y).mean(), rtol=1e-4
        )
        assert {"rmse", "crps", "coverage_90", "pit_ks"} <= set(scores.values)


def test_a_density_without_a_sampler_scores_its_likelihood():
    x, y, _ = noisy_line()
    data = Dataset(x, y)
    bnn = BNN(eqx.nn.Linear(2, 1, key=KEY), LogDensity(student))
    posterior = Laplace(structure=Full(), tune=Fixed()).fit(bnn, data, key=KEY)
    scores = score(posterior.predict(x), y)
    assert list(scores.values) == ["nll"]
    others = {k: v for k, v in scores.omitted.items() if "sample=" not in v}
    assert not others
    with pytest.raises(KeyError, match="rmse was left out"):
        scores["rmse"]


def test_a_link_is_chosen_for_predictions():
    x = RNG.standard_normal((12, 2))
    data = Dataset(x, RNG.integers(0, 3, 12))
    bnn = BNN(eqx.nn.MLP(2, 3, 4, 1, key=KEY), Categorical())
    fit = {"structure": Full(), "tune": Fixed()}
    one = Laplace(**fit, link=Probit()).fit(bnn, data, key=KEY).predict(x)
    two = Laplace(**fit).fit(bnn, data, key=KEY).predict(x)
    assert one.epistemic is None
    kappa = 1 / np.sqrt(1 + np.pi / 8 * np.asarray(two.latent.variance))
    exact = jax.nn.softmax(kappa * two.latent.mean)
    np.testing.assert_allclose(one.mean, exact, rtol=1e-4)

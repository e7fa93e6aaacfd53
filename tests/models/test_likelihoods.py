"""Likelihoods: derivatives, integrals over Gaussian outputs, targets that fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    KnownNoise,
    Poisson,
    Probit,
)
from ntkuq.models.likelihoods import curvature, square_root
from ntkuq.models.likelihoods.quadrature import nodes, root
from tests.oracle import dense as oracle


RNG = np.random.default_rng(0)
CASES = {
    "gaussian": (Gaussian(0.5), 1),
    "two outputs": (Gaussian(np.array([0.5, 2.0])), 2),
    "categorical": (Categorical(), 3),
    "two classes": (Categorical(), 2),
    "bernoulli": (Bernoulli(), 1),
    "poisson": (Poisson(), 1),
    "heteroscedastic": (HeteroscedasticGaussian(), 2),
    "heteroscedastic, two targets": (HeteroscedasticGaussian(), 4),
}
#: Softmax does not change along (1, …, 1): one column fewer in the Hessian's root.
SPARE = {"categorical", "two classes"}


def y_like(name):
    """Some target of this likelihood."""
    return jnp.asarray(1) if name in SPARE else jnp.asarray([0.3])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def uncertain(size, n=4, spread=0.6):
    """Means (N, C) and covariances (N, C, C) of outputs."""
    mean = RNG.standard_normal((n, size))
    root = spread * RNG.standard_normal((n, size, size))
    return jnp.asarray(mean), jnp.asarray(root @ np.swapaxes(root, 1, 2))


@pytest.mark.parametrize("name", CASES)
def test_hessian_is_the_fisher_information(name):
    likelihood, size = CASES[name]
    f = jnp.asarray(RNG.standard_normal((3, size)))
    expected = oracle.hessian(likelihood, f)
    for n, one in enumerate(f):
        block = slice(n * size, (n + 1) * size)
        h = likelihood.hessian(one)
        np.testing.assert_allclose(h, expected[block, block], rtol=1e-9, atol=1e-12)
        s = likelihood.hessian_sqrt(one)
        np.testing.assert_allclose(s @ s.T, h, rtol=1e-12, atol=1e-14)
        assert s.shape[1] == (size if name not in SPARE else size - 1)
        # what was observed makes no difference to an expectation
        np.testing.assert_array_equal(likelihood.hessian(one, y_like(name)), h)
        np.testing.assert_array_equal(likelihood.hessian_sqrt(one, y_like(name)), s)
        root = square_root(h)
        np.testing.assert_allclose(root @ root.T, h, rtol=1e-9, atol=1e-12)
        if not name.startswith("hetero"):
            y = jnp.asarray(1.0) if likelihood.continuous else jnp.asarray(1)
            np.testing.assert_allclose(curvature(likelihood, one, y), h, atol=1e-12)
    weights = jnp.asarray([0.5, 2.0, 0.0])
    each = expected.reshape(3, size, 3, size)
    total = np.einsum("n,ncnd->cd", weights, each)
    found = likelihood.hessian_sum(f, None, weights)
    np.testing.assert_allclose(found, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_integrals_over_outputs_are_those_of_many_draws(name):
    likelihood, size = CASES[name]
    mean, cov = uncertain(size)
    got = likelihood.marginalize(mean, cov)
    draws = 40_000
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(np.asarray(cov) + 1e-12 * np.eye(size))
    z = rng.standard_normal((draws, *mean.shape))
    f = np.asarray(mean) + np.einsum("ncd,snd->snc", root, z)
    if likelihood.classes:
        p = np.asarray(likelihood.distribution(jnp.asarray(f)).probs)
        # the Monte-Carlo error of the library for 3 classes is below 0.022
        atol = 0.022 if size == 3 else 5 * 0.5 / np.sqrt(draws)
        probs = np.asarray(got.observed.probs)
        np.testing.assert_allclose(probs, p.mean(0), atol=atol)
        np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-12)
        entropy = -(p * np.log(p)).sum(-1).mean(0)
        np.testing.assert_allclose(got.aleatoric, entropy, atol=2 * atol)
        assert (np.asarray(got.epistemic) >= 0).all()
        return
    if name == "poisson":
        rate = np.exp(f[..., 0])
        error = 5 * rate.std(0).max() / np.sqrt(draws)
        np.testing.assert_allclose(got.observed.mean, rate.mean(0), atol=error)
        exact = np.exp(mean[:, 0] + cov[:, 0, 0] / 2)
        np.testing.assert_allclose(got.aleatoric, exact, rtol=1e-9)
        spread = exact**2 * (np.exp(cov[:, 0, 0]) - 1)
        np.testing.assert_allclose(got.epistemic, spread, rtol=1e-6)
        return
    parts = likelihood.distribution(jnp.asarray(f))
    loc = np.asarray(parts.mean)
    var = np.broadcast_to(np.asarray(parts.variance), loc.shape)
    if loc.shape[-1] == 1:
        loc, var = loc[..., 0], var[..., 0]
    y = loc.mean(0) + 0.3
    density = np.exp(-0.5 * (y - loc) ** 2 / var) / np.sqrt(2 * np.pi * var)
    error = 6 * density.std(0) / np.sqrt(draws)
    value = np.exp(np.asarray(got.observed.log_prob(jnp.asarray(y))))
    assert (np.abs(value - density.mean(0)) < error).all()
    error = 6 * loc.std(0) / np.sqrt(draws)
    assert (np.abs(np.asarray(got.latent.mean) - loc.mean(0)) < error).all()
    np.testing.assert_allclose(got.epistemic, loc.var(0), rtol=0.06)
    # means and variances of the mixture follow the law of total variance
    total = np.asarray(got.epistemic + got.aleatoric)
    np.testing.assert_allclose(got.observed.variance, total, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_variances_stand_for_independent_outputs(name):
    likelihood, size = CASES[name]
    mean, _ = uncertain(size)
    variance = jnp.asarray(RNG.uniform(0.1, 1.0, mean.shape))
    full = jax.vmap(jnp.diag)(variance)
    one, two = (likelihood.marginalize(mean, c) for c in (variance, full))
    y = jnp.ones(one.observed.batch_shape, int if likelihood.classes else float)
    for a, b in (
        (one.observed.log_prob(y), two.observed.log_prob(y)),
        (one.epistemic, two.epistemic),
        (one.aleatoric, two.aleatoric),
        (one.latent.variance, two.latent.variance),
    ):
        # the factor of a covariance has 1e-9 of its mean variance added
        np.testing.assert_allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n][0].classes])
def test_links_are_for_classes(name):
    likelihood, size = CASES[name]
    mean, cov = uncertain(size)
    with pytest.raises(TypeError, match=r"no classes, got Probit\(\): leave link out"):
        likelihood.marginalize(mean, cov, Probit())


def test_root_of_nearly_certain_probabilities():
    """S S^T = H within rounding of its largest entry, whichever class is certain."""
    for certain in (0, 3):
        f = jnp.zeros(4).at[certain].set(30.0)
        h, s = Categorical().hessian(f), Categorical().hessian_sqrt(f)
        assert s.shape == (4, 3)
        np.testing.assert_allclose(s @ s.T, h, atol=1e-15)
    wide = jnp.asarray(RNG.standard_normal(50), jnp.float32)
    s = Categorical().hessian_sqrt(wide)
    np.testing.assert_allclose(s @ s.T, Categorical().hessian(wide), atol=1e-7)


def test_root_of_a_covariance_with_rounding_errors():
    """A covariance of rank 1 with an eigenvalue of -1e-7: the factor stays near it."""
    v = RNG.standard_normal((5, 1))
    damaged = v @ v.T - 1e-7 * np.eye(5)
    for cov in (damaged, v @ v.T, np.zeros((5, 5))):
        lower = root(jnp.asarray(cov)[None])[0]
        assert (np.triu(lower, 1) == 0).all()
        np.testing.assert_allclose(lower @ lower.T, cov, atol=2e-7)


def test_two_classes_are_bernoulli_on_the_difference():
    mean, cov = uncertain(2, spread=1.5)
    contrast = jnp.asarray([-1.0, 1.0])
    one = Categorical().marginalize(mean, cov)
    two = Bernoulli().marginalize(
        (mean @ contrast)[:, None],
        jnp.einsum("c,ncd,d->n", contrast, cov, contrast)[:, None, None],
    )
    for a, b in (
        (one.observed.probs, two.observed.probs),
        (one.epistemic, two.epistemic),
        (one.aleatoric, two.aleatoric),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_certain_outputs_are_the_likelihood_itself(name):
    likelihood, size = CASES[name]
    mean, cov = uncertain(size)
    certain = likelihood.marginalize(mean, jnp.zeros_like(cov))
    plain = likelihood.mixture(mean[None])
    values = (0, 1) if likelihood.classes else (1.0,)
    if name == "poisson":
        values = (2,)
    for y in values:
        y = jnp.full(certain.observed.batch_shape, y)
        np.testing.assert_allclose(
            certain.observed.log_prob(y), plain.observed.log_prob(y), rtol=1e-8
        )
    np.testing.assert_allclose(certain.aleatoric, plain.aleatoric, rtol=1e-8)
    np.testing.assert_allclose(certain.epistemic, 0.0, atol=1e-12)
    assert np.isfinite(jax.tree.leaves(certain.observed)[0]).all()


@pytest.mark.parametrize("name", CASES)
def test_units_are_undone(name):
    """log p of loc + scale y, rescaled, is log p of y minus log scale."""
    likelihood, size = CASES[name]
    targets = max(1, size // 2 if name.startswith("hetero") else size)
    loc = scale = jnp.ones(1)
    if likelihood.continuous:
        loc, scale = jnp.arange(1.0, targets + 1), jnp.arange(2.0, targets + 2)
    f = jnp.asarray(RNG.standard_normal(size))
    y = jnp.asarray(RNG.standard_normal(targets))
    if not likelihood.continuous:
        y = jnp.asarray(1)
    moved, factor = likelihood.shift(f, loc, scale)
    assert factor.shape == (size,)
    wide = likelihood.rescale(loc, scale)
    there = wide.log_prob(moved, loc + scale * y if likelihood.continuous else y)
    lost = jnp.log(scale).sum() if likelihood.continuous else 0.0
    np.testing.assert_allclose(there, likelihood.log_prob(f, y) - lost, rtol=1e-12)


def test_nodes_are_standard_normal():
    for size in (1, 3):
        points, weights = nodes(size)
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights @ points, 0, atol=1e-12)
        np.testing.assert_allclose(weights @ points**2, 1, rtol=1e-12)


@pytest.mark.usefixtures("untyped")
def test_targets_that_do_not_fit_are_named():
    counts = np.array([0, 1, 2])
    assert Poisson().outputs(counts) == Bernoulli().outputs(counts[:2]) == 1
    assert Categorical().outputs(counts) == 3
    assert Categorical().outputs(counts[:1]) == 2
    with pytest.raises(ValueError, match="labels 0 and 1, got 0, 1, 2"):
        Bernoulli().outputs(counts)
    with pytest.raises(ValueError, match="not all whole"):
        Poisson().outputs(counts + 0.5)
    with pytest.raises(ValueError, match="from -1 to 1"):
        Poisson().outputs(counts - 1)
    with pytest.raises(ValueError, match="class codes 0, 1"):
        Categorical().outputs(counts - 1)
    two = np.ones((5, 2))
    assert Gaussian(np.ones(2)).outputs(two) == Gaussian([1.0]).outputs(two) == 2
    for likelihood in (Gaussian(np.ones(3)), KnownNoise(Gaussian(np.ones(3)))):
        with pytest.raises(ValueError, match=r"shape \(\) or \(2,\), .* got \(3,\)"):
            likelihood.outputs(two)
    bad = ("a", None, 1j, [[1.0], [1.0, 2.0]])
    for scale in (0.0, -1.0, np.array([1.0, 0.0]), float("nan"), *bad):
        with pytest.raises(ValueError, match="scale > 0"):
            Gaussian(scale)

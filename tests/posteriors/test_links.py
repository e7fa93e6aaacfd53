"""Class probabilities of Gaussian logits, and predictions that come in parts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special

from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    LaplaceBridge,
    LogDensity,
    MeanField,
    MonteCarlo,
    Poisson,
    Positions,
    Probit,
    mlp,
)
from ntkuq.posteriors import Predictive
from ntkuq.posteriors.join import concatenate, flattened, unflattened
from ntkuq.posteriors.push import (
    COVARIANCES,
    from_functions,
    from_latent,
    needs_covariance,
)


RNG = np.random.default_rng(0)
LINKS = {
    "monte carlo": MonteCarlo(),
    "few draws": MonteCarlo(pairs=64),
    "probit": Probit(),
    "mean field": MeanField(),
    "bridge": LaplaceBridge(),
    "bridge, normalized": LaplaceBridge(normalize=True),
}
#: Largest error of a probability for the problems of `logits`: of Monte Carlo five
#: times its standard error 0.5 / sqrt(2 pairs) at most, of the others as measured. The
#: bridge is another thing: it is held to a Dirichlet below.
ERRORS = {
    "monte carlo": 0.022,
    "few draws": 0.044,
    "probit": 0.06,
    "mean field": 0.04,
}


@eqx.filter_jit
def marginal(likelihood, mean, covariance, link=None):
    """What the likelihood makes of Gaussian outputs, in one compilation."""
    return likelihood.marginalize(mean, covariance, link)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def logits(size=4, n=6, spread=0.8):
    """Means (N, C) and covariances (N, C, C), strongly correlated."""
    mean = RNG.standard_normal((n, size))
    root = spread * RNG.standard_normal((n, size, size)) / np.sqrt(size)
    root[..., 0] += 0.7
    return jnp.asarray(mean), jnp.asarray(root @ np.swapaxes(root, 1, 2))


def integral(mean, cov, draws=200_000):
    """Probabilities and expected entropy by many draws: errors below 1e-3."""
    rng = np.random.default_rng(1)
    probs, entropies = [], []
    for m, c in zip(np.asarray(mean), np.asarray(cov), strict=True):
        p = scipy.special.softmax(rng.multivariate_normal(m, c, draws), axis=1)
        probs.append(p.mean(0))
        entropies.append(scipy.special.entr(p).sum(1).mean())
    return np.stack(probs), np.stack(entropies)


@pytest.mark.parametrize("name", LINKS)
def test_probabilities_are_near_the_integral(name, double):
    mean, cov = logits()
    found = marginal(Categorical(), mean, cov, LINKS[name])
    probs = np.asarray(found.observed.probs)
    exact, expected = integral(mean, cov)
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-12)
    if "bridge" not in name:
        np.testing.assert_allclose(probs, exact, atol=ERRORS[name])
        # nearer than the plug-in of the means
        plug_in = np.abs(jax.nn.softmax(mean) - exact).max()
        assert np.abs(probs - exact).max() < plug_in
    if isinstance(LINKS[name], Probit | MeanField):
        assert found.epistemic is None
        assert found.aleatoric is None
        return
    entropy = scipy.special.entr(probs).sum(1)
    np.testing.assert_allclose(found.epistemic + found.aleatoric, entropy, rtol=1e-10)
    assert (np.asarray(found.epistemic) >= 0).all()
    if "bridge" not in name:
        np.testing.assert_allclose(found.aleatoric, expected, atol=2 * ERRORS[name])


@pytest.mark.parametrize("name", [n for n in LINKS if "bridge" not in n])
def test_certain_logits_are_softmax(name, double):
    mean, _ = logits()
    found = marginal(Categorical(), mean, jnp.zeros((6, 4, 4)), LINKS[name])
    exact = jax.nn.softmax(mean)
    np.testing.assert_allclose(found.observed.probs, exact, rtol=1e-10)
    # the first order in the variance: half of it times the second derivatives
    small = 1e-4 * jnp.ones((6, 4))
    bend = jax.vmap(jax.hessian(jax.nn.softmax))(mean)
    order = 0.5 * 1e-4 * jnp.einsum("nkcc->nk", bend)
    near = marginal(Categorical(), mean, small, LINKS[name]).observed.probs
    if isinstance(LINKS[name], MonteCarlo):
        # antithetic draws of unit variance have second moments within 0.2 of the unit
        np.testing.assert_allclose(near - exact, order, atol=2e-5)
    assert (np.abs(near - exact) < 1e-4).all()


def test_one_logit_is_mackay(double):
    m, v = jnp.asarray([[0.0], [1.0], [-3.0]]), jnp.asarray([[2.0], [0.5], [4.0]])
    exact = 1 / (1 + np.exp(-m[:, 0] / np.sqrt(1 + np.pi * v[:, 0] / 8)))
    z, w = np.polynomial.hermite_e.hermegauss(100)
    nodes = np.asarray(m) + np.sqrt(np.asarray(v)) * z
    integral = scipy.special.expit(nodes) @ (w / w.sum())
    for link in (Probit(), MeanField()):
        found = marginal(Bernoulli(), m, v[..., None], link).observed.probs
        np.testing.assert_allclose(found[:, 1], exact, rtol=1e-12)
        np.testing.assert_allclose(found[:, 1], integral, atol=0.02)
    found = marginal(Bernoulli(), m, v, MonteCarlo()).observed.probs
    np.testing.assert_allclose(found[:, 1], integral, atol=1e-5)
    # the bridge of two classes keeps the mean of the logit
    found = marginal(Bernoulli(), m, v, LaplaceBridge()).observed.probs
    np.testing.assert_allclose(found[:, 1], scipy.special.expit(m[:, 0]), rtol=1e-12)


def test_mean_field_of_two_classes_is_probit_on_the_difference(double):
    mean, cov = logits(size=2)
    contrast = jnp.asarray([-1.0, 1.0])
    gap = (mean @ contrast)[:, None]
    spread = jnp.einsum("c,ncd,d->n", contrast, cov, contrast)[:, None]
    one = marginal(Categorical(), mean, cov, MeanField())
    two = marginal(Bernoulli(), gap, spread, Probit())
    np.testing.assert_allclose(one.observed.probs, two.observed.probs, rtol=1e-12)


@pytest.mark.parametrize("size", [3, 8])
def test_bridge_inverts_the_laplace_approximation_of_a_dirichlet(size, double):
    """mu_k = log a_k - mean log a, S_kl = d_kl/a_k - (1/a_k + 1/a_l - mean 1/a) / C."""
    alpha = RNG.uniform(0.3, 5.0, (4, size))
    mean = np.log(alpha) - np.log(alpha).mean(1, keepdims=True)
    inverse = 1 / alpha
    pairs = inverse[:, :, None] + inverse[:, None, :]
    pairs = pairs - inverse.mean(1)[:, None, None]
    cov = jax.vmap(jnp.diag)(jnp.asarray(inverse)) - pairs / size
    exact = dist.Dirichlet(jnp.asarray(alpha))
    entropy = scipy.special.digamma(alpha.sum(1) + 1) - np.sum(
        exact.mean * scipy.special.digamma(alpha + 1), axis=1
    )
    # a shift of all logits, however uncertain, changes nothing
    for shift in (0.0, 3.0):
        moved = jnp.asarray(mean) + shift
        wide = cov + shift * jnp.ones((size, size))
        found = marginal(Categorical(), moved, wide, LaplaceBridge())
        np.testing.assert_allclose(found.observed.probs, exact.mean, rtol=1e-8)
        np.testing.assert_allclose(found.aleatoric, entropy, rtol=1e-8)


def test_normalized_bridge_scales_to_a_fixed_mean_variance(double):
    """Variances over c and means over sqrt(c), c their mean over sqrt(C / 2)."""
    mean, _ = logits(size=5)
    cov = 3.0 * jnp.broadcast_to(jnp.eye(5) - 0.2, (6, 5, 5))
    c = 3.0 * 0.8 / np.sqrt(5 / 2)
    centered = mean - mean.mean(1, keepdims=True)
    one = marginal(Categorical(), mean, cov, LaplaceBridge(normalize=True))
    two = marginal(Categorical(), centered / np.sqrt(c), cov / c, LaplaceBridge())
    np.testing.assert_allclose(one.observed.probs, two.observed.probs, rtol=1e-10)
    np.testing.assert_allclose(one.epistemic, two.epistemic, rtol=1e-8)


@pytest.mark.parametrize("name", LINKS)
def test_only_links_that_say_so_drop_covariances(name, double):
    mean, cov = logits()
    variance = jnp.diagonal(cov, axis1=1, axis2=2)
    full, diagonal = (
        marginal(Categorical(), mean, c, LINKS[name]).observed.probs
        for c in (cov, variance)
    )
    same = np.allclose(full, diagonal, rtol=1e-12)
    assert same == LINKS[name].diagonal


@pytest.mark.parametrize("name", LINKS)
def test_extreme_logits_stay_finite(name):
    """Also in float32: large gaps, and variances from none to huge."""
    mean = jnp.asarray([[200.0, 0.0, -200.0], [0.0, 0.0, 0.0]], jnp.float32)
    for variance in (0.0, 1e-8, 1e8):
        found = marginal(
            Categorical(),
            mean,
            jnp.full(mean.shape, variance, jnp.float32),
            LINKS[name],
        )
        for part in (found.observed.probs, found.epistemic, found.aleatoric):
            assert part is None or np.isfinite(part).all()
        np.testing.assert_allclose(found.observed.probs.sum(1), 1.0, rtol=1e-5)


def test_draws_are_summed_in_blocks(monkeypatch, double):
    mean, cov = logits()
    whole = MonteCarlo().several(mean, cov)
    monkeypatch.setattr("ntkuq.models.likelihoods.links.CHUNK", 100)
    parts = MonteCarlo().several(mean, cov)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    with pytest.raises(ValueError, match="pairs >= 1, got 0"):
        MonteCarlo(pairs=0)


LIKELIHOODS = {
    "gaussian": (Gaussian(0.5), 1),
    "categorical": (Categorical(), 3),
    "poisson": (Poisson(), 1),
    "heteroscedastic": (HeteroscedasticGaussian(), 2),
    "density": (LogDensity(lambda f, y: -jnp.abs(y - f[0]) - jnp.log(2.0)), 1),
}


def equal(one, two, rtol=1e-6):
    """Two predictives hold the same numbers in the same shapes."""
    a, b = jax.tree.leaves(one), jax.tree.leaves(two)
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_parts_together_are_the_whole(name):
    likelihood, size = LIKELIHOODS[name]
    bnn = BNN(mlp(2, size), likelihood)
    mean, cov = (jnp.asarray(a, jnp.float32) for a in logits(size, n=6))
    dtype = np.dtype("float32")
    whole = from_latent(bnn, mean, cov, dtype)
    parts = [
        from_latent(bnn, mean[rows], cov[rows], dtype, total=6)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    joined = concatenate(parts)
    equal(joined, whole)
    y = jnp.ones(whole.observed.batch_shape, int if likelihood.classes else float)
    np.testing.assert_allclose(joined.log_prob(y), whole.log_prob(y), rtol=1e-5)
    members = jnp.asarray(RNG.standard_normal((3, 6, size)), jnp.float32)
    equal(
        concatenate(
            [
                from_functions(bnn, members[:, rows], dtype)
                for rows in (slice(3), slice(3, 6))
            ]
        ),
        from_functions(bnn, members, dtype),
    )


def test_parts_made_elsewhere_are_joined():
    s, v = RNG.standard_normal((9, 5)), np.sort(RNG.standard_normal((3, 5)), axis=0)
    levels = np.array([0.1, 0.5, 0.9])
    for make in (
        lambda r: Predictive.samples(s[:, r]),
        lambda r: Predictive.quantiles(levels, v[:, r]),
        lambda r: Predictive.probabilities(scipy.special.softmax(s, axis=0).T[r]),
    ):
        joined = concatenate([make(slice(0, 2)), make(slice(2, 5))])
        np.testing.assert_allclose(joined.mean, make(slice(0, 5)).mean, rtol=1e-6)
    with pytest.raises(ValueError, match="at least one Predictive"):
        concatenate([])
    with pytest.raises(ValueError, match="one kind, got"):
        concatenate([Predictive.samples(s), Predictive.normal(v[0], np.ones(5))])


def test_many_classes_keep_variances_only():
    bnn = BNN(mlp(2, 3), Categorical())
    mean, cov = (jnp.asarray(a, jnp.float32) for a in logits(3))
    total = COVARIANCES // 9 + 1
    few = from_latent(bnn, mean, cov, np.dtype("float32"))
    many = from_latent(bnn, mean, cov, np.dtype("float32"), total=total)
    assert isinstance(few.latent, dist.MultivariateNormal)
    assert isinstance(many.latent, dist.Independent)
    np.testing.assert_allclose(many.latent.variance, few.latent.variance, rtol=1e-5)
    equal(many.observed, few.observed)


@pytest.mark.parametrize(
    ("likelihood", "size", "link", "needed"),
    [
        (Gaussian(0.5), 3, None, False),
        (HeteroscedasticGaussian(), 4, None, True),
        (Categorical(), 3, None, True),
        (Categorical(), 3, Probit(), False),
        (Positions(Poisson(), (3,)), 3, None, False),
        (Positions(Categorical(), (2,)), 6, MeanField(), True),
        (LogDensity(lambda f, y: -jnp.abs(y - f[0])), 3, None, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_covariances_are_asked_for_where_they_matter(likelihood, size, link, needed):
    bnn = BNN(mlp(2, size), likelihood)
    mean, cov = (jnp.asarray(a, jnp.float32) for a in logits(size, n=2))
    variance = jnp.diagonal(cov, axis1=1, axis2=2)
    one, two = (
        from_latent(bnn, mean, c, np.dtype("float32"), link=link)
        for c in (cov, variance)
    )
    assert needs_covariance(bnn, link) == needed
    a, b = (jax.tree.leaves((p.observed, p.epistemic)) for p in (one, two))
    same = all(np.allclose(x, y, rtol=1e-5) for x, y in zip(a, b, strict=True))
    assert same == (not needed)


def test_one_compilation_for_all_values():
    """A new scale, mean or covariance compiles nothing."""
    from ntkuq.posteriors import push

    mean, cov = (jnp.asarray(a, jnp.float32) for a in logits(2))
    counts = []
    for scale in (0.5, 0.7, 1.1):
        bnn = BNN(mlp(2, 2), Gaussian(scale))
        from_latent(bnn, scale * mean, scale * cov, np.dtype("float32"))
        counts.append(push._marginal._cached._cache_size())
    assert counts[1:] == counts[:-1]


def test_shapes_are_undone_and_redone():
    p = Predictive.normal(np.arange(24.0).reshape(2, 12), np.ones((2, 12)))
    images = unflattened(p, (3, 4))
    assert images.mean.shape == images.observed.batch_shape == (2, 3, 4)
    y = RNG.standard_normal((2, 3, 4))
    np.testing.assert_allclose(
        images.log_prob(y), p.log_prob(y.reshape(2, 12)), rtol=1e-5
    )
    assert images.quantile(np.array([0.1, 0.9])).shape == (2, 2, 3, 4)
    assert images.sample(jax.random.key(0), 5).shape == (5, 2, 3, 4)
    equal(flattened(images).observed, jax.tree.map(jnp.asarray, p.observed))
    with pytest.raises(ValueError, match=r"y of shape \(2, 3, 4\), got \(2, 12\)"):
        images.log_prob(y.reshape(2, 12))

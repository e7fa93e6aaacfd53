"""Laplace's approximation of latent GPs: mode, evidence, derivatives, predictions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.kernels import RBF
from ntkuq.models import BNN, Bernoulli, Categorical, Poisson
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors.gp import GP, NNGP, NTKGP, LatentLaplace, latent


RNG = np.random.default_rng(3)
KEY = jax.random.key(0)
SIZE = 12


def network(outputs):
    def build(key):
        return eqx.nn.MLP(2, outputs, 8, 1, key=key)

    return build


def gram(log_scale=0.0, x=None):
    x = X if x is None else x
    square = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    return 4.0 * jnp.exp(2.0 * log_scale) * jnp.exp(-0.5 * square)


X = RNG.standard_normal((SIZE, 2))
CASES = [
    (Categorical(), 3, RNG.integers(0, 3, SIZE).astype(np.int32)),
    (Bernoulli(), 1, RNG.integers(0, 2, SIZE).astype(np.int32)),
    (Poisson(), 1, RNG.poisson(2.0, SIZE).astype(np.int32)),
]
cases = pytest.mark.parametrize(
    ("likelihood", "outputs", "y"), CASES, ids=lambda v: type(v).__name__
)


def find(likelihood, outputs, y, kernel):
    start = jnp.zeros((SIZE, outputs))
    return latent.find_mode(likelihood, kernel, jnp.asarray(y), start, 100)


def dense_pieces(likelihood, outputs, y, kernel, mode):
    """f, gradient, W (NC, NC) and K (NC, NC) with rows (n, c)."""
    f = np.asarray(kernel @ mode.a)
    gradient = jax.vmap(likelihood.residual)(jnp.asarray(f), jnp.asarray(y))
    hessians = np.asarray(jax.vmap(likelihood.hessian)(jnp.asarray(f)))
    w = np.zeros((SIZE * outputs, SIZE * outputs))
    for n in range(SIZE):
        rows = slice(n * outputs, (n + 1) * outputs)
        w[rows, rows] = hessians[n]
    return f, np.asarray(gradient), w, np.kron(np.asarray(kernel), np.eye(outputs))


@cases
def test_mode_is_stationary(likelihood, outputs, y):
    with jax.enable_x64(True):
        kernel = gram()
        mode = find(likelihood, outputs, y, kernel)
        f, gradient, _, big = dense_pieces(likelihood, outputs, y, kernel, mode)
        assert float(mode.residual) <= latent.TOLERANCE
        np.testing.assert_allclose(gradient, mode.a, atol=1e-8)
        np.testing.assert_allclose(big @ np.ravel(gradient), np.ravel(f), atol=1e-7)
        assert int(mode.steps) < 40


@cases
def test_evidence_and_moments_equal_dense(likelihood, outputs, y):
    with jax.enable_x64(True):
        kernel = gram()
        mode = find(likelihood, outputs, y, kernel)
        f, _, w, big = dense_pieces(likelihood, outputs, y, kernel, mode)
        fit = jax.vmap(likelihood.log_prob)(jnp.asarray(f), jnp.asarray(y))
        size = SIZE * outputs
        expected = (
            float(jnp.sum(fit))
            - 0.5 * np.ravel(f) @ np.linalg.solve(big, np.ravel(f))
            - 0.5 * np.linalg.slogdet(np.eye(size) + big @ w)[1]
        )
        assert float(latent.log_evidence(mode)) == pytest.approx(expected, rel=1e-9)

        new = RNG.standard_normal((4, 2))
        every = np.asarray(gram(x=np.concatenate([X, new])))
        cross, prior = (
            jnp.asarray(every[SIZE:, :SIZE]),
            jnp.asarray(every[SIZE:, SIZE:]),
        )
        wide = np.kron(np.asarray(cross), np.eye(outputs))
        # (K + W^-1)^-1 = W (I + K W)^-1
        middle = w @ np.linalg.inv(np.eye(size) + big @ w)
        covariance = (
            np.kron(np.asarray(prior), np.eye(outputs)) - wide @ middle @ wide.T
        )
        _, got = latent.joint(mode.curvature, mode.a, cross, prior)
        np.testing.assert_allclose(got, covariance, atol=1e-9)
        np.testing.assert_allclose(got, got.T, atol=1e-10)
        mean, blocks = latent.moments(
            mode.curvature, mode.a, cross, jnp.diagonal(prior)
        )
        np.testing.assert_allclose(mean, cross @ mode.a)
        for n in range(4):
            rows = slice(n * outputs, (n + 1) * outputs)
            np.testing.assert_allclose(blocks[n], covariance[rows, rows], atol=1e-9)


@cases
def test_evidence_gradient_against_refits(likelihood, outputs, y):
    """Finite differences of the whole procedure, the search for the mode included."""
    with jax.enable_x64(True):
        kernel = gram()
        mode = find(likelihood, outputs, y, kernel)
        bar = latent.kernel_bar(likelihood, kernel, mode)
        direction = jnp.asarray(RNG.standard_normal((SIZE, SIZE)))
        direction = direction @ direction.T
        step = 1e-5
        ends = [
            latent.log_evidence(find(likelihood, outputs, y, kernel + s * direction))
            for s in (step, -step)
        ]
        slope = float(jnp.sum(bar * direction))
        expected = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(expected, rel=1e-6)


def test_two_classes_equal_one_latent():
    """softmax of (f0, f1) with variance k each = sigmoid of f1 - f0 with 2 k."""
    _, _, y = CASES[1]
    with jax.enable_x64(True):
        kernel = gram()
        two = find(Categorical(), 2, y, kernel)
        one = find(Bernoulli(), 1, y, 2.0 * kernel)
        np.testing.assert_allclose(
            latent.log_evidence(two), latent.log_evidence(one), rtol=1e-9
        )
        difference = kernel @ (two.a[:, 1] - two.a[:, 0])
        np.testing.assert_allclose(difference, 2.0 * kernel @ one.a[:, 0], atol=1e-8)
        w2 = latent.mean_weights(Categorical(), kernel, two)
        w1 = latent.mean_weights(Bernoulli(), 2.0 * kernel, one)
        mean, covariance = latent.moments(
            two.curvature, w2, kernel, jnp.diagonal(kernel)
        )
        center, single = latent.moments(
            one.curvature, w1, 2.0 * kernel, 2.0 * jnp.diagonal(kernel)
        )
        np.testing.assert_allclose(mean[:, 1] - mean[:, 0], center[:, 0], atol=1e-7)
        contrast = jnp.asarray([-1.0, 1.0])
        spread = jnp.einsum("c,ncd,d->n", contrast, covariance, contrast)
        np.testing.assert_allclose(spread, single[:, 0, 0], atol=1e-9)


@pytest.mark.parametrize("variance", [0.5, 4.0, 25.0])
@pytest.mark.parametrize(
    ("likelihood", "y"), [(Bernoulli(), 1), (Poisson(), 0), (Poisson(), 3)]
)
def test_mean_of_one_datum_against_quadrature(likelihood, y, variance):
    """The corrected mean is nearer the exact posterior mean than the mode is."""
    with jax.enable_x64(True):
        kernel, data = jnp.full((1, 1), variance), jnp.asarray([y], jnp.int32)
        mode = latent.find_mode(likelihood, kernel, data, jnp.zeros((1, 1)), 100)
        weights = latent.mean_weights(likelihood, kernel, mode)
        f = jnp.linspace(-60.0, 60.0, 20001)
        log = jax.vmap(lambda t: likelihood.log_prob(t[None], data[0]))(f)
        density = jnp.exp(log - 0.5 * f**2 / variance)
        exact = float(jnp.sum(f * density) / jnp.sum(density))
        found = float(variance * weights[0, 0])
        start = float(variance * mode.a[0, 0])
        assert abs(found - exact) < 0.6 * abs(start - exact)


def test_mode_from_a_far_start_and_a_strong_kernel():
    _, _, y = CASES[0]
    with jax.enable_x64(True):
        kernel = 1e4 * gram()
        far = jnp.asarray(10.0 * RNG.standard_normal((SIZE, 3)))
        one = latent.find_mode(Categorical(), kernel, jnp.asarray(y), far, 100)
        two = find(Categorical(), 3, y, kernel)
        assert float(one.residual) <= latent.TOLERANCE
        np.testing.assert_allclose(kernel @ one.a, kernel @ two.a, atol=1e-4)


def blobs(size):
    y = RNG.integers(0, 3, size)
    centers = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return Dataset(centers[y] + RNG.standard_normal((size, 2)), y)


@pytest.mark.parametrize(
    "method",
    [GP(kernel=RBF(ard=False)), NNGP(), NTKGP()],
    ids=lambda m: type(m).__name__,
)
def test_classes_end_to_end(method):
    data, test = blobs(60), blobs(60)
    bnn = BNN(network(3), Categorical())
    method = type(method)(
        method.kernel, MarginalLikelihood(max_steps=15), LatentLaplace(tune_points=40)
    )
    posterior = method.fit(bnn, data, key=KEY)
    p = posterior.predict(test.x)
    np.testing.assert_allclose(np.sum(p.mean, axis=1), 1.0, rtol=1e-6)
    assert np.mean(np.argmax(p.mean, axis=1) == test.y) > 0.75
    assert -np.mean(p.log_prob(test.y)) < 0.7
    assert (np.asarray(p.epistemic) >= 0).all()
    assert posterior.diagnostics["tuned on"] == 40
    again = posterior.update(test, key=KEY)
    assert len(again.data) == 120
    far = np.array([[60.0, 60.0]])
    if isinstance(method, GP):  # far away the prior is back: all classes alike
        np.testing.assert_allclose(posterior.predict(far).mean, 1 / 3, atol=0.03)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Poisson()])
def test_one_latent_end_to_end(likelihood):
    x = RNG.standard_normal((40, 2))
    rate = np.exp(x[:, 0])
    y = RNG.poisson(rate) if isinstance(likelihood, Poisson) else (rate > 1).astype(int)
    bnn = BNN(network(1), likelihood)
    posterior = GP(tune=Fixed()).fit(bnn, Dataset(x, y), key=KEY)
    p = posterior.predict(x)
    mean = p.mean if isinstance(likelihood, Poisson) else p.mean[:, 1]
    assert np.corrcoef(mean, y)[0, 1] > 0.4


def test_one_class_only_and_duplicates_are_finite():
    x = np.concatenate([X, X])
    y = np.concatenate([np.zeros(SIZE, int), np.ones(SIZE, int)])
    posterior = GP(tune=Fixed()).fit(
        BNN(network(3), Categorical()), Dataset(x, y), key=KEY
    )
    p = posterior.predict(x)
    assert np.isfinite(p.mean).all()
    np.testing.assert_allclose(p.mean[:, 0], p.mean[:, 1], atol=0.02)

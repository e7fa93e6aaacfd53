"""Likelihoods from a log density alone: against closed forms and quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.stats as st
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from ntkuq.models import Gaussian, HeteroscedasticGaussian, LogDensity, Poisson


RNG = np.random.default_rng(0)
DF, SCALE = 4.0, 0.5


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def student(f, y):
    return st.t.logpdf(y, DF, f[0], SCALE)


def draw_student(key, f):
    z = jax.random.normal(key, (5,), f.dtype)
    return f[0] + SCALE * z[0] / jnp.sqrt(jnp.mean(z[1:] ** 2))


def normal(f, y):
    return st.norm.logpdf(y, f[0], SCALE)


def draw_normal(key, f):
    return f[0] + SCALE * jax.random.normal(key, dtype=f.dtype)


def uneven(f, y):
    return st.norm.logpdf(y, f[0], jnp.exp(f[1]))


def count(f, y):
    return st.poisson.logpmf(y, jnp.exp(f[0]))


#: (from a log density, the same in closed form, outputs, a target)
TWINS = {
    "gaussian": (LogDensity(normal, sample=draw_normal), Gaussian(SCALE), 1, [0.7]),
    "three columns": (LogDensity(normal), Gaussian(SCALE), 3, [0.7, -1.0, 2.0]),
    "two outputs": (
        LogDensity(uneven, outputs=2),
        HeteroscedasticGaussian(),
        2,
        [0.7],
    ),
    "counts": (LogDensity(count, continuous=False), Poisson(), 1, 3),
}


@eqx.filter_jit
def derivatives(likelihood, f, y):
    """log p with its derivatives, and a factor of the Hessian."""
    return (
        likelihood.log_prob(f, y),
        likelihood.residual(f, y),
        likelihood.hessian(f, y),
        likelihood.hessian_sqrt(f, y),
    )


@eqx.filter_jit
def densities(likelihood, mean, cov, members, y):
    """log p(y) under Gaussian outputs and under a set of outputs."""
    one = likelihood.marginalize(mean, cov).observed.log_prob(y)
    return one, likelihood.mixture(members).observed.log_prob(y)


@pytest.mark.parametrize("name", TWINS)
def test_equals_the_closed_form(name):
    ours, exact, size, y = TWINS[name]
    f, y = jnp.asarray(RNG.standard_normal(size)), jnp.asarray(y)
    assert ours.outputs(np.ones((5, np.size(y)))) == size
    close = {"rtol": 1e-10, "atol": 1e-12}
    value, slope, h, root = derivatives(ours, f, y)
    known = derivatives(exact, f, y)
    np.testing.assert_allclose(value, known[0], **close)
    np.testing.assert_allclose(slope, known[1], **close)
    np.testing.assert_allclose(root @ root.T, h, **close)
    if isinstance(exact, Gaussian | Poisson):
        np.testing.assert_allclose(h, known[2], **close)
    mean = jnp.asarray(RNG.standard_normal((4, size)))
    if size == 2:
        mean = mean.at[:, 1].set(0.0)  # noise that the grid resolves
    roots = (0.3 if size == 2 else 0.6) * RNG.standard_normal((4, size, size))
    cov = jnp.asarray(roots @ np.swapaxes(roots, 1, 2))
    if exact.continuous:
        loc, scale = jnp.full(1, 2.0), jnp.full(1, 3.0)
        ours, exact = ours.rescale(loc, scale), exact.rescale(loc, scale)
        moved, factor = exact.shift(mean, loc, scale)
        cov_exact = cov * factor[:, None] * factor
    else:
        moved, cov_exact = mean, cov
    at = jnp.broadcast_to(jnp.arange(1.0, 5.0)[:, None], (4, np.size(y)))
    at = at[:, 0] if np.size(y) == 1 else at
    members = jnp.asarray(RNG.standard_normal((3, 4, size)))
    shifted = exact.shift(members, loc, scale)[0] if exact.continuous else members
    one = densities(ours, mean, cov, members, at)
    two = densities(exact, moved, cov_exact, shifted, at)
    # Gauss-Hermite nodes on one side: 32 for counts, 32 x 32 for two outputs
    rtol = {"counts": 1e-6, "two outputs": 1e-5}.get(name, 1e-9)
    np.testing.assert_allclose(one[0], two[0], rtol=rtol)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-9)


def test_student_t_hessian_is_clipped_where_it_bends_up():
    """-d2 log p = (nu + 1) (nu s^2 - r^2) / (nu s^2 + r^2)^2, negative far out."""
    robust = LogDensity(student, sample=draw_student)
    f = jnp.zeros(1)
    hessian, hessian_sqrt = jax.jit(robust.hessian), jax.jit(robust.hessian_sqrt)
    for r in (0.0, 0.4, 0.9, 1.1, 5.0):
        top = DF * SCALE**2 - r**2
        exact = max((DF + 1) * top / (DF * SCALE**2 + r**2) ** 2, 0.0)
        h = hessian(f, jnp.asarray([r]))
        np.testing.assert_allclose(h, [[exact]], rtol=1e-10)
        s = hessian_sqrt(f, jnp.asarray([r]))
        np.testing.assert_allclose(s * s, h, rtol=1e-12)
    # expected over y: the Fisher information (nu + 1) / ((nu + 3) s^2)
    fisher = (DF + 1) / ((DF + 3) * SCALE**2)
    bend = jax.jit(jax.hessian(student))
    bends = [-bend(f, y)[0, 0] for y in np.linspace(-3, 3, 13)]
    error = 5 * np.std(bends) / np.sqrt(256)
    np.testing.assert_allclose(hessian(f), [[fisher]], atol=error)
    with pytest.raises(ValueError, match=r"give LogDensity\(..., sample=\)"):
        LogDensity(student).hessian_sqrt(f)


@pytest.mark.parametrize(
    ("noise", "rtol"), [(0.1, 3e-4), (0.3, 1e-8), (1.0, 1e-8), (3.0, 1e-8)]
)
def test_predictive_density_is_the_integral(noise, rtol):
    """Noise down to a tenth of the uncertainty of the output."""

    def integrand(f, at):
        return scipy.stats.norm.pdf(f) * scipy.stats.t.pdf(at - f, DF, 0, noise)

    narrow = LogDensity(lambda f, y: st.t.logpdf(y, DF, f[0], noise))
    y = np.array([-6.0, 0.1, 2.0])
    found = narrow.marginalize(jnp.zeros((3, 1)), jnp.ones((3, 1))).observed
    for value, at in zip(np.exp(found.log_prob(y)), y, strict=True):
        exact, _ = scipy.integrate.quad(
            integrand, -9, 9, (at,), points=[at], epsabs=1e-13, limit=200
        )
        np.testing.assert_allclose(value, exact, rtol=rtol)


def test_moments_come_from_the_sampler():
    robust = LogDensity(student, sample=draw_student)
    mean, variance = jnp.asarray([[0.0], [3.0]]), jnp.asarray([[0.25], [2.0]])
    marginal = eqx.filter_jit(lambda one, m, v: one.marginalize(m, v))
    found = marginal(robust, mean, variance)
    d, noise = found.observed, SCALE**2 * DF / (DF - 2)
    total = np.asarray(variance[:, 0]) + noise
    # 8192 draws; heavy tails make the variance of the variance large
    error = 5 * np.sqrt(total / 8192)
    assert (np.abs(d.mean - mean[:, 0]) < error).all()
    np.testing.assert_allclose(d.variance, total, rtol=0.15)
    # all outputs of a point share their draws, so what these add drops out
    np.testing.assert_allclose(found.epistemic, variance[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.aleatoric, noise, rtol=0.4)
    level = jnp.asarray(0.9)
    quantile = d.icdf(level)
    np.testing.assert_allclose(d.cdf(quantile), 0.9, atol=2 / 8192)
    draws = d.sample(jax.random.key(0), (8192,))
    assert draws.shape == (8192, 2)
    inside = np.mean(np.asarray(draws) <= quantile, axis=0)
    np.testing.assert_allclose(inside, 0.9, atol=5 * np.sqrt(2 * 0.09 / 8192))
    scaled = robust.rescale(jnp.full(1, 10.0), jnp.full(1, 2.0))
    wide = marginal(scaled, mean, variance)
    np.testing.assert_allclose(wide.observed.icdf(level), 10 + 2 * quantile, rtol=1e-12)
    np.testing.assert_allclose(wide.epistemic, 4 * found.epistemic, rtol=1e-12)
    assert not d.is_discrete
    assert LogDensity(count, continuous=False).distribution(mean).is_discrete


def test_without_a_sampler_only_densities():
    found = LogDensity(student).marginalize(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    assert found.epistemic is None
    assert found.aleatoric is None
    d = found.observed
    for ask in (
        lambda: d.mean,
        lambda: d.variance,
        lambda: d.icdf(jnp.asarray(0.5)),
        lambda: d.cdf(jnp.zeros(2)),
        lambda: d.sample(jax.random.key(0)),
    ):
        with pytest.raises(NotImplementedError, match="sample="):
            ask()


def test_bad_densities_are_named():
    with pytest.raises(ValueError, match="outputs >= 1, got 0"):
        LogDensity(student, outputs=0)
    both = LogDensity(lambda f, y: st.norm.logpdf(y, f), outputs=2)
    with pytest.raises(ValueError, match=r"one number .* got shape \(2,\)"):
        both.log_prob(jnp.zeros(2), jnp.zeros(1))
    # one output: a vector of one number is one number
    one = LogDensity(lambda f, y: st.norm.logpdf(y, f))
    assert one.log_prob(jnp.zeros(1), jnp.zeros(1)).shape == ()


def test_a_gradient_reaches_the_parameters_of_a_density():
    """A density that is a module keeps its arrays as leaves, in jit too."""

    class Noise(eqx.Module):
        scale: jax.Array

        def __call__(self, f, y):
            return st.norm.logpdf(y, f[0], self.scale)

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(likelihood):
        return likelihood.log_prob(jnp.zeros(1), jnp.ones(1))

    found = slope(LogDensity(Noise(jnp.asarray(2.0)))).function.scale
    np.testing.assert_allclose(found, -1 / 2 + 1 / 8, rtol=1e-12)

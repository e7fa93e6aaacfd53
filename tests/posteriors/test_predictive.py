"""The record of predictions: values against closed forms, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from ntkuq.posteriors.distributions import Empirical, QuantileTable
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(0)
MEAN, STD = RNG.normal(size=6), RNG.uniform(0.5, 2, size=6)
Y = RNG.normal(size=6)


def mixture(n=6, m=4, narrow=0.5, spread=3.0):
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(m), size=n)
    parts = dist.Normal(
        spread * rng.normal(size=(n, m)), rng.uniform(narrow, 2, size=(n, m))
    )
    observed = dist.MixtureSameFamily(dist.Categorical(probs=weights), parts)
    return Predictive(latent=None, observed=observed)


def test_normal_is_scipy():
    with jax.enable_x64(True):
        p = Predictive.normal(MEAN, STD)
        law = stats.norm(MEAN, STD)
        np.testing.assert_allclose(p.mean, MEAN)
        np.testing.assert_allclose(p.log_prob(Y), law.logpdf(Y), rtol=1e-12)
        np.testing.assert_allclose(p.cdf(Y), law.cdf(Y), rtol=1e-12)
        np.testing.assert_allclose(p.quantile(0.3), law.ppf(0.3), rtol=1e-10)
        low, high = p.interval(0.9)
        np.testing.assert_allclose(low, law.ppf(0.05), rtol=1e-10)
        np.testing.assert_allclose(high, law.ppf(0.95), rtol=1e-10)
        several = p.quantile(np.array([0.1, 0.5, 0.9]))
        assert several.shape == (3, 6)
        np.testing.assert_allclose(several[1], MEAN, atol=1e-12)


def test_precision_follows_the_mode_not_the_input():
    p = Predictive.normal(MEAN, STD)
    assert p.mean.dtype == jnp.float32
    assert p.log_prob(Y).dtype == jnp.float32
    assert p.sample(jax.random.key(0), 3).dtype == jnp.float32
    with jax.enable_x64(True):
        assert p.mean.dtype == jnp.float64
        single = Predictive.normal(MEAN.astype(np.float32), STD.astype(np.float32))
        assert single.sample(jax.random.key(0), 3).dtype == jnp.float32


def test_one_std_for_all_points():
    p = Predictive.normal(MEAN, 2.0)
    np.testing.assert_allclose(p.observed.scale, np.full(6, 2.0))


@pytest.mark.parametrize("level", [0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("narrow", [0.5, 1e-3])
@pytest.mark.parametrize("spread", [0.0, 3.0, 1e3])
def test_mixture_quantile_inverts_the_cdf(level, narrow, spread):
    p = mixture(n=50, narrow=narrow, spread=spread)
    with jax.enable_x64(True):
        at = p.quantile(level)
        parts = p.observed.component_distribution
        # Rounding of the argument is all that may remain.
        steep = np.max(np.asarray(1 / parts.scale)) * np.abs(at).max()
        slack = 1e-14 + 4 * np.finfo(float).eps * steep
        np.testing.assert_allclose(p.cdf(at), level, atol=slack)
    single = p.quantile(level)
    assert single.dtype == jnp.float32


def test_mixture_quantile_between_two_far_components():
    parts = dist.Normal(np.array([[-1e3, 1e3]]), np.ones((1, 2)))
    p = Predictive(
        latent=None,
        observed=dist.MixtureSameFamily(dist.Categorical(probs=np.ones(2) / 2), parts),
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(p.quantile(0.25), stats.norm.ppf(0.5) - 1e3)
        assert -1e3 < float(p.quantile(0.5)[0]) < 1e3


def test_mixture_of_equal_components_is_that_component():
    parts = dist.Normal(np.full((3, 5), 2.0), np.full((3, 5), 0.5))
    p = Predictive(
        latent=None,
        observed=dist.MixtureSameFamily(dist.Categorical(probs=np.ones(5) / 5), parts),
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            p.quantile(0.9), np.full(3, stats.norm.ppf(0.9, 2, 0.5)), rtol=1e-12
        )


def test_samples_are_order_statistics():
    draws = RNG.normal(size=(11, 4))
    with jax.enable_x64(True):
        p = Predictive.samples(draws)
        np.testing.assert_allclose(
            p.quantile(np.array([0.05, 0.5, 0.77])),
            np.quantile(draws, [0.05, 0.5, 0.77], axis=0),
            rtol=1e-12,
        )
        np.testing.assert_allclose(p.mean, draws.mean(0), rtol=1e-12)
        np.testing.assert_allclose(p.observed.variance, draws.var(0), rtol=1e-12)
        np.testing.assert_allclose(p.cdf(draws[3]), (draws <= draws[3]).mean(0))
        np.testing.assert_array_equal(p.observed.samples, draws)
    with pytest.raises(NotImplementedError, match="has no density"):
        p.log_prob(Y[:4])


def test_draws_from_samples_keep_rows_together():
    draws = np.arange(10.0)[:, None] + np.array([0.0, 100.0, 200.0])
    new = np.asarray(Predictive.samples(draws).sample(jax.random.key(0), 50))
    np.testing.assert_allclose(new - new[:, :1], np.tile([0.0, 100, 200], (50, 1)))


def test_quantile_table():
    levels = np.array([0.1, 0.5, 0.6, 0.9])
    table = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 2.0], [4.0, 3.0]])
    with jax.enable_x64(True):
        p = Predictive.quantiles(levels, table)
        np.testing.assert_allclose(p.quantile(0.3), [0.5, 1.0])
        np.testing.assert_allclose(p.quantile(0.75), [2.5, 2.5])
        # Where the quantiles stand still the cdf jumps to the upper level.
        np.testing.assert_allclose(p.cdf(np.array([1.0, 1.0])), [0.6, 0.5])
        np.testing.assert_allclose(p.cdf(np.array([-1.0, 4.0])), [0.0, 1.0])
        q = np.linspace(0.1, 0.9, 17)
        curve = np.stack([np.interp(q, levels, c) for c in table.T], axis=1)
        np.testing.assert_allclose(p.quantile(q), curve)
        u = (np.arange(200_000) + 0.5) / 200_000
        steps = np.stack([np.interp(u, levels, c) for c in table.T], axis=1)
        np.testing.assert_allclose(p.mean, steps.mean(0), atol=1e-5)
        np.testing.assert_allclose(p.observed.variance, steps.var(0), atol=1e-4)
        with pytest.raises(ValueError, match="levels of the quantile table"):
            p.interval(0.95)


def test_classes():
    p = Predictive.probabilities(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert p.is_classification
    np.testing.assert_allclose(
        p.log_prob(np.array([1, 1])), [np.log(0.75), -np.inf], rtol=1e-6
    )
    np.testing.assert_allclose(p.mean, [[0.25, 0.75], [1.0, 0.0]])
    assert p.sample(jax.random.key(0), 7).shape == (7, 2)
    logits = Predictive(latent=None, observed=dist.Categorical(logits=np.eye(3)))
    np.testing.assert_allclose(
        logits.log_prob(np.array([0, 1, 0])),
        np.log(jax.nn.softmax(jnp.eye(3)))[np.arange(3), [0, 1, 0]],
        rtol=1e-5,
    )
    for call in (lambda: p.interval(0.9), lambda: p.quantile(0.5), lambda: p.cdf(Y)):
        with pytest.raises(TypeError, match="are of classes"):
            call()


def test_several_outputs():
    mean, std = RNG.normal(size=(5, 2)), RNG.uniform(1, 2, size=(5, 2))
    y = RNG.normal(size=(5, 2))
    p = Predictive.normal(mean, std)
    assert p.log_prob(y).shape == (5,)
    np.testing.assert_allclose(
        p.log_prob(y), stats.norm(mean, std).logpdf(y).sum(1), rtol=1e-5
    )
    assert p.quantile(np.array([0.1, 0.2, 0.3])).shape == (3, 5, 2)
    assert p.interval(0.5)[0].shape == (5, 2)
    assert p.sample(jax.random.key(0), 4).shape == (4, 5, 2)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_one_output_with_and_without_axis(shape):
    p = Predictive.normal(MEAN.reshape(shape), STD.reshape(shape))
    one = p.log_prob(Y)
    np.testing.assert_array_equal(one, p.log_prob(Y[:, None]))
    assert one.shape == (6,)
    assert p.cdf(Y).shape == shape


def test_shapes_that_do_not_fit():
    p = Predictive.normal(MEAN, STD)
    with pytest.raises(ValueError, match=r"expected y of shape \(6,\), got \(5,\)"):
        p.log_prob(Y[:5])
    with pytest.raises(ValueError, match=r"expected y of shape \(6,\), got \(6, 2\)"):
        p.cdf(np.zeros((6, 2)))
    c = Predictive.probabilities(np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match=r"class codes of shape \(3,\), got \(2,\)"):
        c.log_prob(np.array([0, 1]))
    with pytest.raises(ValueError, match="codes 0 to 1, got 2 at row 1"):
        c.log_prob(np.array([0, 2, 5]))
    with pytest.raises(ValueError, match="integer class codes"):
        c.log_prob(np.array([0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Predictive.normal(MEAN, STD[:3]), r"std of shape \(6,\)"),
        (lambda: Predictive.normal(MEAN, -STD), "positive, got .* at row 0"),
        (lambda: Predictive.normal(np.array([0, np.nan]), 1.0), "got nan at row 1"),
        (lambda: Predictive.normal(MEAN, 0.0), "finite and positive, got 0.0"),
        (lambda: Predictive.normal(np.zeros(0), 1.0), "at least one point"),
        (lambda: Predictive.samples(np.zeros(4)), r"shape \(S, N\), got \(4,\)"),
        (
            lambda: Predictive.samples(np.array([[0.0, np.inf], [0.0, 1.0]])),
            "non-finite one at row 1",
        ),
        (lambda: Predictive.probabilities(np.array([0.5])), r"shape \(N, C\)"),
        (
            lambda: Predictive.probabilities(np.array([[0.5, 0.5], [0.6, 0.5]])),
            "summing to 1 .* at row 1",
        ),
        (
            lambda: Predictive.probabilities(np.array([[1.5, -0.5]])),
            "nonnegative, got .* at row 0",
        ),
        (
            lambda: Predictive.quantiles(
                np.array([0.1, 0.9]), np.array([[0.0, 1.0], [1.0, 0.0]])
            ),
            "crossing quantiles at row 1",
        ),
        (
            lambda: Predictive.quantiles(np.array([0.9, 0.1]), np.zeros((2, 1))),
            "increasing levels",
        ),
        (
            lambda: Predictive.quantiles(np.array([0.0, 0.1]), np.zeros((2, 1))),
            "between 0 and 1",
        ),
        (
            lambda: Predictive.quantiles(np.array([0.1, 0.2]), np.zeros((3, 1))),
            r"values of shape \(2, N\)",
        ),
        (lambda: Predictive.normal(MEAN, STD).interval(1.0), "between 0 and 1"),
        (lambda: Predictive.normal(MEAN, STD).quantile(0.0), "between 0 and 1"),
    ],
)
def test_refusals_say_what_came(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "p",
    [
        Predictive.normal(MEAN, STD),
        mixture(),
        Predictive.samples(RNG.normal(size=(9, 6))),
        Predictive.quantiles(
            np.array([0.1, 0.5, 0.9]), np.sort(RNG.normal(size=(3, 6)), axis=0)
        ),
    ],
    ids=["normal", "mixture", "samples", "quantiles"],
)
def test_passes_through_transformations(p):
    @eqx.filter_jit
    def same(p, y):
        return p, p.mean, p.cdf(y), p.interval(0.5)

    back, mean, cdf, (low, high) = same(p, jnp.asarray(Y, jnp.float32))
    np.testing.assert_allclose(back.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(p.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(p.cdf(Y), cdf, rtol=1e-5)
    np.testing.assert_allclose(p.interval(0.5)[0], low, rtol=1e-4)
    np.testing.assert_allclose(p.interval(0.5)[1], high, rtol=1e-4)


def test_built_point_by_point_under_vmap():
    mean, std = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)

    def one(mean, std):
        return Predictive(latent=None, observed=dist.Normal(mean, std))

    p = eqx.filter_vmap(one)(mean, std)
    np.testing.assert_allclose(p.mean, mean)
    assert p.log_prob(Y).shape == (6,)
    draws = jnp.asarray(RNG.normal(size=(6, 9)), jnp.float32)
    p = eqx.filter_vmap(lambda s: Predictive(None, Empirical(s)))(draws)
    np.testing.assert_allclose(p.mean, draws.mean(1), rtol=1e-5)
    each = eqx.filter_vmap(lambda p: p.mean)(p)
    np.testing.assert_allclose(each, draws.mean(1), rtol=1e-5)
    levels = np.array([0.2, 0.8])
    values = jnp.sort(draws[:, :2], axis=1)
    p = eqx.filter_vmap(lambda v: Predictive(None, QuantileTable(levels, v)))(values)
    np.testing.assert_allclose(p.quantile(0.5), values.mean(1), rtol=1e-5)


def test_draws_follow_the_distribution():
    n = 4000
    for p in (Predictive.normal(MEAN, STD), mixture()):
        draws = np.asarray(p.sample(jax.random.key(1), n))
        # Six tests; each fails by chance once in 10^5.
        for i in range(6):
            row = jax.vmap(lambda y, p=p: p.cdf(y))(jnp.asarray(draws))[:, i]
            assert stats.kstest(np.asarray(row), "uniform").pvalue > 1e-5

"""The jitter ladder, the optimizer, and the squared-exponential kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import RBF, NotPositiveDefinite, cholesky, minimize
from ntkuq.kernels.solve import check, inverse, log_determinant, solve


RNG = np.random.default_rng(1)
KEY = jax.random.key(0)


def test_no_jitter_where_none_is_needed():
    with jax.enable_x64(True):
        half = RNG.standard_normal((6, 6))
        matrix = jnp.asarray(half @ half.T + np.eye(6))
        lower, jitter = jax.jit(cholesky)(matrix)
        assert check(jitter, "test") == 0.0
        np.testing.assert_allclose(lower @ lower.T, matrix, rtol=1e-13)
        np.testing.assert_allclose(inverse(lower) @ matrix, np.eye(6), atol=1e-12)
        np.testing.assert_allclose(
            log_determinant(lower), np.linalg.slogdet(np.asarray(matrix))[1]
        )
        np.testing.assert_allclose(matrix @ solve(lower, matrix), matrix, rtol=1e-12)


@pytest.mark.parametrize(("gap", "relative"), [(5e-10, 1e-9), (5e-6, 1e-5)])
def test_takes_the_first_rung_that_works(gap, relative):
    with jax.enable_x64(True):
        matrix = jnp.diag(jnp.asarray([1.0, 1.0, 1.0, -gap]))
        lower, jitter = cholesky(matrix)
        mean = float(jnp.mean(jnp.diagonal(matrix)))
        assert check(jitter, "test") == pytest.approx(relative * mean)
        assert np.isfinite(lower).all()


def test_refuses_beyond_the_ladder():
    with jax.enable_x64(True):
        _, jitter = cholesky(jnp.diag(jnp.asarray([1.0, -0.1])))
        with pytest.raises(NotPositiveDefinite, match="Gram: expected a positive"):
            check(jitter, "Gram")
        _, jitter = cholesky(jnp.full((2, 2), jnp.nan))
        with pytest.raises(NotPositiveDefinite):
            check(jitter, "Gram")


def test_minimize_reports_bounds_errors_and_flat_directions():
    curvature = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    target = np.array([0.5, -0.5, 0.0])

    def bowl(p):
        d = p - target
        return float(0.5 * d @ curvature @ d), curvature @ d

    best = minimize(
        bowl,
        np.zeros(3),
        np.full(3, -4.0),
        np.full(3, 4.0),
        restarts=2,
        max_steps=100,
        key=KEY,
    )
    np.testing.assert_allclose(best.position[:2], target[:2], atol=1e-3)
    expected = np.sqrt(np.diagonal(np.linalg.inv(curvature[:2, :2])))
    np.testing.assert_allclose(best.se[:2], expected, rtol=1e-6)
    assert np.isnan(best.se[2])
    assert not best.at_bound.any()
    assert best.converged
    low = minimize(
        bowl,
        np.zeros(3),
        np.array([-4.0, 0.0, -4.0]),
        np.full(3, 4.0),
        restarts=1,
        max_steps=100,
        key=KEY,
    )
    assert low.at_bound.tolist() == [False, True, False]
    assert np.isnan(low.se[1])


def test_minimize_steps_back_from_nan_and_refuses_nothing_but_nan():
    def half(p):
        value = float("nan") if p[0] > 1.0 else float((p[0] - 0.9) ** 2)
        return value, 2 * (p - 0.9)

    box = np.array([-50.0]), np.array([50.0])
    best = minimize(half, np.array([-30.0]), *box, restarts=1, max_steps=50, key=KEY)
    assert best.position[0] == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(ValueError, match="not finite at any starting point"):
        minimize(
            lambda p: (float("nan"), p),
            np.zeros(1),
            *box,
            restarts=1,
            max_steps=5,
            key=KEY,
        )


@pytest.mark.parametrize("ard", [True, False])
def test_rbf(ard):
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((7, 3))) + 1e3
        x = jnp.concatenate([x, x[:2]])
        covariance = RBF(ard).covariance(None, x, 2.0)
        params = covariance.initial()
        width = np.broadcast_to(np.exp(np.asarray(params["lengthscale"])), (3,))
        difference = (np.asarray(x)[:, None] - np.asarray(x)[None]) / width
        expected = 4.0 * np.exp(-0.5 * np.sum(difference**2, axis=-1))
        gram = covariance.gram(params, x)
        np.testing.assert_allclose(gram, expected, rtol=1e-12)
        np.testing.assert_array_equal(gram, gram.T)
        np.testing.assert_array_equal(
            jnp.diagonal(gram), covariance.diagonal(params, x)
        )
        np.testing.assert_allclose(covariance.gram(params, x, x[:4]), expected[:, :4])
        gradient = jax.grad(lambda p: jnp.sum(covariance.gram(p, x) ** 2))(params)
        for value in gradient.values():
            assert np.isfinite(value).all()


def test_rbf_takes_one_lengthscale_for_many_features():
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((5, 30)))
        assert RBF().covariance(None, x, 1.0).initial()["lengthscale"].shape == ()
        assert RBF(True).covariance(None, x, 1.0).initial()["lengthscale"].shape == (
            30,
        )

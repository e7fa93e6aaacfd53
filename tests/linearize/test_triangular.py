"""Triangular factors in blocks equal the dense forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize import triangular


@pytest.fixture(params=[1, 2, 13])
def lower(request, monkeypatch):
    """A factor of odd size, in blocks of 3 rows at most."""
    monkeypatch.setattr(triangular, "BLOCK", 3)
    monkeypatch.setattr(triangular, "NARROW", 2)
    rng = np.random.default_rng(request.param)
    half = rng.standard_normal((request.param, 2 * request.param))
    return np.linalg.cholesky(half @ half.T)


def test_solve_and_inverse(lower):
    rhs = np.random.default_rng(0).standard_normal((len(lower), 5))
    want = np.linalg.inv(lower)
    with jax.enable_x64(True):
        found = triangular.solve_lower(jnp.asarray(lower), jnp.asarray(rhs))
        inverse = triangular.inverse_lower(jnp.asarray(lower))
    np.testing.assert_allclose(found, want @ rhs, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(inverse, want, rtol=1e-9, atol=1e-11)
    assert not np.triu(inverse, 1).any()


def test_self_products(lower):
    a = np.random.default_rng(1).standard_normal((4, len(lower)))
    with jax.enable_x64(True):
        found = triangular.self_product(jnp.asarray(a))
        own = triangular.self_product_of_lower(jnp.asarray(lower))
    np.testing.assert_allclose(found, a.T @ a, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(own, lower.T @ lower, rtol=1e-12, atol=1e-13)


def test_products_are_symmetric_to_the_last_bit(lower):
    with jax.enable_x64(True):
        for made in (triangular.self_product, triangular.self_product_of_lower):
            found = np.asarray(made(jnp.asarray(lower)))
            np.testing.assert_array_equal(found, found.T)


def test_derivatives_pass_through_the_blocks(lower):
    rhs = np.random.default_rng(2).standard_normal((len(lower), 3))

    def blocks(factor):
        return jnp.sum(jnp.sin(triangular.solve_lower(factor, jnp.asarray(rhs))))

    def dense(factor):
        return jnp.sum(jnp.sin(jnp.linalg.solve(jnp.tril(factor), jnp.asarray(rhs))))

    with jax.enable_x64(True):
        found, want = (jax.grad(f)(jnp.asarray(lower)) for f in (blocks, dense))
    np.testing.assert_allclose(np.tril(found), want, rtol=1e-8, atol=1e-10)


def test_one_right_hand_side_and_a_batch_of_factors(lower):
    with jax.enable_x64(True):
        column = jnp.asarray(lower[:, :1])
        found = np.asarray(triangular.solve_lower(jnp.asarray(lower), column))
        both = jnp.asarray(np.stack([lower, 2.0 * lower]))
        inverses = np.asarray(jax.vmap(triangular.inverse_lower)(both))
    np.testing.assert_allclose(found[:, 0], np.eye(len(lower))[0], atol=1e-12)
    np.testing.assert_allclose(inverses[0], 2.0 * inverses[1], rtol=1e-10)

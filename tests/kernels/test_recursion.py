"""The recursion over pairs: digits near the diagonal, blocks, memory, float32."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import DenseNNGP, DenseNTK
from ntkuq.kernels.arccosine import angle, relu_gap
from ntkuq.kernels.blocks import grid, rectangular_blocks, symmetric_blocks
from ntkuq.kernels.dense import recursion
from ntkuq.kernels.duals import PiecewiseLinear
from ntkuq.kernels.layers import Activation, Dense
from ntkuq.kernels.stages import stages


RNG = np.random.default_rng(0)
WEIGHT = np.sqrt(2.0)


def relu_network(depth=3):
    hidden = (Activation(jax.nn.relu), Dense(bias=True)) * depth
    return stages((Dense(bias=True), *hidden))


def params_of(weight=WEIGHT, bias=0.1, scale=1.0, dtype=np.float64):
    values = {"weight std": weight, "bias std": bias, "input scale": scale}
    return {name: jnp.asarray(np.log(v), dtype) for name, v in values.items()}


def reference(x1, x2, *, depth=3, weight=WEIGHT, bias=0.1):
    """K and Θ of ReLU layers, in NumPy's longest floats, from squared distances."""
    x1, x2 = (np.asarray(x, np.longdouble) for x in (x1, x2))
    w, b = np.longdouble(weight) ** 2, np.longdouble(bias) ** 2
    pi = np.longdouble(4) * np.arctan(np.longdouble(1))
    q1, q2 = (w * (x**2).mean(1) + b for x in (x1, x2))
    apart = w * ((x1[:, None] - x2[None]) ** 2).mean(2)
    ntk = 0.5 * (q1[:, None] + q2[None] - apart)
    for _ in range(depth):
        r1, r2 = np.sqrt(q1)[:, None], np.sqrt(q2)[None]
        half = np.sqrt(np.maximum(apart - (r1 - r2) ** 2, 0) / (4 * r1 * r2))
        theta = 2 * np.arcsin(half)
        ratio = np.cos(theta) * (pi - theta) + np.sin(theta)
        e = r1 * r2 * ratio / (2 * pi)
        # w (q1 + q2 - 4 e) / 2, with the small parts taken together
        small = pi * 2 * half**2 - (np.sin(theta) - theta * np.cos(theta))
        apart = w * (0.5 * (r1 - r2) ** 2 + r1 * r2 * small / pi)
        q1, q2 = w * q1 / 2 + b, w * q2 / 2 + b
        k = w * e + b
        ntk = k + w * ntk * (pi - theta) / (2 * pi)
    return k, ntk


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 6e-16), (np.float32, 4e-7)]
)
def test_arc_cosine_functions_are_exact_to_rounding(dtype, tolerance):
    """Against the longest floats, relative, also where the angle is tiny."""
    with jax.enable_x64(True):
        gap = np.concatenate([np.geomspace(1e-30, 1.0, 200), np.linspace(1.0, 2.0, 99)])
        gap = gap.astype(dtype)
        exact = np.longdouble(gap)
        pi = np.longdouble(4) * np.arctan(np.longdouble(1))
        theta = 2 * np.arcsin(np.sqrt(exact / 2))
        area = (np.sin(theta) - theta * np.cos(theta)) / pi
        area = np.where(theta < 1e-3, theta**3 / (3 * pi) * (1 - theta**2 / 10), area)
        got = jax.jit(angle)(jnp.asarray(gap)), jax.jit(relu_gap)(jnp.asarray(gap))
        for found, expected in zip(got, (theta / (2 * pi), exact - area)):
            assert found.dtype == dtype
            error = np.abs(np.longdouble(np.asarray(found)) - expected)
            assert np.max(error / expected) < tolerance
        slope = jax.vmap(jax.grad(relu_gap))(jnp.asarray(gap))
        np.testing.assert_allclose(
            slope, np.float64(1 - theta / pi), atol=2 * tolerance, rtol=0
        )
        assert jax.grad(angle)(jnp.zeros((), dtype)) == 0.0
        at_one = jax.grad(angle)(jnp.ones((), dtype))
        assert at_one == pytest.approx(1 / (2 * np.pi), rel=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)]
)
def test_near_the_diagonal(dtype, tolerance):
    """Pairs at relative distance 1e-3; float32 keeps 1 - rho in float64 inside."""
    x = RNG.standard_normal((6, 20)).astype(dtype)
    near = (x + 1e-3 * RNG.standard_normal(x.shape)).astype(dtype)
    new = np.concatenate([near, RNG.standard_normal((3, 20)).astype(dtype)])
    expected = reference(x, new)
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(recursion, relu_network()))
        got = run(params_of(), jnp.asarray(x), jnp.asarray(new))
        for found, exact in zip(got, expected):
            assert found.dtype == dtype
            np.testing.assert_allclose(
                np.asarray(found, np.float64), np.float64(exact), rtol=tolerance
            )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_inputs_have_the_value_of_the_diagonal(dtype):
    """Also between two sets: no half of the digits is lost in arccos near 1."""
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((40, 30)).astype(dtype))
        covariance, params = DenseNTK({}, relu_network()), params_of()
        cross = np.diagonal(matrix(covariance, params, x, x))
        rounding = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(cross, covariance.diagonal(params, x), rtol=rounding)


@eqx.filter_jit
def matrix(covariance, params, x, new=None):
    return covariance.gram(params, x, new)


def test_float32_without_float64():
    """Symmetric and near the truth where inputs are not nearly equal."""
    x = RNG.standard_normal((20, 30)).astype(np.float32)
    for kind, exact in zip((DenseNNGP, DenseNTK), reference(x, x)):
        gram = matrix(kind({}, relu_network()), params_of(dtype=np.float32), x)
        assert gram.dtype == np.float32
        np.testing.assert_allclose(gram, np.float32(exact), rtol=1e-5)


def test_the_nngp_computes_no_slopes(monkeypatch):
    def refuse(*_):
        raise AssertionError("the NNGP does not need E[phi' phi']")

    monkeypatch.setattr(PiecewiseLinear, "slopes", refuse)
    monkeypatch.setattr(PiecewiseLinear, "slope_points", refuse)
    x = jnp.ones((3, 2))
    with jax.enable_x64(True):
        DenseNNGP({}, relu_network(1)).gram(params_of(), x)
        with pytest.raises(AssertionError, match="does not need"):
            DenseNTK({}, relu_network(1)).gram(params_of(), x)


def tile(one, two):
    """Any function of pairs that is not symmetric in them to rounding."""
    return jnp.exp(0.3 * one["x"] @ two["x"].T), one["a"][:, None] + two["a"][None, :]


@pytest.mark.parametrize("size", [5, 8, 11])
def test_blocks_equal_the_whole(size):
    """Values and derivatives, with a last block that overlaps the one before."""
    with jax.enable_x64(True):
        one = {"x": RNG.standard_normal((size, 3)), "a": RNG.standard_normal(size)}
        two = {"x": RNG.standard_normal((7, 3)), "a": RNG.standard_normal(7)}
        one, two = jax.tree.map(jnp.asarray, (one, two))
        diagonals = (jnp.ones(size), jnp.full(size, 2.0))
        weights = jnp.asarray(RNG.standard_normal((2, size, size)))

        def blocks(one, diagonals):
            return symmetric_blocks(tile, one, diagonals, side=4)

        def whole(one, diagonals):
            above = jnp.triu(jnp.ones((size, size)), 1)
            return tuple(
                above * value + above.T * value.T + jnp.diag(diagonal)
                for value, diagonal in zip(tile(one, one), diagonals)
            )

        for got, expected in zip(blocks(one, diagonals), whole(one, diagonals)):
            np.testing.assert_array_equal(got, got.T)
            np.testing.assert_allclose(got, expected, rtol=1e-14)

        def total(function, *args):
            return sum(jnp.sum(w * k) for w, k in zip(weights, function(*args)))

        gradients = [
            jax.jit(jax.grad(functools.partial(total, f), (0, 1)))(one, diagonals)
            for f in (blocks, whole)
        ]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
            *gradients,
        )
        cross = functools.partial(rectangular_blocks, tile, side=4)
        for got, expected in zip(cross(one, two), tile(one, two)):
            np.testing.assert_allclose(got, expected, rtol=1e-14)

        def cross_total(function, one, two):
            return sum(
                jnp.sum(w[:, :7] * k if size >= 7 else w[:, :1] * k)
                for w, k in zip(weights, function(one, two))
            )

        gradients = [
            jax.jit(jax.grad(functools.partial(cross_total, f), (0, 1)))(one, two)
            for f in (cross, tile)
        ]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
            *gradients,
        )


def test_grid():
    assert grid(1000, 256) == (4, 250, 1000)
    assert grid(3, 256) == (1, 3, 3)
    assert int(grid(11, 4).start(jnp.asarray(2))) == 7


@pytest.mark.parametrize("kind", [DenseNNGP, DenseNTK])
def test_memory_of_ten_thousand_inputs(kind):
    """0.8 GB for the matrix, and little else; also for a derivative (two matrices)."""
    covariance = kind({}, relu_network())
    size = 10_000
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((size, 30), jnp.float64)

        def gram(params, x):
            return covariance.gram(params, x)

        def gradient(params, x, bar):
            return jax.vjp(lambda p: gram(p, x), params)[1](bar)

        bar = jax.ShapeDtypeStruct((size, size), jnp.float64)
        for function, args, limit in (
            (gram, (params_of(), x), 1.0e9),
            (gradient, (params_of(), x, bar), 1.7e9),
        ):
            plan = jax.jit(function).lower(*args).compile().memory_analysis()
            used = plan.temp_size_in_bytes + plan.output_size_in_bytes
            used += plan.argument_size_in_bytes
            assert used < limit


def test_wild_scales():
    """Scales of 1e-8 and 1e8 give the same matrix but for its units."""
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((5, 3)))
        covariance = DenseNTK({}, relu_network())
        plain = np.asarray(matrix(covariance, params_of(), x))
        for scale in (1e-8, 1e8):
            scaled = matrix(covariance, params_of(bias=0.1 * scale), x * scale)
            np.testing.assert_allclose(scaled / scale**2, plain, rtol=1e-13)

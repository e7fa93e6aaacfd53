"""Convolutions in blocks are the plain ones, and so are their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize.convolve import LANES, LEAST, MOST, _block, convolve
from ntkuq.linearize.patches import grouped
from tests.linearize.networks import normal


LAYOUTS = [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC"), ("CHWN", "IHWO", "CNHW")]
#: sides of the data and of the window, padding, channels in and out; the last is cut
SIZES = [
    ((28, 28), (5, 5), ((2, 2), (2, 2)), 1, 6),
    ((9, 7), (3, 2), ((0, 1), (3, 0)), 2, 3),
    ((5, 6), (1, 1), ((0, 0), (0, 0)), 3, 1),
    ((6, 9), (3, 3), ((4, 4), (5, -1)), 5, 4),
]


def both(specs, options, x, k):
    """The plain convolution, and what `convolve` makes of its parameters."""

    def plain(x, k):
        return jax.lax.conv_general_dilated(x, k, dimension_numbers=specs, **options)

    equation = jax.make_jaxpr(plain)(x, k).eqns[-1]
    return plain, lambda x, k: convolve(x, k, equation.params)


def placed(spec, sizes):
    """The shape with these sizes of the axes that the letters of `spec` name."""
    return tuple(sizes[letter] for letter in spec)


def in_blocks(fn, *args):
    return "blocked_conv" in str(jax.make_jaxpr(fn)(*args))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("specs", LAYOUTS, ids=lambda specs: specs[0])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[3]} to {size[4]}")
def test_blocks_change_nothing(size, specs, dtype):
    sides, window, padding, into, out = size
    data = dict(zip("HW", sides), N=2, C=into)
    x = normal(*placed(specs[0], data)).astype(dtype)
    kernel = dict(zip("HW", window), O=out, I=into)
    k = normal(*placed(specs[1], kernel), number=2).astype(dtype)
    options = {"window_strides": (1, 1), "padding": padding}
    plain, fast = both(specs, options, x, k)
    assert in_blocks(fast, x, k)

    def results(fn, x, k):
        value, pull = jax.vjp(fn, x, k)
        cotangent = jnp.cos(jnp.arange(3 * value.size, dtype=dtype))
        cotangent = cotangent.reshape(3, *value.shape).astype(value.dtype)
        return value, jax.vmap(pull)(cotangent)

    eps = np.finfo(dtype).eps
    # in float64: jaxlib 0.10.2 cuts a gradient wrongly in float32 (negative padding)
    exact = x.astype(np.float64), k.astype(np.float64)
    for got, expected in zip(
        jax.tree.leaves(jax.jit(results, static_argnums=0)(fast, x, k)),
        jax.tree.leaves(jax.jit(results, static_argnums=0)(plain, *exact)),
        strict=True,
    ):
        assert got.shape == expected.shape
        assert got.dtype == dtype
        # sums of so many terms, in another order
        close = 100 * eps * float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=close)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"window_strides": (2, 1)}, 3),
        ({"lhs_dilation": (1, 2)}, 3),
        ({"rhs_dilation": (2, 2)}, 3),
        ({"feature_group_count": 2}, 2),
        ({}, 32),
    ],
    ids=["stride", "transposed", "dilation", "groups", "many channels"],
)
def test_other_convolutions_are_left_as_they_are(changes, channels):
    groups = changes.get("feature_group_count", 1)
    x = normal(2, channels, 8, 8)
    k = normal(channels, channels // groups, 3, 3, number=2)
    options = {"window_strides": (1, 1), "padding": ((0, 0), (0, 0))} | changes
    plain, fast = both(LAYOUTS[0], options, x, k)
    assert not in_blocks(fast, x, k)
    np.testing.assert_array_equal(fast(x, k), plain(x, k))


def test_every_transformation_goes_through():
    """Forward mode, a second derivative, and kernels of their own in a batch."""
    options = {"window_strides": (1, 1), "padding": ((1, 1), (0, 2))}
    x, k = normal(2, 3, 5, 6).astype(float), normal(4, 3, 3, 2, number=2).astype(float)
    plain, fast = both(LAYOUTS[0], options, x, k)

    def results(fn):
        def energy(x, k):
            return jnp.sum(jnp.tanh(fn(x, k)) ** 2)

        moved = jax.jvp(jax.grad(energy, (0, 1)), (x, k), (jnp.cos(x), jnp.sin(k)))
        several = jnp.stack([k, 2 * k])
        alone = jax.vmap(fn, (None, 0))(x, several)
        pairs = jax.vmap(fn, (0, 0))(jnp.stack([x, x + 1]), several)
        inner = jax.vmap(lambda x: jax.vmap(lambda a: fn(a[None], k))(x), 1)(
            jnp.stack([x, x + 1, x - 1], 1)
        )
        return moved, alone, pairs, inner

    for got, expected in zip(
        jax.tree.leaves(results(fast)), jax.tree.leaves(results(plain)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


def test_lines_and_cubes():
    options = {"window_strides": (1,), "padding": ((1, 2),)}
    x, k = normal(2, 3, 9), normal(4, 3, 4, number=2)
    plain, fast = both(("NCW", "OIW", "NCW"), options, x, k)
    assert in_blocks(fast, x, k)
    np.testing.assert_allclose(fast(x, k), plain(x, k), rtol=1e-5, atol=1e-5)
    options = {"window_strides": (1, 1, 1), "padding": ((0, 0), (1, 1), (0, 1))}
    x, k = normal(2, 2, 4, 5, 6), normal(3, 2, 2, 3, 2, number=2)
    plain, fast = both(("NCDHW", "OIDHW", "NCDHW"), options, x, k)
    assert in_blocks(fast, x, k)
    np.testing.assert_allclose(fast(x, k), plain(x, k), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 6, 8, 12])
def test_blocks_fill_the_lanes_with_the_fewest_operations(channels):
    sides, window = (14, 10), (5, 3)
    found = _block(sides, window, channels, 12)
    assert found is not None

    def work(block):
        each = zip(sides, window, block, strict=True)
        return np.prod([-(-side // b) * b * (w + b - 1) for side, w, b in each])

    def fits(block):
        wide = channels * np.prod(block)
        return LEAST <= wide <= MOST and wide % LANES == 0

    blocks = [(b, c) for b in range(1, 15) for c in range(1, 11)]
    assert fits(found)
    assert work(found) == min(work(block) for block in blocks if fits(block))
    assert _block(sides, window, 13, 12) is None


@pytest.mark.parametrize("channels", [4, 8], ids=["depthwise", "two groups each"])
@pytest.mark.parametrize("specs", LAYOUTS, ids=lambda specs: specs[0])
def test_groups_are_products_with_patches(specs, channels):
    """Strides, dilations and padding too, and both gradients."""
    x = normal(*placed(specs[0], {"N": 2, "C": 4, "H": 9, "W": 8})).astype(float)
    kernel = {"O": channels, "I": channels // 4, "H": 3, "W": 2}
    k = normal(*placed(specs[1], kernel), number=2).astype(float)
    options = {
        "window_strides": (2, 1),
        "padding": ((1, 0), (2, 1)),
        "lhs_dilation": (1, 2),
        "rhs_dilation": (2, 1),
        "feature_group_count": 4 // kernel["I"],
    }
    plain, _ = both(specs, options, x, k)
    params = jax.make_jaxpr(plain)(x, k).eqns[-1].params
    value, pull = jax.vjp(plain, x, k)
    got, back = jax.vjp(lambda x, k: grouped(x, k, params), x, k)
    np.testing.assert_allclose(got, value, rtol=0, atol=1e-12)
    for one, two in zip(back(jnp.sin(value)), pull(jnp.sin(value)), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)

"""The recursion of convolutions against loops over windows, and neural-tangents."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import ConvolutionNNGP, ConvolutionNTK, UnsupportedLayer
from ntkuq.kernels.convolution import is_convolutional, recursion, spatial
from ntkuq.kernels.layers import Activation, AveragePool, Convolution, Dense, Flatten


RNG = np.random.default_rng(0)
RELU, TANH = Activation(jax.nn.relu), Activation(jnp.tanh)
WEIGHT, BIAS, SCALE = 1.5, 0.3, 0.7


def conv(*window, stride=None, padding="SAME", bias=True):
    return Convolution(window, stride or (1,) * len(window), padding, bias)


#: Layers, and the shape of an input.
NETWORKS = {
    "2-D, same": (
        (conv(3, 3), RELU, conv(3, 3), RELU, Flatten(), Dense(True)),
        (1, 5, 4),
    ),
    "stride, valid": (
        (
            conv(3, 2, stride=(2, 1), padding="VALID", bias=False),
            RELU,
            conv(2, 2, stride=(1, 2)),
            RELU,
            Flatten(),
            Dense(True),
            RELU,
            Dense(False),
        ),
        (2, 7, 6),
    ),
    "1-D, many channels": ((conv(3), RELU, Flatten(), Dense(False)), (10, 6)),
    "no nonlinearity": (
        (conv(3), conv(2, stride=(2,)), Flatten(), Dense(True)),
        (1, 7),
    ),
}


def params_of(dtype=np.float64):
    values = {"weight std": WEIGHT, "bias std": BIAS, "input scale": SCALE}
    return {name: jnp.asarray(np.log(v), dtype) for name, v in values.items()}


@eqx.filter_jit
def matrix(covariance, params, x, new=None):
    return covariance.gram(params, x, new)


def dual(kind, k, q1, q2):
    """E[phi phi] and E[phi' phi'], by arccos."""
    if kind is None:
        return k, np.ones_like(k)
    size = np.sqrt(q1 * q2)
    theta = np.arccos(np.clip(k / size, -1, 1))
    both = np.sin(theta) + (np.pi - theta) * np.cos(theta)
    return size * both / (2 * np.pi), (np.pi - theta) / (2 * np.pi)


def reference(layers, x1, x2):
    """K and Θ of pairs, from the definition: a mean over the offsets of the window."""
    factor = SCALE**2 / x1.shape[1]
    k = factor * np.einsum("nc...,mc...->nm...", x1, x2)
    q1, q2 = (factor * np.sum(x**2, axis=1) for x in (x1, x2))
    ntk, kind = np.zeros_like(k), None
    sizes = x1.shape[2:]

    def window_mean(values, layer):
        lead = values.ndim - len(sizes)
        pads = jax.lax.padtype_to_pads(sizes, layer.window, layer.stride, layer.padding)
        padded = np.pad(values, [(0, 0)] * lead + list(pads))
        after = [
            (n + sum(p) - w) // s + 1
            for n, p, w, s in zip(sizes, pads, layer.window, layer.stride)
        ]
        found = np.zeros((*values.shape[:lead], *after))
        for place in itertools.product(*map(range, after)):
            cut = tuple(
                slice(i * s, i * s + w)
                for i, s, w in zip(place, layer.stride, layer.window)
            )
            patch = padded[(..., *cut)].reshape(*values.shape[:lead], -1)
            found[(..., *place)] = patch.mean(axis=-1)
        return found

    for layer in layers:
        if isinstance(layer, Activation):
            kind = layer
        elif isinstance(layer, Convolution | Flatten | Dense):
            if kind is not None:
                one, two = q1[:, None], q2[None]
                k, slopes = dual(kind, k, one, two)
                ntk, q1, q2, kind = ntk * slopes, q1 / 2, q2 / 2, None
            if isinstance(layer, Flatten):
                axes = tuple(range(2, k.ndim))
                k, ntk = k.mean(axes), ntk.mean(axes)
                q1, q2 = (q.mean(tuple(range(1, q.ndim))) for q in (q1, q2))
                continue
            if isinstance(layer, Convolution):
                k, ntk, q1, q2 = (window_mean(v, layer) for v in (k, ntk, q1, q2))
                sizes = q1.shape[1:]
            shift = BIAS**2 if layer.bias else 0.0
            k, q1, q2 = (WEIGHT**2 * v + shift for v in (k, q1, q2))
            ntk = k + WEIGHT**2 * ntk
    return k, ntk


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)]
)
def test_equals_the_definition(name, dtype, tolerance):
    layers, shape = NETWORKS[name]
    assert is_convolutional(layers)
    x, new = (RNG.standard_normal((n, *shape)).astype(dtype) for n in (5, 3))
    expected = reference(layers, np.float64(x), np.float64(new))
    with jax.enable_x64(True):
        network = spatial(layers, shape[1:])
        for kind, exact in zip((ConvolutionNNGP, ConvolutionNTK), expected):
            got = matrix(
                kind({}, network), params_of(), jnp.asarray(x), jnp.asarray(new)
            )
            assert got.dtype == dtype
            np.testing.assert_allclose(
                np.float64(got), exact, rtol=tolerance, atol=tolerance * exact.max()
            )


def test_equals_neural_tangents(need):
    need("frozendict")
    from ntkuq.kernels import bridge

    stax = bridge.load().stax
    layers, shape = NETWORKS["stride, valid"]
    known = {"W_std": WEIGHT}
    _, _, kernel = stax.serial(
        stax.Conv(1, (3, 2), (2, 1), "VALID", b_std=None, **known),
        stax.Relu(),
        stax.Conv(1, (2, 2), (1, 2), "SAME", b_std=BIAS, **known),
        stax.Relu(),
        stax.Flatten(),
        stax.Dense(1, b_std=BIAS, **known),
        stax.Relu(),
        stax.Dense(1, b_std=None, **known),
    )
    with jax.enable_x64(True):
        x, new = (jnp.asarray(RNG.standard_normal((n, *shape))) for n in (5, 3))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            last = [jnp.moveaxis(SCALE * z, 1, -1) for z in (x, new)]
            expected = jax.jit(lambda a, b: kernel(a, b, ("nngp", "ntk")))(*last)
        network = spatial(layers, shape[1:])
        run = jax.jit(lambda p, a, b: recursion(network, p, a, b, ntk=True))
        for got, exact in zip(run(params_of(), x, new), (expected.nngp, expected.ntk)):
            np.testing.assert_allclose(got, exact, rtol=1e-12)


@pytest.mark.parametrize("activation", [RELU, TANH])
@pytest.mark.parametrize("kind", [ConvolutionNNGP, ConvolutionNTK])
def test_symmetric_exact_on_the_diagonal_and_differentiable(
    kind, activation, monkeypatch
):
    """In blocks of 16 or fewer; derivatives against central differences."""
    monkeypatch.setattr("ntkuq.kernels.convolution.NUMBERS", 4 * 16 * 16**2)
    layers = (conv(3, 3), activation, conv(2, 2), activation, Flatten(), Dense(True))
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((21, 1, 4, 16)))
        x = x.at[20].set(x[3])
        covariance = kind({}, spatial(layers, (4, 16)))
        params = params_of()
        gram = np.asarray(matrix(covariance, params, x))
        np.testing.assert_array_equal(gram, gram.T)
        diagonal = np.asarray(covariance.diagonal(params, x))
        np.testing.assert_allclose(np.diagonal(gram), diagonal, rtol=1e-15)
        assert np.linalg.eigvalsh(gram)[0] > -1e-13 * np.trace(gram)
        # equal inputs: the value of the diagonal (pixels are subtracted)
        np.testing.assert_allclose(gram[3, 20], diagonal[3], rtol=1e-13)

        weights = jnp.asarray(RNG.standard_normal((21, 21)))
        weights = weights.at[3, 20].set(0.0).at[20, 3].set(0.0)

        @jax.jit
        def total(params):
            return jnp.sum(weights * covariance.gram(params, x))

        gradient = jax.jit(jax.grad(total))(params)
        for name, value in params.items():
            up, down = (total(params | {name: value + h}) for h in (1e-5, -1e-5))
            np.testing.assert_allclose(gradient[name], (up - down) / 2e-5, rtol=1e-6)


def test_refuses_what_it_does_not_have():
    assert not is_convolutional((Dense(True), RELU, Dense(True)))
    assert not is_convolutional(
        (conv(3, 3), AveragePool((2, 2), (2, 2)), Flatten(), Dense(True))
    )
    assert not is_convolutional((conv(3, 3), RELU, Dense(True)))
    with pytest.raises(UnsupportedLayer, match="ends in a nonlinearity"):
        spatial((conv(3), Flatten(), Dense(True), RELU), (5,))

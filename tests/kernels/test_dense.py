"""The dense recursion against neural-tangents, closed forms and finite differences."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import Analytic, walk
from ntkuq.kernels.duals import Erf, Hermite, PiecewiseLinear, recognize, slope
from ntkuq.kernels.series import NODES, Parity


RNG = np.random.default_rng(0)
SMOOTH = [jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.sigmoid]


def identity(t):
    return t


def problem(activation, *, depth=3, features=5, use_bias=True):
    """What a kernel reads of a BNN."""

    def build(key):
        return eqx.nn.MLP(features, 1, 8, depth, activation, use_bias=use_bias, key=key)

    return SimpleNamespace(network=SimpleNamespace(trained=None, build=build))


def inputs(size, features=5):
    return jnp.asarray(RNG.standard_normal((size, features)))


def both(kernel, bnn, x):
    return kernel.nngp(bnn, x, 1.0), kernel.ntk(bnn, x, 1.0)


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jax.scipy.special.erf, jax.nn.leaky_relu, jnp.abs]
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_equals_neural_tangents(activation, use_bias, need):
    need("frozendict")
    from ntkuq.kernels import bridge
    from ntkuq.kernels.stax import StaxNNGP, StaxNTK

    bridge.load()
    bnn = problem(activation, use_bias=use_bias)
    with jax.enable_x64(True):
        x, new = inputs(12), inputs(9)
        layers = walk(bnn.network.build(jax.random.key(0)), (5,))
        for covariance, stax in zip(both(Analytic(), bnn, x), (StaxNNGP, StaxNTK)):
            params = covariance.initial()
            # neural-tangents takes one input scale: give it scaled inputs
            scale = jnp.exp(params["input scale"])[None, :]
            one = params | {"input scale": jnp.zeros(())}
            oracle = stax(parameters=covariance.parameters, layers=layers)
            expected = oracle.gram(one, x * scale, new * scale)
            got = covariance.gram(params, x, new)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=0)


def test_without_neural_tangents_says_what_to_type(monkeypatch):
    import importlib.util
    import sys

    from ntkuq.kernels import bridge

    monkeypatch.delitem(sys.modules, "neural_tangents", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps neural-tangents"):
        bridge.load()


def reference(function, q, rho):
    """E[f(u) f(v)] by a product rule of 321 x 321 nodes."""
    z, w = NODES
    u = function(jnp.asarray(np.sqrt(q) * z))
    root = np.sqrt(1 - rho**2)
    v = function(jnp.asarray(np.sqrt(q) * (rho * z[:, None] + root * z[None, :])))
    return float(jnp.asarray(w) * u @ v @ jnp.asarray(w))


@pytest.mark.parametrize("activation", SMOOTH)
def test_series_against_quadrature(activation):
    with jax.enable_x64(True):
        dual = recognize(activation)
        assert isinstance(dual, Hermite)
        assert dual.kind is not Parity.NONE
        for q, tolerance in ((0.5, 1e-12), (3.0, 1e-6), (10.0, 1e-3)):
            rho = np.array([-1.0, -0.6, 0.0, 0.9, 0.99, 1.0])
            one = jnp.full((6,), q)
            pair = jax.jit(dual)(q * jnp.asarray(rho)[None, :], one[:1], one)
            for got, size, f in zip(
                pair, dual.diagonal(one), (activation, slope(activation))
            ):
                expected = [reference(f, q, r) for r in rho]
                np.testing.assert_allclose(got[0], expected, atol=tolerance * size[0])


@pytest.mark.parametrize(
    ("closed", "function", "kind", "tolerance"),
    [
        (Erf(), jax.scipy.special.erf, Parity.ODD, 1e-9),
        (Erf(), jax.scipy.special.erf, Parity.NONE, 1e-4),
        (PiecewiseLinear(0.0, 1.0), jax.nn.relu, Parity.NONE, 0.05),  # a kink
        (PiecewiseLinear(1.0, 1.0), identity, Parity.ODD, 1e-12),
    ],
)
def test_series_against_closed_forms(closed, function, kind, tolerance):
    with jax.enable_x64(True):
        q1, q2 = jnp.linspace(0.1, 2.0, 5), jnp.linspace(0.2, 1.5, 4)
        rho = jnp.asarray(RNG.uniform(-0.95, 0.95, (5, 4)))
        k = rho * jnp.sqrt(q1[:, None] * q2[None, :])
        for got, expected in zip(Hermite(function, kind)(k, q1, q2), closed(k, q1, q2)):
            np.testing.assert_allclose(got, expected, atol=tolerance)
        for got, expected in zip(
            Hermite(function, kind).diagonal(q1), closed.diagonal(q1)
        ):
            np.testing.assert_allclose(got, expected, atol=1e-12 + 0.3 * tolerance)


@pytest.mark.parametrize(
    ("function", "dual"),
    [
        (jax.nn.relu, PiecewiseLinear(0.0, 1.0)),
        (lambda t: jnp.maximum(t, 0.0), PiecewiseLinear(0.0, 1.0)),
        (identity, PiecewiseLinear(1.0, 1.0)),
        (jnp.abs, PiecewiseLinear(-1.0, 1.0)),
        (jax.scipy.special.erf, Erf()),
        (jax.lax.erf, Erf()),
    ],
)
def test_recognizes_by_values(function, dual):
    assert recognize(function) == dual


def test_a_clipped_function_is_not_a_relu():
    assert isinstance(recognize(jax.nn.relu6), Hermite)


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jax.scipy.special.erf, jnp.tanh, jax.nn.gelu, identity]
)
def test_symmetric_positive_and_exact_on_the_diagonal(activation):
    bnn = problem(activation)
    with jax.enable_x64(True):
        x = inputs(30)
        x = jnp.concatenate([x, x[:5], jnp.zeros((1, 5))])
        for covariance in both(Analytic(), bnn, x):
            params = covariance.initial()
            gram = np.asarray(covariance.gram(params, x))
            np.testing.assert_array_equal(gram, gram.T)
            np.testing.assert_array_equal(
                np.diagonal(gram), covariance.diagonal(params, x)
            )
            assert np.linalg.eigvalsh(gram)[0] > -1e-13 * np.trace(gram)
            # the two-input recursion is good to half the digits here
            cross = np.asarray(covariance.gram(params, x, x))
            np.testing.assert_allclose(cross, gram, rtol=1e-6)


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jax.scipy.special.erf, jnp.tanh, jax.nn.elu]
)
def test_gradients(activation):
    """Against finite differences, with duplicates and the origin among the inputs."""
    bnn = problem(activation, depth=2, features=3)
    with jax.enable_x64(True):
        x = inputs(6, 3)
        x = jnp.concatenate([x, x[:2], jnp.zeros((1, 3))])
        weights = jnp.asarray(RNG.standard_normal((9, 9)))
        # a finite difference at a pair of equal inputs sees only noise of arccos
        off = weights * (1 - jnp.eye(9)).at[jnp.array([0, 6]), jnp.array([6, 0])].set(0)
        off = off.at[jnp.array([1, 7]), jnp.array([7, 1])].set(0)
        for covariance in both(Analytic(), bnn, x):
            start = covariance.initial()

            @jax.jit
            def total(params, weights, covariance=covariance):
                return jnp.sum(weights * covariance.gram(params, x))

            gradient = jax.grad(total)(start, off)
            every = jax.grad(total)(start, weights)
            for name, value in start.items():
                assert np.isfinite(every[name]).all()
                for i in np.ndindex(value.shape):
                    step = 1e-5
                    up = start | {name: value.at[i].add(step)}
                    down = start | {name: value.at[i].add(-step)}
                    expected = (total(up, off) - total(down, off)) / (2 * step)
                    np.testing.assert_allclose(
                        gradient[name][i], expected, rtol=2e-6, atol=2e-6
                    )


def test_gradient_at_equal_inputs_is_that_of_the_diagonal():
    bnn = problem(jax.nn.relu, features=3)
    with jax.enable_x64(True):
        x = inputs(1, 3)
        covariance = Analytic().ntk(bnn, x, 1.0)
        params = covariance.initial()
        pair = jax.grad(lambda p: covariance.gram(p, x, x)[0, 0])(params)
        alone = jax.grad(lambda p: covariance.diagonal(p, x)[0])(params)
        for name in params:
            np.testing.assert_allclose(pair[name], alone[name], rtol=1e-6)


def test_second_layer_by_hand():
    """One hidden ReLU layer: K = w^2 E + b^2 with E of two given inputs."""
    bnn = problem(jax.nn.relu, depth=1, features=2)
    with jax.enable_x64(True):
        x = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
        covariance = Analytic(ard=False).nngp(bnn, x, 1.0)
        params = {
            "weight std": jnp.log(jnp.asarray(2.0)),
            "bias std": jnp.log(jnp.asarray(1e-150)),
            "input scale": jnp.zeros(()),
        }
        # orthogonal inputs: E relu(u) relu(v) = s1 s2 / (2 pi); variances 4 * |x|^2 / 2
        expected = 4.0 * np.sqrt(2.0 * 8.0) / (2 * np.pi)
        assert covariance.gram(params, x)[0, 1] == pytest.approx(expected, rel=1e-14)
        assert covariance.diagonal(params, x)[1] == pytest.approx(4.0 * 8.0 / 2)


def test_constant_columns_and_wild_scales_give_finite_values():
    bnn = problem(jax.nn.relu, features=3)
    with jax.enable_x64(True):
        x = inputs(8, 3) * jnp.asarray([[1e8, 0.0, 1e-8]])
        covariance = Analytic().ntk(bnn, x, 1.0)
        gram = covariance.gram(covariance.initial(), x)
        assert np.isfinite(gram).all()
        assert np.linalg.matrix_rank(np.asarray(gram)) == 8

"""Sums, multiples and lengthscales of kernels: by hand, and through a fit."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.kernels import ARD, RBF, Analytic, Scale, Sum


RNG = np.random.default_rng(0)
NET = SimpleNamespace(
    network=SimpleNamespace(
        trained=None,
        build=lambda key: eqx.nn.MLP(3, 1, 8, 1, jax.nn.relu, key=key),
    )
)


def inputs(size):
    return jnp.asarray(RNG.standard_normal((size, 3)))


@eqx.filter_jit
def matrices(covariance, params, x, new):
    """All that a covariance can give."""
    return (
        covariance.gram(params, x),
        covariance.gram(params, x, new),
        covariance.diagonal(params, x),
        covariance.at(x)(params),
    )


def check_own(values):
    gram, _, diagonal, at = values
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(np.diagonal(gram), diagonal, rtol=1e-15)
    np.testing.assert_allclose(at, gram, rtol=1e-14)


@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_sum(which):
    """The parts with a network give K or Θ, the others their covariance."""
    with jax.enable_x64(True):
        x, new = inputs(5), inputs(4)
        parts = (
            getattr(Analytic(ard=False), which)(NET, x, 1.0),
            RBF(ard=False).covariance(NET, x, 1.0),
        )
        both = getattr(Sum(Analytic(ard=False), RBF(ard=False)), which)(NET, x, 1.0)
        assert set(both.parameters) == {
            "1: weight std",
            "1: bias std",
            "1: input scale",
            "2: lengthscale",
            "2: output std",
        }
        own = [part.initial() for part in parts]
        named = {f"{n}: {k}": v for n, p in enumerate(own, 1) for k, v in p.items()}
        got = matrices(both, named, x, new)
        check_own(got)
        for value, *expected in zip(
            got, *(matrices(part, p, x, new) for part, p in zip(parts, own))
        ):
            np.testing.assert_allclose(value, sum(expected), rtol=1e-14)


def test_a_sum_starts_with_the_variance_of_the_targets():
    with jax.enable_x64(True):
        x = inputs(5)
        both = Sum(RBF(), RBF(ard=False)).covariance(NET, x, 3.0)
        np.testing.assert_allclose(both.diagonal(both.initial(), x), 9.0)


def test_sums_of_sums_keep_names_apart():
    with jax.enable_x64(True):
        inner = Sum(RBF(ard=False), RBF(ard=False))
        found = Sum(inner, RBF(ard=False)).covariance(NET, inputs(4), 1.0)
        assert "1: 2: lengthscale" in found.parameters
        assert len(found.parameters) == 6


def test_scale():
    """Of a kernel with an "output std" and of one without."""
    with jax.enable_x64(True):
        x, new = inputs(5), inputs(4)
        plain = RBF(ard=False).covariance(NET, x, 1.0)
        scaled = Scale(RBF(ard=False), 2.0).covariance(NET, x, 1.0)
        assert set(scaled.parameters) == set(plain.parameters)
        network = Analytic(ard=False).nngp(NET, x, 1.0)
        more = Scale(Analytic(ard=False), 2.0).nngp(NET, x, 1.0)
        assert set(more.parameters) - set(network.parameters) == {"output std"}
        for one, two in ((plain, scaled), (network, more)):
            before = matrices(one, one.initial(), x, new)
            after = matrices(two, two.initial(), x, new)
            check_own(after)
            for a, b in zip(before, after):
                np.testing.assert_allclose(b, 4.0 * a, rtol=1e-14)


@pytest.mark.parametrize("inner", [RBF(ard=False), Analytic(ard=False)])
def test_ard(inner):
    """The kernel of inputs over the lengthscales; its own input scale is held."""
    with jax.enable_x64(True):
        x, new = inputs(6), inputs(4)
        kernel = ARD(inner)
        covariance = (
            kernel.covariance(NET, x, 1.0)
            if isinstance(inner, RBF)
            else kernel.ntk(NET, x, 1.0)
        )
        assert covariance.parameters["lengthscale"].initial.shape == (3,)
        assert "input scale" not in covariance.parameters
        lengths = jnp.asarray([0.5, 1.0, 4.0])
        params = covariance.initial() | {"lengthscale": jnp.log(lengths)}
        got = matrices(covariance, params, x, new)
        check_own(got)
        # the inputs that decide the first values of the kernel inside
        start = x / np.exp(covariance.parameters["lengthscale"].initial)
        plain = (
            inner.covariance(NET, start, 1.0)
            if isinstance(inner, RBF)
            else inner.ntk(NET, start, 1.0)
        )
        expected = matrices(plain, plain.initial(), x / lengths, new / lengths)
        for a, b in zip(got, expected):
            np.testing.assert_allclose(a, b, rtol=1e-13)


def test_a_feature_without_use_gets_a_long_lengthscale(tmp_path):
    """Fitted, saved and loaded; the sum beside a kernel of lengthscales."""
    x = RNG.uniform(-2.0, 2.0, (60, 2)).astype(np.float32)
    y = np.sin(3.0 * x[:, 0]) + 0.05 * RNG.standard_normal(60)
    bnn = nq.BNN(nq.models.mlp(2, 1, width=4), nq.Gaussian())
    kernel = ARD(Sum(Analytic(ard=False), RBF(ard=False)))
    posterior = nq.NTKGP(kernel).fit(bnn, nq.Dataset(x, y), key=jax.random.key(0))
    found = {h.name: h.value for h in posterior.hyperparameters}
    assert found["lengthscale [1]"] > 3.0 * found["lengthscale [0]"]
    # of two redundant scales of the inputs one is held
    assert "1: input scale" not in found
    assert "2: lengthscale" in found
    nq.save(tmp_path / "p", posterior)
    again = nq.load(tmp_path / "p", bnn)
    np.testing.assert_array_equal(again.predict(x).mean, posterior.predict(x).mean)
    assert np.sqrt(np.mean((np.ravel(posterior.predict(x).mean) - y) ** 2)) < 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="two kernels or more"):
        Sum(RBF())
    with pytest.raises(ValueError, match="std > 0"):
        Scale(RBF(), -1.0)
    with pytest.raises(TypeError, match="NTKGP"):
        Sum(RBF(), Analytic()).covariance(NET, jnp.ones((3, 3)), 1.0)

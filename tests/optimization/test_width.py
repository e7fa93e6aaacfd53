"""The width law and the distance to the infinite-width kernel."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Dataset, Split
from ntkuq.kernels import PriorKernel
from ntkuq.models import (
    BNN,
    FanInPrior,
    Gaussian,
    Network,
    NormalPrior,
    Train,
    cast,
    forward,
    mlp,
    parameters,
)
from ntkuq.optimization.kernel_regime.limit import Limit, distances, limit_prior
from ntkuq.optimization.kernel_regime.slope import why_no_slope, width_slope
from ntkuq.optimization.kernel_regime.study import Setting
from ntkuq.optimization.kernel_regime.width import Widths, _decided, deviation


KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 2))
DATA = Dataset(X, np.sin(2 * X[:, 0]) + 0.1 * RNG.normal(size=48))
SPLIT = Split(DATA.take(range(24)), None, DATA.take(range(24, 48)))
PRIOR = FanInPrior(1.4, 0.3)


def setting(build, train=None, prior=PRIOR):
    bnn = BNN(Network(build), Gaussian(0.1), prior).prepare(SPLIT.train)
    return Setting(bnn, SPLIT, train or Train(1e-2, steps=20), ())


def test_the_slope_is_that_of_least_squares():
    widths = (8, 32, 64, 256)
    values = np.exp(RNG.normal(size=(5, 4)))
    x = np.tile(np.log(widths), 5)
    expected = np.polyfit(x, np.log(values).reshape(-1), 1)[0]
    found = width_slope(widths, values)
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    assert found.n == 5


def test_the_interval_of_the_slope_covers():
    """Seeds with errors of their own in level, slope and at each width."""
    widths, seeds, sets, law = (16, 64, 256), 5, 2000, -0.5
    x = np.log(widths)
    shape = sets, seeds, 1
    rng = np.random.default_rng(1)
    logs = law * x + rng.normal(size=shape) + 0.1 * x * rng.normal(size=shape)
    logs = logs + 0.3 * rng.normal(size=(sets, seeds, 3))
    ends = np.asarray([width_slope(widths, v).interval for v in np.exp(logs)])
    covered = np.mean((ends[:, 0] <= law) & (law <= ends[:, 1]))
    # five standard errors of a share of 0.95
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / sets)


def test_too_few_widths_are_not_tested():
    assert why_no_slope((16, 64, 128)) is None
    for widths in ((16, 256), (16, 32, 64), ()):
        assert "at least 3 widths" in why_no_slope(widths)
    study = Widths.of(lambda m: mlp(2, 1, width=m), (16, 32))
    found = study.claims(setting(mlp(2, 1)), key=KEY)
    assert [claim.word for claim in found] == ["not tested"] * 2
    assert "got 16, 32" in found[0].reason
    with pytest.raises(ValueError, match="widths >= 1"):
        Widths({0: mlp(2, 1)})
    with pytest.raises(ValueError, match="seeds >= 2"):
        Widths({8: mlp(2, 1)}, seeds=1)
    with pytest.raises(ValueError, match="draws >= 2"):
        Limit(draws=1)


@pytest.mark.parametrize(
    ("value", "words"), [(1e-16, "zero up to rounding"), (np.nan, "did not change")]
)
def test_where_nothing_can_vanish_nothing_is_tested(value, words):
    values = np.full((3, 3), value)
    claim = _decided(Widths.asked[0], [8, 16, 64], values, "")
    assert claim.word == "not tested"
    assert words in claim.reason


class NTKScaled(eqx.Module):
    """One hidden layer in the NTK parametrization."""

    first: jax.Array
    last: jax.Array

    def __call__(self, x):
        hidden = jnp.tanh(self.first @ x)
        return self.last @ hidden / jnp.sqrt(self.last.shape[1])


def ntk_scaled(width):
    def build(key):
        one, two = jax.random.split(key)
        first = jax.random.normal(one, (width, 2))
        return NTKScaled(first, jax.random.normal(two, (1, width)))

    return build


def test_deviations_of_a_network_in_the_ntk_parametrization_vanish():
    """Gradient descent at one step size: both slopes are near -1/2 or steeper.

    With one hidden layer the kernel moves by 1/m (Huang and Yau 2019), plus terms of
    higher order for the narrow ones.
    """
    train = Train(optax.sgd(0.02), steps=100)
    study = Widths.of(ntk_scaled, (32, 128, 1024), seeds=3)
    state = setting(ntk_scaled(32), train, NormalPrior(1e-4))
    found = study.claims(state, key=KEY)
    for claim in found:
        assert claim.number == 3
        assert claim.statistic.n == 3
        assert "32, 128, 1024" in claim.note
    assert -0.8 < found[0].statistic.value < -0.3
    assert -1.3 < found[1].statistic.value < -0.3
    assert "confirmed" in {claim.word for claim in found}
    assert "refuted" not in {claim.word for claim in found}
    wild = state._replace(train=Train(optax.sgd(1e30), steps=5))
    for claim in study.claims(wild, key=KEY):
        assert "width 32: training diverged for 3 of 3 seeds" in claim.reason


def dense(model, x):
    """The Jacobian by JAX, and the outputs."""
    leaves, structure = jax.tree.flatten(parameters(model))

    def outputs(leaves):
        net = eqx.combine(jax.tree.unflatten(structure, leaves), model)
        return jax.vmap(lambda a: forward(net, a))(x)

    found = jax.jacobian(outputs)(leaves)
    rows = [j.reshape(*j.shape[:2], -1) for j in found]
    return np.concatenate(rows, axis=-1), np.asarray(outputs(leaves)), leaves


def test_deviation_equals_the_dense_jacobian():
    build = mlp(2, 2, width=4, depth=1)
    with jax.enable_x64(True):
        first, second = build(KEY), build(jax.random.key(9))
        bnn = BNN(first, Gaussian(0.1), PRIOR)
        data = Dataset(X[:5], np.zeros((5, 2)))
        error, change = deviation(bnn, first, second, data)
        (j0, f0, old), (j1, f1, new) = (dense(m, X[:5]) for m in (first, second))
    step = np.concatenate([(b - a).reshape(-1) for a, b in zip(old, new, strict=True)])
    linear = f0 + j0 @ step
    expected = np.linalg.norm(f1 - linear) / np.linalg.norm(f1 - f0)
    np.testing.assert_allclose(error, expected, rtol=1e-10)
    kernels = [np.einsum("ncp,mdp->ncmd", j, j) for j in (j0, j1)]
    expected = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
    np.testing.assert_allclose(change, expected, rtol=1e-10)


def test_distance_equals_the_dense_jacobian():
    """Two outputs: the limit has nothing between them, the network has."""
    build = mlp(2, 2, width=4, depth=1, activation=jax.nn.relu)
    data = Dataset(X[:6], np.zeros((6, 2)))
    bnn = BNN(Network(build), Gaussian(0.1), PRIOR).prepare(data)
    found = distances(bnn, data, [KEY])[0]
    with jax.enable_x64(True):
        model = cast(build(KEY), float)
        theta = PRIOR.sample(parameters(model), key=KEY)
        model = eqx.combine(theta, model)
        j, _, leaves = dense(model, X[:6])
        precisions = jax.tree.leaves(PRIOR.precisions(theta))
        variances = np.concatenate(
            [
                np.full(leaf.size, 1 / float(p))
                for leaf, p in zip(leaves, precisions, strict=True)
            ]
        )
        kernel = np.einsum("ncp,p,mdp->ncmd", j, variances, j)
        covariance = PriorKernel().ntk(bnn, jnp.asarray(X[:6]), 1.0)
        limit = np.asarray(covariance.gram(covariance.initial(), jnp.asarray(X[:6])))
    full = np.einsum("nm,cd->ncmd", limit, np.eye(2))
    expected = np.linalg.norm(kernel - full) / np.linalg.norm(full)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_distance_to_the_limit_falls_as_it_should():
    networks = {m: mlp(2, 1, width=m, depth=1, activation=jnp.tanh) for m in (16, 512)}
    narrow, wide = (setting(networks[m]) for m in (16, 512))
    few = Limit(draws=10).claims(narrow, key=KEY)[0]
    many = Limit(draws=10).claims(wide, key=KEY)[0]
    assert (few.word, many.word) == ("refuted", "confirmed")
    ratio = few.statistic.value / many.statistic.value
    error = np.hypot(*(c.statistic.se / c.statistic.value for c in (few, many)))
    # m^(-1/2) over a factor of 32, to four standard errors and the terms in 1/m
    assert abs(np.log(ratio) - 0.5 * np.log(32)) < 4 * error + 1 / 16
    assert "times the width" in few.note
    # the same networks, with the law fitted
    networks[128] = mlp(2, 1, width=128, depth=1, activation=jnp.tanh)
    own, law = Limit(10, networks).claims(narrow, key=KEY)
    assert own.statistic == few.statistic
    # the terms in 1/m again
    assert abs(law.statistic.value + 0.5) < 1 / 16 + 2 * law.statistic.se
    assert law.word != "refuted"
    assert "5% is reached at width" in law.note


def test_other_priors_and_networks_without_a_limit():
    build = mlp(2, 1, width=200, depth=1)
    state = setting(build, prior=NormalPrior())
    prior = limit_prior(state.bnn, key=KEY)
    # Equinox draws U(-1/sqrt(fan-in), 1/sqrt(fan-in)), biases too
    np.testing.assert_allclose(prior.weight_std, 3**-0.5, rtol=0.1)
    np.testing.assert_allclose(prior.bias_std, 6**-0.5, rtol=0.1)
    (claim,) = Limit(draws=3).claims(state, key=KEY)
    assert claim.word != "not tested"
    assert "variances of the initialization" in claim.note

    def strange(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(2, 4, key=key),
                eqx.nn.Lambda(jnp.sort),
                eqx.nn.Linear(4, 1, key=key),
            ]
        )

    (claim,) = Limit(draws=3).claims(setting(strange), key=KEY)
    assert claim.word == "not tested"
    assert "no infinite-width kernel" in claim.reason


def test_biases_of_convolutions_are_biases():
    def build(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, 400, 2, key=key),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(400 * 4, 1, key=key),
            ]
        )

    pictures = Dataset(RNG.normal(size=(8, 1, 3, 3)), np.zeros(8))
    bnn = BNN(Network(build), Gaussian(0.1), PRIOR).prepare(pictures)
    state = Setting(bnn, Split(pictures, None, pictures), Train(), ())
    (claim,) = Limit(draws=4).claims(state, key=KEY)
    # a bias taken for a weight of fan-in 1 leads to a distance above 1
    assert claim.statistic.value < 0.2

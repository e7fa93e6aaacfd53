"""Reference architectures: what their parametrizations promise."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq import BNN, Gaussian, Network, NormalPrior
from ntkuq.kernels import Analytic, StandardParametrization
from ntkuq.linearize import Jacobian, dense, find_sites, ntk
from ntkuq.models import forward, parameters
from ntkuq.models.architectures import cnn, describe, mlp, resnet
from ntkuq.models.parametrization import (
    MuP,
    NTKParametrization,
    Place,
    Role,
    Scaled,
    Standard,
)


X = jax.random.normal(jax.random.key(5), (4, 6))
IMAGES = jax.random.normal(jax.random.key(6), (3, 2, 5, 5))
KINDS = (Standard(1.5, 0.3), NTKParametrization(1.5, 0.3), MuP(1.5, 0.3))


def relu_mlp(width, kind):
    return mlp(6, 1, width=width, activation=jax.nn.relu, parametrization=kind)


def kernel(build, x, seed=0):
    model = build(jax.random.key(seed))
    found = ntk(Jacobian.at(model, x[0]), x)
    return np.asarray(found)[:, 0, :, 0]


def analytic(build, x, parametrization=None):
    """Of infinite width, with the scales of `KINDS`."""
    bnn = BNN(Network(build), Gaussian(), NormalPrior(1.0))
    if parametrization is None:
        found = Analytic(ard=False).ntk(bnn, x, 1.0)
    else:
        found = Analytic(ard=False, parametrization=parametrization)
        found = found.dynamics(bnn, x, 1.0)
    values = {"weight std": 1.5, "bias std": 0.3}
    params = {
        name: jnp.full(old.shape, math.log(values.get(name, 1.0)), old.dtype)
        for name, old in found.initial().items()
    }
    return np.asarray(found.gram(params, x))


def test_the_default_is_equinox_with_the_same_keys():
    key = jax.random.key(3)
    ours = mlp(3, 2, width=4, depth=2)(key)
    theirs = eqx.nn.MLP(3, 2, 4, 2, jax.nn.tanh, key=key)
    assert eqx.tree_equal(parameters(ours), parameters(theirs))
    assert isinstance(ours.layers[0], eqx.nn.Linear)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.text)
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_every_weight_is_a_site_and_the_jacobian_is_that_of_autodiff(name, kind):
    builds = {
        "mlp": (mlp(6, 2, width=4, depth=2, parametrization=kind), X),
        "cnn": (cnn(2, 2, width=3, depth=2, parametrization=kind), IMAGES),
        "resnet": (resnet(2, 2, width=3, blocks=1, parametrization=kind), IMAGES),
    }
    build, x = builds[name]
    model = build(jax.random.key(1))
    leaves = jax.tree.leaves(parameters(model))
    assert len(leaves) == {"mlp": 6, "cnn": 6, "resnet": 8}[name]
    plan = find_sites(model, x[0])
    # only biases, which are added, are left to the generic route
    left = [leaves[n] for n in plan.generic]
    assert all(max(leaf.shape) == leaf.size for leaf in left)
    assert len(plan.sites) == len(leaves) / 2
    found = dense(Jacobian.at(model, x[0]).factors(x), [jnp.ones(())] * len(leaves))

    def run(params, a):
        return forward(eqx.combine(params, model), a)

    exact = jax.vmap(lambda a: jax.jacrev(run)(parameters(model), a))(x)
    exact = [a.reshape(*a.shape[:2], -1) for a in jax.tree.leaves(exact)]
    exact = np.concatenate(exact, axis=-1)
    np.testing.assert_allclose(
        np.asarray(found).reshape(exact.shape), exact, atol=2e-5 * np.abs(exact).max()
    )


@pytest.fixture(scope="module")
def wide():
    """NTK of each parametrization at width 1 024, a mean over draws."""
    return {
        kind.text: np.mean(
            [kernel(relu_mlp(1024, kind), X, seed) for seed in range(3)],
            axis=0,
        )
        for kind in KINDS
    }


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_wide_kernels_are_those_of_infinite_width(wide):
    # a kernel of m units errs by about 3 / sqrt(m) here, a tenth; a mean of three less
    plain = relu_mlp(1024, Standard(1.5, 0.3))
    narrow = relu_mlp(1, Standard(1.5, 0.3))
    standard, ntk, mup = (wide[kind.text] for kind in KINDS)
    counted = StandardParametrization()
    assert relative(ntk, analytic(plain, X)) < 0.1
    assert relative(standard, analytic(plain, X, counted)) < 0.1
    # gains and the small readout leave the fan-ins of a network of width 1
    assert relative(mup, analytic(narrow, X, counted)) < 0.1


def test_only_the_standard_kernel_grows_with_the_width(wide):
    for kind in KINDS:
        narrow = np.mean(
            [kernel(relu_mlp(64, kind), X, seed) for seed in range(3)],
            axis=0,
        )
        ratio = np.trace(wide[kind.text]) / np.trace(narrow)
        # 16 times the width; the first layer's part does not grow
        low, high = (8.0, 20.0) if kind is KINDS[0] else (0.6, 1.6)
        assert low < ratio < high, kind.text


def outputs(kind, width, draws):
    build = relu_mlp(width, kind)
    keys = jax.random.split(jax.random.key(2), draws)
    run = jax.jit(jax.vmap(lambda key: build(key)(X[0])[0]))
    return np.asarray(run(keys))


def test_outputs_keep_their_variance_and_those_of_mup_lose_it():
    draws = 400
    # variances of so many draws, kurtosis at most 6: relative error 5^(1/2) / 20; the
    # ratio of two within four standard errors
    band = 4 * math.sqrt(2 * 5 / draws)
    for kind in KINDS[:2]:
        ratio = np.var(outputs(kind, 256, draws)) / np.var(outputs(kind, 16, draws))
        assert 1 / (1 + band) < ratio < 1 + band
    mup = MuP(1.5, 0.0)  # the bias of the output does not shrink
    ratio = np.var(outputs(mup, 16, draws)) / np.var(outputs(mup, 256, draws))
    assert 16 / (1 + band) < ratio < 16 * (1 + band)


def feature_change(kind, width):
    """Root mean square change of the last hidden features in one step of rate 0.1."""
    model = relu_mlp(width, kind)(jax.random.key(4))

    def features(model, x):
        for layer in model.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return x

    @eqx.filter_grad
    def slope(model):
        return jnp.sum((jax.vmap(model)(X) - 1.0) ** 2) / 2

    moved = jax.tree.map(
        lambda p, g: p - 0.1 * g, parameters(model), parameters(slope(model))
    )
    new = eqx.combine(moved, model)
    both = [jax.vmap(lambda x, m=m: features(m, x))(X) for m in (model, new)]
    return float(jnp.sqrt(jnp.mean((both[1] - both[0]) ** 2)))


def test_features_move_in_mup_and_stay_in_the_ntk_parametrization():
    # as width^0 and width^-1/2: over a factor 64 these are 1 and 1/8
    mup = feature_change(MuP(), 1024) / feature_change(MuP(), 16)
    lazy = feature_change(NTKParametrization(), 1024)
    lazy /= feature_change(NTKParametrization(), 16)
    assert 0.4 < mup < 2.5
    assert 0.05 < lazy < 0.3


def test_convolutions_tend_to_their_kernels():
    x = IMAGES
    for make in (cnn, resnet):
        found = np.mean(
            [
                kernel(make(2, 1, width=128, parametrization=KINDS[1]), x, seed)
                for seed in range(2)
            ],
            axis=0,
        )
        limit = analytic(make(2, 1, width=2, parametrization=KINDS[0]), x)
        # 3 / sqrt(128) for each of two draws
        assert relative(found, limit) < 0.2, make.__name__


def test_describe_states_the_parametrization():
    key = jax.random.key(0)
    ours = mlp(8, 1, width=5, depth=1, parametrization=NTKParametrization())(key)
    assert describe(ours, (8,)) == "MLP 8-5-1 (tanh), NTK parametrization"
    assert describe(cnn(1, 10, width=4)(key), (1, 8, 8)) == (
        "CNN 1-4-4-10, global pooling (relu), standard parametrization"
    )
    assert describe(resnet(1, 2, width=4, parametrization=MuP())(key), ()) == (
        "ResNet 1-4-2, 2 blocks × 2^-1/2 (relu), μP for SGD"
    )
    line = eqx.nn.Linear(2, 1, key=key)
    assert describe(line, (2,)) == "Linear with 2 parameter arrays, input (2,)"


def test_gains_are_no_parameters():
    model = mlp(2, 1, width=3, parametrization=MuP())(jax.random.key(0))
    assert isinstance(model.layers[0], Scaled)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(parameters(model)))
    assert sizes == [1, 3, 3, 3, 6, 9]


def test_a_bias_std_of_zero_gives_no_bias():
    first = Place(Role.INPUT, 4, 16)
    assert NTKParametrization(2.0).scales(first).gains == (1.0, 0.0)
    assert MuP().scales(first).bias_std == 0.0


@pytest.mark.parametrize("kind", [Standard, NTKParametrization, MuP])
@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.0, -1.0), (math.nan, 0.0)])
def test_scales_that_are_none_are_refused(kind, scales):
    with pytest.raises(ValueError, match=f"{kind.__name__}: expected weight_std > 0"):
        kind(*scales)


@pytest.mark.parametrize("build", [cnn, resnet])
def test_windows_that_move_the_image_are_refused(build):
    with pytest.raises(ValueError, match="an odd window"):
        build(1, 1, window=4)

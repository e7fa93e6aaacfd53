"""Reference architectures: what their parametrizations promise."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq import BNN, Gaussian, Network, NormalPrior
from ntkuq.kernels import Analytic, StandardParametrization
from ntkuq.linearize import Jacobian, dense, find_sites
from ntkuq.models import forward, parameters
from ntkuq.models.architectures import cnn, describe, mlp, resnet
from ntkuq.models.parametrization import (
    NTK,
    MuP,
    Place,
    Role,
    Scaled,
    Standard,
)


X = jax.random.normal(jax.random.key(5), (4, 6))
IMAGES = jax.random.normal(jax.random.key(6), (3, 2, 5, 5))
KINDS = (Standard(1.5, 0.3), NTK(1.5, 0.3), MuP(1.5, 0.3))


def relu_mlp(width, kind):
    return mlp(6, 1, width=width, activation=jax.nn.relu, parametrization=kind)


def kernel(build, x, draws):
    """The mean tangent kernel over draws, from the explicit Jacobian."""

    def one(key):
        model = build(key)
        params = parameters(model)

        def run(params, a):
            return forward(eqx.combine(params, model), a)[0]

        rows = jax.vmap(lambda a: jax.grad(run)(params, a))(x)
        rows = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)]
        return sum(leaf @ leaf.T for leaf in rows)

    keys = jax.random.split(jax.random.key(1), draws)
    return np.asarray(jax.jit(lambda keys: jnp.mean(jax.lax.map(one, keys), 0))(keys))


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


BUILDS = {
    "mlp": (lambda kind: mlp(6, 2, width=4, depth=2, parametrization=kind), X),
    "cnn": (lambda kind: cnn(2, 2, width=3, parametrization=kind), IMAGES),
    "resnet": (lambda kind: resnet(2, 2, width=3, parametrization=kind), IMAGES),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.text)
@pytest.mark.parametrize("name", BUILDS)
def test_every_weight_is_a_site(name, kind):
    build, x = BUILDS[name]
    model = build(kind)(jax.random.key(1))
    leaves = jax.tree.leaves(parameters(model))
    assert len(leaves) == {"mlp": 6, "cnn": 6, "resnet": 12}[name]
    plan = find_sites(model, x[0])
    # only biases, which are added, are left to the generic route
    left = [leaves[n] for n in plan.generic]
    assert all(max(leaf.shape) == leaf.size for leaf in left)
    assert len(plan.sites) == len(leaves) / 2


@pytest.mark.parametrize(
    ("name", "kind"), [("mlp", KINDS[2]), ("cnn", KINDS[1]), ("resnet", KINDS[2])]
)
def test_the_structured_jacobian_is_that_of_autodiff(name, kind):
    build, x = BUILDS[name]
    model = build(kind)(jax.random.key(1))
    params = parameters(model)
    ones = [jnp.ones(()) for _ in jax.tree.leaves(params)]
    found = dense(Jacobian.at(model, x[0]).factors(x), ones)

    @jax.jit
    def jacobian(params):
        def run(params, a):
            return forward(eqx.combine(params, model), a)

        return jax.vmap(lambda a: jax.jacrev(run)(params, a))(x)

    exact = [a.reshape(*a.shape[:2], -1) for a in jax.tree.leaves(jacobian(params))]
    exact = np.concatenate(exact, axis=-1)
    # float32 over sums of at most 27 terms and four layers
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


WIDE = 512


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.text)
def test_a_wide_kernel_is_that_of_infinite_width(kind):
    found = kernel(relu_mlp(WIDE, kind), X, 6)
    # in μP gains and the small readout leave the fan-ins of a network of width 1
    counted = relu_mlp(1 if kind is KINDS[2] else WIDE, KINDS[0])
    rule = None if kind is KINDS[1] else StandardParametrization()
    # a kernel of m units errs by about 3 / sqrt(m), 13 %, a mean of six by 5 %
    assert relative(found, analytic(counted, X, rule)) < 0.1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.text)
def test_only_the_readout_of_mup_shrinks_beyond_the_fan_in(kind):
    for width, fan_in, role in itertools.product((4, 64), (3, 64), Role):
        scales = kind.scales(Place(role, fan_in, width))
        gains = scales.gains or (1.0, 1.0)
        # the variance of a unit whose inputs have mean square 1
        weight = fan_in * (gains[0] * scales.weight_std) ** 2
        shrinks = kind is KINDS[2] and role is Role.READOUT
        assert math.isclose(weight, 1.5**2 / (width if shrinks else 1))
        assert math.isclose(gains[1] * scales.bias_std, 0.3)


def feature_change(kind, width):
    """Root mean square change of the last hidden features in one step of rate 0.1.

    Over 16 draws: one network alone may begin near its targets.
    """

    def features(model, x):
        for layer in model.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return x

    def change(key):
        model = relu_mlp(width, kind)(key)

        def loss(params):
            outputs = jax.vmap(eqx.combine(params, model))(X)
            return jnp.sum((outputs - 1.0) ** 2) / 2

        params = parameters(model)
        slopes = jax.grad(loss)(params)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
        new = eqx.combine(moved, model)
        one, two = (jax.vmap(lambda x, m=m: features(m, x))(X) for m in (model, new))
        return jnp.mean((one - two) ** 2)

    keys = jax.random.split(jax.random.key(4), 16)
    return math.sqrt(jnp.mean(jax.jit(lambda keys: jax.lax.map(change, keys))(keys)))


def test_features_move_in_mup_and_stay_in_the_ntk_parametrization():
    # as width^0 and width^-1/2: over a factor 16 these are 1 and 1/4
    mup, lazy = (
        feature_change(kind, 256) / feature_change(kind, 16) for kind in (MuP(), NTK())
    )
    assert 0.5 < mup < 2.0
    assert 0.125 < lazy < 0.5


def test_a_residual_network_tends_to_its_kernel():
    build = resnet(2, 1, width=32, blocks=1, parametrization=KINDS[1])
    found = kernel(build, IMAGES, 6)
    limit = analytic(resnet(2, 1, width=2, blocks=1, parametrization=KINDS[0]), IMAGES)
    # as above, 3 / sqrt(32 * 6) = 22 %
    assert relative(found, limit) < 0.35


def test_describe_states_the_parametrization():
    key = jax.random.key(0)

    def shaped(build):
        return eqx.filter_eval_shape(build, key)

    ours = shaped(mlp(8, 1, width=5, depth=1, parametrization=NTK()))
    assert describe(ours, (8,)) == "MLP 8-5-1 (tanh), NTK parametrization"
    assert describe(shaped(cnn(1, 10, width=4)), (1, 8, 8)) == (
        "CNN 1-4-4-10, global pooling (relu), standard parametrization"
    )
    assert describe(shaped(resnet(1, 2, width=4, parametrization=MuP())), ()) == (
        "ResNet 1-4-2, 2 blocks × 2^-1/2 (relu), μP for SGD"
    )
    line = eqx.nn.Linear(2, 1, key=key)
    assert describe(line, (2,)) == "Linear with 2 parameter arrays, input (2,)"


def test_gains_are_no_parameters():
    build = mlp(2, 1, width=3, parametrization=MuP())
    model = eqx.filter_eval_shape(build, jax.random.key(0))
    assert isinstance(model.layers[0], Scaled)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(parameters(model)))
    assert sizes == [1, 3, 3, 3, 6, 9]


def test_a_bias_std_of_zero_gives_no_bias():
    first = Place(Role.INPUT, 4, 16)
    assert NTK(2.0).scales(first).gains == (1.0, 0.0)
    assert MuP().scales(first).bias_std == 0.0


@pytest.mark.parametrize("kind", [Standard, NTK, MuP])
@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.0, -1.0), (math.nan, 0.0)])
def test_scales_that_are_none_are_refused(kind, scales):
    with pytest.raises(ValueError, match=f"{kind.__name__}: expected weight_std > 0"):
        kind(*scales)


@pytest.mark.parametrize("build", [cnn, resnet])
def test_windows_that_move_the_image_are_refused(build):
    with pytest.raises(ValueError, match="an odd window"):
        build(1, 1, window=4)

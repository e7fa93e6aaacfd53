"""Kernels of networks with branches, pooling and normalization.

Against neural-tangents on the same network written by hand, and against NumPy.
"""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import (
    Analytic,
    StandardParametrization,
    bridge,
    stax as stax_kernels,
    walk,
)
from ntkuq.kernels.layers import Dense, Graph


nn = eqx.nn
RNG = np.random.default_rng(0)
WEIGHT, BIAS = 1.3, 0.4
WIDTH = 8


class Residual(eqx.Module):
    """Normalization before the branch, a constant on it."""

    first: nn.Linear
    norm: nn.LayerNorm
    inner: nn.Linear
    last: nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = nn.Linear(3, WIDTH, key=keys[0])
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH, use_bias=False, key=keys[1])
        self.last = nn.Linear(WIDTH, "scalar", key=keys[2])

    def __call__(self, x):
        h = self.first(x)
        h = h + 0.5 * self.inner(jax.nn.relu(self.norm(h)))
        return self.last(jax.nn.relu(h))


class Pictures(eqx.Module):
    """Residual convolutions and the mean over all positions."""

    first: nn.Conv2d
    inner: nn.Conv2d
    last: nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = nn.Conv2d(2, WIDTH, 3, padding="SAME", key=keys[0])
        self.inner = nn.Conv2d(WIDTH, WIDTH, (3, 1), padding="SAME", key=keys[1])
        self.last = nn.Linear(WIDTH, 2, key=keys[2])

    def __call__(self, x):
        h = self.first(x)
        h = h + self.inner(jax.nn.relu(h))
        return self.last(jnp.mean(jax.nn.relu(h), axis=(1, 2)))


def pooled(key):
    keys = jax.random.split(key, 3)
    return nn.Sequential(
        [
            nn.Conv2d(2, WIDTH, 3, padding=1, key=keys[0]),
            nn.Lambda(jax.scipy.special.erf),
            nn.AvgPool2d(2, 2),
            nn.Conv2d(WIDTH, WIDTH, 2, stride=(1, 2), use_bias=False, key=keys[1]),
            nn.Lambda(jnp.ravel),
            nn.Lambda(jax.nn.relu),
            nn.Linear(2 * WIDTH, 1, key=keys[2]),
        ]
    )


def signal(key):
    keys = jax.random.split(key, 2)
    return nn.Sequential(
        [
            nn.Conv1d(2, WIDTH, 3, stride=2, key=keys[0]),
            nn.LayerNorm((WIDTH, 3)),
            nn.Lambda(jax.nn.relu),
            nn.AdaptiveAvgPool1d(1),
            nn.Lambda(jnp.ravel),
            nn.Linear(WIDTH, 1, key=keys[1]),
        ]
    )


def deep(key):
    return nn.MLP(3, 1, WIDTH, 2, jnp.abs, key=key)


def by_hand(stax, name, form="ntk"):
    """The same networks as layers of neural-tangents."""

    def dense(width):
        return stax.Dense(width, W_std=WEIGHT, b_std=BIAS, parameterization=form)

    def conv(*args, bias=BIAS, **options):
        scales = {"W_std": WEIGHT, "b_std": bias}
        return stax.Conv(WIDTH, *args, **scales, parameterization=form, **options)

    def plus(branch):
        both = stax.parallel(stax.Identity(), branch)
        return stax.serial(stax.FanOut(2), both, stax.FanInSum())

    relu = stax.Relu()
    if name == "residual":
        norm = stax.LayerNorm(axis=-1, eps=1e-5)
        half = stax.Dense(WIDTH, W_std=0.5 * WEIGHT, b_std=None)
        branch = stax.serial(norm, relu, half)
        return stax.serial(dense(WIDTH), plus(branch), relu, dense(1))
    if name == "pictures":
        branch = stax.serial(relu, conv((3, 1), padding="SAME"))
        return stax.serial(
            conv((3, 3), padding="SAME"),
            plus(branch),
            relu,
            stax.GlobalAvgPool(),
            dense(2),
        )
    if name == "pooled":
        return stax.serial(
            conv((3, 3), padding="SAME"),
            stax.Erf(),
            stax.AvgPool((2, 2), (2, 2)),
            conv((2, 2), (1, 2), bias=None),
            relu,
            stax.Flatten(),
            dense(1),
        )
    if name == "signal":
        return stax.serial(
            conv((3,), (2,)),
            stax.LayerNorm(axis=(1, 2), eps=1e-5),
            relu,
            stax.GlobalAvgPool(),
            dense(1),
        )
    return stax.serial(dense(WIDTH), stax.Abs(), dense(WIDTH), stax.Abs(), dense(1))


NETWORKS = {
    "residual": (Residual, (3,)),
    "pictures": (Pictures, (2, 4, 3)),
    "pooled": (pooled, (2, 4, 8)),
    "signal": (signal, (2, 7)),
    "deep": (deep, (3,)),
}


def read(build, shape):
    """Of a network that is only built as shapes."""
    return walk(eqx.filter_eval_shape(build, jax.random.key(0)), shape)


def problem(build):
    """What a kernel reads of a BNN."""
    return SimpleNamespace(network=SimpleNamespace(trained=None, build=build))


def inputs(size, shape):
    return jnp.asarray(RNG.standard_normal((size, *shape)))


def values(covariance):
    """The scales above, whatever the first values are."""
    fixed = {"weight std": WEIGHT, "bias std": BIAS, "input scale": 1.0}
    return {
        name: jnp.full(p.initial.shape, jnp.log(fixed.get(name, 1.0)))
        for name, p in covariance.parameters.items()
    }


@pytest.mark.filterwarnings("ignore:.*FanIn.*:UserWarning")
@pytest.mark.parametrize(
    ("name", "standard"),
    # neural-tangents has no layer for the constant in the branch of "residual"
    [*((name, False) for name in NETWORKS), ("pictures", True), ("signal", True)],
)
def test_equals_neural_tangents(name, standard, need):
    """K and Θ of different inputs; without equal ones both are good to rounding."""
    need("frozendict")
    build, shape = NETWORKS[name]
    stax = bridge.load().stax
    kernel_fn = by_hand(stax, name, "standard" if standard else "ntk")[2]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        graph = stax_kernels.check(read(build, shape))
        scales = jnp.asarray(WEIGHT), jnp.asarray(BIAS)
        x1, x2 = inputs(3, shape), inputs(2, shape)

        @jax.jit
        def both(x1, x2):
            last = [jnp.moveaxis(x, 1, -1) for x in (x1, x2)]
            return (
                bridge.evaluate(graph, *scales, x1, x2, standard=standard),
                tuple(kernel_fn(*last, ("nngp", "ntk"))),
            )

        for got, expected in zip(*both(x1, x2), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def dual(k):
    """ReLU of pairs of positions of one input: equal ones are equal exactly."""
    q = np.diag(k)
    size = np.sqrt(np.outer(q, q))
    angle = np.arccos(np.clip(k / size, -1.0, 1.0))
    np.fill_diagonal(angle, 0.0)
    value = size / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return value, (np.pi - angle) / (2 * np.pi)


def windows(k, length, height, width):
    """The mean over the windows of both positions, zero outside the picture."""
    k = k.reshape(length, height, length, height)
    padded = np.pad(k, [(a // 2, a // 2) for a in (width[0], width[1])] * 2)
    found = np.zeros_like(k)
    for i in range(width[0]):
        for j in range(width[1]):
            rows, columns = slice(i, i + length), slice(j, j + height)
            found += padded[rows, columns, rows, columns]
    size = length * height
    return found.reshape(size, size) / (width[0] * width[1])


def test_the_diagonal_is_exact_to_rounding(need):
    """Of `Pictures`, by a recursion over pairs of positions of one input."""
    need("frozendict")
    x = RNG.standard_normal((2, 2, 4, 3))
    w, b = WEIGHT**2, BIAS**2
    expected = []
    for one in x:
        pixels = one.reshape(2, 12)
        k = ntk = w * windows(pixels.T @ pixels / 2, 4, 3, (3, 3)) + b
        value, slopes = dual(k)
        branch = w * windows(value, 4, 3, (3, 1)) + b
        ntk = ntk + branch + w * windows(ntk * slopes, 4, 3, (3, 1))
        value, slopes = dual(k + branch)
        k = w * value.mean() + b
        expected.append((k, k + w * (ntk * slopes).mean()))
    bnn = problem(Pictures)
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        for n, make in enumerate((Analytic().nngp, Analytic().ntk)):
            covariance = make(bnn, x, 1.0)
            got = eqx.filter_jit(covariance.diagonal)(values(covariance), x)
            np.testing.assert_allclose(got, [e[n] for e in expected], rtol=1e-13)


@pytest.mark.parametrize("name", ["residual", "signal"])
def test_symmetric_positive_and_equal_on_equal_inputs(name, need):
    need("frozendict")
    build, shape = NETWORKS[name]
    bnn = problem(build)
    with jax.enable_x64(True):
        x = inputs(6, shape)
        x = jnp.concatenate([x, x[:2]])
        for make in (Analytic().nngp, Analytic().ntk):
            covariance = make(bnn, x, 1.0)
            gram = np.asarray(eqx.filter_jit(covariance.gram)(values(covariance), x))
            np.testing.assert_array_equal(gram, gram.T)
            assert np.linalg.eigvalsh(gram)[0] > -1e-13 * np.trace(gram)
            # the NTK has an infinite slope there: half the digits of a difference
            np.testing.assert_allclose(gram[0, 6], gram[0, 0], rtol=1e-12)


def test_gradients_of_a_residual_network(need):
    """Against finite differences, with two equal inputs."""
    need("frozendict")
    with jax.enable_x64(True):
        x = inputs(3, (3,))
        x = jnp.concatenate([x, x[:1]])
        covariance = Analytic(ard=False).ntk(problem(Residual), x, 1.0)
        start = values(covariance)

        @jax.jit
        def total(params):
            return jnp.sum(covariance.gram(params, x)[:, :3] ** 2)

        gradient = jax.jit(jax.grad(total))(start)
        for name, value in start.items():
            up, down = (total(start | {name: value + s}) for s in (1e-5, -1e-5))
            expected = (up - down) / 2e-5
            np.testing.assert_allclose(gradient[name], expected, rtol=1e-6)


def test_the_standard_parametrization_of_dense_networks():
    """Own recursion and graph agree, also on the diagonal; priors do not change."""
    standard = Analytic(ard=False, parametrization=StandardParametrization())
    bnn = problem(deep)
    with jax.enable_x64(True):
        x, new = inputs(4, (3,)), inputs(3, (3,))
        own = standard.dynamics(bnn, x, 1.0)
        graph = read(deep, (3,))
        other = stax_kernels.StaxNTK(own.parameters, graph, standard=True)
        params = values(own)

        @eqx.filter_jit
        def grams(covariance):
            return covariance.gram(params, x), covariance.gram(params, x, new)

        for a, b in zip(grams(own), grams(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        plain = Analytic(ard=False)
        for make in (standard.ntk, plain.dynamics):
            assert eqx.tree_equal(make(bnn, x, 1.0), plain.ntk(bnn, x, 1.0))


def test_one_step_of_gradient_descent_is_that_of_the_standard_kernel():
    """Wide networks at their initialization: the squared Jacobian, to 1/sqrt(width).

    The sum over the parameters of W h + b with variances w^2 / fan-in and b^2, at width
    n, over 60 draws: a standard error of about 0.3/sqrt(60 n) for n = 200.
    """
    width = 200
    x = RNG.standard_normal((1, 2))
    sizes = [(width, 2), (width, width), (1, width)]

    def net(parameters, x):
        h = x
        for n, (weight, bias) in enumerate(parameters):
            h = weight @ h + bias
            h = jax.nn.relu(h) if n < 2 else h
        return h[0]

    def draw(key):
        keys = jax.random.split(key, 6)
        parameters = [
            (
                WEIGHT / np.sqrt(into) * jax.random.normal(keys[2 * n], (out, into)),
                BIAS * jax.random.normal(keys[2 * n + 1], (out,)),
            )
            for n, (out, into) in enumerate(sizes)
        ]
        gradient = jax.grad(net)(parameters, jnp.asarray(x[0], jnp.float32))
        return sum(jnp.sum(g**2) for pair in gradient for g in pair)

    keys = jax.random.split(jax.random.key(1), 60)
    draws = np.asarray(jax.jit(jax.vmap(draw))(keys))
    bnn = problem(lambda key: nn.MLP(2, 1, width, 2, key=key))
    kernel = Analytic(ard=False, parametrization=StandardParametrization())
    with jax.enable_x64(True):
        covariance = kernel.dynamics(bnn, jnp.asarray(x), 1.0)
        diagonal = eqx.filter_jit(covariance.diagonal)
        expected = float(diagonal(values(covariance), jnp.asarray(x))[0])
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - expected) < 4 * error + 0.01 * expected
    assert error < 0.03 * expected


def test_depth_repeats_the_hidden_block():
    bnn, two = problem(deep), problem(lambda key: nn.MLP(3, 1, 5, 4, jnp.abs, key=key))
    with jax.enable_x64(True):
        x = inputs(3, (3,))
        one = Analytic(depth=4).ntk(bnn, x, 1.0)
        other = Analytic().ntk(two, x, 1.0)
        assert one.network == other.network
        assert len(Analytic(depth=1).ntk(bnn, x, 1.0).network) == 2
        assert [k.depth for k in Analytic(depth=(1, 3)).choices] == [1, 3]
        with pytest.raises(TypeError, match="expected one depth"):
            Analytic(depth=(1, 2)).nngp(bnn, x, 1.0)
        with pytest.raises(
            TypeError, match="depth: expected a network of dense layers"
        ):
            Analytic(depth=2).nngp(problem(Residual), x, 1.0)
    with pytest.raises(ValueError, match="depths of at least 1"):
        Analytic(depth=(0, 1))


def test_networks_of_dense_layers_and_of_convolutions_need_no_other_package():
    """They are read into our own recursions."""
    with jax.enable_x64(True):
        dense = Analytic().nngp(problem(deep), inputs(3, (3,)), 1.0)

        def build(key):
            layers = [nn.Conv2d(2, 4, 3, key=key), nn.Lambda(jax.nn.relu)]
            layers += [nn.Lambda(jnp.ravel), nn.Linear(8, 1, key=key)]
            return nn.Sequential(layers)

        pictures = Analytic().ntk(problem(build), inputs(3, (2, 4, 3)), 1.0)
    assert type(dense).__name__ == "DenseNNGP"
    assert type(pictures).__name__ == "ConvolutionNTK"


def test_a_graph_is_static_and_hashable():
    one, two = (read(Residual, (3,)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert not jax.tree.leaves(one)
    with pytest.raises(ValueError, match="one Input, as its first node"):
        Graph(Graph.of((Dense(True),)).nodes[1:])

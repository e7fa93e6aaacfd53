"""What the walker reads from networks, and how it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.kernels import UnsupportedLayer, gaussian, walk
from ntkuq.kernels.duals import PiecewiseLinear, recognize
from ntkuq.kernels.layers import (
    Activation,
    AveragePool,
    Convolution,
    Dense,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    Reshape,
    Scale,
    Sum,
)
from ntkuq.kernels.stages import stages


nn = eqx.nn
KEY = jax.random.key(0)


def read(build, shape):
    """Of a network that is only built as shapes."""
    return walk(eqx.filter_eval_shape(build, KEY), shape)


def kinds(graph):
    chain = graph.chain()
    assert chain is not None
    return [type(layer) for layer in chain]


def linear(into=3, out=4):
    return nn.Linear(into, out, key=KEY)


def sequence(*layers):
    return lambda key: nn.Sequential(
        [
            layer if isinstance(layer, eqx.Module) else nn.Lambda(layer)
            for layer in layers
        ]
    )


class Two(eqx.Module):
    """Two layers and what is done with them."""

    a: eqx.Module
    b: eqx.Module
    join: object = eqx.field(static=True)

    def __call__(self, x):
        return self.join(self, x)


def two(join, a=None, b=None):
    def build(key):
        return Two(a or linear(), b or linear(4, 4), join)

    return build


def test_mlp():
    layers = read(
        lambda key: nn.MLP(3, 2, 4, 2, use_final_bias=False, key=key), (3,)
    ).chain()
    assert [type(layer) for layer in layers] == [
        *(Dense, Activation, Dense, Activation),
        Dense,
    ]
    assert [layers[0].bias, layers[-1].bias] == [True, False]
    assert [layers[0].fan_in, layers[-1].fan_in] == [3, 4]


def test_a_loop_over_layers_is_the_same_network():
    def build(key, scan):
        return nn.MLP("scalar", "scalar", 4, 3, jnp.tanh, scan=scan, key=key)

    graphs = [read(lambda key, scan=scan: build(key, scan), ()) for scan in (0, 1)]
    assert graphs[0] == graphs[1]
    assert len(stages(graphs[0].chain())) == 4


def test_a_trained_network_is_read_as_its_builder():
    net = nn.MLP(3, 1, 4, 1, jax.nn.gelu, key=KEY)
    assert walk(net, (3,)) == read(
        lambda key: nn.MLP(3, 1, 4, 1, jax.nn.gelu, key=key), (3,)
    )


def test_nested_sequential_with_dropout_and_flatten():
    first = nn.Linear(4, 8, use_bias=False, key=KEY)
    inner = nn.Sequential([first, nn.Lambda(jax.nn.relu)])
    build = sequence(
        jnp.ravel,
        inner,
        nn.Dropout(0.5),
        nn.Identity(),
        lambda t: jnp.reshape(t, (-1,)),
        nn.MLP(8, 1, 4, 1, key=KEY),
    )
    expected = [Flatten, Dense, Activation, Dense, Activation, Dense]
    assert kinds(read(build, (2, 2))) == expected


def test_convolutions():
    graph = read(
        sequence(
            nn.Conv2d(1, 4, 3, padding="SAME", key=KEY),
            jax.nn.relu,
            nn.AvgPool2d(2, 2),
            nn.Conv2d(4, 4, 3, use_bias=False, key=KEY),
            jnp.ravel,
            nn.Linear(16, 1, key=KEY),
        ),
        (1, 8, 8),
    )
    chain = graph.chain()
    assert chain == (
        Convolution((3, 3), (1, 1), "SAME", True, 9),
        chain[1],
        AveragePool((2, 2), (2, 2)),
        Convolution((3, 3), (1, 1), "VALID", False, 36),
        Flatten(),
        Dense(True, 16),
    )
    assert recognize(chain[1].function) == PiecewiseLinear(0.0, 1.0)


def test_signals_and_the_mean_over_all_positions():
    tail = (nn.LayerNorm((4, 8)), jax.nn.relu)
    first = nn.Conv1d(2, 4, 3, stride=2, padding="SAME", key=KEY)
    pools = [
        (lambda t: jnp.mean(t, axis=1),),
        (lambda t: jnp.mean(t, axis=1, keepdims=True)[:, 0],),
        (lambda t: t.sum(1) / 8,),
        (nn.AdaptiveAvgPool1d(1), jnp.ravel),
        (nn.AdaptiveAvgPool1d(1), lambda t: t.squeeze(1)),
    ]
    graphs = [read(sequence(first, *tail, *p, linear(4, 1)), (2, 16)) for p in pools]
    expected = [Convolution, LayerNorm, Activation, GlobalAveragePool, Dense]
    assert kinds(graphs[0]) == expected
    assert all(graph == graphs[0] for graph in graphs)
    halves = read(sequence(first, nn.AdaptiveAvgPool1d(4), jnp.ravel), (2, 16))
    assert halves.chain()[1] == AveragePool((2,), (2,))


def test_a_class_with_a_residual_branch():
    def join(self, x):
        h = self.a(x)
        return h + self.b(jax.nn.silu(h)) / 2

    graph = read(two(join), (3,))
    assert graph.chain() is None
    assert [(type(n.layer), n.inputs) for n in graph.nodes[1:]] == [
        (Dense, (0,)),
        (Activation, (1,)),
        (Dense, (2,)),
        (Scale, (3,)),
        (Sum, (1, 4)),
    ]
    assert graph.nodes[4].layer == Scale(0.5)
    gaussian.check(graph)


def test_what_is_unused_or_does_nothing_is_left_out():
    def join(self, x):
        h = jax.checkpoint(lambda t: self.a(t) * 3.0 / 3.0)(x)
        jnp.tanh(self.b(h))
        return jax.nn.identity(h).astype(jnp.float32)

    assert kinds(read(two(join), (3,))) == [Dense]


def test_elementwise_steps_before_and_after_a_flatten_are_one_function():
    """Also where they are written around it: the kernel needs the positions."""
    conv = nn.Conv2d(1, 4, 3, key=KEY)
    norm = nn.LayerNorm((16,))  # 4 channels at 2 x 2 positions
    graph = read(
        sequence(conv, jnp.ravel, lambda t: t * 2, norm, jnp.tanh, linear(16)),
        (1, 4, 4),
    )
    assert kinds(graph) == [Convolution, Scale, LayerNorm, Activation, Flatten, Dense]


def test_the_input_may_take_another_shape():
    conv = nn.Conv2d(1, 4, 3, key=KEY)
    for shape, change in (
        ((16,), lambda x: x.reshape(1, 4, 4)),
        ((4, 4), lambda x: x[None]),
    ):
        graph = read(sequence(change, conv, jnp.ravel, linear(16, 1)), shape)
        assert kinds(graph) == [Reshape, Convolution, Flatten, Dense]


FUNCTIONS = [
    *(jax.nn.relu, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jax.nn.selu),
    *(jax.nn.celu, jax.nn.relu6, jax.nn.hard_tanh, jax.nn.mish, jax.nn.sigmoid),
    *(jax.nn.log_sigmoid, jax.nn.leaky_relu, jnp.tanh, jnp.sin, jax.scipy.special.erf),
    lambda t: jax.nn.gelu(t, approximate=False),
    lambda t: jnp.where(t > 0, t, 0.1 * t),
    lambda t: (t > 0).astype(float) * t + np.full(4, 0.25),
    lambda t: jnp.exp(-(t**2)) - jnp.sqrt(2.0) * t,
    lambda t: jnp.where(jnp.logical_and(t > -1, ~(t > 1)), t, jnp.sign(t)),
]


def test_elementwise_functions_keep_values_and_slopes():
    with jax.enable_x64(True):
        # away from 0, where the slope of a kink is a convention
        t = jnp.asarray([-20.0, -3.0, -0.4, 1e-3, 0.7, 2.0, 30.0, 5.5])
        for function in FUNCTIONS:
            found = read(sequence(linear(), function, linear(4, 1)), (3,)).chain()[1]

            @jax.jit
            def both(t, f=function, g=found.function):
                wide = (t[:4], t[4:])
                pairs = [
                    (jax.jvp(h, (a,), (jnp.ones(4),))) for a in wide for h in (f, g)
                ]
                return pairs[::2], pairs[1::2]

            expected, got = both(t)
            for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got)):
                np.testing.assert_allclose(b, a, rtol=1e-13, atol=1e-15)
    again = read(sequence(linear(), FUNCTIONS[0], linear(4, 1)), (3,)).chain()[1]
    assert recognize(again.function) == PiecewiseLinear(0.0, 1.0)


def test_equal_functions_are_equal_and_different_constants_are_not():
    def layer(function):
        return read(sequence(linear(), function), (3,)).chain()[1]

    one, other = layer(lambda t: jnp.tanh(2.0 * t)), layer(lambda t: jnp.tanh(2.0 * t))
    assert one == other
    assert hash(one) == hash(other)
    assert one != layer(lambda t: jnp.tanh(3.0 * t))


class Table(eqx.Module):
    """Parameters of its own beside a layer."""

    layer: nn.Linear
    scale: jax.Array

    def __call__(self, x):
        return self.layer(x) * self.scale


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (sequence(linear(), nn.PReLU()), r"layers\[1\] \(PReLU\): PReLU is not supp"),
        (sequence(linear(), nn.GroupNorm(2, 4)), "GroupNorm is not supported"),
        (sequence(nn.Embedding(3, 4, key=KEY)), "Embedding is not supported"),
        (
            sequence(linear(), lambda t: t[:2]),
            r"output of Sequential.layers\[0\] \(Linear\): the operation 'slice'",
        ),
        (sequence(linear(), jax.nn.softmax, linear(4, 1)), "'reduce_max' has no kern"),
        (sequence(linear(), jnp.sort), "'sort' has no kernel"),
        (sequence(linear(), jnp.mean), "summed over axes"),
        (sequence(linear(), lambda t: t * jnp.arange(4.0)), "different constants"),
        (sequence(linear(), lambda t: t > 0), "comparison is used as a number"),
        (sequence(linear(), lambda t: t.reshape(2, 2)), "not a flatten"),
        (sequence(linear(), lambda t: t.astype(int)), "is converted to int64"),
        (sequence(linear(), lambda t: (t, t)), "got 2 arrays"),
        (sequence(linear(), lambda t: jnp.ones(2)), "got 1 that does not"),
        (two(lambda s, x: s.a(x) * s.a(x + 1)), "is used twice"),
        (two(lambda s, x: s.b(s.a(x)) * s.a(x)), "is used twice"),
        (two(lambda s, x: (lambda h: h * s.b(h))(s.a(x))), "'mul' joins values of dif"),
        (two(lambda s, x: s.a.weight @ x), "parameters Two.a.weight, which are those"),
        (
            two(lambda s, x: jax.vmap(s.b)(jnp.eye(4) * s.a(x))),
            "it is reshaped from",
        ),
        (lambda key: Table(linear(), jnp.ones(4)), "the parameters Table.scale"),
    ],
)
def test_refuses_by_name(build, message):
    with pytest.raises(UnsupportedLayer, match=message) as error:
        read(build, (3,))
    assert "supported are eqx.nn Linear" in str(error.value)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(2, 4, 3, groups=2, key=KEY), "groups and dilation"),
        (nn.Conv2d(2, 4, 3, dilation=2, key=KEY), "groups and dilation"),
        (nn.Conv2d(2, 4, 3, padding=2, key=KEY), "neither none nor that of 'SAME'"),
        (nn.Conv2d(2, 4, 3, padding_mode="REFLECT", key=KEY), "REFLECT padding"),
        (nn.ConvTranspose2d(2, 4, 3, key=KEY), "ConvTranspose2d is not supported"),
        (nn.MaxPool2d(2), "MaxPool2d is not supported"),
        (nn.AvgPool2d(2, padding=1), "padding and use_ceil"),
        (nn.AdaptiveAvgPool2d(4), "no multiple of"),
        (nn.Lambda(lambda t: jnp.mean(t, axis=0)), "not all positions of each channel"),
        (nn.Lambda(lambda t: jnp.moveaxis(t, 0, 2)), "'transpose' has no kernel"),
    ],
)
def test_refuses_what_pictures_cannot(layer, message):
    first = nn.Conv2d(1, 2, 1, key=KEY)
    with pytest.raises(UnsupportedLayer, match=message):
        read(sequence(first, layer, jnp.ravel), (1, 6, 6))


def after(self, x):
    """A residual network that adds after its nonlinearity."""
    h = jax.nn.relu(self.a(x))
    return jax.nn.relu(h + self.b(h))


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (sequence(linear(), jnp.tanh), (3,), "ends in a nonlinearity"),
        (sequence(jnp.tanh, linear()), (3,), "starts with a nonlinearity"),
        (sequence(nn.LayerNorm(3), linear()), (3,), "starts with a LayerNorm"),
        (
            sequence(linear(), jnp.abs, nn.LayerNorm(4), linear(4, 1)),
            (3,),
            "LayerNorm of",
        ),
        (two(after), (3,), "add before the nonlinearity"),
        (
            two(
                lambda s, x: (lambda h: s.b(h).ravel() + h.ravel())(s.a(x)),
                nn.Conv2d(1, 2, 1, key=KEY),
                nn.AvgPool2d(1),
            ),
            (1, 4, 4),
            "sum of correlated values",
        ),
        (sequence(nn.Conv2d(1, 2, 3, key=KEY)), (1, 4, 4), "ends in Convolution"),
    ],
)
def test_refuses_where_values_are_not_gaussian(build, shape, message):
    with pytest.raises(UnsupportedLayer, match=message):
        gaussian.check(read(build, shape))

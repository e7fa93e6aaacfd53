"""What the walker reads from Equinox networks, and how it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from ntkuq.kernels import UnsupportedLayer, walk
from ntkuq.kernels.dense import stages
from ntkuq.kernels.layers import Activation, AveragePool, Convolution, Dense, Flatten


nn = eqx.nn
KEY = jax.random.key(0)


def names(layers):
    return [type(layer) for layer in layers]


def test_mlp():
    net = nn.MLP(3, 2, 4, 2, use_final_bias=False, key=KEY)
    layers = walk(net, (3,))
    assert names(layers) == [Dense, Activation, Dense, Activation, Dense]
    assert [layers[0].bias, layers[-1].bias] == [True, False]


def test_abstract_and_scanned_networks_serve():
    def build(key):
        return nn.MLP("scalar", "scalar", 4, 3, jnp.tanh, scan=True, key=key)

    layers = walk(eqx.filter_eval_shape(build, KEY), ())
    assert len(stages(layers)) == 4


def test_nested_sequential_with_dropout_flatten_and_bare_functions():
    net = nn.Sequential(
        [
            nn.Lambda(jnp.ravel),
            nn.Sequential([nn.Linear(4, 8, use_bias=False, key=KEY), jax.nn.relu]),
            nn.Dropout(0.5),
            nn.Identity(),
            nn.Lambda(lambda t: jnp.reshape(t, (-1,))),
            nn.MLP(8, 1, 4, 1, key=KEY),
        ]
    )
    layers = walk(net, (2, 2))
    assert names(layers) == [Flatten, Dense, Activation, Dense, Activation, Dense]


def test_convolutions():
    net = nn.Sequential(
        [
            nn.Conv2d(1, 4, 3, padding="SAME", key=KEY),
            nn.Lambda(jax.nn.relu),
            nn.AvgPool2d(2, 2),
            nn.Conv2d(4, 4, 3, use_bias=False, key=KEY),
            nn.Lambda(jnp.ravel),
            nn.Linear(16, 1, key=KEY),
        ]
    )
    layers = walk(net, (1, 8, 8))
    assert names(layers) == [
        Convolution,
        Activation,
        AveragePool,
        Convolution,
        Flatten,
        Dense,
    ]
    assert layers[3].padding == "VALID"
    assert not layers[3].bias


class Own(eqx.Module):
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm(4), r"\[1\] \(LayerNorm\).*LayerNorm is not supported"),
        (nn.PReLU(), "PReLU is not supported"),
        (nn.Lambda(lambda t: t[:2]), "is not a flatten"),
        (Own(), "Own is a class of its own"),
    ],
)
def test_refuses_by_name(layer, message):
    net = nn.Sequential([nn.Linear(3, 4, key=KEY), layer])
    with pytest.raises(UnsupportedLayer, match=message) as error:
        walk(net, (3,))
    assert "supported are eqx.nn.MLP" in str(error.value)


def test_refuses_nonlinearities_where_outputs_are_not_gaussian():
    last = nn.MLP(3, 1, 4, 1, final_activation=jnp.tanh, key=KEY)
    with pytest.raises(UnsupportedLayer, match="ends in a nonlinearity"):
        stages(walk(last, (3,)))
    first = nn.Sequential([nn.Lambda(jnp.tanh), nn.Linear(3, 1, key=KEY)])
    with pytest.raises(UnsupportedLayer, match="starts with a nonlinearity"):
        stages(walk(first, (3,)))


def test_refuses_a_function_that_mixes_its_entries():
    net = nn.MLP(3, 1, 4, 1, jax.nn.softmax, key=KEY)
    with pytest.raises(UnsupportedLayer, match="softmax: expected a function that"):
        stages(walk(net, (3,)))

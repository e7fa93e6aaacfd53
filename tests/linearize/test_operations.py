"""Operations of a forward pass are those counted by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from ntkuq.linearize import Jacobian
from ntkuq.linearize.operations import CONVOLUTION, IN_LOOP, operations


W, X = jnp.ones((3, 3)), jnp.ones(3)
#: One product with W.
ONE = 18.0


@jax.custom_jvp
def product(x):
    return W @ x


product.defjvp(lambda at, along: (product(*at), W @ along[0]))


def scanned(x):
    return jax.lax.scan(lambda h, _: (jnp.tanh(W @ h), None), x, None, length=7)[0]


def nested(x):
    return jax.lax.scan(lambda h, _: (scanned(h), None), x, None, length=2)[0]


def branch(x):
    return jax.lax.cond(x[0] > 0, lambda x: W @ (W @ x), lambda x: W @ x, x)


def until(x):
    return jax.lax.while_loop(lambda h: h[0] < 9, lambda h: W @ h, x)


@pytest.mark.parametrize(
    ("fn", "times"),
    [
        (lambda x: jnp.tanh(W @ x), 1),
        (jax.jit(lambda x: W @ x), 1),
        (jax.checkpoint(lambda x: W @ x), 1),
        (product, 1),
        (scanned, 7),
        (nested, 14),
        (branch, 2),
        (until, 1),
        (lambda x: jnp.einsum("oi,ti->to", W, jnp.tile(x, (5, 1))), 5),
    ],
)
def test_products(fn, times):
    assert operations(fn, X).products == times * ONE


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_convolutions_and_their_groups(groups):
    layer = eqx.nn.Conv2d(
        32, 32, 3, groups=groups, use_bias=False, key=jax.random.key(0)
    )
    plan = Jacobian.at(Sum(layer), jnp.ones((32, 8, 8))).plan
    assert plan.operations.convolutions == 2 * 36 * 32 * (32 // groups) * 9
    assert plan.flops == plan.operations.convolutions + plan.activations


class Sum(eqx.Module):
    layer: eqx.nn.Conv2d

    def __call__(self, x):
        return self.layer(x).sum((1, 2))


def test_equations_that_take_long_to_compile_count_for_several():
    few = operations(scanned, X).equations
    assert few == IN_LOOP * 2
    assert operations(nested, X).equations == IN_LOOP * few
    conv = eqx.nn.Conv2d(1, 1, 3, use_bias=False, key=jax.random.key(0))
    assert operations(conv, jnp.ones((1, 4, 4))).equations >= CONVOLUTION


def test_the_layers_of_a_network():
    model = eqx.nn.MLP(5, 2, 7, 2, key=jax.random.key(0))
    plan = Jacobian.at(model, jnp.zeros(5)).plan
    assert plan.operations.products == 2 * (5 * 7 + 7 * 7 + 7 * 2)

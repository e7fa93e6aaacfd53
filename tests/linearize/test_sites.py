"""Every route of the structured Jacobian equals the dense one."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize import Jacobian, Outer, dense, find_sites, gram, pull, push
from ntkuq.linearize.products import factor_chunk_size
from tests.linearize.networks import KEY, NETWORKS, normal
from tests.oracle.dense import double, jacobian, jacobians, outputs


@functools.cache
def solved(name):
    """Both Jacobians of one network, compiled once for all tests."""
    model, x, kinds = NETWORKS[name]
    model, x = double(model), double(x)
    found = Jacobian.at(model, x[0])
    factors = eqx.filter_jit(found.factors)(x)
    return model, x, kinds, found, factors, jacobians(model, x)


@pytest.fixture(params=NETWORKS)
def case(request):
    with jax.enable_x64(True):
        yield solved(request.param)


def test_every_route_is_the_dense_jacobian(case):
    model, x, kinds, found, factors, parts = case
    np.testing.assert_allclose(factors.outputs, outputs(model, x), rtol=1e-12)
    for leaf, expected in zip(factors.leaves, parts, strict=True):
        np.testing.assert_allclose(leaf.dense(), expected, rtol=0, atol=1e-10)
    if kinds is not None:
        got = "".join("O" if isinstance(a, Outer) else "D" for a in factors.leaves)
        assert got == kinds
    # the memory rule knows which factors are outer products
    for leaf, factor in enumerate(factors.leaves):
        site = found.site(leaf)
        assert (site is not None) == isinstance(factor, Outer)
        if site is not None:
            assert site.positions == factor.a.shape[1]
            assert site.output_first == factor.output_first


def test_products_are_those_of_the_dense_jacobian(case):
    *_, found, factors, parts = case
    leaves = range(found.plan.leaves)
    variances = [jnp.asarray(0.5 + n, jnp.float64) for n in leaves]
    sizes = [int(np.prod(shape)) for shape in found.plan.shapes]
    n, c = factors.outputs.shape
    j = np.concatenate(parts, axis=-1).reshape(n * c, -1)
    v = normal(j.shape[1], number=20).astype(jnp.float64)
    u = normal(n, c, number=21).astype(jnp.float64)
    scale = np.repeat([float(value) for value in variances], sizes)
    # rounding: sums of at most P N C terms of size one
    close = {"rtol": 1e-9, "atol": 1e-10}
    explicit = dense(factors, [jnp.sqrt(value) for value in variances])
    np.testing.assert_allclose(explicit.reshape(j.shape), j * np.sqrt(scale), **close)
    tangent = jnp.split(v, np.cumsum(sizes)[:-1])
    np.testing.assert_allclose(push(factors, tangent).reshape(-1), j @ v, **close)
    back = jnp.concatenate(pull(factors, u))
    np.testing.assert_allclose(back, j.T @ u.reshape(-1), **close)
    k = gram(factors, factors, variances).reshape(n * c, n * c)
    np.testing.assert_allclose(k, (j * scale) @ j.T, **close)


def test_a_subset_is_the_columns_of_its_leaves():
    with jax.enable_x64(True):
        model, x, _ = (double(part) for part in NETWORKS["mlp"])
        found = Jacobian.at(model, x[0], lambda model, plan: (5, 2))
        assert found.subset == (2, 5)
        assert found.size == 36 + 2
        got = dense(found.factors(x), [jnp.ones(()), jnp.ones(())])
        expected = jacobian(model, x, (2, 5))
        np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-12)
        moved = found.replace([leaf + 1 for leaf in found.leaves])
        assert float(moved.layers[1].weight[0, 0] - model.layers[1].weight[0, 0]) == 1.0
        assert moved.layers[0] is not None
        flat = jnp.arange(38.0)
        assert [leaf.shape for leaf in found.unravel(flat)] == [(6, 6), (2,)]


def test_chunks_count_what_is_alive():
    wide = eqx.nn.MLP(100, 1, 1000, 2, key=KEY)
    found = Jacobian.at(wide, jnp.zeros(100))
    examples = factor_chunk_size(found, 1, 4)
    # one example: 100 + 1000 + 1000 inputs, 1000 + 1000 + 1 gradients, the biases, and
    # the activations, a few arrays of width 1000 a layer
    used = found.plan.activations + 2 * (2100 + 2001)
    assert 2**28 / (4 * 1.2 * used) < examples <= 2**28 / (4 * 0.5 * used)
    assert 2000 < found.plan.activations < 20_000


def test_plan_of_a_scan_counts_its_length():
    model, x, _ = NETWORKS["gru"]
    short = find_sites(model, x[0]).activations
    long = find_sites(model, jnp.concatenate([x[0]] * 10)).activations
    assert 5 * short < long < 10 * short


def test_other_quax_types_keep_working():
    from quax import quaxify
    from quax.examples.lora import loraify

    class Scanned(eqx.Module):
        inner: eqx.nn.Linear

        def __call__(self, x):
            def step(h, _):
                return jnp.tanh(eqx.filter_jit(self.inner)(h)), None

            return jax.lax.scan(step, self.inner(x), length=2)[0]

    model = Scanned(eqx.nn.Linear(4, 4, key=KEY))
    lora = loraify(model, rank=2, scale=0.01, allow_materialise=True, key=KEY)
    x = normal(4)
    np.testing.assert_allclose(quaxify(lora)(x), model(x), rtol=1e-5)
    from quax.examples.lora import LoraArray

    def loss(lora):
        return jnp.sum(quaxify(lora)(x))

    gradient = eqx.filter_grad(loss)(lora)
    assert isinstance(gradient.inner.weight, LoraArray)
    assert float(jnp.abs(gradient.inner.weight.b).max()) > 0

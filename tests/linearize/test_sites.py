"""Every route of the structured Jacobian equals the dense one."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.linearize import (
    Dense,
    Jacobian,
    Outer,
    Readout,
    Rows,
    dense,
    factor_chunk_size,
    find_sites,
    gram,
    ntk,
    ntk_diagonal,
    ntk_per_output,
    ntk_trace,
    own_gram,
    pull,
    push,
)
from ntkuq.linearize.products import output_gram, trace_gram
from tests.linearize.networks import KEY, NETWORKS, normal
from tests.oracle.dense import double, jacobian, jacobians, outputs


@eqx.filter_jit
def oracles(model, x):
    """Outputs, and the dense Jacobian of each leaf."""
    return outputs(model, x), jacobians(model, x)


@eqx.filter_jit
def routes(found, x):
    """Factors, and the Jacobian that each stands for."""
    factors = found.factors(x)
    return factors, [leaf.dense() for leaf in factors.leaves]


@functools.cache
def solved(name):
    """A network's dense Jacobian and its structured one."""
    model, x, _ = NETWORKS[name]
    model, x = double(model), double(x)
    return x, Jacobian.at(model, x[0]), oracles(model, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_route_is_the_dense_jacobian(name):
    with jax.enable_x64(True):
        x, found, (f, parts) = solved(name)
        factors, got = routes(found, x)
    np.testing.assert_allclose(factors.outputs, f, rtol=1e-12)
    for one, expected in zip(got, parts, strict=True):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-10)
    letters, kinds = (
        {Outer: "O", Rows: "R", Readout: "L", Dense: "D"},
        NETWORKS[name][2],
    )
    if kinds is not None:
        assert "".join(letters[type(leaf)] for leaf in factors.leaves) == kinds
    # the memory rule knows which factors are outer products
    for leaf, factor in enumerate(factors.leaves):
        site = found.site(leaf)
        if site is not None and isinstance(factor, Outer):
            assert site.positions == factor.a.shape[1]
            assert site.output_first == factor.output_first
            assert (site.into, site.out) == (factor.a.shape[2], factor.g.shape[3])


#: Networks with every kind of factor: of one position and of several, either layout,
#: rows of tables, last layers, leaves without a site; products see nothing but these.
KINDS = ["mlp", "bag", "tied", "lenet", "heads", "right", "transposed", "inner vmap"]
#: Rounding: sums of at most P N C terms of size one.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(params=KINDS)
def case(request):
    with jax.enable_x64(True):
        x, found, (f, parts) = solved(request.param)
        yield x, found, f.shape, [np.asarray(part) for part in parts]


def seed(latent, weight):
    return weight * latent[:, None]


@eqx.filter_jit
def weighed_products(found, x, weights, ones):
    """Weighed factors, and products with plain ones: training data with new inputs."""
    plain, weighed = found.factors(x), found.factors(x, seed, weights)
    return (
        weights * plain.outputs[:, :, None],
        [leaf.dense() for leaf in weighed.leaves],
        gram(weighed, plain, ones),
        gram(plain, weighed, ones),
    )


def test_weighed_gradients_are_those_of_the_weighed_outputs(case):
    x, found, (n, c), parts = case
    weights = normal(n, c, 3, number=26).astype(jnp.float64)
    ones = [jnp.ones((), jnp.float64) for _ in parts]
    s, rows, cross, other = weighed_products(found, x, weights, ones)
    for got, part in zip(rows, parts, strict=True):
        expected = np.einsum("nck,ncp->nkp", s, part)
        np.testing.assert_allclose(got, expected, **CLOSE)
    j = np.concatenate(parts, axis=-1)
    expected = np.einsum("nck,ncp,mdp->nkmd", s, j, j, optimize=True)
    np.testing.assert_allclose(cross, expected, rtol=1e-9, atol=1e-9)
    transposed = np.transpose(expected, (2, 3, 0, 1))
    np.testing.assert_allclose(other, transposed, rtol=1e-9, atol=1e-9)


@eqx.filter_jit
def products(found, x, variances, tangent, u):
    factors = found.factors(x)
    return {
        "dense": dense(factors, [jnp.sqrt(value) for value in variances]),
        "push": push(factors, tangent),
        "pull": jnp.concatenate(pull(factors, u)),
        "gram": gram(factors, factors, variances),
        "own": own_gram(factors, variances),
        "trace": trace_gram(factors, factors, variances),
        "each": output_gram(factors, factors, variances),
    }


def test_products_are_those_of_the_dense_jacobian(case):
    x, found, (n, c), parts = case
    variances = [jnp.asarray(0.5 + k, jnp.float64) for k in range(len(parts))]
    sizes = [part.shape[-1] for part in parts]
    j = np.concatenate(parts, axis=-1).reshape(n * c, -1)
    v = np.asarray(normal(j.shape[1], number=20), np.float64)
    u = normal(n, c, number=21).astype(jnp.float64)
    tangent = [jnp.asarray(part) for part in np.split(v, np.cumsum(sizes)[:-1])]
    scale = np.repeat([float(value) for value in variances], sizes)
    got = products(found, x, variances, tangent, u)
    k = (j * scale) @ j.T
    k4 = k.reshape(n, c, n, c)
    for name, expected in {
        "dense": j * np.sqrt(scale),
        "push": j @ v,
        "pull": j.T @ np.ravel(u),
        "gram": k,
        "own": np.einsum("ncnd->ncd", k4),
        "trace": np.einsum("ncmc->nm", k4),
        "each": np.einsum("ncmc->cnm", k4),
    }.items():
        np.testing.assert_allclose(got[name].reshape(expected.shape), expected, **CLOSE)


@pytest.mark.parametrize("case", ["mlp", "bag"], indirect=True)
@pytest.mark.parametrize("bytes_", [2**27, 1])
def test_the_ntk_is_that_of_the_dense_jacobian(case, bytes_, monkeypatch):
    """Whole and in blocks of one example."""
    from ntkuq.linearize import chunks

    x, found, _, parts = case
    monkeypatch.setattr(chunks, "CHUNK_BYTES", bytes_)
    j = np.concatenate(parts, axis=-1)
    k = np.einsum("ncp,mdp->ncmd", j, j)
    np.testing.assert_allclose(ntk(found, x), k, **CLOSE)
    np.testing.assert_allclose(ntk(found, x, x[:2]), k[:, :, :2], **CLOSE)
    np.testing.assert_allclose(ntk_trace(found, x), np.einsum("ncmc->nm", k), **CLOSE)
    each = np.einsum("ncmc->cnm", k)
    np.testing.assert_allclose(ntk_per_output(found, x), each, **CLOSE)
    own = np.einsum("ncnd->ncd", k)
    np.testing.assert_allclose(ntk_diagonal(found, x), own, **CLOSE)


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
    # one example: 100 + 1000 + 1000 inputs, 1000 + 1000 gradients, the biases, and the
    # activations twice, a few arrays of width 1000 a layer
    used = 2 * found.plan.activations + (2100 + 2000) + 2001
    assert 2**27 / (4 * 1.2 * used) < examples <= 2**27 / (4 * 0.5 * used)
    assert 2000 < found.plan.activations < 20_000


def test_plan_of_a_scan_counts_its_length():
    model, x, _ = NETWORKS["gru"]
    short = find_sites(model, x[0]).activations
    long = find_sites(model, jnp.concatenate([x[0]] * 10)).activations
    assert 5 * short < long < 10 * short


class Weighted(eqx.Module):
    """A head whose weight is computed before the hidden layer is."""

    hidden: eqx.nn.Linear
    w: jax.Array
    s: jax.Array

    def __call__(self, x):
        return (self.w * self.s) @ jnp.tanh(self.hidden(x))


class Convolved(eqx.Module):
    hidden: eqx.nn.Linear
    head: eqx.nn.Conv1d

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x))[None]).ravel()


class Rowwise(eqx.Module):
    """A head applied at each of T positions, its bias with it."""

    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __call__(self, x):
        return jax.vmap(self.head)(jnp.tanh(jax.vmap(self.hidden)(x))).mean(0)


class Scaled(eqx.Module):
    head: eqx.nn.Linear
    scale: jax.Array

    def __call__(self, x):
        return self.scale * self.head(x)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", (4, 5)),
        ("sequential", (2,)),
        ("inner vmap", (2, 3)),
        ("right", (1,)),
        ("twice", (0, 1)),
        ("tied", (0,)),
        ("jitted", (2, 3)),
        ("gru", (4, 5)),
        ("lenet", (4, 5)),
        ("attention", (8, 9)),
        ("prelu", (3, 4)),
    ],
)
def test_the_last_layer_is_the_last_matrix_and_what_is_added(name, expected):
    model, x, _ = NETWORKS[name]
    assert find_sites(model, x[0]).last() == expected


def test_a_head_at_each_position_has_its_bias():
    hidden, head = eqx.nn.Linear(4, 6, key=KEY), eqx.nn.Linear(6, 2, key=KEY)
    plan = find_sites(Rowwise(hidden, head), normal(3, 4))
    assert plan.last() == (2, 3)
    assert 3 in plan.generic


@pytest.mark.parametrize("kind", ["weighted", "convolved", "scaled"])
def test_a_head_that_is_no_matrix_is_not_replaced_by_an_earlier_layer(kind):
    hidden = eqx.nn.Linear(4, 6, key=KEY)
    model, shape = {
        "weighted": (Weighted(hidden, normal(2, 6), normal(2, 1)), r"\(2, 6\), \(2, 1"),
        "convolved": (Convolved(hidden, eqx.nn.Conv1d(1, 1, 5, key=KEY)), r"\(1, 1, 5"),
        "scaled": (Scaled(hidden, normal(6)), r"\(6,\)"),
    }[kind]
    plan = find_sites(model, normal(4))
    assert any(site.kind == "dense" for site in plan.sites)
    with pytest.raises(ValueError, match=shape + r".*use Select\(where\)"):
        plan.last()


def test_heads_side_by_side_are_not_one_last_layer():
    model, x, _ = NETWORKS["two heads"]
    with pytest.raises(ValueError, match=r"side by side, of shapes \(1, 5\), \(1, 5"):
        find_sites(model, x[0]).last()


def test_running_statistics_are_no_parameters():
    model, x, _ = NETWORKS["batch norm"]
    plan = find_sites(model, x[0])
    assert plan.shapes == ((6, 4), (6,), (6,), (6,), (2, 6), (2,))


class Looped(eqx.Module):
    """A loop whose end depends on the data."""

    w: jax.Array

    def __call__(self, x):
        def step(state):
            count, h = state
            return count + 1, jnp.tanh(self.w @ h)

        count = jnp.where(x[0] > 0, 3, 2)
        return jax.lax.while_loop(lambda s: s[0] < count, step, (0, x))[1][:2]


def test_a_loop_of_unknown_length_goes_forward():
    """It has no reverse-mode derivative: one pass for each parameter."""
    with jax.enable_x64(True):
        model, x = double(Looped(normal(4, 4, number=29))), double(normal(5, 4))
        found = Jacobian.at(model, x[0])
        factors, (rows,) = routes(found, x)
        along = jax.jacfwd(lambda w: jax.vmap(Looped(w))(x))(model.w).reshape(5, 2, 16)
        np.testing.assert_allclose(factors.outputs, outputs(model, x), rtol=1e-12)
        np.testing.assert_allclose(rows, along, rtol=0, atol=1e-10)
        weighed = found.factors(x, seed, jnp.ones((5, 2, 3))).leaves[0].dense()
        expected = np.einsum("nc,ncp->np", factors.outputs, along)[:, None]
        np.testing.assert_allclose(weighed, np.repeat(expected, 3, 1), atol=1e-10)


class Ending(eqx.Module):
    """Two layers, and what happens between them."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    between: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.between(self.first(x), self.last, x)


def _ending(between):
    one, two = (eqx.nn.Linear(4, n, key=KEY) for n in (4, 3))
    return Ending(one, two, between)


@jax.custom_jvp
def centered(h):
    """Its own function is one of each unit, its derivative is not."""
    return jnp.tanh(h)


centered.defjvp(lambda h, t: (centered(h[0]), t[0] - t[0].mean()))


ENDINGS = {
    "relu": (lambda h, last, x: last(jax.nn.relu(h)), (0, 1)),
    "gelu": (lambda h, last, x: last(jax.nn.gelu(h)), (0, 1)),
    "silu": (lambda h, last, x: last(jax.nn.silu(h)), (0, 1)),
    "elu": (lambda h, last, x: last(jax.nn.elu(h)), (0, 1)),
    "relu6": (lambda h, last, x: last(jax.nn.relu6(h)), (0, 1)),
    "linear": (lambda h, last, x: last(h), (0, 1)),
    "reshaped": (lambda h, last, x: last(jnp.tanh(h.reshape(2, 2)).ravel()), (0, 1)),
    "skipped": (lambda h, last, x: last(jnp.tanh(h)) + x[:3], (0, 1)),
    # units that meet each other, other data, or the outputs beside the last matrix
    "softmax": (lambda h, last, x: last(jax.nn.softmax(h)), ()),
    "centered": (lambda h, last, x: last(h - h.mean()), ()),
    "centered gradients": (lambda h, last, x: last(centered(h)), ()),
    "reversed": (lambda h, last, x: last(h + h[::-1]), ()),
    "residual": (lambda h, last, x: last(x + jnp.tanh(h)), ()),
    "gated": (lambda h, last, x: last(h * jnp.tanh(x)), ()),
    "seen twice": (lambda h, last, x: last(jnp.tanh(h)) + h[:3], ()),
    "seen late": (lambda h, last, x: last(jnp.tanh(h)) + jnp.tanh(h)[:3], ()),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_traces_know_the_layer_before_the_last(name):
    """Where each of its units alone becomes what the last matrix meets."""
    between, expected = ENDINGS[name]
    with jax.enable_x64(True):
        model, x = double(_ending(between)), double(normal(5, 4))
        found = Jacobian.at(model, x[0])
        assert found.plan.hidden == expected
        known = [getattr(leaf, "summed", None) for leaf in found.factors(x).leaves]
        assert [n for n, one in enumerate(known) if one is not None] == list(expected)
        for other in (None, x[:3] + 1.0):
            full = np.einsum("ncmc->nm", ntk(found, x, other))
            np.testing.assert_allclose(ntk_trace(found, x, other), full, rtol=1e-10)


class Turned(eqx.Module):
    """A last matrix of three axes meets the units in another order than theirs."""

    first: eqx.nn.Linear
    last: jax.Array

    def __call__(self, x):
        h = jnp.tanh(self.first(x)).reshape(2, 3)
        return jnp.tensordot(self.last, h, ((1, 2), (1, 0)))


class Broadcast(eqx.Module):
    """One unit that several inputs of the last layer are made of."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    knots: jax.Array

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x) + self.knots))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Turned(eqx.nn.Linear(4, 6, key=KEY), normal(3, 3, 2)), (0, 1)),
        (
            Broadcast(
                eqx.nn.Linear(4, 1, key=KEY), eqx.nn.Linear(5, 3, key=KEY), normal(5)
            ),
            (),
        ),
    ],
    ids=["another order", "a unit for several inputs"],
)
def test_units_stand_for_the_inputs_that_they_become(model, expected):
    with jax.enable_x64(True):
        model, x = double(model), double(normal(6, 4))
        found = Jacobian.at(model, x[0])
        assert found.plan.hidden == expected
        full = np.einsum("ncmc->nm", ntk(found, x))
        np.testing.assert_allclose(ntk_trace(found, x), full, rtol=1e-10)


def test_traces_of_two_networks_and_of_part_of_one():
    with jax.enable_x64(True):
        model, x, _ = (double(part) for part in NETWORKS["mlp"])
        one = Jacobian.at(model, x[0])
        two = Jacobian(
            one.replace([2 * a + 0.1 for a in one.leaves]), one.plan, one.subset
        )
        ones = [jnp.ones(()) for _ in one.leaves]
        left, right = one.factors(x), two.factors(x)
        full = np.einsum("ncmc->nm", gram(left, right, ones))
        np.testing.assert_allclose(trace_gram(left, right, ones), full, rtol=1e-10)
        matrix, bias = one.plan.hidden
        for chosen in ((matrix,), (bias,), (bias, *one.plan.readout), (0, matrix)):
            part = Jacobian.at(model, x[0], lambda model, plan, c=chosen: c)
            full = np.einsum("ncmc->nm", ntk(part, x))
            np.testing.assert_allclose(ntk_trace(part, x), full, rtol=1e-10)


def test_traces_have_a_derivative_where_a_unit_is_not_used():
    with jax.enable_x64(True):
        model, x, _ = (double(part) for part in NETWORKS["mlp"])
        base = Jacobian.at(model, x[0])
        leaves = base.leaves
        last = base.plan.readout[0]
        leaves[last] = leaves[last].at[:, 1].set(0.0)

        def total(leaves, kernel):
            moved = Jacobian(base.replace(leaves), base.plan, base.subset)
            return jnp.sum(kernel(moved, x) * jnp.arange(1.0, 6.0))

        def summed(moved, x):
            return jnp.einsum("ncmc->nm", ntk(moved, x))

        for got, leaf in zip(
            jax.grad(total)(leaves, ntk_trace),
            jax.grad(total)(leaves, summed),
            strict=True,
        ):
            np.testing.assert_allclose(got, leaf, rtol=1e-8, atol=1e-10)


def test_plans_are_kept_for_networks_of_one_structure():
    """And made anew where types follow other rules."""
    x = np.zeros(4, np.float32)
    first, second = (
        eqx.nn.MLP(4, 1, 5, 1, key=jax.random.key(seed)) for seed in (1, 2)
    )
    plan = find_sites(first, x)
    assert find_sites(second, x) is plan
    with jax.enable_x64(True):
        assert find_sites(second, x) is not plan


def test_plans_tell_true_from_one():
    class Switched(eqx.Module):
        layer: eqx.nn.Linear
        on: object

        def __call__(self, x):
            return self.layer(x) if self.on is True else jnp.tanh(self.layer(x))

    layer = eqx.nn.Linear(4, 2, key=KEY)
    assert find_sites(Switched(layer, True), normal(4)).readout == (0, 1)
    assert find_sites(Switched(layer, 1), normal(4)).readout == ()
    assert find_sites(Switched(layer, True), normal(4)).readout == (0, 1)


@pytest.mark.parametrize("case", ["mlp", "lenet", "bag"], indirect=True)
@pytest.mark.parametrize(("side", "written_out"), [(2, 8), (6, 1)])
def test_tiles_of_a_symmetric_product_change_nothing(
    case, side, written_out, monkeypatch
):
    """Of 5 examples: tiles of 1 to 3, the last over the one before; of a trace 2."""
    from ntkuq.linearize import products

    x, found, _, parts = case
    monkeypatch.setattr(products, "TILE", side)
    monkeypatch.setattr(products, "TRACE_TILE", 2)
    monkeypatch.setattr(products, "WRITTEN_OUT", written_out)
    j = np.concatenate(parts, axis=-1)
    ones = [jnp.ones(()) for _ in found.leaves]
    with jax.enable_x64(True):
        factors = found.factors(x)

        @jax.jit
        def both(variances):
            return gram(factors, factors, variances), trace_gram(
                factors, factors, variances
            )

        k, trace = both(ones)
        slope = jax.grad(lambda v: jnp.sum(jnp.sin(both([v, *ones[1:]])[0])))(ones[0])
    expected = np.einsum("ncp,mdp->ncmd", j, j)
    np.testing.assert_allclose(k, expected, **CLOSE)
    np.testing.assert_allclose(trace, np.einsum("ncmc->nm", expected), **CLOSE)
    flat = np.asarray(k).reshape(j.shape[0] * j.shape[1], -1)
    np.testing.assert_array_equal(flat, flat.T)
    np.testing.assert_array_equal(trace, trace.T)
    first = np.einsum("ncp,mdp->ncmd", parts[0], parts[0])
    np.testing.assert_allclose(slope, np.sum(np.cos(expected) * first), rtol=1e-9)


@pytest.mark.parametrize("name", ["weight norm", "norms", "constant"])
def test_a_network_without_a_last_matrix_is_named(name):
    model, x, _ = NETWORKS[name]
    with pytest.raises(ValueError, match=r"use Select\(where\)"):
        find_sites(model, x[0]).last()


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

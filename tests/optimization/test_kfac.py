"""KFAC as an optimizer: exact where Kronecker factors are, and inside `Train`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Dataset
from ntkuq.linearize import ExactFisher, Expand, Reduce
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    NormalPrior,
    Train,
    cast,
    parameters,
)
from ntkuq.optimization import kfac


def update(transform, gradient, state, params, **extra):
    return eqx.filter_jit(transform.update)(gradient, state, params, **extra)


def gradient_of(model, x, y):
    """Of the mean of minus log N(y | f, 1)."""

    def loss(model):
        return 0.5 * jnp.mean(jnp.sum((jax.vmap(model)(x) - y) ** 2, axis=-1))

    return eqx.filter_grad(loss)(model)


def test_one_dense_layer_is_solved_in_one_step(getkey):
    """For a linear network with Gaussian noise A (x) B is the Fisher matrix."""
    with jax.enable_x64(True):
        model = eqx.nn.Linear(3, 2, key=getkey(), dtype=jnp.float64)
        x = jax.random.normal(getkey(), (30, 3))
        y = jax.random.normal(getkey(), (30, 2))
        step = kfac(
            model,
            Gaussian(1.0),
            damping=1e-14,
            fisher=ExactFisher(),
            learning_rate=1.0,
        )
        params = parameters(model)
        updates, _ = update(
            step, gradient_of(model, x, y), step.init(params), params, x=x, y=y
        )
        solved = eqx.apply_updates(model, updates)
        design = np.column_stack([x, np.ones(30)])
        best = np.linalg.lstsq(design, np.asarray(y))[0].T
        # damping enters each factor by its square root
        assert np.allclose(solved.weight, best[:, :3], atol=1e-5)
        assert np.allclose(solved.bias, best[:, 3], atol=1e-5)


class Pooled(eqx.Module):
    """A convolution whose outputs are averaged over the positions."""

    conv: eqx.nn.Conv1d

    def __call__(self, x):
        return jnp.mean(self.conv(x), axis=1)


def test_a_pooled_convolution_is_solved_in_one_step_by_reduce(getkey):
    """Linear in the mean patch, and then Reduce is exact; Expand is not."""
    with jax.enable_x64(True):
        model = cast(Pooled(eqx.nn.Conv1d(2, 2, 3, key=getkey())), jnp.float64)
        x = jax.random.normal(getkey(), (40, 2, 6))
        y = jax.random.normal(getkey(), (40, 2))
        params, gradient = parameters(model), gradient_of(model, x, y)
        patches = np.mean([np.asarray(x[:, :, t : t + 3]) for t in range(4)], axis=0)
        design = np.column_stack([patches.reshape(40, -1), np.ones(40)])
        best = np.linalg.lstsq(design, np.asarray(y))[0].T
        errors = []
        for sharing in (Reduce(), Expand()):
            step = kfac(
                model,
                Gaussian(1.0),
                damping=1e-14,
                fisher=ExactFisher(),
                learning_rate=1.0,
                sharing=sharing,
            )
            updates, _ = update(step, gradient, step.init(params), params, x=x, y=y)
            solved = eqx.apply_updates(model, updates).conv
            flat = np.column_stack([solved.weight.reshape(2, -1), solved.bias[:, 0]])
            errors.append(np.abs(flat - best).max())
        assert errors[0] < 1e-5
        assert errors[1] > 1e-2


def test_blocks_of_a_deep_network_equal_the_dense_ones(getkey):
    """A is the mean of a a^T with a 1 for the bias, B that of g g^T."""
    with jax.enable_x64(True):
        model = cast(
            eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=getkey()), jnp.float64
        )
        x = jax.random.normal(getkey(), (6, 3))
        y = jax.random.normal(getkey(), (6, 2))
        weight = jnp.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0])
        step = kfac(model, Gaussian(0.5), damping=0.1, fisher=ExactFisher())
        params = parameters(model)
        _, (state,) = update(
            step, params, step.init(params), params, x=x, y=y, weight=weight
        )
        share = np.asarray(weight) / 8.0
        hidden = jax.vmap(lambda a: jnp.tanh(model.layers[0](a)))(x)
        inputs = [np.column_stack([a, np.ones(6)]) for a in (x, hidden)]
        w = np.asarray(model.layers[1].weight)
        slope = 1 - np.asarray(hidden) ** 2
        back = [
            np.einsum("co,no->nco", w, slope) / 0.5,
            np.broadcast_to(np.eye(2), (6, 2, 2)) / 0.5,
        ]
        for block, a, g in zip(state.direction.blocks, inputs, back, strict=True):
            assert np.allclose(block.inputs, np.einsum("ni,nj,n->ij", a, a, share))
            expected = np.einsum("nco,ncp,n->op", g, g, share)
            assert np.allclose(block.gradients, expected)


def test_inverses_are_kept_between_their_turns(getkey):
    model = eqx.nn.Linear(3, 1, key=getkey())
    x, y = jax.random.normal(getkey(), (9, 3)), jnp.ones((9, 1))
    step = kfac(model, Gaussian(1.0), damping=0.1, every=3, learning_rate=0.1)
    params = parameters(model)
    state = step.init(params)
    kept = []
    for _ in range(5):
        _, state = update(step, params, state, params, x=x, y=y)
        kept.append(np.asarray(state[0].direction.inverses[0].gradients))
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[2], kept[3])


class Classifier(eqx.Module):
    """A table of words, a convolution, and a dense layer."""

    table: eqx.nn.Embedding
    conv: eqx.nn.Conv1d
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.table = eqx.nn.Embedding(7, 4, key=a)
        self.conv = eqx.nn.Conv1d(4, 5, 3, padding=1, key=b)
        self.norm = eqx.nn.LayerNorm(5)
        self.head = eqx.nn.Linear(5, 3, key=c)

    def __call__(self, words):
        seen = jax.vmap(self.table)(words)
        mixed = jax.nn.relu(self.conv(seen.T))
        return self.head(self.norm(jnp.mean(mixed, axis=1)))


@pytest.mark.parametrize(
    ("optimizer", "diagonal"),
    [(kfac(), True), (kfac(sharing=Reduce(), every=1), False)],
)
def test_train_takes_it_for_convolutions_tables_and_norms(optimizer, diagonal):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 7, (90, 6))
    # the class is how many of the words are below 2
    y = np.minimum((words < 2).sum(1), 2)
    data = Dataset(words, y)
    bnn = BNN(Network(Classifier), Categorical(), NormalPrior(0.1)).prepare(data)
    model = bnn.network.init(jax.random.key(0))
    found = Train(optimizer, steps=60, batch=45).fit(
        bnn, model, data, key=jax.random.key(1)
    )
    right = np.argmax(jax.vmap(found.model)(words), axis=-1) == y
    assert right.mean() > 0.95
    record = found.record
    assert int(record.count) == 60
    # the moments of a table's inputs are a diagonal where positions are data
    table = record.direction.blocks[0].inputs
    assert table.shape == ((7,) if diagonal else (7, 7))


def test_under_vmap_each_network_has_its_own_blocks(getkey):
    model = eqx.nn.Linear(2, 1, key=getkey())
    x = jax.random.normal(getkey(), (3, 8, 2))
    y = jnp.sum(x, axis=-1, keepdims=True)
    step = kfac(model, Gaussian(1.0), damping=1.0, learning_rate=1.0)
    params = parameters(model)

    def run(x, y):
        updates, _ = step.update(
            gradient_of(model, x, y), step.init(params), params, x=x, y=y
        )
        return updates

    together = jax.jit(jax.vmap(run))(x, y)
    run = jax.jit(run)
    alone = [run(a, b) for a, b in zip(x, y, strict=True)]
    for n, each in enumerate(alone):
        assert np.allclose(together.weight[n], each.weight, rtol=1e-4, atol=1e-6)


def test_any_gradient_is_taken(getkey):
    """A clipped gradient gives a shorter step in the same direction."""
    model = eqx.nn.Linear(3, 1, key=getkey())
    x, y = jax.random.normal(getkey(), (9, 3)), 5.0 * jnp.ones((9, 1))
    plain = kfac(model, Gaussian(1.0), damping=1.0, learning_rate=1.0)
    clipped = optax.chain(optax.clip_by_global_norm(0.1), plain)
    params, gradient = parameters(model), gradient_of(model, x, y)
    both = [
        update(each, gradient, each.init(params), params, x=x, y=y)[0]
        for each in (plain, clipped)
    ]
    share = float(0.1 / optax.tree.norm(gradient))
    assert share < 1
    assert np.allclose(both[1].weight, share * both[0].weight, rtol=1e-4)


def test_an_example_gives_the_state_its_final_structure(getkey):
    """For loops that ask for one structure; the steps are those without it."""
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    x, y = jax.random.normal(getkey(), (9, 3)), jax.random.randint(getkey(), (9,), 0, 2)
    params, likelihood = parameters(model), Categorical()

    def loss(params):
        f = jax.vmap(eqx.combine(params, model))(x)
        return -jnp.mean(jax.vmap(likelihood.log_prob)(f, y))

    plain = kfac(model, likelihood, every=2)
    # of another batch, of which only the shapes count
    shapes = jax.ShapeDtypeStruct((4, 3), x.dtype), 7 * y[:4]
    known = kfac(model, likelihood, every=2, example=shapes)
    now, state = params, plain.init(params)
    for _ in range(4):
        updates, state = update(plain, jax.grad(loss)(now), state, now, x=x, y=y)
        now = eqx.apply_updates(now, updates)
    assert float(loss(now)) < float(loss(params))

    def scanned(optimizer, steps):
        def one(carry, _):
            now, state = carry
            slopes = jax.grad(loss)(now)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(slopes, state, now, x=x, y=y)
            return (eqx.apply_updates(now, updates), state), None

        begin = params, optimizer.init(params)
        return jax.jit(lambda: jax.lax.scan(one, begin, None, length=steps)[0][0])()

    several = optax.MultiSteps(known, every_k_schedule=2)
    safe = optax.apply_if_finite(known, max_consecutive_errors=3)
    for optimizer, steps in ((known, 4), (safe, 4), (several, 8)):
        for a, b in zip(
            jax.tree.leaves(now),
            jax.tree.leaves(scanned(optimizer, steps)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="beside an example"):
        kfac(example=(jnp.ones((2, 3)), jnp.ones((2, 1))))
    with pytest.raises(ValueError, match="every >= 1"):
        kfac(every=0)
    with pytest.raises(ValueError, match="decay"):
        kfac(decay=1.0)

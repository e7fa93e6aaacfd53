"""Training on arrays and on batches: one result, whatever the route."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Batches, BatchesChanged, Dataset
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Standardize,
    Train,
    TrainingError,
    mlp,
    train as train_module,
)


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def small_cnn(key):
    first, last = jax.random.split(key)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 2, 3, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(2 * 3 * 3, 3, key=last),
        ]
    )


def images(n=20):
    return Dataset(RNG.standard_normal((n, 1, 5, 5)), RNG.integers(0, 3, n))


def table(n=20):
    x = RNG.standard_normal((n, 3))
    return Dataset(x, x @ [1.0, -2.0, 0.5] + 0.1 * RNG.standard_normal(n))


def trained(bnn, model, data, train, **options):
    return train.fit(bnn.prepare(data), model, data, key=KEY, **options)


def assert_close(a, b, rtol):
    for one, two in zip(
        jax.tree.leaves(eqx.filter(a, eqx.is_array)),
        jax.tree.leaves(eqx.filter(b, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("build", "data", "likelihood", "batch"),
    [
        (small_cnn, images, Categorical(), 6),
        (mlp(3, 1, width=4), table, Gaussian(0.5), None),
    ],
    ids=["convolutions", "mlp"],
)
def test_a_loop_on_the_device_and_calls_from_the_host_agree(
    build, data, likelihood, batch, monkeypatch
):
    bnn, data, train = (
        BNN(build, likelihood),
        data(),
        Train(1e-2, steps=20, batch=batch),
    )
    found = []
    for slow in (False, True):
        monkeypatch.setattr(train_module.method, "slow_in_loops", lambda *_, s=slow: s)
        found.append(trained(bnn, build(KEY), data, train))
    # the same batches and updates; XLA may order float32 sums differently
    assert_close(found[0].model, found[1].model, 1e-4)
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)
    assert len(found[0].losses) == len(found[1].losses) == 10


class Inside(eqx.Module):
    """A network inside other transformations."""

    model: eqx.nn.Sequential

    def __call__(self, x):
        def body(carry, _):
            return carry + jax.checkpoint(jax.jit(lambda a: self.model(a)))(x), None

        return jax.lax.scan(body, jnp.zeros(3), length=2)[0]


def test_convolutions_are_found_wherever_they_are():
    slow, x = train_module.convolutions.slow_in_loops, jnp.zeros((4, 1, 5, 5))
    cnn = small_cnn(KEY)
    assert jax.default_backend() != "cpu" or slow(cnn, x)
    assert jax.default_backend() != "cpu" or slow(Inside(cnn), x)
    assert not slow(mlp(3, 1)(KEY), jnp.zeros((4, 3)))


def test_a_dataset_is_trained_on_as_its_arrays_are():
    data = table()
    bnn = BNN(mlp(3, 1, width=4), Gaussian(), scaling=Standardize()).prepare(data)
    model, train = mlp(3, 1, width=4)(KEY), Train(1e-2, steps=20, batch=5)
    one = train.fit(bnn, model, data, key=KEY)
    two = train.run(bnn, model, bnn.inputs(data.x), bnn.targets(data), key=KEY)
    assert eqx.tree_equal(one.model, two.model)


def by_hand(data, batches, rate, precision, noise):
    """Gradient steps of the linear network w x on each batch, in NumPy."""
    w = np.zeros(3)
    for x, y in batches:
        residual = x @ w - y
        slope = x.T @ residual / noise**2 / len(y) + precision * w / len(data)
        w = w - rate * slope
    return w


@pytest.mark.parametrize("batch", [None, 8, 50])
def test_batches_are_taken_in_order_pass_after_pass(batch):
    data, noise, precision, rate = table(), 0.5, 2.0, 0.02
    sizes = (7, 7, 6) * 5
    cuts = np.cumsum((0, *sizes))
    if batch is not None:
        # regrouped: each step sees `batch` rows, or all of them
        cuts = np.arange(0, 15 * 20 + 1, min(batch, 20))
    rows = [np.arange(a, b) % 20 for a, b in itertools.pairwise(cuts[:13])]
    expected = by_hand(
        data, [(data.x[r], data.y[r]) for r in rows], rate, precision, noise
    )
    with jax.enable_x64(True):
        model = eqx.nn.Linear(3, 1, use_bias=False, key=KEY)
        model = eqx.tree_at(lambda m: m.weight, model, jnp.zeros((1, 3)))
        prior = train_module.as_arrays(BNN(model, Gaussian()).prior).scaled(precision)
        bnn = BNN(model, Gaussian(noise), prior)
        stream = Batches.of(data, size=7)
        train = Train(optax.sgd(rate), steps=12, batch=batch)
        found = train.fit(bnn, model, stream, key=KEY)
    np.testing.assert_allclose(found.model.weight[0], expected, rtol=1e-10)


def test_one_batch_of_all_is_the_dataset():
    data = table()
    bnn = BNN(mlp(3, 1, width=4), Gaussian(), scaling=Standardize()).prepare(data)
    model, seen = mlp(3, 1, width=4)(KEY), []
    train = Train(1e-2, steps=30)
    whole = train.fit(bnn, model, data, key=KEY)
    parts = train.fit(
        bnn,
        model,
        Batches.of(data, size=20),
        callback=lambda *at: seen.append(at),
        key=KEY,
    )
    assert_close(whole.model, parts.model, 1e-4)
    np.testing.assert_allclose(whole.losses, parts.losses, rtol=1e-4)
    assert seen == [
        (3 * n, loss) for n, loss in enumerate(parts.losses.tolist(), start=1)
    ]


def test_no_more_than_three_batches_are_on_the_device():
    data = table(60)
    most = []

    class Watched:
        def __iter__(self):
            for x, y in Batches.of(data, size=6):
                yield x, y
                shapes = [array.shape for array in jax.live_arrays()]
                most.append(shapes.count((6, 3)))

    batches = Batches(Watched())
    model = mlp(3, 1, width=4)(KEY)
    Train(1e-2, steps=100).fit(BNN(model, Gaussian()), model, batches, key=KEY)
    assert len(most) > 100
    assert max(most) <= 3


def test_a_changed_pass_and_a_diverging_step_are_noticed():
    data = table()

    class Once:
        def __init__(self):
            self.batches = iter(Batches.of(data, size=5))

        def __iter__(self):
            return self.batches

    model = mlp(3, 1, width=4)(KEY)
    bnn = BNN(model, Gaussian())
    with pytest.raises(BatchesChanged, match="20 rows, came 0"):
        Train(1e-2, steps=9).fit(bnn, model, Batches(Once()), key=KEY)
    train = Train(optax.sgd(1e20), steps=30)
    with pytest.raises(TrainingError, match=r"after step [1-5] of 30"):
        train.fit(bnn, model, Batches.of(data, size=5), key=KEY)

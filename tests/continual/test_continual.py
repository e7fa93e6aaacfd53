"""Streams, metrics against their definitions, overlap, and a sequential run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.continual import (
    FineTuning,
    Task,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    overlap,
    permuted,
    run,
)
from ntkuq.data import Dataset, Split
from ntkuq.linearize import Jacobian
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    Standardize,
    Train,
    forward,
    mlp,
    parameters,
)


def blobs(n: int = 120, entries: int = 6) -> Split:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 2 * n)
    x = rng.normal(size=(2 * n, entries)).astype(np.float32)
    # the classes differ in the first entries and agree in the others
    x[:, : entries // 2] += 2.0 * (2 * y[:, None] - 1)
    whole = Dataset(x, y, features=[f"f{i}" for i in range(entries)])
    return Split(whole.take(np.arange(n)), None, whole.take(np.arange(n, 2 * n)))


# -- metrics


def slow(r, b):
    """The definitions, entry by entry."""
    t = len(r)
    last = t - 1
    aa = sum(r[last][j] for j in range(t)) / t
    af = sum(max(r[k][j] for k in range(j, t)) - r[last][j] for j in range(last)) / last
    bwt = sum(r[last][j] - r[j][j] for j in range(last)) / last
    fwt = sum(r[j - 1][j] - b[j] for j in range(1, t)) / last
    return aa, af, bwt, fwt


@pytest.mark.parametrize("t", [2, 5])
def test_metrics_equal_their_definitions(t):
    rng = np.random.default_rng(t)
    r, b = rng.uniform(size=(3, t, t)), rng.uniform(size=(3, t))
    found = np.stack(
        [
            average_accuracy(r),
            forgetting(r),
            backward_transfer(r),
            forward_transfer(r, b),
        ],
        axis=1,
    )
    assert np.allclose(found, [slow(*one) for one in zip(r, b)], atol=1e-6)


def test_forgetting_bounds_backward_transfer():
    r = np.random.default_rng(0).uniform(size=(50, 4, 4))
    assert (np.asarray(forgetting(r)) >= -np.asarray(backward_transfer(r))).all()
    rising = np.tile(np.linspace(0.1, 0.9, 4)[:, None], (1, 4))
    assert float(forgetting(rising)) == 0.0
    assert float(backward_transfer(rising)) > 0.0


def test_what_lies_above_the_diagonal_is_not_forgotten():
    r = np.array([[0.9, 1.0], [0.9, 0.8]])  # 1.0 was measured before task 1 was met
    assert float(forgetting(r)) == 0.0


@pytest.mark.parametrize("bad", [[0.5], [[0.5, 0.5]], [[0.5]]])
def test_metrics_refuse_other_shapes(bad):
    with pytest.raises(ValueError, match="expected"):
        forgetting(np.asarray(bad))
    with pytest.raises(ValueError, match="baseline"):
        forward_transfer(np.eye(2), np.array([0.1]))


# -- streams


def test_permuted_keeps_the_entries_and_the_labels(getkey):
    data, key = blobs(), getkey()
    stream = permuted(data, 3, key=key)
    assert stream[0].train.x.tolist() == data.train.x.tolist()
    for task in stream[1:]:
        assert np.array_equal(np.sort(task.train.x), np.sort(data.train.x))
        assert np.array_equal(task.test.y, data.test.y)
        assert task.train.features is None
        assert task.train.x.dtype == data.train.x.dtype
        # one permutation for training and test
        order = [
            int(np.flatnonzero((column == data.train.x.T).all(axis=1))[0])
            for column in task.train.x.T
        ]
        assert order != list(range(6))
        assert np.array_equal(task.test.x, data.test.x[:, order])
    again = permuted(data, 3, key=key)
    assert [t.train.fingerprint() for t in again] == [
        t.train.fingerprint() for t in stream
    ]
    assert len({t.train.fingerprint() for t in stream}) == 3


def test_permuted_takes_images_and_pytrees(getkey):
    image = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    part = Dataset({"image": image, "row": np.ones((2, 4))}, [0, 1])
    (_, task) = permuted(Split(part, None, part), 2, key=getkey())
    assert task.train.x["image"].shape == (2, 3, 3)
    assert np.array_equal(task.train.x["image"][1], task.train.x["image"][0] + 9)
    with pytest.raises(ValueError, match="at least 1 task"):
        permuted(Split(part, None, part), 0, key=getkey())


# -- overlap


def test_overlap_equals_the_dense_cosine(getkey):
    with jax.enable_x64(True):
        model = mlp(3, 2, width=5, depth=1)(getkey())
        model = jax.tree.map(
            lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
        )
        x, z = jax.random.normal(getkey(), (2, 6, 3))
        flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

        def ggn(inputs):
            def outputs(theta):
                now = eqx.combine(unravel(theta), model)
                return jax.vmap(lambda a: forward(now, a))(inputs)

            j = np.asarray(jax.jacrev(outputs)(flat)).reshape(-1, flat.size)
            return j.T @ j

        one, two = ggn(x), ggn(z[:4])
        expected = np.sum(one * two) / np.linalg.norm(one) / np.linalg.norm(two)
        jacobian = Jacobian.at(model, x[0])
        found = jax.jit(overlap)(jacobian.factors(x), jacobian.factors(z[:4]))
        assert np.isclose(found, expected, rtol=1e-10)
        assert 0.0 < float(found) < 1.0
        same = overlap(jacobian.factors(x), jacobian.factors(x))
        assert np.isclose(same, 1.0, rtol=1e-12)


# -- run


def problem(**changes) -> BNN:
    return BNN(mlp(6, 2, width=12, depth=1), Categorical(), NormalPrior(), **changes)


def test_fine_tuning_learns_each_task_and_forgets(getkey):
    stream = permuted(blobs(entries=6), 2, key=jax.random.key(4))
    # the second task asks for the opposite labels: nothing of the first can remain
    second = stream[1]
    opposite = Task(
        1,
        Dataset(stream[0].train.x, 1 - second.train.y),
        Dataset(stream[0].test.x, 1 - second.test.y),
        name="opposite",
    )
    strategy = FineTuning(Train(3e-2, steps=150))
    found = run(strategy, problem(), [stream[0], opposite], key=getkey())
    assert np.diag(found.accuracy).min() > 0.95
    assert found.forgetting > 0.9
    assert np.isclose(found.backward_transfer, -found.forgetting)
    assert found.accuracy[0, 1] < 0.05
    # an accuracy and its mirror image: the same network on opposite labels
    assert np.allclose(found.accuracy.sum(axis=1), 1.0)
    assert found.nll[1, 0] > found.nll[0, 0]
    assert "opposite" in str(found)


def test_a_repeated_task_is_not_forgotten_and_the_key_decides(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    key = getkey()
    strategy = FineTuning(Train(3e-2, steps=60))
    found = run(strategy, problem(), [task, task], key=key)
    assert np.array_equal(found.accuracy[:, 0], found.accuracy[:, 1])
    assert found.forgetting < 0.05
    assert found.forward_transfer > 0.2
    again = run(strategy, problem(), [task, task], key=key)
    assert np.array_equal(found.nll, again.nll)


def test_a_run_can_go_on_from_any_task(getkey):
    stream = permuted(blobs(), 2, key=getkey())
    strategy = FineTuning(Train(3e-2, steps=30))
    first, one, two = jax.random.split(getkey(), 3)
    state = strategy.init(problem(scaling=Standardize()), key=first)
    before = strategy.update(state, stream[0].train, key=one)
    after = strategy.update(before, stream[1].train, key=two)
    resumed = strategy.update(before, stream[1].train, key=two)
    x = stream[0].test.x
    assert np.array_equal(after.predict(x).mean, resumed.predict(x).mean)
    assert not np.array_equal(after.predict(x).mean, before.predict(x).mean)


def test_what_does_not_fit_is_refused(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    strategy = FineTuning(Train(1e-2, steps=1))
    with pytest.raises(ValueError, match="empty stream"):
        run(strategy, problem(), [], key=getkey())
    with pytest.raises(TypeError, match="Gaussian"):
        run(strategy, BNN(mlp(6, 1), Gaussian()), [task], key=getkey())
    three = Dataset(task.train.x[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="'more' does not fit"):
        run(
            strategy,
            problem(),
            [task, Task(1, three, three, name="more")],
            key=getkey(),
        )


def test_an_input_that_the_scaling_would_lose_is_refused(getkey):
    data = blobs()
    x = data.train.x.copy()
    x[:, 2] = 1.0
    constant = Dataset(x, data.train.y)
    stream = [
        Task(0, constant, constant, name="a"),
        Task(1, data.train, data.test, name="b"),
    ]
    strategy = FineTuning(Train(1e-2, steps=1))
    with pytest.raises(ValueError, match="first at position 2"):
        run(strategy, problem(scaling=Standardize()), stream, key=getkey())
    assert run(strategy, problem(), stream, key=getkey()).accuracy.shape == (2, 2)

"""Streams, metrics against their definitions, overlap, and a sequential run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.continual import (
    EWC,
    SFSVI,
    FineTuning,
    Joint,
    OnlineLaplace,
    RandomPoints,
    Replay,
    Results,
    Task,
    UntilFitted,
    WithReplay,
    average_accuracy,
    backward_transfer,
    drifting,
    forgetting,
    forward_transfer,
    multi_head,
    overlap,
    permuted,
    rotated,
    run,
    sliced,
    split_classes,
)
from ntkuq.continual.measures import measured
from ntkuq.data import Dataset, Split, StoreError
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
from tests.continual.problems import blobs


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


# -- other streams


def test_rotated_turns_by_quarters_exactly():
    x = np.random.default_rng(0).uniform(size=(3, 5, 5)).astype(np.float32)
    data = Split(Dataset(x, [0, 1, 0]), None, Dataset(x[:1], [0]))
    stream = rotated(data, [0.0, 90.0, 180.0])
    assert np.array_equal(stream[0].train.x, x)
    assert np.allclose(stream[1].train.x, np.rot90(x, axes=(1, 2)), atol=1e-6)
    assert np.allclose(stream[2].test.x, np.rot90(x[:1], 2, axes=(1, 2)), atol=1e-6)
    assert stream.setting == "domain-incremental, single head"
    with pytest.raises(ValueError, match="expected images"):
        rotated(blobs())


def test_split_classes_with_one_head_or_several():
    y = np.repeat(np.arange(4), 5)
    data = Dataset(np.eye(4)[y], y)
    whole = Split(data, None, data)
    single, multi = (split_classes(whole, 2, heads=heads) for heads in (False, True))
    assert [np.unique(t.train.y).tolist() for t in single] == [[0, 1], [2, 3]]
    assert multi.heads.tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    x, head = multi[1].train.x
    assert np.all(head == 1)
    assert np.array_equal(x, single[1].train.x)
    model = multi_head(lambda key: eqx.nn.Linear(4, 4, key=key), multi.heads)
    p = jax.nn.softmax(model(jax.random.key(0))((jnp.ones(4), jnp.asarray(1))))
    assert p[:2].tolist() == [0.0, 0.0]
    assert np.isclose(p[2:].sum(), 1.0)
    with pytest.raises(ValueError, match="divides the 4"):
        split_classes(whole, 3, heads=False)
    with pytest.raises(ValueError, match="each in one task"):
        split_classes(whole, [[0, 1], [1, 2]], heads=False)
    target = Dataset(np.ones((2, 1)), [0.5, 1.0])
    numbers = Split(target, None, target)
    with pytest.raises(TypeError, match="class labels"):
        split_classes(numbers, heads=False)


def test_regression_that_drifts(getkey):
    x = np.random.default_rng(0).normal(size=(30, 2))
    data = Dataset(x, x[:, 0], features=["a", "b"])
    stream = sliced(Split(data, None, data), "b", 3)
    ends = [(t.train.x[:, 1].min(), t.train.x[:, 1].max()) for t in stream]
    assert ends[0][1] < ends[1][0] < ends[1][1] < ends[2][0]
    assert sum(len(t.test) for t in stream) == 30
    with pytest.raises(ValueError, match="expected a column"):
        sliced(Split(data, None, data), "c", 3)
    key = getkey()
    same, other = (drifting(2, 400, drift=d, key=key) for d in (0.0, 1.5))
    # one function: the second task is predicted by nearest neighbors of the first
    for stream, alike in ((same, True), (other, False)):
        one, two = stream
        near = np.abs(two.train.x - one.train.x.T).argmin(axis=1)
        error = np.std(two.train.y - one.train.y[near])
        assert (error < 0.5 * np.std(two.train.y)) == alike


# -- run


def problem(**changes) -> BNN:
    return BNN(mlp(6, 2, width=12, depth=1), Categorical(), NormalPrior(), **changes)


def opposite_tasks():
    """The second task asks for the opposite labels: nothing of the first can remain."""
    first, second = permuted(blobs(entries=6), 2, key=jax.random.key(4))
    opposite = Task(
        1,
        Dataset(first.train.x, 1 - second.train.y),
        Dataset(first.test.x, 1 - second.test.y),
        name="opposite",
    )
    return [first, opposite]


def test_fine_tuning_learns_each_task_and_forgets(getkey):
    strategy = FineTuning(Train(3e-2, steps=150))
    found = run(strategy, problem(), opposite_tasks(), seeds=2, key=getkey())
    accuracy = found.accuracy
    assert accuracy.shape == (2, 2, 2)
    assert accuracy.diagonal(axis1=1, axis2=2).min() > 0.95
    assert found.forgetting.value > 0.9
    assert found.forgetting.n == 2
    assert np.isclose(found.backward_transfer.value, -found.forgetting.value)
    assert accuracy[:, 0, 1].max() < 0.05
    # an accuracy and its mirror image: the same network on opposite labels
    assert np.allclose(accuracy.sum(axis=2), 1.0)
    assert np.all(found.nll[:, 1, 0] > found.nll[:, 0, 0])
    assert "opposite" in str(found)
    assert found.distance.shape == (2, 2)
    assert np.all(found.distance > 0)
    assert set(found.to_dict()["scores"]) >= {"forgetting", "final ece"}


def test_seeds_are_runs_of_their_own(getkey):
    key, strategy = getkey(), FineTuning(Train(3e-2, steps=20))
    tasks = opposite_tasks()
    both = run(strategy, problem(), tasks, seeds=2, key=key)
    one = run(strategy, problem(), tasks, seeds=1, key=key)
    assert np.array_equal(both.nll[:1], one.nll)
    assert not np.array_equal(both.nll[0], both.nll[1])


def test_keeping_all_data_is_the_upper_bound(getkey):
    tasks = permuted(blobs(), 3, key=getkey())
    train = Train(3e-2, steps=60)
    joint = run(Joint(train), problem(), tasks, key=getkey())
    assert joint.average_accuracy.value > 0.9
    assert joint.forgetting.value < 0.05
    assert joint.keeps > 2 * tasks[0].train.x.nbytes


def test_a_repeated_task_is_not_forgotten(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    strategy = FineTuning(Train(3e-2, steps=60))
    found = run(strategy, problem(), [task, task], key=getkey())
    assert np.array_equal(found.accuracy[..., 0], found.accuracy[..., 1])
    assert found.forgetting.value < 0.05
    assert found.forward_transfer.value > 0.2


def test_until_fitted_trains_in_rounds(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    once = UntilFitted(Train(1e-3, epochs=1, batch=40), accuracy=0.999, most=1)
    many = UntilFitted(Train(1e-2, epochs=1, batch=40), accuracy=0.95, most=30)
    key, accuracy = getkey(), []
    for strategy in (once, many):
        state = strategy.init(problem(), key=key)
        state = strategy.update(state, task.train, key=key)
        accuracy.append(measured(state, task.train)["accuracy"])
    assert accuracy[0] < 0.95 <= accuracy[1]


@pytest.mark.parametrize(
    "strategy",
    [
        EWC(Train(3e-2, steps=20)),
        OnlineLaplace(Train(3e-2, steps=20)),
        pytest.param(Replay(Train(3e-2, steps=20)), marks=pytest.mark.long),
        pytest.param(
            SFSVI(Train(3e-2, steps=20), memory=RandomPoints(5), context=4, draws=3),
            marks=pytest.mark.long,
        ),
        pytest.param(
            WithReplay(OnlineLaplace(Train(3e-2, steps=20)), RandomPoints(5)),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_killed_run_goes_on_from_the_task(strategy, tmp_path, getkey):
    key, tasks = getkey(), permuted(blobs(), 3, key=getkey())
    whole = run(strategy, problem(), tasks, seeds=2, key=key)

    class Killed(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("task 2"):
            raise Killed

    with pytest.raises(Killed):
        run(strategy, problem(), tasks, seeds=2, out=tmp_path, say=kill, key=key)
    lines: list[str] = []
    again = run(
        *(strategy, problem(), tasks), seeds=2, out=tmp_path, say=lines.append, key=key
    )
    assert np.allclose(again.nll, whole.nll, rtol=1e-6, atol=1e-7)
    assert ["2 seeds stored" in line for line in lines] == [True, True, False]
    # one more seed begins anew, the others stay
    three = run(strategy, problem(), tasks, seeds=3, out=tmp_path, key=key)
    assert np.array_equal(three.nll[:2], again.nll)
    other = FineTuning(Train(3e-2, steps=20))
    with pytest.raises(StoreError):
        run(other, problem(), tasks, out=tmp_path, key=key)


def test_regression_is_measured_in_r2_and_coverage(getkey):
    bnn = BNN(mlp(1, 1, width=12, depth=1), Gaussian(0.3), NormalPrior(), Standardize())
    tasks = drifting(2, 60, drift=1.5, key=getkey())
    found = run(FineTuning(Train(3e-2, steps=200)), bnn, tasks, key=getkey())
    assert found.main == "r2"
    assert found.performance[0, 0, 0] > 0.5
    assert set(found.measures) == {
        "r2",
        "nll",
        "coverage",
        "epistemic",
        "rmse",
        "width",
    }
    assert found.measures["rmse"][0, 1, 0] > found.measures["rmse"][0, 0, 0]


def test_measures_of_classes_equal_their_definitions(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    state = FineTuning(Train(3e-2, steps=5)).init(problem(), key=getkey())
    found = measured(state, task.test)
    p = np.asarray(state.predict(task.test.x).mean, np.float64)
    y = np.asarray(task.test.y)
    top, right = p.max(1), p.argmax(1) == y
    ece = 0.0
    for b in range(15):
        mine = (top >= b / 15) & ((top < (b + 1) / 15) | (b == 14))
        if mine.any():
            ece += mine.mean() * abs(top[mine].mean() - right[mine].mean())
    assert found["ece"] == pytest.approx(ece, abs=1e-6)
    # of two classes a set has one where that is sure enough, else both
    covered = np.where(top >= 0.9, right, True)
    assert found["coverage"] == pytest.approx(covered.mean())
    assert found["confidence"] == pytest.approx(top.mean(), abs=1e-6)


def test_uncertainty_grows_with_what_is_lost():
    r = np.array([[[0.9, 0, 0], [0.7, 0.9, 0], [0.4, 0.6, 0.9]]])
    grows = np.array([[[0.1, 0, 0], [0.2, 0.1, 0], [0.6, 0.4, 0.1]]])
    base = {"accuracy": np.zeros((1, 3)), "epistemic": np.zeros((1, 3))}
    for values, want in ((grows, 1.0), (-grows, -1.0)):
        found = Results({"accuracy": r, "epistemic": values}, base, ("a", "b", "c"))
        assert found.uncertainty_growth.value == pytest.approx(want)


def test_what_does_not_fit_is_refused(getkey):
    task = permuted(blobs(), 1, key=getkey())[0]
    strategy = FineTuning(Train(1e-2, steps=1))
    with pytest.raises(ValueError, match="empty stream"):
        run(strategy, problem(), [], key=getkey())
    with pytest.raises(ValueError, match="seeds >= 1"):
        run(strategy, problem(), [task], seeds=0, key=getkey())
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
    assert run(strategy, problem(), stream, key=getkey()).accuracy.shape == (1, 2, 2)

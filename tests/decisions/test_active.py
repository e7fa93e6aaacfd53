"""Active learning: closed forms against refits, Monte Carlo against enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkuq as nq
from ntkuq.data import Checkpoint, Dataset
from ntkuq.decisions import BALD
from ntkuq.decisions.active import (
    EPIG,
    ActiveLearning,
    BatchBALD,
    CoreSet,
    LabelCurve,
    MaxEntropy,
    Top,
    Uniform,
    VarianceReduction,
    classes,
    gaussian,
)
from ntkuq.decisions.active.joint import conditioned
from ntkuq.models.hyperparameters import Fixed


def wave(x):
    return np.sin(3 * x[:, 0])


@pytest.fixture(scope="module")
def fitted():
    x = np.linspace(-1, 1, 12)[:, None]
    bnn = nq.BNN(nq.Network(nq.models.mlp(1, 1, width=8)), nq.Gaussian())
    y = wave(x) + 0.2 * np.cos(40 * x[:, 0])
    return nq.GP().fit(bnn, Dataset(x, y), key=jax.random.key(0))


POOL = np.array([[-1.8], [-0.4], [0.05], [1.4], [2.0]])
TARGETS = np.array([[-1.5], [0.3], [1.1], [1.7]])


def variance(posterior, x):
    return np.diagonal(np.asarray(posterior.joint(x).covariance))


def test_variance_reduction_is_what_adding_the_point_does(fitted, getkey):
    with jax.enable_x64(True):
        c = conditioned(fitted, POOL, TARGETS)
        found = np.asarray(gaussian.reduction(c))
    before = variance(fitted, TARGETS)
    for row in range(len(POOL)):
        # the variance of a GP does not depend on the label
        after = fitted.update(Dataset(POOL[[row]], np.zeros(1)), key=getkey())
        fall = np.mean(before - variance(after, TARGETS))
        # the noise of predictions is float32
        assert np.isclose(found[row], fall, rtol=1e-5)


def test_epig_is_the_fall_of_the_entropy_of_targets(fitted, getkey):
    with jax.enable_x64(True):
        c = conditioned(fitted, POOL, TARGETS)
        found = np.asarray(gaussian.predictive_information(c))
        noise = np.asarray(c.noise[len(POOL) :])
    before = np.log(variance(fitted, TARGETS) + noise)
    for row in range(len(POOL)):
        after = fitted.update(Dataset(POOL[[row]], np.zeros(1)), key=getkey())
        gain = 0.5 * np.mean(before - np.log(variance(after, TARGETS) + noise))
        assert np.isclose(found[row], gain, rtol=1e-5)


def test_batch_bald_of_regression_is_the_determinant(fitted, getkey):
    found = BatchBALD()(fitted, POOL, 3, key=getkey())
    one = BatchBALD()(fitted, POOL, 1, key=getkey())
    bald = np.asarray(BALD()(fitted.predict(POOL)))
    assert one.indices[0] == bald.argmax()
    assert np.isclose(one.values[0], bald.max(), rtol=1e-5)
    with jax.enable_x64(True):
        c = conditioned(fitted, POOL, None)
        inner = np.asarray(c.pool[:, : len(POOL)]) / float(c.noise[0])

    def together(rows):
        part = inner[np.ix_(rows, rows)]
        return 0.5 * np.linalg.slogdet(np.eye(len(rows)) + part)[1]

    assert np.isclose(found.values.sum(), together(found.indices), rtol=1e-8)
    best = max(
        together(list(rows)) for rows in itertools.combinations(range(len(POOL)), 3)
    )
    # greedy reaches 1 - 1/e of the best of a submodular function
    assert found.values.sum() >= (1 - np.exp(-1)) * best


def labels(key, size=6, draws=400, count=3):
    logits = 1.5 * jax.random.normal(key, (draws, size, count))
    # pairs that say the same
    logits = logits.at[:, 1].set(logits[:, 0])
    return jax.nn.softmax(logits, axis=-1)


def exact(q, rows):
    """I(y_rows; f) over the given functions, all configurations."""
    q = np.asarray(q, np.float64)
    total = 0.0
    for config in itertools.product(range(q.shape[2]), repeat=len(rows)):
        given = np.prod([q[:, r, c] for r, c in zip(rows, config, strict=True)], axis=0)
        total -= given.mean() * np.log(given.mean())
    inner = -np.sum(q * np.log(q), axis=-1).mean(axis=0)
    return total - inner[list(rows)].sum()


def test_batch_bald_of_classes_equals_enumeration(getkey):
    q = labels(getkey())
    rows, gains = classes.batch_information(q, 3, 1000, getkey())
    rows = rows.tolist()
    for n in (1, 2, 3):
        # float32 sums over 400 functions
        assert np.isclose(gains[:n].sum(), exact(q, rows[:n]), atol=2e-5)
    assert rows[0] == max(range(6), key=lambda r: exact(q, [r]))
    # of two points that say the same the second adds less than a new one
    assert not {0, 1} <= set(rows)


def test_drawn_configurations_agree_with_enumeration(getkey):
    q = labels(getkey())
    rows, gains = classes.batch_information(q, 3, 20, getkey())
    many = [
        classes.batch_information(q, 3, 20, key)[1].sum()
        for key in jax.random.split(getkey(), 20)
    ]
    assert rows.shape == (3,)
    true = [
        exact(q, classes.batch_information(q, 3, 20, key)[0].tolist())
        for key in jax.random.split(jax.random.key(0), 1)
    ]
    spread = np.std(many, ddof=1)
    assert np.isfinite(spread)
    # the maximum of noisy values is biased upward by less than two of their spreads
    assert abs(np.mean(many) - true[0]) < 3 * spread + 0.02
    assert abs(float(gains.sum()) - exact(q, rows.tolist())) < 5 * spread + 0.02


def test_epig_of_classes_equals_enumeration(getkey):
    q, t = labels(getkey()), labels(getkey(), size=2)
    # one target is tied to the functions that decide row 3
    t = t.at[:, 0].set(q[:, 3])
    found = np.asarray(classes.predictive_information(q, t))
    for row in range(6):
        expected = 0.0
        for at in range(2):
            p, s = np.asarray(q[:, row], np.float64), np.asarray(t[:, at], np.float64)
            joint = p.T @ s / len(p)
            outer = np.outer(p.mean(axis=0), s.mean(axis=0))
            expected += 0.5 * np.sum(joint * np.log(joint / outer))
        assert np.isclose(found[row], expected, atol=2e-5)
    assert found.argmax() == 3


def test_core_set_covers(fitted, getkey):
    pool = np.array([[0.0], [0.1], [5.0], [5.1], [-4.0]])
    found = CoreSet()(fitted, pool, 3, labeled_x=np.array([[0.05]]), key=getkey())
    # the two ends, then what is left: 5.0 lies 0.1 from 5.1, the others 0.05 from it
    assert found.indices.tolist() == [3, 4, 2]
    assert np.all(np.diff(found.values) <= 1e-6)


@pytest.mark.parametrize(
    "query",
    [Top(), Uniform(), MaxEntropy(), BatchBALD(), VarianceReduction(), EPIG()],
    ids=lambda query: type(query).__name__,
)
def test_queries_choose_different_points_by_key(fitted, query, getkey):
    key = getkey()
    found = query(fitted, POOL, 4, key=key)
    again = query(fitted, POOL, 4, key=key)
    assert np.unique(found.indices).size == 4
    assert np.array_equal(found.indices, again.indices)
    with pytest.raises(ValueError, match="from 1 to 5"):
        query(fitted, POOL, 6, key=key)


@eqx.filter_jit
def left(c, sets):
    """Mean variance and entropy of targets after each set of candidates is observed."""

    def one(rows):
        after, _ = jax.lax.scan(lambda c, row: (c.given(row), None), c, rows)
        variance, noise = (a[len(c.pool) :] for a in (after.variance, after.noise))
        return jnp.stack([variance.mean(), 0.5 * jnp.log(variance + noise).mean()])

    return jax.vmap(one)(sets)


def test_queries_leave_less_uncertainty_than_points_at_random(fitted, getkey):
    pool = np.asarray(jax.random.uniform(getkey(), (40, 1), minval=-4, maxval=4))
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.choice(40, 4, replace=False) for _ in range(40)])
    with jax.enable_x64(True):
        c = conditioned(fitted, pool, None)
        each = np.asarray(left(c, jnp.arange(40)[:, None]))
        random = np.asarray(left(c, jnp.asarray(drawn)))
        for at, query in enumerate([VarianceReduction(), EPIG()]):
            rows = query(fitted, pool, 4, key=getkey()).indices
            # the first point is the best of all
            assert np.isclose(each[rows[0], at], each[:, at].min(), rtol=1e-6)
            # greedy steps beat each of the random sets, and so their mean
            found = left(c, jnp.asarray(rows[None]))[0, at]
            assert found < random[:, at].min() < random[:, at].mean()


def test_core_set_radius_is_below_twice_the_best(fitted, getkey):
    pool = np.asarray(jax.random.normal(getkey(), (12, 1)), np.float64)
    known = np.array([[0.0]])
    scaled = np.asarray(fitted.bnn.inputs(pool))
    first = np.asarray(fitted.bnn.inputs(known))

    def radius(rows):
        centers = np.concatenate([first, scaled[list(rows)]])
        return np.abs(scaled - centers.T).min(axis=1).max()

    found = CoreSet()(fitted, pool, 3, labeled_x=known, key=getkey())
    best = min(radius(rows) for rows in itertools.combinations(range(12), 3))
    # Gonzalez 1985
    assert radius(found.indices) <= 2 * best + 1e-6


def learning_problem(key):
    x = np.asarray(jax.random.uniform(key, (200, 1), minval=-3, maxval=3), np.float64)
    bnn = nq.BNN(nq.Network(nq.models.mlp(1, 1, width=8)), nq.Gaussian())
    test = np.linspace(-3, 3, 50)[:, None]
    return bnn, x, Dataset(test, wave(test))


def test_learning_goes_on_after_a_kill_and_scores(tmp_path, getkey):
    bnn, x, test = learning_problem(getkey())
    method = nq.GP(tune=Fixed())
    learning = ActiveLearning(method, VarianceReduction(), batch=2, most=None)
    start = learning.init(bnn, x, range(6), wave(x[:6]), key=getkey())
    whole = learning.run(start, lambda rows: wave(x[rows]), test, rounds=3)
    assert whole.labels.tolist() == [6, 8, 10, 12]
    # the loop asks for what the query itself chooses
    chosen = VarianceReduction()(
        learning.posterior(start), x[start.unlabeled], 2, key=getkey()
    )
    expected = start.unlabeled[chosen.indices]
    assert np.array_equal(whole.state.rows[6:8], expected)
    checkpoint = Checkpoint(tmp_path / "active.npz", "a")
    calls = []

    def killed(rows):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return wave(x[rows])

    with pytest.raises(KeyboardInterrupt):
        learning.run(start, killed, test, rounds=3, checkpoint=checkpoint)
    again = learning.run(start, killed, test, rounds=3, checkpoint=checkpoint)
    assert np.array_equal(again.state.rows, whole.state.rows)
    assert len(calls) == 4
    document = again.to_dict()
    assert document["schema"] == "ntkuq/active/1"
    assert document["calibration"]["count"] == 6
    curve = LabelCurve.of([whole, again], "rmse")
    lower, upper = curve.interval(0.9)
    assert np.allclose(lower, upper)
    assert curve.difference(curve, 0.9)["mean"] == 0.0


def test_classes_with_an_ensemble(getkey):
    x = np.asarray(jax.random.normal(getkey(), (80, 2)), np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    bnn = nq.BNN(nq.Network(nq.models.mlp(2, 2, width=16)), nq.Categorical())
    method = nq.DeepEnsemble(3, train=nq.Train(optax.adam(1e-2), steps=60))
    learning = ActiveLearning(method, BatchBALD(draws=30), batch=3)
    state = learning.init(bnn, x, range(12), y[:12], key=getkey())
    found = learning.run(state, lambda rows: y[rows], Dataset(x, y), rounds=1)
    assert np.unique(found.state.rows).size == 15
    assert found.state.calibration.count.tolist() == [3]
    assert 0 <= found.state.calibration.accuracy[0] <= 1
    posterior = learning.posterior(state)
    for query in (EPIG(draws=30, most=20), Top(), MaxEntropy()):
        chosen = query(posterior, x, 4, key=getkey())
        assert np.unique(chosen.indices).size == 4
        assert np.all(np.diff(chosen.values) <= 0)
    with pytest.raises(TypeError, match="joint covariances"):
        VarianceReduction()(posterior, x, 1, key=getkey())


def test_bad_input_is_refused(fitted, getkey):
    bnn, x, _ = learning_problem(getkey())
    learning = ActiveLearning(nq.GP(), Uniform(), batch=2)
    state = learning.init(bnn, x, [0, 1], wave(x[:2]), key=getkey())
    with pytest.raises(ValueError, match="again"):
        learning.tell(state, [1], [0.0])
    with pytest.raises(ValueError, match="rows from 0 to 199"):
        learning.tell(state, [200], [0.0])
    with pytest.raises(ValueError, match="finite labels"):
        learning.tell(state, [5], [np.nan])
    with pytest.raises(ValueError, match="batch >= 1"):
        ActiveLearning(nq.GP(), Uniform(), batch=0)

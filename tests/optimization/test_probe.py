"""One step of each kind: closed forms on linear networks, the verdict by simulation."""

import itertools
import json
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkuq.data import Batches, Dataset
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    mlp,
)
from ntkuq.optimization.probe import (
    AbstractStep,
    GaussNewtonStep,
    GradientStep,
    KFACStep,
    probe,
)
from ntkuq.optimization.probe.batches import TUNING, batch_size, pairs_of
from ntkuq.optimization.probe.decide import decide
from ntkuq.optimization.probe.intervals import mean_over, ratio_of
from ntkuq.optimization.probe.measure import Measured, measure
from ntkuq.optimization.probe.method import _objectives
from ntkuq.optimization.steps.solve import ConjugateGradients
from ntkuq.optimization.steps.transform import AbstractDirection, Found


TAU, SIGMA = 0.3, 0.5
#: Rows of a batch, the same in most tests, so that programs compile once.
SIZE = 18
#: Undamped steps, so that closed forms hold.
PLAIN = (GradientStep((0.0,)), GaussNewtonStep((0.0,)))


def ticking():
    """A clock on which everything takes one second."""
    return itertools.count().__next__


def linear(n=216, spread=1.0, noise=0.1, seed=0):
    """A linear problem whose inputs have standard deviations 1 and `spread`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * np.array([1.0, 1.0, spread])
    y = x @ np.array([1.0, -2.0, 1.0 / spread]) + 0.5 + noise * rng.normal(size=n)
    with jax.enable_x64(True):
        line = eqx.nn.Linear(3, 1, key=jax.random.key(seed), dtype=jnp.float64)
    return BNN(line, Gaussian(SIGMA), NormalPrior(TAU)), Dataset(x, y)


def measured(bnn, data, steps, rows=None, batches=4):
    """The numbers, by a clock on which all steps take the same time."""
    with jax.enable_x64(True):
        bnn = bnn.prepare(data)
        if rows is None:
            rows = pairs_of(len(data), SIZE, batches, key=jax.random.key(3)).rows
        objectives = _objectives(bnn, data, rows, len(data))
        found = measure(steps, objectives, clock=ticking(), key=jax.random.key(4))
    return found, rows[TUNING:]


def tried(bnn, data, steps=PLAIN, **options):
    """`probe` in float64."""
    with jax.enable_x64(True):
        return probe(bnn, data, steps=steps, key=jax.random.key(0), **options)


def loss(theta, x, y, total):
    """The mean objective on a batch, from its formula in NumPy."""
    a = np.column_stack([x, np.ones(len(x))])
    fit = 0.5 * np.mean((y - a @ theta) ** 2) / SIGMA**2
    return fit + 0.5 * np.log(2 * np.pi * SIGMA**2) + TAU * theta @ theta / 2 / total


@pytest.fixture(scope="module")
def exact():
    """Steps on a linear problem."""
    bnn, data = linear()
    found, rows = measured(bnn, data, PLAIN)
    theta = np.concatenate([np.ravel(bnn.model.weight), bnn.model.bias])
    return found, rows, theta, np.asarray(data.x), np.asarray(data.y)


def test_gauss_newton_reaches_the_minimum_of_a_linear_batch(exact):
    (_, newton), rows, theta, x, y = exact
    np.testing.assert_allclose(newton.predicted, newton.realized, rtol=1e-9)
    total = len(x)
    for k, (own, other) in enumerate(rows):
        a = np.column_stack([x[own], np.ones(len(own))])
        left = a.T @ a / len(own) / SIGMA**2 + TAU / total * np.eye(4)
        best = np.linalg.solve(left, a.T @ y[own] / len(own) / SIGMA**2)
        gain = loss(theta, x[own], y[own], total) - loss(best, x[own], y[own], total)
        np.testing.assert_allclose(newton.realized[k], gain, rtol=1e-8)
        gain = loss(theta, x[other], y[other], total)
        gain -= loss(best, x[other], y[other], total)
        np.testing.assert_allclose(newton.elsewhere[k], gain, rtol=1e-8)
    assert (newton.halvings == 0).all()


def test_the_gradient_step_ends_at_the_minimum_along_the_gradient(exact):
    (gradient, newton), rows, theta, x, y = exact
    total = len(x)
    for k, (own, _) in enumerate(rows):
        a = np.column_stack([x[own], np.ones(len(own))])
        left = a.T @ a / len(own) / SIGMA**2 + TAU / total * np.eye(4)
        g = left @ theta - a.T @ y[own] / len(own) / SIGMA**2
        # along the gradient the quadratic falls by (g'g)² / (2 g'Hg)
        np.testing.assert_allclose(
            gradient.realized[k], (g @ g) ** 2 / (2 * g @ left @ g), rtol=1e-8
        )
    # a quadratic is its own model, whatever the direction
    np.testing.assert_allclose(gradient.predicted, gradient.realized, rtol=1e-8)
    assert (gradient.realized <= newton.realized * (1 + 1e-9)).all()


def test_conjugate_gradients_are_the_exact_step(exact):
    bnn, data = linear()
    iterative = GaussNewtonStep((0.0,), ConjugateGradients(tolerance=1e-12))
    (found,), _ = measured(bnn, data, (iterative,))
    one = exact[0][1]
    np.testing.assert_allclose(found.elsewhere, one.elsewhere, rtol=1e-8)
    assert "weight space" in one.how
    assert found.how == "conjugate gradients"


def test_an_ill_conditioned_problem_is_worth_second_order():
    bnn, data = linear(spread=0.03)
    found, _ = measured(bnn, data, PLAIN)
    record = decide(found, shared=0.0, rounding=1e-7, setting={})
    assert record.answer == "yes"
    (against,) = record.against
    assert against.word == "worth it"
    assert against.times.interval[0] > 1
    assert record.verdict.startswith("A Gauss-Newton step lowers the loss")
    assert "says nothing about the end of training" in record.verdict


def test_an_isotropic_problem_makes_no_difference():
    # inputs ±√3 e_i: with three of each a batch has the identity for a Hessian
    points = np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
    points = np.tile(points, (3, 1))
    y = points @ np.array([1.0, -2.0, 3.0])
    bnn, _ = linear()
    copies = 2 * (4 + TUNING)
    data = Dataset(np.tile(points, (copies, 1)), np.tile(y, copies))
    rows = np.arange(len(data)).reshape(-1, 2, SIZE)
    found, _ = measured(bnn, data, PLAIN, rows)
    np.testing.assert_allclose(found[0].elsewhere, found[1].elsewhere, rtol=1e-10)
    record = decide(found, shared=0.0, rounding=1e-7, setting={})
    assert record.against[0].word == "no difference"
    assert record.answer == "no"


class Uphill(AbstractDirection):
    """Along the gradient, or nowhere."""

    length: jax.Array

    def init(self, params):
        return ()

    def __call__(self, objective, gradient, toward, previous, state, count):
        step = [self.length * leaf for leaf in gradient]
        return Found(step, 0.0 * objective.weight[0], state)

    @property
    def exact(self):
        return False


class UphillStep(AbstractStep):
    """A user's own step."""

    name: ClassVar[str] = "uphill"
    length: float = 1.0
    dampings: tuple[float, ...] = (0.0,)

    def finder(self, objective, *, key):
        return Uphill(jnp.asarray(self.length, jnp.float64))

    @property
    def period(self):
        return 1


def test_a_step_of_ones_own():
    bnn, data = linear()
    steps = (GradientStep((0.0,)), UphillStep(), UphillStep(length=np.inf))
    found, _ = measured(bnn, data, steps, batches=2)
    # the length has a sign: the line is the same
    np.testing.assert_allclose(found[1].realized, found[0].realized, rtol=1e-9)
    assert not found[2].finite.any()
    assert (found[2].elsewhere == 0).all()
    record = decide(found, shared=0.0, rounding=1e-7, setting={})
    assert [row.name for row in record.rows] == ["gradient", "uphill (1)", "uphill (2)"]
    assert "no finite direction on 2 of 2" in record.rows[2].remarks[0]


STEPS = (GradientStep((0.0,)), KFACStep((1.0,)), GaussNewtonStep((0.1,)))


@pytest.fixture(scope="module")
def classes():
    """Probes of a classifier that was not trained, for keys 5, 5 and 6."""
    rng = np.random.default_rng(1)
    data = Dataset(rng.normal(size=(72, 2)), rng.integers(0, 3, 72))
    bnn = BNN(mlp(2, 3, width=3, depth=1, activation=jax.nn.tanh), Categorical())
    return [
        probe(bnn, data, steps=STEPS, batches=3, key=jax.random.key(number))
        for number in (5, 5, 6)
    ]


def test_a_classifier(classes):
    found = classes[0]
    assert found.setting["network"] == "freshly initialized"
    assert "3 disjoint pairs of 7 rows each, of 72" in found.setting["batches"]
    for row in found.rows:
        # backtracking: no step makes its own batch worse
        assert row.realized.value > 0
        # no more than all of the loss, since nats an example do not depend on N
        assert row.realized.value < 3
        assert row.seconds.value > 0
    assert "SampledFisher" in found.rows[1].how
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["against"]
    assert "Gauss-Newton" in str(found)


def without_time(found):
    """The numbers that do not depend on the clock."""
    names = ("predicted", "realized", "elsewhere")
    return [[row.scores[n].value for n in names] + [row.damping] for row in found.rows]


def test_the_same_key_gives_the_same_numbers(classes):
    same, again, other = map(without_time, classes)
    assert same == again
    assert same != other


def test_a_converged_network_has_nothing_to_gain():
    bnn, data = linear(n=2 * 10 * SIZE, noise=SIGMA)
    x, y = np.asarray(data.x), np.asarray(data.y)
    a = np.column_stack([x, np.ones(len(x))])
    left = a.T @ a / SIGMA**2 + TAU * np.eye(4)
    best = np.linalg.solve(left, a.T @ y / SIGMA**2)
    with jax.enable_x64(True):
        line = eqx.tree_at(
            lambda m: (m.weight, m.bias),
            bnn.model,
            (jnp.asarray(best[None, :3]), jnp.asarray(best[3:])),
        )
    found, _ = measured(bnn.with_model(line), data, PLAIN, batches=8)
    record = decide(found, shared=0.0, rounding=1e-7, setting={})
    assert record.answer == "no"
    assert record.verdict.startswith("Nothing to gain")
    # every step lowers the loss of its own batch
    assert "noise of a batch" in record.verdict


def test_a_flat_loss_is_told_from_rounding():
    # targets that the network meets: nothing falls any more
    bnn, data = linear()
    with jax.enable_x64(True):
        line = jax.tree.map(jnp.zeros_like, bnn.model)
    flat = Dataset(data.x, np.zeros(len(data)))
    found = tried(bnn.with_model(line), flat, batches=4)
    assert found.answer == "no"
    assert "no more than rounding" in found.verdict
    assert all(row.realized.value == 0 for row in found.rows)


def test_bad_input():
    bnn, data = linear()
    with pytest.raises(ValueError, match="batches >= 2"):
        tried(bnn, data, batches=1)
    with pytest.raises(ValueError, match=r"at least 16 rows for 6 pairs.*got 15"):
        tried(bnn, data.take(range(15)), batches=6)
    with pytest.raises(ValueError, match="1 to 72 rows"):
        tried(bnn, data, batch=73)
    with pytest.raises(ValueError, match="at least one step"):
        tried(bnn, data, steps=())
    with pytest.raises(TypeError, match="KFACStep"):
        tried(bnn, data, steps=("gradient",))
    with pytest.raises(ValueError, match="dampings >= 0"):
        tried(bnn, data, steps=(KFACStep((-1.0,)),))
    with jax.enable_x64(True):
        huge = jax.tree.map(lambda a: 1e200 * a, bnn.model)
        broken = jax.tree.map(lambda a: jnp.nan * a, bnn.model)
    with pytest.raises(ValueError, match="finite loss"):
        tried(bnn.with_model(huge), data, batch=SIZE, batches=4)
    with pytest.raises(ValueError, match="finite weights"):
        tried(bnn.with_model(broken), data)


def test_batches():
    assert batch_size(16, None, 6) == 1
    assert batch_size(10**6, None, 8) == 256
    pairs = pairs_of(1000, 50, 8, key=jax.random.key(0))
    assert pairs.shared == 0.0
    assert len(set(pairs.rows.ravel().tolist())) == pairs.rows.size == 1000
    # too many for disjoint batches: within a pair they are
    drawn = pairs_of(100, 30, 8, key=jax.random.key(0))
    assert drawn.rows.shape == (10, 2, 30)
    assert all(len(set(pair.ravel().tolist())) == 60 for pair in drawn.rows)
    assert drawn.shared == 0.6


def test_batches_of_one_row_and_streams():
    bnn, data = linear(n=8)
    stream = Batches.of(data, size=3)
    found = tried(bnn, stream, steps=(GradientStep((0.0,)),), batches=2)
    assert "2 disjoint pairs of 1 row each, of 8" in found.setting["batches"]
    assert found.rows[0].realized.value > 0
    assert found.answer in ("no", "cannot tell")


def test_the_interval_of_a_ratio_is_that_of_fieller():
    rng = np.random.default_rng(0)
    true, hits, runs = 2.5, 0, 1000
    for _ in range(runs):
        below = 1.0 + 0.3 * rng.normal(size=8)
        above = true * below + 0.5 * rng.normal(size=8)
        low, high = ratio_of(above, below).interval
        hits += low <= true <= high
        # it is above 1 just where the paired difference is above 0
        assert (low > 1) == (mean_over(above - below).interval[0] > 0)
    # exact where it exists, which fails here once in some thousand runs
    assert stats.binomtest(hits, runs, 0.95).pvalue > 1e-3
    assert ratio_of(np.ones(4), np.array([1.0, -1.0, 1.0, -1.0])) is None
    constant = ratio_of(np.full(4, 3.0), np.full(4, 2.0))
    assert constant.value == constant.interval[0] == constant.interval[1] == 1.5


def test_resampled_pairs_widen_the_interval():
    """Against the true variance of the mean of equally correlated values."""
    rng = np.random.default_rng(0)
    shared, runs, count = 0.3, 1500, 8
    common = np.sqrt(shared) * rng.normal(size=(runs, 1))
    values = common + np.sqrt(1 - shared) * rng.normal(size=(runs, count))
    squares = [mean_over(row, shared=shared).se ** 2 for row in values]
    truth = shared + (1 - shared) / count
    # the mean of `runs` variances, each a scaled chi-square of count - 1 degrees
    error = truth * np.sqrt(2 / (count - 1) / runs)
    assert abs(np.mean(squares) - truth) < 4 * error
    hits = sum(mean_over(row, shared=shared).interval[0] > 0 for row in values)
    assert hits < stats.binom.ppf(0.999, runs, 0.025)


def simulated(rng, means, count=8, spread=0.3, seconds=1.0):
    """Steps whose decreases elsewhere are normal and share half their variance."""
    common = rng.normal(size=count)
    found = []
    for number, mean in enumerate(means):
        own = rng.normal(size=count)
        values = mean + spread * (common + own) / np.sqrt(2)
        every = np.full(count, seconds)
        found.append(
            Measured(
                f"step {number}",
                "",
                1.0,
                False,
                values,
                values,
                values,
                every,
                np.zeros(count, int),
                np.ones(count, bool),
            )
        )
    return found


def share_of(answer, means, runs):
    """How many of so many probes give this answer."""
    rng = np.random.default_rng(0)
    options = {"shared": 0.0, "rounding": 1e-9, "setting": {}}
    found = [decide(simulated(rng, means), **options) for _ in range(runs)]
    return sum(one.answer == answer for one in found)


def test_the_error_rate_of_the_verdict():
    """Bounds are binomial: each fails in a thousandth of all seeds at most."""
    # steps that are as good are called worth it in at most 2.5 % of probes
    runs = 200
    assert share_of("yes", (1.0, 1.0, 1.0), runs) <= stats.binom.ppf(0.999, runs, 0.025)
    assert share_of("yes", (1.0, 1.0, 2.0), 30) >= 27
    # each of two steps is told to gain in 2.5 %, so at most 5 % are anything but no
    runs = 100
    other = runs - share_of("no", (0.0, 0.0), runs)
    assert other <= stats.binom.ppf(0.999, runs, 0.05)


def test_the_words_of_the_verdict():
    rng = np.random.default_rng(1)

    def words(means, factors, spread=0.01):
        found = simulated(rng, means, spread=spread)
        timed = [
            one._replace(seconds=factor * one.seconds)
            for one, factor in zip(found, factors, strict=True)
        ]
        return decide(timed, shared=0.0, rounding=1e-9, setting={})

    slow = words((1.0, 5.0), (1.0, 50.0))
    assert slow.answer == "no"
    assert "Not worth it" in slow.verdict
    assert slow.against[0].times.interval[0] > 4.5
    assert slow.against[0].times_per_second.interval[1] < 0.2
    unsure = words((1.0, 1.0), (1.0, 1.0), spread=2.0)
    assert unsure.answer == "no" or "annot tell" in unsure.verdict
    # the first does harm, the other nothing: not told to be worth anything
    idle = words((-1.0, 0.0), (1.0, 1.0))
    assert idle.answer == "no"
    assert idle.verdict.startswith("Nothing to gain")

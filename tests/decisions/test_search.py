"""Bayesian optimization: surrogate against dense algebra, loop, constraints, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ntkuq as nq
from ntkuq.data import Checkpoint
from ntkuq.decisions import UCB, LogEI, Thompson
from ntkuq.decisions.search import (
    BayesOpt,
    Box,
    Maximize,
    Minimize,
    Noisy,
    Optimizer,
    Outcome,
    ackley,
    branin,
    gp,
    hartmann6,
    propose,
    run,
)
from ntkuq.decisions.search.calibration import calibration
from ntkuq.decisions.search.gp import fit_gp


SQUARE = Box([0.0, 0.0], [1.0, 1.0])
FAST = Optimizer(candidates=128, near=32, restarts=4, steps=15)


def problem(size: int) -> nq.BNN:
    return nq.BNN(nq.Network(nq.models.mlp(size, 1, width=8)), nq.Gaussian())


def bowl(x):
    return -np.sum((x - 0.3) ** 2, axis=-1)


def test_padded_gp_equals_dense_algebra(getkey):
    u = SQUARE.spread(12, key=getkey())
    y = 3.0 * np.sin(4 * u[:, 0]) + u[:, 1]
    new = SQUARE.spread(9, key=getkey())
    with jax.enable_x64(True):
        x = (2 * jnp.asarray(u) - 1) * 3**0.5
        covariance = nq.RBF(ard=True).covariance(problem(2), x, 1.0)
        model = fit_gp(
            covariance,
            u,
            y,
            exact=False,
            rows=13,
            theta=None,
            tuned=False,
            key=getkey(),
        )
        length, size = (
            np.exp(np.asarray(model.theta[:2])),
            np.exp(float(model.theta[2])),
        )
        noise = np.exp(float(model.theta[3]))

        def k(a, b):
            gap = (a[:, None] - b) * 2 * 3**0.5 / length
            return size**2 * np.exp(-0.5 * np.sum(gap**2, axis=-1))

        scaled = (y - y.mean()) / y.std()
        inner = k(u, u) + (noise**2 + 1e-10 * size**2) * np.eye(12)
        one = np.ones(12)
        center = (
            one @ np.linalg.solve(inner, scaled) / (one @ np.linalg.solve(inner, one))
        )
        cross = k(new, u)
        mean = center + cross @ np.linalg.solve(inner, scaled - center)
        variance = size**2 - np.sum(cross * np.linalg.solve(inner, cross.T).T, axis=1)
        found = model.moments(jnp.asarray(new))
        # the condition number of `inner` is below 1e8
        assert np.allclose(found.mean, y.mean() + y.std() * mean, rtol=1e-7)
        assert np.allclose(found.std, y.std() * np.sqrt(variance), rtol=1e-5)
        # believing the mean keeps the mean and takes the variance away
        more = model.believe(jnp.asarray(new[0]))
        after = more.moments(jnp.asarray(new))
        assert np.allclose(after.mean[0], found.mean[0], rtol=1e-4, atol=1e-6)
        assert after.std[0] < found.std[0]
        drawn = jax.vmap(lambda key: model.draw(jnp.asarray(new), key))(
            jax.random.split(getkey(), 4000)
        )
        error = 4.5 * np.asarray(found.std) / 4000**0.5
        assert np.all(np.abs(drawn.mean(axis=0) - found.mean) < error + 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("function", "budget"), [(branin(), 30)], ids=["branin"])
def test_branin_within_a_thousandth(function, budget):
    # measured over 20 seeds: median 5e-5; the median of 5 is above 1e-3 with a
    # probability below 1 %
    regret = []
    search = BayesOpt(nq.GP(), LogEI(), function.box, direction=Minimize())
    for seed in range(5):
        state = search.init(problem(2), key=jax.random.key(seed))
        found = run(
            search, state, lambda x: float(function(x[None])[0]), evaluations=budget
        )
        regret.append(found.state.best.y - function.minimum)
    assert np.median(regret) < 1e-3


@pytest.mark.parametrize(
    "acquisition", [LogEI(), UCB(2.0), Thompson()], ids=["logei", "ucb", "thompson"]
)
def test_batches_find_the_top_of_a_bowl(acquisition):
    search = BayesOpt(nq.GP(), acquisition, SQUARE, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(0))
    for _ in range(4):
        x, state = search.ask(state, 4)
        # no point of a batch twice
        assert np.unique(x.round(6), axis=0).shape == (4, 2)
        state = search.tell(state, x, bowl(x))
    assert state.pending.shape[0] == 0
    # random search: 16 points have the best at a mean square distance of 1 / (16 pi)
    assert -state.best.y < 1e-3
    assert state.calibration.z.size == 12


def test_killed_loop_goes_on_at_the_round(tmp_path):
    search = BayesOpt(nq.GP(), LogEI(), SQUARE, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(1))
    whole = run(search, state, bowl, evaluations=8).state
    checkpoint = Checkpoint(tmp_path / "search.npz", "a")
    calls = []

    def counted(x):
        calls.append(x)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return bowl(x)

    with pytest.raises(KeyboardInterrupt):
        run(search, state, counted, evaluations=8, checkpoint=checkpoint)
    again = run(search, state, counted, evaluations=8, checkpoint=checkpoint).state
    assert len(calls) == 9
    assert np.array_equal(again.x, whole.x)
    assert np.array_equal(again.theta, whole.theta)


def test_failures_are_recorded_and_avoided():
    def fragile(x):
        if x[0] < 0.4:
            raise RuntimeError("diverged")
        return np.nan if x[1] > 0.9 else bowl(x)

    search = BayesOpt(nq.GP(), LogEI(), SQUARE, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(2))
    found = run(search, state, fragile, evaluations=14)
    failed = np.isnan(found.state.y)
    assert len(found.failures) == failed.sum() > 0
    assert any("RuntimeError: diverged" in text for _, text in found.failures)
    assert np.isfinite(found.state.best.y)
    assert np.unique(found.state.x.round(6), axis=0).shape[0] == 14
    document = found.state.to_dict()
    assert document["schema"] == "ntkuq/search/1"
    assert document["failed"] == failed.sum()


def test_constraints_are_met():
    # the top of the bowl is not feasible: best feasible at (0.5, 0.3)
    search = BayesOpt(nq.GP(), LogEI(), SQUARE, constraints=1, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(3))
    found = run(
        search,
        state,
        lambda x: Outcome(bowl(x), np.array([x[0] - 0.5])),
        evaluations=16,
    ).state
    assert found.best.x[0] >= 0.5
    assert np.isclose(found.best.y, -0.04, atol=2e-3)


def test_whole_variables_and_no_duplicates():
    box = Box([0.0, 0.0], [4.0, 3.0], integer=[True, True])
    search = BayesOpt(nq.GP(), LogEI(), box, initial=4, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(4))
    found = run(
        search, state, lambda x: -((x[0] - 3) ** 2) - (x[1] - 1) ** 2, evaluations=12
    ).state
    assert np.array_equal(found.x, np.round(found.x))
    later = found.x[4:]
    assert np.unique(later, axis=0).shape == later.shape
    assert found.best.x.tolist() == [3.0, 1.0]


def test_noisy_incumbent_is_the_best_mean(getkey):
    search = BayesOpt(nq.GP(), LogEI(), SQUARE, noise=Noisy(), optimizer=FAST)
    x = SQUARE.spread(30, key=getkey())
    y = bowl(x) + 0.3 * np.asarray(jax.random.normal(getkey(), (30,)), np.float64)
    state = search.init(problem(2), nq.Dataset(x, y), key=jax.random.key(5))
    _, state = search.ask(state)
    assert state.best.row == np.argmax(state.smooth)
    # a quadratic has 6 coefficients: 0.3 sqrt(6 / 30) = 0.13, and half as much again
    assert np.sqrt(np.mean((state.smooth - bowl(x)) ** 2)) < 0.2


def test_minimize_mirrors_maximize():
    found = []
    for direction, sign in ((Maximize(), 1), (Minimize(), -1)):
        search = BayesOpt(nq.GP(), LogEI(), SQUARE, direction=direction, optimizer=FAST)
        state = search.init(problem(2), key=jax.random.key(6))
        found.append(run(search, state, lambda x, s=sign: s * bowl(x), evaluations=7))
    assert np.allclose(found[0].state.x, found[1].state.x)
    assert np.allclose(found[0].state.trace, -found[1].state.trace)


def test_a_round_compiles_nothing_new():
    search = BayesOpt(nq.GP(), LogEI(), SQUARE, optimizer=FAST)
    state = search.init(problem(2), key=jax.random.key(7))
    state = run(search, state, bowl, evaluations=6).state
    programs = [gp._tune, gp._condition, propose.ascend]
    before = [one._cached._cache_size() for one in programs]
    run(search, state, bowl, evaluations=12)
    assert [one._cached._cache_size() for one in programs] == before


def test_calibration_of_an_honest_model(getkey):
    mean = np.zeros(900)
    y = np.asarray(jax.random.normal(getkey(), (900,)), np.float64)
    found = calibration(y, mean, np.ones(900))
    # four binomial standard errors
    assert abs(found.coverage(0.8) - 0.8) < 4 * np.sqrt(0.16 / 900)
    assert np.isclose(found.blocks[:, 0].sum(), 900)
    wide = calibration(y, mean, np.full(900, 2.0))
    assert np.isclose(wide.coverage(0.8), np.mean(abs(y) < 2 * stats.norm.ppf(0.9)))


@pytest.mark.parametrize("function", [branin(), hartmann6(), ackley(10)])
def test_benchmarks_have_their_minimum(function, getkey):
    where = {
        "branin": [np.pi, 2.275],
        "hartmann6": [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573],
        "ackley10": np.zeros(10),
    }
    at = np.asarray(where[function.name])[None]
    assert np.isclose(function(at)[0], function.minimum, atol=1e-6)
    x = function.box.scaled(function.box.spread(1000, key=getkey()))
    assert function(x).min() > function.minimum


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="lower < upper"):
        Box([1.0], [0.0])
    with pytest.raises(ValueError, match="whole bounds"):
        Box([0.5], [3.0], integer=[True])
    search = BayesOpt(nq.GP(), LogEI(), SQUARE)
    state = search.init(problem(2), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"variable 1 from 0\.0 to 1\.0"):
        search.tell(state, [[0.5, 1.5]], [0.0])
    with pytest.raises(ValueError, match="NaN for a failed evaluation"):
        search.tell(state, [[0.5, 0.5]], [np.inf])
    with pytest.raises(ValueError, match="shape"):
        search.tell(state, [[0.5, 0.5]], [0.0, 1.0])
    with pytest.raises(ValueError, match="n >= 1"):
        search.ask(state, 0)
    with pytest.raises(TypeError, match="with constraints"):
        BayesOpt(nq.GP(), UCB(), SQUARE, constraints=1)

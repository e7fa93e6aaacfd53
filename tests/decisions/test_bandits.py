"""Bandits: coefficients, environments, the loop, claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.decisions import bandits as nb
from ntkuq.decisions.bandits.loop import GRID, begin, train
from tests.decisions.bandit_oracle import (
    COVARIANCES,
)


def test_theory_tends_to_its_limit():
    numbers = [jnp.asarray(v, jnp.float32) for v in (3.0, 5.0, 1.0, 1.0)]
    progress = nb.Progress(*numbers, width=10**60, depth=2)
    # without the optimization term: step 1 / (m lambda)
    theory = nb.Theoretical(step=1e-60)(progress)
    limit = nb.InfiniteWidth()(progress)
    # what is left is m^(-1/6) sqrt(ln m) = 1e-10 * 11.8, times about 1e4 at most
    assert float(theory) == pytest.approx(float(limit), rel=1e-4)
    assert float(limit) == pytest.approx(np.sqrt(5 - 2 * np.log(0.1)) + 1, rel=1e-5)


def test_evidence_finds_the_noise(getkey):
    environment = nb.Synthetic(nb.Cosine(), features=4, arms=3, noise=0.5)
    model = nb.NeuralRewards(
        nb.Perceptron(width=20, disjoint=False), nb.LastLayer(), schedule=nb.Every(300)
    )
    found = nb.run_bandit(
        nb.UCB(model), environment, rounds=600, keys=jax.random.split(getkey(), 2)
    )
    spread = found.spread[:, 300:]
    # noise 0.5, of which 300 rounds tell 4 % (1 / sqrt(600)); the network misses a bit
    assert 0.42 < spread.mean() < 0.65
    assert np.isnan(found.spread[:, :300]).all()
    coverage = found.calibration(2)[1]["coverage_90"]["mean"]
    # 600 rewards: standard error 0.012, and the network's own misfit
    assert 0.8 < coverage < 0.97


def test_uniform_regret_is_that_of_chance(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    result = nb.run_bandit(
        nb.Uniform(), environment, rounds=800, keys=jax.random.split(getkey(), 4)
    )
    # 3/4 a round; standard error of the mean of 4 seeds: sqrt(800 * 3/16 / 4) = 6
    assert abs(result.regret.mean - 600) < 5 * 6.2
    assert result.exponent.mean == pytest.approx(1.0, abs=0.1)


def test_learning_beats_chance_and_seeds_pair(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    keys = jax.random.split(getkey(), 5)
    model = nb.NeuralRewards(nb.Perceptron(width=10), training=nb.Adam(rate=1e-2))
    good = nb.run_bandit(nb.Thompson(model), environment, rounds=300, keys=keys)
    chance = nb.run_bandit(nb.Uniform(), environment, rounds=300, keys=keys)
    gap = good.difference(chance)
    # chance loses 3 of 4 rounds; a network that fails to learn shows in one seed
    assert gap.upper < -100
    assert np.median(good.regrets[:, 150:].mean(axis=1)) < 0.1
    document = good.to_dict()
    assert document["schema"] == "ntkuq/bandit/1"
    assert len(document["curve"]) == 200
    assert document["curve"][-1]["mean"] == pytest.approx(good.regret.mean)


def test_delay_is_kept(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(
        nb.Perceptron(depth=0), nb.LastLayer(), feedback=nb.Delayed(10)
    )
    keys = jax.random.split(getkey(), 2)
    found = nb.run_bandit(nb.UCB(model), environment, rounds=15, keys=keys)
    # nothing is known before round 11: all means are zero
    assert np.all(found.mean[:, :11] == 0)
    assert np.any(found.mean[:, 11:] != 0)


def test_a_killed_run_goes_on(getkey, tmp_path):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(width=10), training=nb.Adam(steps=20))
    keys = jax.random.split(getkey(), 2)
    whole = nb.run_bandit(nb.UCB(model), environment, rounds=120, keys=keys)

    def stop(done, total):
        if done > 50:
            raise KeyboardInterrupt

    options = {"rounds": 120, "keys": keys, "checkpoint": tmp_path / "c.npz"}
    with pytest.raises(KeyboardInterrupt):
        nb.run_bandit(nb.UCB(model), environment, progress=stop, **options)
    seen = []
    again = nb.run_bandit(
        nb.UCB(model), environment, progress=lambda d, t: seen.append(d), **options
    )
    assert seen[0] > 50
    np.testing.assert_array_equal(again.arms, whole.arms)
    np.testing.assert_array_equal(again.mean, whole.mean)
    other = nb.UCB(model, width=2.0)
    with pytest.raises(nq.data.StoreError, match="another"):
        nb.run_bandit(other, environment, **options)


@pytest.mark.parametrize("method", [nq.GP(), nq.Laplace(), nq.DeepEnsemble(size=2)])
def test_any_method_drives_the_loop(getkey, method):
    environment = nb.Rows(np.eye(3), np.eye(3))
    keys = jax.random.split(getkey(), 1)
    policy = nb.UCB(nb.Refitted(method, nb.Every(20)))
    found = nb.run_bandit(policy, environment, rounds=39, keys=keys)
    assert np.isnan(found.mean[:, :20]).all()
    assert np.isfinite(found.spread[:, 20:]).all()
    # chance loses two of three
    assert found.regrets[:, 20:].mean() < 0.5


def test_a_method_waits_for_rewards_that_differ(getkey):
    # equal rewards have no noise, and the evidence has no maximum
    world = nb.Rows(np.eye(3), np.zeros((3, 3)))
    keys = jax.random.split(getkey(), 1)
    method = nq.Laplace(subset=nq.LastLayer())
    policy = nb.UCB(nb.Refitted(method, nb.Every(20)))
    found = nb.run_bandit(policy, world, rounds=50, keys=keys)
    assert np.isnan(found.mean).all()
    assert len(np.unique(found.arms)) == 3


def test_the_wheel_pays_where_it_says(getkey):
    wheel = nb.Wheel(0.5)
    drawn = wheel.begin(key=getkey())
    key = getkey()
    offers = jax.vmap(lambda t: wheel.round(drawn, t, key=key))(jnp.arange(2000))
    radius = np.linalg.norm(np.asarray(offers.context), axis=1)
    outside = radius > 0.5
    # a share of 3/4, standard error 0.01
    assert abs(outside.mean() - 0.75) < 0.05
    best = np.asarray(offers.expected).max(axis=1)
    np.testing.assert_allclose(best, np.where(outside, 50.0, 1.2), rtol=1e-6)


def test_bad_input_is_named(getkey):
    with pytest.raises(ValueError, match="NaN"):
        nb.Rows(np.full((2, 2), np.nan), np.eye(2))
    with pytest.raises(ValueError, match="2 arms"):
        nb.Rows(np.zeros((2, 3, 2)), np.eye(2))
    with pytest.raises(ValueError, match="labels"):
        nb.classification(np.eye(2), np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="even width"):
        nb.Perceptron(width=3)
    with pytest.raises(ValueError, match="rounds"):
        nb.run_bandit(
            nb.Uniform(),
            nb.Rows(np.eye(2), np.eye(2)),
            rounds=0,
            keys=jax.random.split(getkey(), 1),
        )
    with pytest.raises(ValueError, match="mushroom"):
        nb.table("iris")


def test_training_lowers_the_loss(getkey):
    environment = nb.Rows(np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(width=10), nb.Diagonal())
    state = begin(model, environment, 128, key=getkey())
    rows = jnp.arange(128) % 4
    state = state._replace(
        context=jnp.eye(4)[rows],
        arm=rows.astype(jnp.int32),
        reward=(rows % 2).astype(jnp.float32),
    )
    trained = train(model, state, jnp.asarray(128))
    assert float(trained.noise) < 0.1


def test_a_late_regret_has_an_exponent():
    regrets = np.zeros((2, 1000))
    regrets[0, 200:] = 1.0
    empty = np.zeros((2, 1000))
    result = nb.BanditResult(regrets, empty, empty, empty, empty, empty, 0.0)
    # from none to linear regret: more than linear on logarithms; none at all is none
    assert result.exponents[0] > 1.0
    assert np.isnan(result.exponents[1])


@pytest.mark.parametrize(
    "covariance",
    [
        pytest.param(c, marks=() if i in (0, 2, 5) else pytest.mark.long)
        for i, c in enumerate(COVARIANCES)
    ],
)
def test_the_coefficients_of_the_theory_go_with_every_covariance(getkey, covariance):
    model = nb.NeuralRewards(
        nb.Perceptron(width=4), covariance, nb.InfiniteWidth(), nb.Every(20)
    )
    environment = nb.Synthetic(features=3, arms=2)
    keys = jax.random.split(getkey(), 2)
    result = nb.run_bandit(nb.UCB(model), environment, rounds=50, keys=keys)
    assert np.isfinite(result.std).all()


def test_joint_thompson_moves_arms_together(getkey):
    mean = jnp.zeros(3)
    # arms 0 and 1 are one random variable, arm 2 another, and the smaller
    cov = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1e-6]])
    keys = jax.random.split(getkey(), 2000)
    rule = nb.JointThompson(None)
    arms = jax.vmap(lambda k: rule.choose_jointly(mean, cov, key=k))(keys)
    # arm 2 wins where the shared draw is negative: half; independent draws: a quarter
    assert abs(float(jnp.mean(arms == 2)) - 0.5) < 4 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize(
    "policy",
    [
        nb.Uniform(),
        nb.EpsilonGreedy(nb.NeuralRewards(nb.Perceptron(depth=0)), 0.5),
        nb.UCB(nb.NeuralRewards(nb.Perceptron(depth=0))),
        nb.JointThompson(nb.NeuralRewards(nb.Perceptron(depth=0))),
        nb.JointThompson(nb.Refitted(nq.GP(), nb.Every(40), nb.Delayed(5))),
    ],
)
def test_an_arm_that_is_not_offered_is_never_chosen(getkey, policy):
    class Vanishing(nb.Synthetic):
        def round(self, drawn, t, *, key):
            offer = super().round(drawn, t, key=key)
            return offer._replace(offered=jnp.arange(self.arms) != t % self.arms)

    environment = Vanishing(features=2, arms=3)
    result = nb.run_bandit(
        policy, environment, rounds=60, keys=jax.random.split(getkey(), 2)
    )
    assert not np.any(result.arms == np.arange(60) % 3)
    assert np.all(result.regrets >= 0)
    assert all(np.any(result.arms == arm) for arm in range(3))


def test_batched_rewards_are_learned_at_the_end_of_a_batch(getkey):
    environment = nb.Synthetic(features=3, arms=2)
    keys = jax.random.split(getkey(), 1)

    def stds(feedback):
        model = nb.NeuralRewards(
            nb.Perceptron(depth=0),
            coefficient=nb.Constant(1.0),
            schedule=nb.Every(1000),
            feedback=feedback,
        )
        policy = nb.UCB(model, width=0.0)
        return nb.run_bandit(policy, environment, rounds=40, keys=keys)

    batched, at_once = stds(nb.Batched(20)), stds(nb.Immediate())
    # the prior until the batch is known: lambda = 1, so the norm with the bias
    np.testing.assert_allclose(batched.std[0, :20], np.sqrt(2.0), rtol=1e-5)
    assert np.all(at_once.std[0, 1:20] < np.sqrt(2.0) * 0.9999)
    assert np.all(batched.std[0, 20:] < np.sqrt(2.0) * 0.9)


@pytest.mark.parametrize(
    "model", [nb.NeuralRewards(nb.Perceptron(depth=0), schedule=nb.Every(5)), nq.GP()]
)
def test_a_reward_that_is_no_number_stops_the_run_before_it_is_learned(getkey, model):
    class Broken(nb.Synthetic):
        def round(self, drawn, t, *, key):
            offer = super().round(drawn, t, key=key)
            bad = jnp.where(t == 7, jnp.nan, 0.0)
            return offer._replace(expected=offer.expected + bad)

    seen = []
    with pytest.raises(ValueError, match=r"got nan in round 7 of seed 0"):
        nb.run_bandit(
            nb.UCB(model),
            Broken(features=2, arms=2),
            rounds=100_000 if isinstance(model, nb.NeuralRewards) else 40,
            keys=jax.random.split(getkey(), 1),
            progress=lambda done, total: seen.append(done),
        )
    assert all(done <= 5 for done in seen)


def test_the_claims_are_decided_by_paired_seeds():
    def result(slope, spread):
        regrets = slope * np.ones((4, 200)) + spread * np.arange(4)[:, None]
        empty = np.zeros_like(regrets)
        return nb.BanditResult(regrets, empty, empty, empty, empty, empty, 0.0)

    # every seed has its own level; what differs between policies is the same in all
    found = nb.bandit_claims(
        result(0.1, 0.5),
        theory=result(0.4, 0.5),
        greedy=result(0.2, 0.5),
        uniform=result(0.8, 0.5),
    )
    assert [claim.word for claim in found[:2]] == ["refuted", "confirmed"]
    assert found[2].statistic is not None
    # the same regret in every round: linear
    assert found[2].statistic.value == pytest.approx(1.0, abs=1e-6)
    statistic = found[0].statistic
    assert statistic is not None
    assert statistic.value == pytest.approx(60.0)
    assert found[0].values["share of the regret of random arms"] < 1.0
    none = np.zeros((4, 9))
    short, one = nb.BanditResult(none, none, none, none, none, none, 0.0), result(1, 0)
    with pytest.raises(ValueError, match="same keys"):
        nb.bandit_claims(short, theory=one, greedy=one, uniform=one)


def test_a_linear_bandit_learns_rewards_without_noise(getkey, data_dir):
    # 117 one-hot features, collinear, of which reward is a linear function: the
    # evidence would take lambda below what float32 resolves
    environment = nb.table("mushroom")
    model = nb.NeuralRewards(nb.Perceptron(depth=0))
    found = nb.run_bandit(
        nb.UCB(model), environment, rounds=600, keys=jax.random.split(getkey(), 2)
    )
    assert np.isfinite(found.std).all()
    # chance loses a half
    assert found.regrets[:, 300:].mean() < 0.05
    # what stops lambda is rounding, not the grid, and the run says so
    assert found.at_an_end.any()
    assert (found.ratio[found.at_an_end] > 1.01 * 10.0 ** GRID[0]).all()


def test_an_interval_of_a_share_is_cut_at_its_ends():
    # coverage 1.0 and 0.5: Student's interval of two seeds reaches beyond both ends
    z = np.repeat([[0.0, 0.0], [0.0, 9.0]], 10, axis=1)
    zero = np.zeros_like(z)
    (block,) = nb.BanditResult(zero, z, zero, zero, zero + 1, zero, 0.0).calibration(1)
    assert block["coverage_90"] == {"mean": 0.75, "lower": 0.0, "upper": 1.0}
    assert block["square"]["lower"] == 0.0

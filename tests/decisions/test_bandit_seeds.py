"""Seeds of a bandit on one machine: in threads, mapped, alone, killed."""

import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.decisions import bandits as nb


WORLD = nb.Rows(np.eye(4), np.eye(4))
MODEL = nb.NeuralRewards(
    nb.Perceptron(width=10),
    nb.FunctionSpace(),
    nb.InfiniteWidth(),
    nb.Every(40),
    nb.Adam(rate=1e-2, steps=20),
)
KEYS = jax.random.split(jax.random.key(3), 5)


def played(keys, plan, **options):
    policy = nb.Thompson(MODEL)
    return nb.run_bandit(policy, WORLD, rounds=100, keys=keys, plan=plan, **options)


def test_a_seed_is_the_same_alone_and_beside_others():
    beside = played(KEYS, nq.models.Threads(workers=2))
    alone = played(KEYS[3:4], None)
    for name in ("arms", "mean", "std", "regrets", "ratio", "noise"):
        np.testing.assert_array_equal(getattr(beside, name)[3:4], getattr(alone, name))
    assert len(np.unique(beside.arms, axis=0)) == 5


@pytest.mark.parametrize("chunk", [None, 2])
def test_mapped_seeds_agree_until_rounding_chooses(chunk):
    threads = played(KEYS, nq.models.Threads())
    mapped = played(KEYS, nq.models.Vectorized(chunk))
    # arms are chosen by comparison: until the first training nothing is summed in
    # another order for long enough to turn one
    np.testing.assert_array_equal(mapped.arms[:, :40], threads.arms[:, :40])
    np.testing.assert_allclose(mapped.std[:, :40], threads.std[:, :40], rtol=1e-4)
    assert mapped.regrets.shape == threads.regrets.shape == (5, 100)


def test_a_checkpoint_goes_on_under_another_plan(tmp_path):
    def stop(done, total):
        if done == 40:
            raise KeyboardInterrupt

    file = tmp_path / "c.npz"
    with pytest.raises(KeyboardInterrupt):
        played(KEYS, nq.models.Threads(), checkpoint=file, progress=stop)
    kept = file.read_bytes()
    seen = []
    again = played(
        KEYS,
        nq.models.Threads(),
        checkpoint=file,
        progress=lambda done, total: seen.append(done),
    )
    whole = played(KEYS, nq.models.Threads())
    assert seen[0] == 80
    np.testing.assert_array_equal(again.arms, whole.arms)
    np.testing.assert_array_equal(again.mean, whole.mean)
    file.write_bytes(kept)
    mapped = played(KEYS, nq.models.Vectorized(3), checkpoint=file)
    # the first round after the training, before sums in another order choose arms
    np.testing.assert_allclose(mapped.mean[:, 40], whole.mean[:, 40], atol=1e-4)
    np.testing.assert_allclose(mapped.std[:, 40], whole.std[:, 40], rtol=1e-3)


def test_the_seed_of_a_bad_reward_is_named():
    class Broken(nb.Rows):
        def round(self, drawn, t, *, key):
            offer = super().round(drawn, t, key=key)
            second = jax.random.key_data(key)[-1] == marked
            bad = jax.numpy.where(second & (t == 7), np.nan, 0.0)
            return offer._replace(expected=offer.expected + bad)

    # the key that the environment of seed 2 sees
    third = jax.random.split(KEYS[2], 3)[2]
    marked = jax.random.key_data(jax.random.split(third, 3)[0])[-1]
    with pytest.raises(ValueError, match="round 7 of seed 2"):
        nb.run_bandit(
            nb.UCB(MODEL), Broken(np.eye(4), np.eye(4)), rounds=100, keys=KEYS
        )


def test_contexts_that_overflow_are_named():
    world = nb.Rows(1e20 * np.eye(4), np.eye(4))
    model = nb.NeuralRewards(nb.Perceptron(depth=0), nb.LastLayer(), nb.Constant(1.0))
    with pytest.raises(ValueError, match=r"not finite .* standardize"):
        nb.run_bandit(nb.UCB(model), world, rounds=60, keys=KEYS[:1])


def test_a_plan_is_for_neural_rewards_and_keys_are_needed():
    with pytest.raises(ValueError, match="plan: expected a NeuralRewards"):
        nb.run_bandit(
            nb.UCB(nq.GP()), WORLD, rounds=5, keys=KEYS, plan=nq.models.Threads()
        )
    with pytest.raises(ValueError, match="one key a seed"):
        played(KEYS[:0], None)

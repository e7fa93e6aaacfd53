"""One loop for all that trains: stopping, resuming, members together or alone."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Batches, Checkpoint, Dataset, StoreError
from ntkuq.models import (
    BNN,
    Categorical,
    EarlyStopping,
    Gaussian,
    Job,
    NormalPrior,
    Standardize,
    Threads,
    Train,
    TrainingError,
    Vectorized,
    mlp,
)
from ntkuq.models.train import loop, programs
from ntkuq.models.train.banded import by_products, with_products
from ntkuq.models.train.rows import Rows


KEY = jax.random.key(3)
RNG = np.random.default_rng(3)
X = RNG.standard_normal((24, 3))
DATA = Dataset(X, X @ [1.0, -2.0, 0.5] + 0.1 * RNG.standard_normal(24))
BUILD = mlp(3, 1, width=5)
PROBLEM = BNN(BUILD, Gaussian(0.5), scaling=Standardize()).prepare(DATA)


def jobs(count, **options):
    found = []
    for key in jax.random.split(KEY, count):
        bnn = PROBLEM.with_model(BUILD(key))
        x, y = bnn.inputs(DATA.x), bnn.targets(DATA)
        found.append(Job(bnn, BUILD(key), x, y, key, **options))
    return found


def leaves(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def assert_same(one, two):
    for a, b in zip(leaves(one), leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(one, two, rtol):
    for a, b in zip(leaves(one), leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_every_pass_sees_every_row_once_and_any_part_can_be_had_alone():
    rows = Rows(KEY, 7, 3)
    stream = rows(0, 7)
    assert stream.shape == (7, 3)
    passes = stream.ravel().reshape(3, 7)
    assert [sorted(each) for each in passes.tolist()] == [list(range(7))] * 3
    assert (passes[0] != passes[1]).any()
    np.testing.assert_array_equal(np.concatenate([rows(0, 2), rows(2, 7)]), stream)
    twice = Rows(KEY, np.array([0, 2, 1]), 3)(0, 1)
    assert sorted(twice[0].tolist()) == [1, 1, 2]


def test_epochs_are_passes():
    assert Train(epochs=3, batch=100).updates(927) == 28
    assert Train(epochs=3).updates(927) == 3
    assert Train(epochs=2, batch=100).updates(50) == 2
    assert Train().updates(10) == 3_000
    train = Train(1e-2, epochs=4, batch=8)
    seen = []
    trained = train.fit(
        PROBLEM, BUILD(KEY), DATA, callback=lambda *at: seen.append(at[0]), key=KEY
    )
    assert trained.steps == seen[-1] == 12


@pytest.mark.parametrize("batch", [None, 10])
def test_a_member_alone_is_the_member_beside_others(batch):
    train = Train(1e-2, steps=20, batch=batch)
    together = train.run_many(jobs(3))
    alone = [train.run_many([job])[0] for job in jobs(3)]
    for one, two in zip(together, alone, strict=True):
        assert_same(one.model, two.model)
        np.testing.assert_array_equal(one.losses, two.losses)
    assert not np.array_equal(leaves(alone[0].model)[0], leaves(alone[1].model)[0])


@pytest.mark.parametrize(
    "train",
    [
        Train(1e-2, steps=20, batch=10),
        Train(1e-2, steps=20, stop=EarlyStopping(every=5)),
        Train(optax.sgd(1e-2), epochs=3, batch=6, clip=1.0, adversarial=0.01),
    ],
    ids=["batches", "stopping", "adversarial"],
)
def test_one_program_for_all_members_agrees_with_one_by_one(train):
    with jax.enable_x64(True):
        one = train.run_many(jobs(5))
        plan = Vectorized(chunk=2)
        many = eqx.tree_at(
            lambda t: t.plan, train, plan, is_leaf=lambda leaf: leaf is None
        ).run_many(jobs(5))
        for a, b in zip(one, many, strict=True):
            assert_close(a.model, b.model, 1e-9)
            np.testing.assert_allclose(a.losses, b.losses, rtol=1e-9)
            assert a.steps == b.steps
            assert (a.score is None) == (train.stop is None)


def test_smaller_data_sets_are_padded_without_a_trace():
    def short(job, rows):
        return Job(job.bnn, job.model, job.x[:rows], job.y[:rows], job.key)

    with jax.enable_x64(True):
        full = jobs(2)
        for batch in (None, 6):
            train = Train(1e-2, steps=15, batch=batch)
            padded = train.run_many([short(full[0], 17), full[1]])[0]
            alone = train.run_many([short(full[0], 17)])[0]
            assert_close(padded.model, alone.model, 1e-9)
    before = programs.ONE.advance._cached._cache_size()
    with jax.enable_x64(True):
        # a size that was not seen before takes the same program
        train.run_many([short(full[0], 11), full[1]])
    assert programs.ONE.advance._cached._cache_size() == before


def test_counts_weigh_examples_as_repeating_them_does():
    one = jobs(1)[0]
    counts = np.array([2, 0, 1, 3] * 6)
    rows = np.repeat(np.arange(24), counts)
    repeated = Job(one.bnn, one.model, one.x[rows], one.y[rows], one.key)
    weighed = eqx.tree_at(
        lambda j: j.counts, one, counts, is_leaf=lambda leaf: leaf is None
    )
    train = Train(1e-2, steps=15)
    assert_close(
        train.run_many([weighed])[0].model, train.run_many([repeated])[0].model, 1e-4
    )


def test_the_prior_pulls_to_its_center():
    one = jobs(1, center=eqx.filter(BUILD(jax.random.key(9)), eqx.is_inexact_array))[0]
    strong = PROBLEM.with_prior(NormalPrior(1e6)).with_model(one.model)
    one = eqx.tree_at(lambda j: j.bnn, one, strong)
    found = Train(0.05, steps=400).run_many([one])[0].model
    assert_close(found, BUILD(jax.random.key(9)), 2e-3)


def test_the_best_parameters_are_kept_and_training_stops():
    stop = EarlyStopping(fraction=0.25, patience=3, every=10)
    # a rate that first helps and then hurts
    rate = optax.join_schedules(
        [optax.constant_schedule(0.05), optax.constant_schedule(-0.01)], [200]
    )
    train = Train(optax.sgd(rate), steps=1_000, stop=stop)
    seen = []
    trained = train.run_many([jobs(1)[0]], callback=lambda *at: seen.append(at[0]))[0]
    assert trained.steps + 30 == seen[-1] < 1_000
    assert trained.steps % 10 == 0
    # the score is that of the model returned, on the rows that were held out
    job = jobs(1)[0]
    counts = stop.hold_out(np.ones(24, int), key=jax.random.fold_in(job.key, 1))
    assert counts.sum() == 6
    rows = np.flatnonzero(counts)
    f = jax.vmap(trained.model)(job.x[rows])
    nll = -jax.vmap(PROBLEM.likelihood.log_prob)(f, job.y[rows]).mean()
    np.testing.assert_allclose(trained.score, nll, rtol=1e-5)


def test_validation_data_and_score_of_ones_own():
    def squared(outputs, y):
        return jnp.sum((outputs - y) ** 2, axis=-1)

    other = DATA.take(np.arange(8))
    stop = EarlyStopping(every=5, score=squared, data=other)
    train = Train(1e-2, steps=20, stop=stop)
    bnn = PROBLEM.with_model(BUILD(KEY))
    for data in (DATA, Batches.of(DATA, size=8)):
        trained = train.fit(bnn, BUILD(KEY), data, key=KEY)
        f = jax.vmap(trained.model)(bnn.inputs(other.x))
        expected = squared(f, bnn.targets(other)).mean()
        np.testing.assert_allclose(trained.score, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="EarlyStopping without data"):
        Train(stop=EarlyStopping()).fit(
            bnn, BUILD(KEY), Batches.of(DATA, size=8), key=KEY
        )


class Kill(Exception):
    pass


@pytest.mark.parametrize("kind", ["threads", "vectorized", "batches", "stopping"])
def test_an_interrupted_training_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS", 0.0)
    plan = Vectorized() if kind == "vectorized" else Threads(1)
    stop = EarlyStopping(every=10) if kind == "stopping" else None
    train = Train(1e-2, steps=100, batch=7, plan=plan, stop=stop)

    def go(**options):
        if kind == "batches":
            bnn = PROBLEM.with_model(BUILD(KEY))
            data = Batches.of(DATA, size=5)
            return [train.fit(bnn, BUILD(KEY), data, key=KEY, **options)]
        return train.run_many(jobs(2), **options)

    whole = go()
    checkpoint = Checkpoint(tmp_path / "state.npz", "this")
    seen = []

    def kill(steps, loss):
        seen.append(steps)
        if len(seen) == 4:
            raise Kill

    with pytest.raises(Kill):
        go(callback=kill, checkpoint=checkpoint)
    again = []
    resumed = go(callback=lambda *at: again.append(at[0]), checkpoint=checkpoint)
    for one, two in zip(whole, resumed, strict=True):
        assert_same(one.model, two.model)
        np.testing.assert_array_equal(one.losses, two.losses)
    # what was done is not done again
    assert again[0] >= seen[3]
    assert len(again) <= (11 if kind in ("threads", "stopping") else 7) + 6
    with pytest.raises(StoreError, match="another method, problem"):
        go(checkpoint=Checkpoint(tmp_path / "state.npz", "that"))


def test_a_diverging_network_is_reported_and_the_others_are_not_touched():
    good, other = jobs(2)
    broken = eqx.tree_at(
        lambda j: j.model.layers[0].weight, other, jnp.full((5, 3), 1e30)
    )
    for plan in (Threads(), Vectorized()):
        train = Train(1e-2, steps=20, plan=plan)
        one, two = train.run_many([good, broken])
        assert one.diverged is None
        assert two.diverged is not None
        assert np.isfinite(one.losses).all()
    assert_same(
        Train(1e-2, steps=20).run_many([good, broken])[0].model,
        Train(1e-2, steps=20).run_many([good])[0].model,
    )
    with pytest.raises(TrainingError, match="after step 1 of 20"):
        Train(1e-2, steps=20).fit(
            PROBLEM.with_model(broken.model), broken.model, DATA, key=KEY
        )


def test_clipping_limits_the_step():
    job = jobs(1)[0]
    found = Train(optax.sgd(1.0), steps=1, clip=0.01).run_many([job])[0].model
    moved = [a - b for a, b in zip(leaves(found), leaves(job.model), strict=True)]
    norm = np.sqrt(sum(float(jnp.sum(m**2)) for m in moved))
    np.testing.assert_allclose(norm, 0.01, rtol=1e-4)


def test_adversarial_examples_lie_a_step_along_the_sign_of_the_slope():
    """The loss is the mean of that at x and that at x + eps range sign(slope)."""
    job = jobs(1)[0]
    model, eps = job.model, 0.05
    reach = eps * (job.x.max(0) - job.x.min(0))

    def fit(model, x):
        log_prob = PROBLEM.likelihood.log_prob
        return jnp.mean(jax.vmap(lambda a, b: log_prob(model(a), b))(x, job.y))

    moved = job.x - reach * jnp.sign(jax.grad(lambda x: fit(model, x))(job.x))
    params = eqx.filter(model, eqx.is_inexact_array)
    prior = PROBLEM.prior.log_prob(params) / 24
    expected = -0.5 * (fit(model, job.x) + fit(model, moved)) - prior
    train = Train(optax.sgd(1e-9), steps=1, adversarial=eps)
    np.testing.assert_allclose(train.run_many([job])[0].losses[0], expected, rtol=1e-5)
    whole = Dataset(RNG.integers(0, 9, (6, 2)), RNG.integers(0, 2, 6))

    class Embedded(eqx.Module):
        table: eqx.nn.Embedding

        def __call__(self, tokens):
            return jnp.sum(jax.vmap(self.table)(tokens), axis=0)

    network = Embedded(eqx.nn.Embedding(9, 2, key=KEY))
    bnn = BNN(network, Categorical()).prepare(whole)
    with pytest.raises(TypeError, match="floating-point inputs"):
        train.fit(bnn, network, whole, key=KEY)


def test_other_numbers_do_not_compile_anew():
    one = jobs(1)[0]
    Train(1e-2, steps=20).run_many([one])
    size = programs.ONE.advance._cached._cache_size()
    other = eqx.tree_at(
        lambda j: j.bnn, one, one.bnn.with_prior(NormalPrior(3.0)).with_noise(0.1)
    )
    Train(3e-2, steps=20).run_many([other])
    assert programs.ONE.advance._cached._cache_size() == size


def test_builders_that_make_new_functions_share_a_program():
    def build(key):
        one, two = jax.random.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, 4, key=one),
                eqx.nn.Lambda(lambda a: jnp.tanh(a)),
                eqx.nn.Linear(4, 1, key=two),
            ]
        )

    keys = jax.random.split(KEY, 3)
    base = jobs(1)[0]
    made = [
        Job(PROBLEM.with_model(build(k)), build(k), base.x, base.y, k) for k in keys
    ]
    before = programs.ONE.advance._cached._cache_size()
    Train(1e-2, steps=20).run_many(made)
    assert programs.ONE.advance._cached._cache_size() == before + 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Train(steps=3, epochs=2), "steps or epochs, got both"),
        (lambda: Train(epochs=0), "epochs >= 1"),
        (lambda: Train(clip=0.0), "clip > 0"),
        (lambda: Train(adversarial=-1.0), "adversarial > 0"),
        (lambda: EarlyStopping(fraction=1.0), "0 < fraction < 1"),
        (lambda: EarlyStopping(patience=0), "patience >= 1"),
        (lambda: Threads(0), "workers >= 1"),
        (lambda: Vectorized(0), "chunk >= 1"),
        (lambda: Train().run_many([]), "at least one job"),
        (
            lambda: EarlyStopping(fraction=0.1).hold_out(np.ones(3, int), key=KEY),
            "enough examples to hold out",
        ),
        (
            lambda: Train(steps=1).run_many(jobs(1, counts=np.ones(24))),
            "24 whole numbers",
        ),
        (
            lambda: Train(steps=1).run_many(jobs(1, center={"w": jnp.ones(2)})),
            "shapes of the parameters",
        ),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (2, 3))])
def test_a_convolution_is_a_sum_of_products_with_banded_matrices(padding):
    one, two = jax.random.split(KEY)
    with jax.enable_x64(True):
        x = jax.random.normal(one, (3, 2, 9, 8), jnp.float64)
        w = jax.random.normal(two, (4, 2, 3, 5), jnp.float64)
        expected = jax.lax.conv_general_dilated(x, w, (1, 1), padding)
        np.testing.assert_allclose(by_products(x, w, padding), expected, atol=1e-12)


def mixed_cnn(key):
    """Plain, strided, dilated and grouped convolutions, and one inside a jit."""
    keys = jax.random.split(key, 5)
    plain = eqx.nn.Conv2d(1, 4, 3, padding=1, key=keys[0])
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(jax.jit(lambda a: plain(a))),
            eqx.nn.Conv2d(4, 4, 3, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Conv2d(4, 4, 3, groups=2, padding=1, key=keys[2]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(4, 4, 2, stride=2, key=keys[3]),
            eqx.nn.Conv2d(4, 3, 2, dilation=2, padding=1, key=keys[4]),
            eqx.nn.Lambda(jnp.ravel),
        ]
    )


def test_replacing_convolutions_changes_nothing_but_rounding():
    with jax.enable_x64(True):
        model = mixed_cnn(KEY)
        params, rest = eqx.partition(model, eqx.is_inexact_array)
        x = jax.random.normal(KEY, (3, 1, 12, 12), jnp.float64)

        def loss(params, x):
            return jnp.sum(jnp.sin(jax.vmap(eqx.combine(params, rest))(x)))

        replaced = with_products(loss)
        program = str(jax.make_jaxpr(replaced)(params, x))
        assert program.count("custom_vjp_call") == 2
        np.testing.assert_allclose(replaced(params, x), loss(params, x), rtol=1e-12)
        for argument in (0, 1):
            found = jax.jit(jax.grad(replaced, argument))(params, x)
            expected = jax.grad(loss, argument)(params, x)
            for a, b in zip(
                jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
            ):
                np.testing.assert_allclose(a, b, atol=1e-11)


SHARDED = """
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from ntkuq.models import BNN, Gaussian, Job, Threads, Train, Vectorized, mlp
assert len(jax.devices()) == 2
jax.config.update("jax_enable_x64", True)
build = mlp(3, 1, width=5)
rng = np.random.default_rng(0)
x = jnp.asarray(rng.standard_normal((24, 3)))
y = jnp.asarray(rng.standard_normal((24, 1)))
jobs = [Job(BNN(build(k), Gaussian()), build(k), x, y, k)
        for k in jax.random.split(jax.random.key(0), 4)]
found = []
for plan in (None, Threads()):
    train = Train(1e-2, steps=10, batch=8, plan=plan)
    found.append([jax.tree.leaves(eqx.filter(t.model, eqx.is_array))
                  for t in train.run_many(jobs)])
for one, two in zip(*found):
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
from ntkuq.models.train.method import _sharded
print(len(_sharded(jnp.zeros((4, 2))).sharding.device_set))
"""


def test_several_devices_share_the_networks():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"

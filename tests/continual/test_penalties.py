"""What each strategy adds to the loss: its gradient equals the closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.continual import (
    AGEM,
    EWC,
    FROMP,
    OGD,
    VCL,
    DarkReplay,
    LwF,
    OnlineEWC,
    OnlineLaplace,
    RandomPoints,
    Replay,
    SynapticIntelligence,
    UncertainPoints,
    WithReplay,
)
from ntkuq.continual.strategies.functional import JITTER
from ntkuq.continual.strategies.orthogonal import directions
from ntkuq.continual.strategies.quadratic import raveled
from ntkuq.continual.strategies.replay import Rehearsal
from ntkuq.linearize import EmpiricalFisher, ExactFisher
from ntkuq.models import Fixed, Train, forward, parameters
from ntkuq.models.train import At
from ntkuq.posteriors import KFAC, Diagonal, Full
from tests.continual.problems import classifier, seen, two_tasks


TRAIN = Train(optax.adam(1e-2), epochs=2, batch=40)


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def tasks(_double):
    return two_tasks()


def after_first(strategy, tasks):
    bnn = classifier()
    built = bnn.network.init(jax.random.key(0))
    built = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, built
    )
    from ntkuq.continual.learned import Learned, point

    state = Learned.of(point(bnn.with_model(built)), None, 0)
    state = strategy.update(state, tasks[0].train, key=jax.random.key(1))
    return state, seen(state.bnn, tasks[1].train)


def gradient(penalty, model, now):
    """Of the penalty at a moved network, raveled."""
    at = At(
        now.x,
        now.y,
        jnp.asarray(float(len(now.data))),
        now.bnn.likelihood,
        jax.random.key(3),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def value(params):
        return penalty(eqx.combine(params, static), at)

    flat = jax.flatten_util.ravel_pytree(jax.grad(value)(params))[0]
    return np.asarray(flat), float(value(params))


def moved(model, by=0.1):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    step = by * np.random.default_rng(2).normal(size=flat.size)
    return eqx.combine(unravel(flat + step), static), step


def dense(bnn, data, kind):
    """Mean squared gradients (N-scaled for sums) by explicit Jacobians, float64."""
    model = bnn.model
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def log_p(theta, x):
        return jax.nn.log_softmax(forward(eqx.combine(unravel(theta), model), x))

    x = bnn.inputs(data.x)
    j = np.asarray(jax.vmap(lambda a: jax.jacrev(log_p)(flat, a))(x))
    p = np.exp(np.asarray(jax.vmap(lambda a: log_p(flat, a))(x)))
    if kind == "exact":
        return np.einsum("nc,ncp,ncq->pq", p, j, j)
    g = j[np.arange(len(j)), np.asarray(data.y)]
    return g.T @ g


@pytest.mark.parametrize(
    ("fisher", "kind"), [(ExactFisher(), "exact"), (EmpiricalFisher(), "empirical")]
)
def test_the_gradient_of_ewc(tasks, fisher, kind):
    strategy = EWC(TRAIN, strength=7.0, fisher=fisher, examples=None)
    state, now = after_first(strategy, tasks)
    model, step = moved(now.model)
    found, value = gradient(strategy.penalty(state, now), model, now)
    f = np.diag(dense(state.bnn, tasks[0].train, kind)) / len(tasks[0].train)
    assert np.allclose(found, 7.0 * f * step, rtol=1e-8, atol=1e-12)
    assert np.isclose(value, 3.5 * np.sum(f * step**2), rtol=1e-8)
    assert np.abs(found).max() > 1e-4


def test_ewc_keeps_a_penalty_for_each_task_and_online_ewc_one(tasks):
    for strategy, decay in (
        (EWC(TRAIN, strength=3.0, examples=None), 1.0),
        (OnlineEWC(TRAIN, strength=3.0, decay=0.5, examples=None), 0.5),
    ):
        one, _ = after_first(strategy, tasks)
        two = strategy.update(one, tasks[1].train, key=jax.random.key(2))
        now = seen(two.bnn, tasks[0].train)
        model, _ = moved(now.model)
        theta = np.concatenate([np.asarray(a) for a in raveled(model)])
        centers = [
            np.concatenate([np.asarray(a) for a in raveled(s.bnn.model)])
            for s in (one, two)
        ]
        weights = [
            np.diag(dense(s.bnn, t.train, "exact")) / len(t.train)
            for s, t in zip((one, two), tasks, strict=True)
        ]
        if isinstance(strategy, OnlineEWC):
            centers[0] = centers[1]
            weights[0] = decay * weights[0]
        want = 3.0 * sum(w * (theta - c) for w, c in zip(weights, centers, strict=True))
        found, _ = gradient(strategy.penalty(two, now), model, now)
        assert np.allclose(found, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("structure", [Full(), Diagonal(), KFAC()])
def test_the_gradient_of_online_laplace(tasks, structure):
    strategy = OnlineLaplace(TRAIN, structure=structure, tune=Fixed(), strength=2.0)
    state, now = after_first(strategy, tasks)
    model, step = moved(now.model)
    found, value = gradient(strategy.penalty(state), model, now)
    g = dense(state.bnn, tasks[0].train, "exact")
    if isinstance(structure, Diagonal):
        g = np.diag(np.diag(g))
    if isinstance(structure, KFAC):
        # by the posterior's own blocks: (tau + G)^-1 applied and undone
        apply = state.posterior.covariance.apply
        g = np.linalg.inv(_columns(apply, state)) - np.eye(len(step))
    want = 2.0 / len(now.data) * g @ step
    scale = np.abs(want).max()
    assert np.allclose(found, want, rtol=1e-5, atol=1e-6 * scale)
    assert np.isclose(value, 0.5 * step @ want, rtol=1e-5)


def _columns(apply, state):
    sizes = [leaf.size for leaf in raveled(state.bnn.model)]
    starts = np.cumsum(sizes)[:-1]
    rows = []
    for unit in np.eye(sum(sizes)):
        parts = [jnp.asarray(part) for part in np.split(unit, starts)]
        rows.append(np.concatenate([np.asarray(a) for a in apply(parts)]))
    return np.asarray(rows).T


def test_products_of_two_tasks_are_kept_apart(tasks):
    strategy = OnlineLaplace(TRAIN, structure=KFAC(), tune=Fixed())
    one, _ = after_first(strategy, tasks)
    two = strategy.update(one, tasks[1].train, key=jax.random.key(2))
    alone = [one.memory.forms]
    fresh = OnlineLaplace(TRAIN, structure=KFAC(), tune=Fixed())
    # the second task's own matrix, at the second network
    from ntkuq.continual.strategies.quadratic import forms_of
    from ntkuq.posteriors.laplace.problem import inverse, linearized_problem
    from ntkuq.posteriors.laplace.subsets import All

    problem = linearized_problem(
        two.bnn.prepare(tasks[1].train), tasks[1].train, fresh.structure, All()
    )
    alone.append(forms_of(problem.curvature, inverse(problem.precisions)))
    rng = np.random.default_rng(0)
    for number, form in enumerate(two.memory.forms):
        vector = jnp.asarray(rng.normal(size=raveled(two.bnn.model)[number].size))
        want = sum(np.asarray(forms[number].apply(vector)) for forms in alone)
        assert np.allclose(form.apply(vector), want, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_distillation(tasks):
    strategy = LwF(TRAIN, strength=2.0, temperature=3.0)
    state, now = after_first(strategy, tasks)
    job = strategy.job(state, now, key=jax.random.key(0))
    model, _ = moved(now.model)
    found, value = gradient(job.penalty, model, now)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))
    old = np.asarray(jax.vmap(lambda a: forward(now.bnn.model, a))(now.x))
    j = np.asarray(
        jax.vmap(
            lambda a: jax.jacrev(lambda t: forward(eqx.combine(unravel(t), model), a))(
                flat
            )
        )(now.x)
    )
    new = np.asarray(jax.vmap(lambda a: forward(model, a))(now.x))

    def soft(f):
        e = np.exp(f / 3.0 - (f / 3.0).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    # d/df of T^2 KL(p_old || p) is T (p - p_old)
    want = 2.0 * 3.0 * np.einsum("nc,ncp->p", soft(new) - soft(old), j) / len(new)
    assert np.allclose(found, want, rtol=1e-8, atol=1e-12)
    kl = np.sum(soft(old) * (np.log(soft(old)) - np.log(soft(new))), -1).mean()
    assert np.isclose(value, 2.0 * 9.0 * kl, rtol=1e-8)
    # nothing is distilled before there is something
    first = strategy.job(after_first(strategy, tasks)[0], now, key=jax.random.key(0))
    assert float(first.penalty.strength) == 2.0


def test_rehearsal_is_the_mean_over_its_batches(tasks):
    strategy = DarkReplay(TRAIN, RandomPoints(10), outputs=0.7, labels=1.3, batch=6)
    state, now = after_first(strategy, tasks)
    assert int(state.memory.count) == 10
    penalty = strategy.job(state, now, key=jax.random.key(0)).penalty
    model, _ = moved(now.model)
    _, value = gradient(penalty, model, now)
    one, two = jax.random.split(jax.random.key(3))
    x, y, _ = penalty.buffer.draw(6, key=one)
    f = np.asarray(jax.vmap(lambda a: forward(model, a))(x))
    log_p = f - np.log(np.exp(f).sum(-1, keepdims=True))
    nll = -log_p[np.arange(6), np.asarray(y)].mean()
    x, _, z = penalty.buffer.draw(6, key=two)
    f = np.asarray(jax.vmap(lambda a: forward(model, a))(x))
    assert np.isclose(value, 1.3 * nll + 0.7 * np.mean((f - z) ** 2), rtol=1e-10)


def test_the_gradient_of_fromp(tasks):
    strategy = FROMP(TRAIN, UncertainPoints(5), strength=4.0)
    state, now = after_first(strategy, tasks)
    job = strategy.job(state, now, key=jax.random.key(0))
    model, _ = moved(now.model)
    _, value = gradient(job.penalty, model, now)
    x = jax.tree.map(lambda a: a[0], state.memory.inputs)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(now.bnn.model))

    def p(theta, a):
        return jax.nn.softmax(forward(eqx.combine(unravel(theta), model), a))

    j = np.asarray(jax.vmap(lambda a: jax.jacrev(p)(flat, a))(x))
    g = np.diag(dense(now.bnn, tasks[0].train, "exact"))
    total, theta = 0.0, jax.flatten_util.ravel_pytree(parameters(model))[0]
    off = np.asarray(jax.vmap(lambda a: p(theta, a) - p(flat, a))(x))
    for c in range(2):
        k = (j[:, c] / (g + 1.0)) @ j[:, c].T
        k = k + (JITTER * np.mean(np.diag(k)) + 1e-10) * np.eye(5)
        total += off[:, c] @ np.linalg.solve(k, off[:, c])
    assert np.isclose(value, 0.5 * 4.0 * total / len(now.data), rtol=1e-6)


def test_updates_of_ogd_leave_the_kept_outputs_to_first_order(tasks):
    strategy = OGD(TRAIN, RandomPoints(5))
    state, now = after_first(strategy, tasks)
    basis = np.asarray(state.memory)
    assert np.allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-10)
    old = seen(state.bnn, tasks[0].train)
    rows = strategy.memory.rows(old, key=jax.random.fold_in(jax.random.key(1), 1))
    kept = np.asarray(directions(old, rows))
    # the directions lie in the span
    assert np.allclose(kept - (kept @ basis.T) @ basis, 0.0, atol=1e-8)
    job = strategy.job(state, now, key=jax.random.key(0))
    optimizer = job.wrapper(
        optax.with_extra_args_support(optax.sgd(1e-2, momentum=0.9))
    )
    params = parameters(now.model)
    grad = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grad, optimizer.init(params), params)
    flat = np.asarray(jax.flatten_util.ravel_pytree(updates)[0])
    assert np.abs(flat).max() > 1e-4
    assert np.allclose(kept @ flat, 0.0, atol=1e-10)
    few = OGD(TRAIN, RandomPoints(5), components=2)
    assert after_first(few, tasks)[0].memory.shape[0] == 2


def test_agem_projects_only_what_points_against_the_memory(tasks):
    strategy = AGEM(TRAIN, RandomPoints(8), batch=200)
    state, now = after_first(strategy, tasks)
    guard = strategy.job(state, now, key=jax.random.key(0)).wrapper
    optimizer = guard(optax.with_extra_args_support(optax.sgd(1.0)))
    params, static = eqx.partition(now.model, eqx.is_inexact_array)
    from ntkuq.models.train import Given

    given = Given(
        *(now.x, now.y, None, jnp.asarray(1.0), static, params),
        *(now.bnn.likelihood, now.bnn.prior, None, False),
    )
    x, y, _ = guard.buffer.draw(200, key=jax.random.fold_in(guard.key, 0))

    def loss(params):
        model = eqx.combine(params, static)
        each = jax.vmap(lambda a, b: now.bnn.likelihood.log_prob(forward(model, a), b))
        return -jnp.mean(each(x, y))

    r = jax.grad(loss)(params)
    flat = np.asarray(jax.flatten_util.ravel_pytree(r)[0])
    for sign in (-1.0, 1.0):
        g = jax.tree.map(lambda a, s=sign: s * a + 0.01, r)
        updates, _ = optimizer.update(g, optimizer.init(params), params, problem=given)
        step = -np.asarray(jax.flatten_util.ravel_pytree(updates)[0])
        raw = sign * flat + 0.01
        want = raw - min(raw @ flat, 0.0) / (flat @ flat) * flat
        assert np.allclose(step, want, rtol=1e-8)
        if sign < 0:
            assert abs(step @ flat) < 1e-10


def test_synaptic_intelligence_sums_the_fall_of_the_task_loss(tasks):
    # with tiny steps the path integral is what the loss has lost
    train = Train(optax.sgd(1e-3), steps=50)
    strategy = SynapticIntelligence(train, strength=0.3, damping=0.05)
    state, _ = after_first(strategy, tasks)
    bnn = classifier()
    built = bnn.network.init(jax.random.key(0))
    built = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, built
    )
    now = seen(bnn.with_model(built), tasks[0].train)

    def loss(model):
        each = jax.vmap(lambda a, b: bnn.likelihood.log_prob(forward(model, a), b))
        prior = bnn.prior.log_prob(parameters(model))
        return float(-jnp.mean(each(now.x, now.y)) - prior / len(now.data))

    fall = loss(built) - loss(state.bnn.model)
    moves = [
        (a - b) ** 2
        for a, b in zip(raveled(state.bnn.model), raveled(built), strict=True)
    ]
    # where every weight lowered the loss, omega is what was kept times its damping
    omega = sum(
        float(jnp.sum(w * (m + 0.05))) for w, m in zip(state.memory, moves, strict=True)
    )
    assert fall > 1e-4
    assert omega == pytest.approx(fall, rel=0.05)


def test_replay_takes_the_share_of_each_class(tasks):
    strategy = Replay(TRAIN, RandomPoints(10))
    state, _ = after_first(strategy, tasks)
    labels = np.asarray(state.memory.y)[:10]
    assert np.bincount(labels).tolist() == [5, 5]
    more = strategy.update(state, tasks[1].train, key=jax.random.key(2))
    assert int(more.memory.count) == 20


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EWC(strength=-1.0), "EWC: expected strength >= 0, got -1.0"),
        (lambda: OnlineEWC(decay=2.0), "decay from 0 to 1"),
        (lambda: RandomPoints(0), "points >= 1"),
        (lambda: LwF(temperature=0.0), "temperature > 0"),
        (lambda: OGD(components=0), "components >= 1"),
        (lambda: Replay(batch=0), "batch >= 1"),
    ],
)
def test_settings_without_meaning_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_memory_larger_than_the_data_keeps_them_all(tasks):
    strategy = Replay(TRAIN, RandomPoints(10_000))
    state, _ = after_first(strategy, tasks)
    assert int(state.memory.count) == len(tasks[0].train)


@pytest.mark.parametrize("inner", ["laplace", "vcl", "ewc"])
def test_replay_beside_a_posterior_adds_its_loss(tasks, inner):
    within = {
        "laplace": OnlineLaplace(TRAIN, structure=KFAC(), tune=Fixed()),
        "vcl": VCL(TRAIN, draws=2),
        "ewc": EWC(TRAIN, strength=7.0),
    }[inner]
    strategy = WithReplay(within, RandomPoints(10), outputs=0.4, labels=1.3, batch=6)
    state, now = after_first(strategy, tasks)
    alone, _ = after_first(within, tasks)
    # before there are examples it is the strategy itself
    for a, b in zip(raveled(state.bnn.model), raveled(alone.bnn.model), strict=True):
        assert np.array_equal(a, b)
    assert int(state.memory.buffer.count) == 10
    job = strategy.job(state, now, key=jax.random.key(0))
    bare = within.job(alone, now, key=jax.random.key(0))
    at = At(
        *(now.x, now.y, jnp.asarray(50.0)),
        *(now.bnn.likelihood, jax.random.key(3)),
    )
    buffer = state.memory.buffer
    rehearsal = Rehearsal(buffer, jnp.asarray(1.3), jnp.asarray(0.4), 6)
    model, _ = moved(job.model)
    more = float(job.penalty(model, at) - bare.penalty(model, at))
    assert more == pytest.approx(float(rehearsal(model, at)), rel=1e-9)
    assert more > 1e-2
    z = jax.vmap(lambda a: forward(state.bnn.model, a))(buffer.x[:10])
    assert np.allclose(buffer.extra[:10], z)
    after = strategy.update(state, tasks[1].train, key=jax.random.key(2))
    assert int(after.memory.buffer.count) == 20

"""Second-order steps: one system in three forms, damping, rates, momentum, `Train`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Dataset
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    FanInPrior,
    Gaussian,
    Network,
    NormalPrior,
    Standardize,
    Train,
    cast,
    forward,
    mlp,
    parameters,
)
from ntkuq.optimization import (
    ConjugateGradients,
    Constant,
    FunctionSpace,
    KLClip,
    LevenbergMarquardt,
    QuadraticModel,
    Smaller,
    WeightSpace,
    gauss_newton,
    natural_gradient,
)
from ntkuq.posteriors import MAP


LIKELIHOODS = [(Gaussian(0.5), 2), (Categorical(), 3), (Bernoulli(), 1)]


def problem(likelihood, outputs: int, n: int = 12):
    """In the floating-point type that is on."""
    dtype = jnp.zeros(()).dtype
    model = cast(mlp(3, outputs, width=5, depth=1)(jax.random.key(0)), dtype)
    x = jax.random.normal(jax.random.key(1), (n, 3))
    if likelihood.classes:
        y = jax.random.randint(jax.random.key(2), (n,), 0, max(outputs, 2))
    else:
        y = jax.random.normal(jax.random.key(2), (n, outputs))
    return model, x, y


def one(transform, model, x, y, **extra):
    params = parameters(model)
    updates, state = jax.jit(
        lambda p: transform.update(p, transform.init(p), p, x=x, y=y, **extra)
    )(params)
    return jax.flatten_util.ravel_pytree(updates)[0], state[0]


@pytest.mark.parametrize(("likelihood", "outputs"), LIKELIHOODS)
def test_three_solvers_take_one_step(likelihood, outputs):
    """With prior, weights and a batch that stands for more, against dense matrices."""
    with jax.enable_x64(True):
        model, x, y = problem(likelihood, outputs)
        weight = jnp.arange(12.0) % 4
        prior, damping, size = FanInPrior(1.3, 0.7), 0.3, 60.0
        solvers = (
            FunctionSpace(),
            WeightSpace(),
            Smaller(),
            ConjugateGradients(tolerance=1e-13, most=400),
        )
        found = [
            one(
                natural_gradient(
                    model, likelihood, damping=damping, solve=solve, prior=prior
                ),
                *(model, x, y),
                weight=weight,
                size=size,
            )[0]
            for solve in solvers
        ]
        flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

        def outputs_at(theta):
            now = eqx.combine(unravel(theta), model)
            return jax.vmap(lambda a: forward(now, a))(x)

        f, j = outputs_at(flat), jax.jacrev(outputs_at)(flat)
        h = jax.vmap(likelihood.hessian)(f, y)
        r = jax.vmap(likelihood.residual)(f, y)
        w = weight * size / weight.sum()
        tau = jax.flatten_util.ravel_pytree(
            jax.tree.map(
                lambda leaf, p: jnp.full(leaf.shape, p),
                parameters(model),
                prior.precisions(parameters(model)),
            )
        )[0]
        matrix = jnp.einsum("ncp,ncd,ndq,n->pq", j, h, j, w)
        matrix = matrix + jnp.diag(tau + damping)
        right = jnp.einsum("ncp,nc,n->p", j, r, w) - tau * flat
        expected = np.linalg.solve(np.asarray(matrix), np.asarray(right))
        for step in found:
            assert np.allclose(step, expected, rtol=1e-10, atol=1e-11)


def test_momentum_pulls_to_the_last_step():
    """SPRING: the minimizer of |J s - r|^2 + damping |s - beta last|^2."""
    with jax.enable_x64(True):
        model, x, y = problem(Gaussian(1.0), 2)
        transform = natural_gradient(model, Gaussian(1.0), damping=0.2, momentum=0.9)
        params = parameters(model)
        update = jax.jit(lambda p, s: transform.update(p, s, p, x=x, y=y))
        first, state = update(params, transform.init(params))
        params = optax.apply_updates(params, first)
        second, _ = update(params, state)
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def outputs_at(theta):
            now = eqx.combine(unravel(theta), model)
            return jax.vmap(lambda a: forward(now, a))(x).ravel()

        j, r = jax.jacrev(outputs_at)(flat), y.ravel() - outputs_at(flat)
        last = jax.flatten_util.ravel_pytree(first)[0]
        design = np.vstack([j, np.sqrt(0.2) * np.eye(flat.size)])
        aim = np.concatenate([r, np.sqrt(0.2) * 0.9 * np.asarray(last)])
        expected = np.linalg.lstsq(design, aim)[0]
        found = jax.flatten_util.ravel_pytree(second)[0]
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_a_fresh_state_can_be_donated():
    model, x, y = problem(Gaussian(1.0), 1)
    transform = natural_gradient(model, Gaussian(1.0), damping=0.1)
    params = parameters(model)

    def step(state, params):
        return transform.update(params, state, params, x=x, y=y)[1]

    state = jax.jit(step, donate_argnums=0)(transform.init(params), params)
    assert int(state[0].count) == 1


def some_leaves(params, **options):
    """Natural gradient of the last weight alone; the other leaves stay."""
    labels = jax.tree.map(lambda leaf: "stays", params)
    labels = eqx.tree_at(lambda m: m.layers[-1].weight, labels, "moves")
    return optax.partition(
        {"moves": natural_gradient(**options), "stays": optax.set_to_zero()},
        # a network is callable, and optax would call it
        lambda _: labels,
    )


def test_some_leaves_stay_and_the_others_solve_their_own_system():
    with jax.enable_x64(True):
        model, x, y = problem(Gaussian(1.0), 1)
        params = parameters(model)
        transform = some_leaves(
            params, model=model, likelihood=Gaussian(1.0), damping=0.1
        )
        updates, _ = transform.update(
            jax.tree.map(jnp.ones_like, params),
            transform.init(params),
            params,
            x=x,
            y=y,
            parameters=params,
        )
        hidden = jax.vmap(lambda a: jnp.tanh(model.layers[0](a)))(x)
        rest = np.asarray(y - jax.vmap(model)(x))[:, 0]
        gram = np.asarray(hidden.T @ hidden) + 0.1 * np.eye(5)
        expected = np.linalg.solve(gram, np.asarray(hidden).T @ rest)
        assert np.allclose(updates.layers[-1].weight[0], expected, atol=1e-11)
        assert not np.any(updates.layers[0].weight)


def test_train_moves_some_leaves():
    x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    data = Dataset(x, np.sin(3 * x[:, 0]))
    bnn = BNN(Network(mlp(1, 1, width=8, depth=1)), Gaussian(0.1), NormalPrior(1.0))
    bnn = bnn.prepare(data)
    begin = bnn.network.init(jax.random.key(0))
    train = Train(some_leaves(parameters(begin)), steps=8)
    found = train.fit(bnn, begin, data, key=jax.random.key(0)).model
    assert eqx.tree_equal(found.layers[0], begin.layers[0])
    assert not eqx.tree_equal(found.layers[-1].weight, begin.layers[-1].weight)
    error = [
        float(jnp.mean((jax.vmap(m)(x)[:, 0] - data.y) ** 2)) for m in (begin, found)
    ]
    assert error[1] < 0.5 * error[0]


def test_a_worse_step_is_rejected_and_the_parameters_are_kept():
    """From far away the quadratic model overshoots: more damping until it does not."""
    with jax.enable_x64(True):
        model, x, y = problem(Gaussian(0.01), 2)
        model = jax.tree.map(lambda a: 4 * a if eqx.is_inexact_array(a) else a, model)
        rule = LevenbergMarquardt(initial=1e-9)
        transform = natural_gradient(model, Gaussian(0.01), damping=rule)
        params, state = parameters(model), None
        state = transform.init(params)
        update = jax.jit(lambda p, s: transform.update(p, s, p, x=x, y=y))
        losses, rejected = [], 0
        for _ in range(25):
            now = eqx.combine(params, model)
            losses.append(float(jnp.sum((jax.vmap(now)(x) - y) ** 2)))
            updates, state = update(params, state)
            if int(state[0].rejected) > rejected:
                rejected = int(state[0].rejected)
                assert not np.any(jax.flatten_util.ravel_pytree(updates)[0])
                assert float(state[0].rate) == 0.0
            params = optax.apply_updates(params, updates)
        assert rejected > 0
        # the damped objective never rises
        assert all(np.diff(losses) <= 1e-9 * losses[0])
        assert losses[-1] < 0.5 * losses[0]


def test_damping_changes_where_it_is_checked():
    """After the first step and every third: between them nothing is evaluated."""
    with jax.enable_x64(True):
        model, x, y = problem(Gaussian(1.0), 2)
        rule = LevenbergMarquardt(1.0, down=0.5, high=0.0, low=0.0, every=3)
        often = LevenbergMarquardt(1.0, down=0.5, high=0.0, low=0.0)
        found = []
        for damping in (rule, often):
            transform = natural_gradient(model, Gaussian(1.0), damping=damping)
            params = parameters(model)
            state = transform.init(params)
            update = jax.jit(lambda p, s, t=transform: t.update(p, s, p, x=x, y=y))
            seen = []
            for _ in range(7):
                before = float(state[0].damping)
                updates, state = update(params, state)
                params = optax.apply_updates(params, updates)
                seen.append((float(state[0].ratio), float(state[0].damping) / before))
            found.append(seen)
        told, factors = zip(*found[0], strict=True)
        checked = [True, False, True, False, False, True, False]
        assert [bool(np.isfinite(ratio)) for ratio in told] == checked
        assert list(factors) == [0.5 if here else 1.0 for here in checked]
        # the first steps, at equal damping, are judged alike
        assert told[0] == pytest.approx(found[1][0][0], rel=1e-12)
        with pytest.raises(ValueError, match="every >= 1"):
            LevenbergMarquardt(every=0)


def test_a_rejected_step_is_tried_again_with_a_check():
    """So little damping that several steps in a row overshoot."""
    with jax.enable_x64(True):
        model, x, y = problem(Gaussian(0.01), 2)
        model = jax.tree.map(lambda a: 4 * a if eqx.is_inexact_array(a) else a, model)
        rule = LevenbergMarquardt(initial=1e-9, rejected=50.0, every=50)
        transform = natural_gradient(model, Gaussian(0.01), damping=rule)
        params = parameters(model)
        state = transform.init(params)
        update = jax.jit(lambda p, s: transform.update(p, s, p, x=x, y=y))
        losses, rows = [], []
        for _ in range(20):
            now = eqx.combine(params, model)
            losses.append(float(jnp.sum((jax.vmap(now)(x) - y) ** 2)))
            updates, state = update(params, state)
            rows.append(int(state[0].in_a_row))
            params = optax.apply_updates(params, updates)
        assert max(rows) > 1
        # up to the first step that is taken, none is unchecked
        first = rows.index(0)
        assert all(loss == losses[0] for loss in losses[: first + 1])
        assert losses[first + 1] < losses[0]


def test_a_step_that_is_not_finite_is_rejected_between_checks():
    model, x, y = problem(Gaussian(1.0), 2)
    rule = LevenbergMarquardt(initial=1.0, every=5)
    transform = natural_gradient(model, Gaussian(1.0), damping=rule)
    params = parameters(model)
    _, state = transform.update(params, transform.init(params), params, x=x, y=y)
    before = float(state[0].damping)
    broken = y.at[0, 0].set(jnp.nan)
    updates, state = transform.update(params, state, params, x=x, y=broken)
    assert not np.any(jax.flatten_util.ravel_pytree(updates)[0])
    assert int(state[0].rejected) == 1
    assert float(state[0].damping) == pytest.approx(4 * before)


def test_targets_that_are_not_finite_leave_the_parameters_alone():
    model, x, y = problem(Gaussian(1.0), 2)
    y = y.at[3, 0].set(jnp.nan)
    for damping in (Constant(0.1), LevenbergMarquardt()):
        transform = natural_gradient(model, Gaussian(1.0), damping=damping)
        step, state = one(transform, model, x, y)
        assert not np.any(np.asarray(step))
        assert int(state.rejected) == int(state.in_a_row) == 1


def test_divergence_is_clipped_at_its_limit():
    with jax.enable_x64(True):
        model, x, y = problem(Categorical(), 3)
        rate = KLClip(1e-6)
        transform = natural_gradient(
            model, Categorical(), damping=1.0, learning_rate=rate
        )
        step, state = one(transform, model, x, y)
        _, unravel = jax.flatten_util.ravel_pytree(parameters(model))
        moved = eqx.apply_updates(model, unravel(step))
        p, q = (jax.nn.log_softmax(jax.vmap(m)(x), axis=-1) for m in (model, moved))
        divergence = float(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1)))
        # to second order in a small step
        assert divergence == pytest.approx(1e-6, rel=0.05)
        assert 0 < float(state.rate) < 1


def test_the_quadratic_model_is_exact_for_a_linear_network(getkey):
    """Whatever the damping of the direction, rate and momentum repair its length."""
    with jax.enable_x64(True):
        model = eqx.nn.Linear(1, 1, use_bias=False, key=getkey(), dtype=jnp.float64)
        x = jax.random.normal(getkey(), (20, 1))
        y = 3 * x + jax.random.normal(getkey(), (20, 1))
        transform = natural_gradient(
            model,
            Gaussian(1.0),
            damping=1e4,
            learning_rate=QuadraticModel(momentum=False),
        )
        # the damped model has the damped minimum: the direction itself
        step, state = one(transform, model, x, y)
        assert float(state.rate) == pytest.approx(1.0)
        plain = natural_gradient(model, Gaussian(1.0), damping=1e4)
        assert np.allclose(step, one(plain, model, x, y)[0])


def test_train_takes_it_with_prior_scaling_and_batches():
    """The maximum a posteriori of a linear network, in closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float64)
    y = x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=60)
    with jax.enable_x64(True):

        def build(key):
            return eqx.nn.Linear(3, 1, use_bias=False, key=key, dtype=jnp.float64)

        bnn = BNN(Network(build), Gaussian(0.5), NormalPrior(2.0))
        train = Train(natural_gradient(damping=1e-9), steps=3)
        found = MAP(train, rounds=1, tune=_fixed()).fit(
            bnn, Dataset(x, y), key=jax.random.key(0)
        )
        weight = np.asarray(found.bnn.model.weight)[0]
        matrix = x.T @ x / 0.25 + 2.0 * np.eye(3)
        assert np.allclose(weight, np.linalg.solve(matrix, x.T @ y / 0.25), atol=1e-8)
    # in batches and float32, scaled, it gets near
    bnn = BNN(
        Network(mlp(3, 1, width=8, depth=1)),
        Gaussian(0.1),
        NormalPrior(1.0),
        scaling=Standardize(),
    )
    data = Dataset(x.astype(np.float32), y.astype(np.float32))
    for optimizer in (natural_gradient(), gauss_newton()):
        train = Train(optimizer, steps=30, batch=30)
        model = MAP(train, rounds=1, tune=_fixed()).fit(
            bnn, data, key=jax.random.key(1)
        )
        error = model.predict(data.x).mean - data.y
        assert np.mean(np.asarray(error) ** 2) < 0.02 * np.var(data.y)


def _fixed():
    from ntkuq.models import Fixed

    return Fixed()


def test_train_says_what_went_wrong_with_the_steps():
    x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    data = Dataset(x, np.sin(3 * x[:, 0]))
    bnn = BNN(Network(mlp(1, 1, width=4, depth=1)), Gaussian(1e-3), NormalPrior(1.0))
    bnn = bnn.prepare(data)
    begin = bnn.network.init(jax.random.key(0))
    begin = jax.tree.map(lambda a: 9 * a if eqx.is_inexact_array(a) else a, begin)
    # so little damping that no step from there goes down, and it may not grow
    rule = LevenbergMarquardt(initial=1e-6, up=1.0, down=1.0, rejected=1.0)
    train = Train(natural_gradient(damping=rule), steps=15)
    with pytest.warns(UserWarning, match=r"last 15 of 15 were rejected.*parameters"):
        found = train.fit(bnn, begin, data, key=jax.random.key(0))
    assert eqx.tree_equal(parameters(found.model), parameters(begin))
    # uphill: the damping grows until a step is below rounding and so accepted
    train = Train(natural_gradient(learning_rate=-1.0), steps=30)
    with pytest.warns(UserWarning, match=r"\d+ of 30 were rejected.*damping \d"):
        train.fit(bnn, begin, data, key=jax.random.key(0))
    # each input twice, and no damping: singular, which is said
    twice = Dataset(np.tile(x[:2], (2, 1)), np.ones(4, np.float32))
    train = Train(natural_gradient(damping=0.0, solve=FunctionSpace()), steps=1)
    with pytest.warns(UserWarning, match="singular to rounding"):
        train.fit(
            bnn.with_prior(NormalPrior(1e-30)), begin, twice, key=jax.random.key(0)
        )


def test_optax_line_search_follows_in_a_chain():
    data = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    bnn = BNN(
        Network(mlp(1, 1, width=10, depth=1)), Gaussian(0.1), NormalPrior(0.1)
    ).prepare(Dataset(data, np.sin(3 * data[:, 0])))
    optimizer = optax.chain(
        natural_gradient(damping=1e-2),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=15),
    )
    found = Train(optimizer, steps=20).fit(
        bnn,
        bnn.network.init(jax.random.key(0)),
        Dataset(data, np.sin(3 * data[:, 0])),
        key=jax.random.key(1),
    )
    error = jax.vmap(found.model)(data)[:, 0] - np.sin(3 * data[:, 0])
    assert float(jnp.mean(error**2)) < 1e-3


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="momentum in"):
        natural_gradient(damping=1.0, momentum=1.0)
    with pytest.raises(ValueError, match="damping >= 0"):
        gauss_newton(damping=-1.0)
    with pytest.raises(ValueError, match="initial > 0"):
        LevenbergMarquardt(initial=0.0)
    model, x, y = problem(Gaussian(1.0), 2)
    with pytest.raises(ValueError, match="a network and a likelihood"):
        one(natural_gradient(damping=1.0), model, x, y)
    transform = natural_gradient(model, Gaussian(1.0), damping=1.0)
    with pytest.raises(ValueError, match="without randomness"):
        one(transform, model, x, y, noisy=True)
    monkeypatch.setattr("ntkuq.kernels.solvers.memory.available_bytes", lambda: 1e3)
    with pytest.raises(MemoryError, match=r"24 equations.*ConjugateGradients\(\)"):
        one(transform, model, x, y)

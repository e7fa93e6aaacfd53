"""The pieces of the studies against dense float64 Jacobians and brute force."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.data import Dataset, Split
from ntkuq.linearize import Jacobian
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    Poisson,
    Train,
    cast,
    forward,
    mlp,
    parameters,
)
from ntkuq.optimization import regime
from ntkuq.optimization.kernel_regime import Run, Setting
from ntkuq.optimization.kernel_regime.conditions import Conditions
from ntkuq.optimization.kernel_regime.descent import (
    contraction,
    descent_steps,
    lazy_steps,
    natural_path,
)
from ntkuq.optimization.kernel_regime.describe import step_size
from ntkuq.optimization.kernel_regime.drift import jacobian_changes, kernel_of
from ntkuq.optimization.kernel_regime.early import Early, remembering
from ntkuq.optimization.kernel_regime.layers import layer_spectrum, layers_of
from ntkuq.optimization.kernel_regime.phase import curvature
from ntkuq.optimization.kernel_regime.points import (
    first_rows,
    geometric_score,
    sample,
    squared_targets,
)
from ntkuq.optimization.kernel_regime.spectrum import Spectrum


N = 5


@pytest.fixture(scope="module")
def net():
    """A network of 2 outputs, N inputs, and its dense outputs and Jacobian."""
    model = mlp(3, 2, width=6, depth=2)(jax.random.key(3))
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (N, 3), jnp.float64)
        y = jax.random.normal(jax.random.key(2), (N, 2), jnp.float64)
        jacobian = Jacobian.at(model, jnp.ones(3, jnp.float32)).cast(np.dtype(float))
        wide = cast(model, jnp.float64)
        flat, unravel = jax.flatten_util.ravel_pytree(parameters(wide))

        def outputs(theta):
            now = eqx.combine(unravel(theta), wide)
            return jax.vmap(lambda a: forward(now, a))(x).reshape(-1)

        found = (jax.jit(outputs), jax.jit(jax.jacrev(outputs)), np.asarray(flat))
    return jacobian, x, y, found


def stacked(jacobian, thetas):
    rows = [jacobian.unravel(jnp.asarray(theta)) for theta in thetas]
    return [jnp.stack(leaves) for leaves in zip(*rows, strict=True)]


def test_change_of_the_jacobian_is_the_dense_one(net):
    jacobian, x, _, (_, slope, flat) = net
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        # the largest, a small and a tiny step, where Gram matrices would cancel
        thetas = [flat + r * rng.normal(size=flat.size) for r in (1.0, 1e-3, 1e-9)]
        found = jacobian_changes(jacobian, x, stacked(jacobian, thetas))
        j0 = np.asarray(slope(flat))
        dense = [np.linalg.norm(np.asarray(slope(t)) - j0, 2) for t in thetas]
        same = jacobian_changes(jacobian, x, stacked(jacobian, [flat]))
    # the dense difference itself is rounded: 1e-16 / 1e-9
    assert np.allclose(found, dense, rtol=1e-6)
    assert same.item() < 1e-15


def test_spectrum_is_that_of_the_dense_kernel(net):
    jacobian, x, _, (value, slope, flat) = net
    with jax.enable_x64(True):
        outputs, kernel = kernel_of(jacobian, x)
        j = np.asarray(slope(flat))
        assert np.allclose(outputs.reshape(-1), value(flat))
    values = np.linalg.svd(j, compute_uv=False) ** 2
    found = Spectrum.of(np.asarray(kernel))
    assert np.allclose([found.least, found.most], [values[-1], values[0]])
    assert found.floor == pytest.approx(2 * N * 2.0**-52 * values[0])
    assert found.sure
    assert not Spectrum(1e-13, 1.0, 1e-15).sure


def test_natural_gradient_follows_the_pseudo_inverse(net):
    jacobian, x, y, (value, slope, flat) = net
    with jax.enable_x64(True):
        squares, path = natural_path(jacobian, x, y, jnp.asarray(0.5), 6)
        squares = np.asarray(squares)
        theta, expected, thetas = flat.copy(), [], []
        for _ in range(7):
            r = np.asarray(value(theta)) - np.asarray(y).reshape(-1)
            expected.append(r @ r)
            thetas.append(theta)
            theta = theta - 0.5 * np.linalg.pinv(np.asarray(slope(theta))) @ r
        wanted = stacked(jacobian, thetas)
    assert np.allclose(squares, expected, rtol=1e-6)
    for got, want in zip(path, wanted, strict=True):
        assert np.allclose(got, want, rtol=1e-6, atol=1e-8)
    relative = squares / squares[0]
    assert contraction(squares) == pytest.approx(relative[-1] ** (1 / 6))


def test_rate_ends_where_it_means_nothing_more():
    assert contraction(np.array([1.0, 1e-31, 1e-31])) == pytest.approx(1e-31)
    assert contraction(np.array([1.0, 2.0, 1e9, 1e9])) == pytest.approx(1e9**0.5)
    assert contraction(np.array([1.0, np.nan, np.nan])) == 1e6
    with pytest.raises(ValueError, match="no residual"):
        contraction(np.zeros(3))


def test_gradient_descent_takes_as_many_steps_as_a_loop(net):
    jacobian, x, y, (value, slope, flat) = net
    with jax.enable_x64(True):
        rate = 0.05
        found, capped, wild = (
            float(descent_steps(jacobian, x, y, *map(jnp.asarray, step), cap))
            for *step, cap in ((rate, 0.5, 1000), (rate, 1e-6, 5), (1e6, 1e-3, 1000))
        )
        theta, count = flat.copy(), 0
        first = np.linalg.norm(np.asarray(value(theta)) - np.asarray(y).reshape(-1))
        while True:
            r = np.asarray(value(theta)) - np.asarray(y).reshape(-1)
            if np.linalg.norm(r) <= 0.5 * first:
                break
            theta, count = theta - rate * np.asarray(slope(theta)).T @ r, count + 1
    assert count > 3
    assert found == count
    assert np.isinf(capped)
    assert np.isinf(wild)


def test_predicted_steps_are_those_of_the_recursion():
    rng = np.random.default_rng(1)
    values, weights = rng.uniform(0.01, 1.0, 9), rng.uniform(size=9)
    for rate in (1.0, 1.9):
        r, count = np.sqrt(weights), 0
        while np.linalg.norm(r) > 1e-3 * np.sqrt(weights.sum()):
            r, count = r * (1 - rate * values), count + 1
        assert lazy_steps(values, weights, rate, 1e-3) == count
    assert np.isinf(lazy_steps(np.array([0.0]), np.ones(1), 1.0, 0.5))


def test_layer_blocks_are_those_of_the_dense_fisher(net):
    jacobian, x, _, (_, slope, flat) = net
    layers = layers_of(jacobian.model)
    assert layers == ((0, 1), (2, 3), (4, 5))
    with jax.enable_x64(True):
        values, ranks = layer_spectrum(jacobian, x, layers)
        j = np.asarray(slope(flat))
    ends = np.cumsum([0, *jacobian.sizes])
    fisher = np.zeros((flat.size, flat.size))
    for first, last in layers:
        at = slice(ends[first], ends[last + 1])
        fisher[at, at] = j[:, at].T @ j[:, at]
    # the limit of no damping
    inverse = np.linalg.inv(fisher + 1e-9 * np.eye(flat.size))
    expected = np.linalg.eigvalsh(j @ inverse @ j.T)
    assert np.allclose(values, expected, atol=1e-5)
    assert ranks.tolist() == [10, 10, 10]


@pytest.mark.parametrize("likelihood", [Gaussian(0.5), Categorical()])
def test_curvature_is_that_of_the_mean_loss(net, likelihood):
    jacobian, x, y, (value, slope, flat) = net
    with jax.enable_x64(True):
        if likelihood.classes:
            y = jnp.array([0, 1, 1, 0, 1], jnp.int32)
        found = float(curvature(jacobian, likelihood, x, y))
        j = np.asarray(slope(flat)).reshape(N, 2, -1)
        f = np.asarray(value(flat)).reshape(N, 2)
    if likelihood.classes:
        p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
        h = np.einsum("nc,cd->ncd", p, np.eye(2)) - p[:, :, None] * p[:, None]
    else:
        h = np.broadcast_to(np.eye(2) / 0.25, (N, 2, 2))
    total = np.einsum("ncp,ncd,ndq->pq", j, h, j) / N
    assert found == pytest.approx(np.linalg.eigvalsh(total)[-1], rel=1e-8)


def test_repeated_rows_are_found_over_all_leaves():
    x = {"a": np.array([1.0, 1.0, -0.0, 0.0, 1.0]), "b": np.array([1, 2, 3, 3, 1])}
    assert first_rows(x).tolist() == [0, 1, 2]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 3, (200, 4)).astype(float)
    assert len(first_rows(many)) == len({tuple(row) for row in many})


def test_geometric_mean_has_the_interval_of_its_logarithm():
    values = np.array([1.0, 10.0, 100.0])
    found = geometric_score(values)
    half = 4.302652729911275 * 1 / np.sqrt(3)  # t of 2 degrees, sd of log10 is 1
    assert found.value == pytest.approx(10.0)
    assert np.allclose(found.interval, [10 ** (1 - half), 10 ** (1 + half)])
    assert geometric_score(values[:1]).interval is None


def setting(train=None, likelihood=None, targets=None, model=None, n=40, runs=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = x[:, 0] if targets is None else targets
    data = Split(Dataset(x, y), None, Dataset(x, y))
    model = model or mlp(3, 1, width=4, depth=1)(jax.random.key(0))
    bnn = BNN(model, likelihood or Gaussian(), NormalPrior()).prepare(data.train)
    return Setting(bnn, data, train or Train(), (Run(model, model),) * runs)


def test_points_are_disjoint_for_one_pair_and_random_for_seeds():
    one = sample(setting(runs=1), None, key=jax.random.key(0))
    rows = np.concatenate([unit.part.x for unit in one.units])
    assert len(one.units) == 2
    assert len(np.unique(rows, axis=0)) == len(rows) == 40
    two = sample(setting(), 7, key=jax.random.key(0))
    assert [len(unit.part) for unit in two.units] == [7, 7]
    assert not np.array_equal(two.units[0].part.x, two.units[1].part.x)
    with pytest.raises(ValueError, match="at least 32 different training inputs"):
        sample(setting(runs=1, n=31), None, key=jax.random.key(0))


def test_a_kernel_that_does_not_fit_is_refused(monkeypatch):
    room = "ntkuq.kernels.solvers.memory.available_bytes"
    monkeypatch.setattr(room, lambda: 1000.0)
    with pytest.raises(MemoryError, match=r"40 inputs × 1.*fewer points"):
        sample(setting(), 40, key=jax.random.key(0))
    found = setting()
    with pytest.raises(MemoryError, match=r"\d+ test inputs × 1 outputs.*fewer test"):
        regime(
            found.bnn,
            found.data,
            initial=found.runs[0].initial,
            studies=(),
            key=jax.random.key(0),
        )


def test_targets_of_squared_error():
    with jax.enable_x64(True):
        codes = np.arange(40) % 3
        model = mlp(3, 3, width=4, depth=1)(jax.random.key(0))
        found = setting(likelihood=Categorical(), targets=codes, model=model)
        part = found.data.train
        assert np.array_equal(squared_targets(found.bnn, part), np.eye(3)[codes])
        found = setting(likelihood=Poisson(), targets=codes)
        with pytest.raises(ValueError, match=r"squared error.*Poisson with 1 outputs"):
            squared_targets(found.bnn, part)


@pytest.mark.parametrize(
    ("optimizer", "rate", "plain"),
    [
        (0.02, 0.02, False),
        (optax.adam(0.03), 0.03, False),
        (optax.sgd(0.3), 0.3, True),
        # peaks in the middle of the training
        (optax.sgd(optax.linear_onecycle_schedule(50, 0.2)), 0.2, True),
        # 1 / (1 - 0.5) in the long run
        (optax.sgd(0.1, momentum=0.5), 0.2, True),
    ],
)
def test_step_size_is_read_off_the_optimizer(optimizer, rate, plain):
    found, kind = step_size(setting(Train(optimizer, steps=50)))
    assert found == pytest.approx(rate, rel=1e-3)
    assert kind is plain


def test_early_parameters_are_those_of_a_shorter_training():
    made = setting()
    model, key = made.runs[0].initial, jax.random.key(5)
    x, y = made.bnn.inputs(made.data.train.x), made.bnn.targets(made.data.train)
    train = Train(optax.sgd(0.1), steps=20, batch=8)
    whole = train.run(made.bnn, model, x, y, key=key)
    found = remembering(train, 40, 0.25).run(made.bnn, model, x, y, key=key)
    short = Train(optax.sgd(0.1), steps=5, batch=8).run(made.bnn, model, x, y, key=key)
    assert isinstance(found.record, Early)
    assert eqx.tree_equal(found.model, whole.model)
    assert eqx.tree_equal(found.record.parameters, parameters(short.model))
    # a number is Adam with cosine decay here as there
    plain = Train(0.1, steps=20).run(made.bnn, model, x, y, key=key)
    again = remembering(Train(0.1, steps=20), 40, 0.25)
    again = again.run(made.bnn, model, x, y, key=key)
    ours, theirs = (jax.tree.leaves(parameters(m.model)) for m in (again, plain))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_no_study_takes_fewer_than_two_points():
    with pytest.raises(ValueError, match=r"Conditions: expected points >= 2.*got 1"):
        Conditions(points=1)
    with pytest.raises(ValueError, match="directions and steps >= 1"):
        Conditions(directions=0)

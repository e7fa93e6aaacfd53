"""The kernel-regime diagnostics against dense Jacobians and known regimes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.calibration import Score
from ntkuq.data import Dataset, Split
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    Network,
    NormalPrior,
    Standardize,
    Train,
    TrainingError,
    forward,
    mlp,
    parameters,
)
from ntkuq.optimization import Below, Claim, Regime, regime
from ntkuq.optimization.kernel_regime import LayerFisher, LazyPhase, Settling
from ntkuq.posteriors.laplace import Laplace


def split(n: int = 60, classes: bool = False) -> Split:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2 * n, 2)).astype(np.float32)
    y = np.sin(3 * x[:, 0]) + x[:, 1] + 0.1 * rng.normal(size=2 * n)
    y = (y > 0).astype(int) if classes else y
    whole = Dataset(x, y)
    return Split(whole.take(np.arange(n)), None, whole.take(np.arange(n, 2 * n)))


def shifted(model, size: float, key):
    """The same network a step of random direction away."""
    leaves, tree = jax.tree.flatten(parameters(model))
    keys = jax.random.split(key, len(leaves))
    moved = [
        leaf + size * jax.random.normal(k, leaf.shape)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(tree, moved), model)


def dense(model, x):
    """Outputs (N, C) and Jacobian (N C, P) in float64."""
    model = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    flat, unravel = jax.flatten_util.ravel_pytree(parameters(model))

    def outputs(theta):
        now = eqx.combine(unravel(theta), model)
        return jax.vmap(lambda a: forward(now, a))(x)

    j = jax.jacrev(outputs)(flat)
    f = np.asarray(outputs(flat))
    return f, np.asarray(j).reshape(f.size, -1), np.asarray(flat)


def test_numbers_equal_the_dense_ones(getkey):
    data = split(16)
    # 16 test inputs in two subsets of 8, whichever rows they are: compare on all
    initial = mlp(2, 1, width=6, depth=1)(getkey())
    model = shifted(initial, 0.3, getkey())
    bnn = BNN(Network(trained=model), Gaussian(0.1), NormalPrior())
    key = getkey()
    found = regime(bnn, data, initial=initial, studies=(), key=key)
    choose = jax.random.split(key, 6)[0]
    order = np.asarray(jax.random.permutation(choose, 16))
    posterior = Laplace().fit(bnn, data.train, key=key)
    values = []
    with jax.enable_x64(True):
        for rows in (order[:8], order[8:]):
            part = data.test.take(rows)
            x = jnp.asarray(part.x, jnp.float64)
            (f0, j0, t0), (f1, j1, t1) = dense(initial, x), dense(model, x)
            error = f1 - f0 - (j0 @ (t1 - t0)).reshape(f0.shape)
            std = np.sqrt(np.diag(posterior.joint(part.x).covariance))
            k0, k1 = j0 @ j0.T, j1 @ j1.T
            center = np.eye(8) - 1 / 8
            y = center @ part.y[:, None]

            def aligned(k, y=y, center=center):
                k = center @ k @ center
                return np.sum(k * (y @ y.T)) / np.linalg.norm(k) / np.sum(y**2)

            values.append(
                (
                    np.sqrt(np.mean((error[:, 0] / std) ** 2)),
                    np.linalg.norm(error) / np.linalg.norm(f1 - f0),
                    np.linalg.norm(k1 - k0) / np.linalg.norm(k0),
                    aligned(k1),
                    aligned(k0),
                    1 - np.sum(k0 * k1) / np.linalg.norm(k0) / np.linalg.norm(k1),
                )
            )
    expected = np.mean(values, axis=0)
    numbers = (
        found.linearization_error,
        found.relative_error,
        found.kernel_change,
        found.alignment,
        found.initial_alignment,
        found.kernel_angle,
    )
    assert np.allclose([s.value for s in numbers], expected, rtol=1e-6)
    assert {s.n for s in numbers} == {2}
    assert found.over == "subsets"


def test_linear_network_is_in_the_kernel_regime(getkey):
    bnn = BNN(
        Network(lambda key: eqx.nn.Linear(2, 1, key=key)), Gaussian(0.3), NormalPrior()
    )
    train = Train(1e-1, steps=100)
    found = regime(bnn, split(), train=train, seeds=2, studies=(), key=getkey())
    assert found.kernel_change.value < 1e-12
    assert found.linearization_error.value < 1e-4
    assert [claim.word for claim in found.claims] == ["confirmed"] * 3
    assert found.verdict.startswith("In the kernel regime.")
    assert found.over == "seeds"


def test_narrow_network_trained_hard_is_not(getkey):
    bnn = BNN(mlp(2, 1, width=6, depth=2), Gaussian(0.1), NormalPrior(), Standardize())
    train = Train(optax.adam(3e-2), steps=400)
    found = regime(bnn, split(), train=train, seeds=5, studies=(), key=getkey())
    assert [claim.word for claim in found.claims[:2]] == ["refuted", "refuted"]
    assert found.verdict.startswith("Not in the kernel regime.")
    assert found.linearization_error.value > 1.0
    assert found.kernel_change.n == 5


def test_deviations_shrink_with_the_step(getkey):
    data, key = split(32), getkey()
    initial = mlp(2, 1, width=8, depth=1)(getkey())
    direction = getkey()
    sizes = (0.04, 0.02, 0.01)
    found = [
        regime(
            BNN(shifted(initial, size, direction), Gaussian(0.1), NormalPrior()),
            data,
            initial=initial,
            studies=(),
            key=key,
        )
        for size in sizes
    ]
    # first order in the step, for the kernel and the relative error
    for name in ("kernel_change", "relative_error"):
        values = [getattr(one, name).value for one in found]
        assert np.allclose(np.divide(values[:-1], values[1:]), 2.0, rtol=0.2)


def test_classes_and_intervals_over_subsets(getkey):
    data = split(64, classes=True)
    initial = mlp(2, 2, width=8, depth=1)(getkey())
    model = shifted(initial, 0.5, getkey())
    bnn = BNN(Network(trained=model), Categorical(), NormalPrior())
    studies = (LayerFisher(points=8), Settling(), LazyPhase(points=8))
    found = regime(bnn, data, initial=initial, studies=studies, key=getkey())
    assert [claim.number for claim in found.claims] == [1, 2, 2, 10, 24, 25, 25]
    reasons = {claim.number: claim.reason for claim in found.claims[3:]}
    assert "pair was given" in reasons[24]
    assert found.setting["step size"].startswith("not known")
    assert found.kernel_change.n == 8
    low, high = found.kernel_change.interval
    assert low < found.kernel_change.value < high
    assert -1.0 <= found.alignment.value <= 1.0
    assert "subsets" in found.verdict
    assert "alignment at initialization" in str(found)


def test_a_training_that_diverges_is_an_error(getkey):
    bnn = BNN(mlp(2, 1, width=4, depth=1), Gaussian(0.1), NormalPrior())
    train = Train(optax.sgd(1e30), steps=50)
    with pytest.raises(TrainingError, match="not finite"):
        regime(bnn, split(32), train=train, seeds=2, key=getkey())


def test_same_key_same_numbers(getkey):
    data, key = split(32), getkey()
    bnn = BNN(mlp(2, 1, width=4, depth=1), Gaussian(0.1), NormalPrior())
    train = Train(1e-2, steps=50)
    first = regime(bnn, data, train=train, seeds=2, studies=(Settling(),), key=key)
    again = regime(bnn, data, train=train, seeds=2, studies=(Settling(),), key=key)
    assert first == again
    assert first.claims[-1].statistic.n == 2


def test_words_and_verdict_follow_the_intervals():
    def score(low, high):
        return Score((low + high) / 2, 0.01, 5, (low, high))

    assert Claim("", score(0.0, 0.09), Below(0.1, 0.3)).word == "confirmed"
    assert Claim("", score(0.31, 0.5), Below(0.1, 0.3)).word == "refuted"
    assert Claim("", score(0.05, 0.2), Below(0.1, 0.3)).word == "undecided"
    assert Claim("", Score(0.0, None, 1, None), Below(0.1, 0.3)).word == "undecided"
    middle = score(0.15, 0.25)
    found = Regime(middle, middle, middle, middle, middle, "seeds")
    assert found.verdict.startswith("Undecided.")


def test_what_does_not_fit_is_refused(getkey):
    data, model = split(32), mlp(2, 1, width=4, depth=1)(getkey())
    bnn = BNN(Network(trained=model), Gaussian(0.1), NormalPrior())
    with pytest.raises(ValueError, match="builder"):
        regime(bnn, data, key=getkey())
    other = mlp(2, 1, width=5, depth=1)(getkey())
    with pytest.raises(ValueError, match="start of training"):
        regime(bnn, data, initial=other, key=getkey())
    with pytest.raises(ValueError, match="trained network"):
        regime(
            BNN(mlp(2, 1), Gaussian(), NormalPrior()), data, initial=model, key=getkey()
        )
    with pytest.raises(ValueError, match="16 test inputs"):
        regime(bnn, split(10), initial=model, key=getkey())
    with pytest.raises(ValueError, match="seeds >= 2"):
        regime(BNN(mlp(2, 1), Gaussian(), NormalPrior()), data, seeds=1, key=getkey())

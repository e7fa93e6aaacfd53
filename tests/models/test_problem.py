"""Priors, scaling, networks and the `BNN` that holds them."""

import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    FanInPrior,
    Gaussian,
    HeteroscedasticGaussian,
    Network,
    NormalPrior,
    Standardize,
    mlp,
    parameters,
)


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def test_priors_are_normal_densities():
    theta = parameters(mlp(3, 2, width=4, depth=1)(KEY))
    fan_in = FanInPrior(weight_std=2.0, bias_std=0.5).scaled(3.0)
    per_leaf = NormalPrior(jax.tree.map(lambda leaf: 1.0 + leaf.ndim, theta))
    expected = {
        NormalPrior(2.0): [2.0] * 4,
        fan_in: [3 * 3 / 4, 3 / 0.25, 3 * 4 / 4, 3 / 0.25],
        per_leaf: [3.0, 2.0, 3.0, 2.0],
        per_leaf.scaled(0.5): [1.5, 1.0, 1.5, 1.0],
    }
    for prior, values in expected.items():
        total = 0.0
        for leaf, tau in zip(jax.tree.leaves(theta), values, strict=True):
            square = tau * np.asarray(leaf, float) ** 2
            total += 0.5 * np.sum(np.log(tau / (2 * np.pi)) - square)
        np.testing.assert_allclose(prior.log_prob(theta), total, rtol=1e-5)


@pytest.mark.parametrize("precision", [[1.0, 2.0], {"w": 1.0}, [1.0] * 4])
def test_precisions_have_the_form_of_the_parameters(precision):
    theta = parameters(mlp(3, 2, width=4, depth=1)(KEY))
    prior, found = NormalPrior(precision), type(precision).__name__
    message = f"each of their 4 arrays, got a {found} of {len(precision)}"
    with pytest.raises(ValueError, match=message):
        prior.log_prob(theta)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), np.float64(0), "a", None])
def test_precisions_are_positive(value):
    for make in (NormalPrior, lambda v: NormalPrior({"w": v})):
        with pytest.raises(ValueError, match="precision > 0"):
            make(value)
    with pytest.raises(ValueError, match="> 0"):
        FanInPrior(weight_std=value)
    with pytest.raises(ValueError, match="one precision for each parameter array"):
        NormalPrior(np.ones(3))


def test_constant_columns_become_zero():
    x = RNG.standard_normal((20, 4))
    x[:, 1] = 0.1
    x[:, 2] = 1e6 * (1 + 1e-13 * RNG.standard_normal(20))
    for dtype in (np.float64, np.float32):
        y = RNG.standard_normal(20)
        scaling = Standardize().fit(x.astype(dtype), y, continuous=True)
        z = scaling.inputs(x.astype(dtype))
        np.testing.assert_array_equal(z[:, 1:3], 0.0)
        np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-6)
        np.testing.assert_allclose(z[:, [0, 3]].std(0), 1.0, rtol=1e-6)
        new = np.full((2, 4), 7.0, dtype)
        assert np.isfinite(scaling.inputs(new)).all()
        np.testing.assert_array_equal(scaling.inputs(new)[:, 1:3], 0.0)
        on_device = scaling.inputs(jnp.asarray(x, jnp.float32))
        np.testing.assert_array_equal(on_device[:, 1], 0.0)
    assert scaling.fit(x + 1, y, continuous=True) is scaling


def test_constant_targets_are_refused():
    x = RNG.standard_normal((5, 2))
    for y in (np.full(5, 0.1), 0.1 + 1e-17 * RNG.standard_normal(5)):
        with pytest.raises(ValueError, match=r"constant target \(0.1 in all 5 rows"):
            Standardize().fit(x, y, continuous=True)
    two = np.stack([x[:, 0], np.full(5, 3.0)], axis=1)
    with pytest.raises(ValueError, match="constant target"):
        Standardize().fit(x, two, continuous=True)


def test_images_share_one_scale_and_pytrees_are_scaled_by_leaf():
    x = {"image": RNG.random((6, 1, 4, 4)), "age": 50 + RNG.standard_normal((6, 1))}
    scaling = Standardize().fit(x, np.arange(6.0), continuous=True)
    z = scaling.inputs(x)
    assert z["image"].mean() == pytest.approx(0, abs=1e-12)
    assert z["image"].std() == pytest.approx(1)
    assert z["age"].std() == pytest.approx(1)


def test_inputs_of_another_shape_are_refused():
    data = Dataset(RNG.standard_normal((8, 3)), RNG.standard_normal(8))
    bnn = BNN(mlp(3, 1), Gaussian(), scaling=Standardize()).prepare(data)
    with pytest.raises(ValueError, match=r"shape \(N, 3\), as in training, got \(8, 2"):
        bnn.inputs(data.x[:, :2])
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        bnn.inputs(data.x[0])
    plain = BNN(mlp(3, 1), Gaussian())
    with pytest.raises(ValueError, match=r"one example, of shape \(2,\)"):
        plain.inputs(data.x[:, :2])
    with pytest.raises(ValueError, match="leading axis of examples"):
        plain.inputs(np.float64(3.0))
    with pytest.raises(ValueError, match="not fitted yet"):
        Standardize().inputs(data.x)
    with pytest.raises(ValueError, match="not fitted yet"):
        Standardize().scale()


def test_inputs_of_another_form_are_refused():
    data = Dataset(RNG.standard_normal((8, 3)), RNG.standard_normal(8))
    bnn = BNN(mlp(3, 1), Gaussian(), scaling=Standardize()).prepare(data)
    with pytest.raises(ValueError, match=r"1 array\(s\) .* got a list of 8: .*stack"):
        bnn.inputs([*data.x])
    plain = BNN(mlp(3, 1)(KEY), Gaussian())
    for problem in (bnn, plain):
        found = problem.inputs(data.x.tolist())
        np.testing.assert_array_equal(found, problem.inputs(data.x))
    # values are looked at where predictions are asked for
    assert np.isnan(plain.inputs(np.full((1, 3), np.nan))).all()


MADE = {
    "text": (lambda n: BNN(n, "gaussian"), "likelihood: .*Gaussian.*, got 'gaussian'"),
    "class": (lambda n: BNN(n, Gaussian), r"the class Gaussian: call it, Gaussian\(\)"),
    "number": (lambda n: BNN(n, Gaussian(), 1.0), r"prior: .*NormalPrior.*, got 1.0"),
    "no prior": (lambda n: BNN(n, Gaussian(), None), "prior: .*, got None"),
    "scaling": (
        lambda n: BNN(n, Gaussian(), NormalPrior(), "std"),
        r"scaling: expected Standardize\(\), or None .*, got 'std'",
    ),
}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("case", MADE)
def test_problems_are_made_of_their_parts(case):
    make, message = MADE[case]
    with pytest.raises(TypeError, match=message):
        make(mlp(3, 1))


def test_a_network_without_parameters_is_refused():
    bnn = BNN(eqx.nn.Lambda(lambda x: x[:1]), Gaussian())
    with pytest.raises(
        ValueError, match=r"network with parameters.*got Lambda without"
    ):
        _ = bnn.dtype


def test_one_hot_rows_are_pointed_at():
    few = Dataset(RNG.standard_normal((6, 3)), np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ValueError, match=r"asks for 6 .* or give one-hot rows as"):
        BNN(mlp(3, 3), Categorical()).prepare(few)


def test_a_trained_network_is_looked_at_once():
    """Its inference mode, type and shapes are kept as long as it lives, no longer."""
    calls = []

    class Counted(eqx.Module):
        layer: eqx.nn.Linear
        drop: eqx.nn.Dropout

        def __call__(self, x):
            calls.append(x.shape)
            return self.layer(self.drop(x))

    def build(features):
        layer = eqx.nn.Linear(features, 1, key=KEY)
        return Counted(layer, eqx.nn.Dropout(0.5))

    data = Dataset(RNG.standard_normal((8, 3)), RNG.standard_normal(8))
    bnn = BNN(build(3), Gaussian()).prepare(data)
    model = bnn.model
    assert model.drop.inference
    assert bnn.with_noise(2.0).model is model
    assert bnn.inputs(data.x).dtype == np.float32
    assert bnn.outputs(data) == 1
    assert calls == [(3,)]
    # another network, at the same address perhaps
    for features in (2, 4, 5):
        other = BNN(build(features), Gaussian())
        assert other.outputs(Dataset(np.zeros((8, features)), data.y)) == 1
        assert calls[-1] == (features,)
        with pytest.raises(ValueError, match="one example, of shape"):
            other.outputs(data)
        del other
    gone = weakref.ref(bnn.network.trained)
    del bnn
    gc.collect()
    assert gone() is None


def test_types_follow_the_mode():
    """float64 is float32 where JAX is told so, whatever was asked before."""
    with jax.enable_x64(True):
        wide = eqx.nn.MLP(3, 1, 4, 1, dtype=np.dtype(float), key=KEY)
    bnn = BNN(wide, Gaussian())
    with pytest.warns(UserWarning, match="truncated to dtype float32"):
        assert bnn.dtype == np.float32
    with jax.enable_x64(True):
        assert bnn.dtype == np.float64
        assert bnn.inputs(np.zeros((2, 3))).dtype == np.float64


def test_tokens_stay_integers():
    class Tokens(eqx.Module):
        table: eqx.nn.Embedding

        def __call__(self, x):
            return jax.vmap(self.table)(x).mean(0)

    data = Dataset(RNG.integers(0, 7, (5, 3)), RNG.integers(0, 4, 5))
    bnn = BNN(Tokens(eqx.nn.Embedding(7, 4, key=KEY)), Categorical()).prepare(data)
    assert bnn.inputs(data.x).dtype == jnp.int32
    assert bnn.outputs(data) == 4


def test_outputs_fit_the_likelihood():
    x, y = RNG.standard_normal((6, 3)), RNG.standard_normal(6)
    labels = Dataset(x, np.array([0, 1, 2, 0, 1, 2]))
    binary = Dataset(x, np.array([0, 1, 1, 0, 1, 1]))
    fits = [
        (mlp(3, 1), Gaussian(), Dataset(x, y)),
        (mlp(3, 2), Gaussian(), Dataset(x, np.stack([y, y], 1))),
        (mlp(3, 2), HeteroscedasticGaussian(), Dataset(x, y)),
        (mlp(3, 5), Categorical(), labels),
        (mlp(3, 1), Bernoulli(), binary),
    ]
    for build, likelihood, data in fits:
        BNN(build, likelihood).prepare(data)
    clashes = [
        (mlp(3, 2), Gaussian(), Dataset(x, y), "asks for 1 .* has 2"),
        (mlp(3, 1), HeteroscedasticGaussian(), Dataset(x, y), "asks for 2 .* has 1"),
        (mlp(3, 2), Categorical(), labels, "asks for 3 .* or more .* has 2"),
        (mlp(3, 1), Categorical(), binary, "asks for 2 .* has 1"),
        (mlp(3, 2), Bernoulli(), binary, "asks for 1 .* has 2"),
        (mlp(4, 1), Gaussian(), Dataset(x, y), r"one example, of shape \(3,\)"),
    ]
    for build, likelihood, data, message in clashes:
        with pytest.raises(ValueError, match=message):
            BNN(build, likelihood).prepare(data)
    with pytest.raises(TypeError, match="integer class codes"):
        BNN(mlp(3, 2), Categorical()).prepare(Dataset(x, y))
    with pytest.raises(TypeError, match="Gaussian likelihood"):
        BNN(mlp(3, 2), Categorical()).with_noise(1.0)


def test_targets_are_scaled_back_and_forth():
    y = 100 + 5 * RNG.standard_normal((6, 2))
    data = Dataset(RNG.standard_normal((6, 3)), y)
    bnn = BNN(mlp(3, 2), Gaussian(), scaling=Standardize()).prepare(data)
    z = np.asarray(bnn.targets(data), float)
    np.testing.assert_allclose(
        z * bnn.scaling.scale() + bnn.scaling.loc(), y, rtol=1e-6
    )
    assert bnn.targets(data).dtype == jnp.float32


def test_networks_are_builders_modules_or_both():
    model = mlp(3, 1)(KEY)
    with pytest.raises(ValueError, match="train it first"):
        _ = BNN(mlp(3, 1), Gaussian()).model
    with pytest.raises(ValueError, match=r"needs a builder"):
        BNN(model, Gaussian()).network.init(KEY)
    with pytest.raises(ValueError, match="got neither"):
        Network()
    with pytest.raises(TypeError, match="pass it as trained="):
        Network(model)
    with pytest.raises(TypeError, match="got int"):
        BNN(3, Gaussian())
    both = BNN(Network(mlp(3, 1), model), Gaussian())
    assert both.trained
    assert both.size() == BNN(mlp(3, 1), Gaussian()).size()

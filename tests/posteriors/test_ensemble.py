"""Deep ensembles are the mixture of their members."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.models import BNN, Categorical, Gaussian, Network, Standardize, mlp
from ntkuq.posteriors.ensemble import DeepEnsemble
from tests.posteriors.test_map import KEY, SHORT, data, problem


@pytest.fixture(scope="module")
def fitted():
    seen = []
    posterior = DeepEnsemble(3, SHORT).fit(
        problem(), data(), callback=lambda *at: seen.append(at), key=KEY
    )
    steps = [step for step, _ in seen]
    assert steps == sorted(set(steps))
    assert steps[-1] == 3 * SHORT.steps
    return posterior


def test_mean_and_variance_are_those_of_the_members(fitted):
    d = data()
    x = (d.x - d.x.mean(0)) / d.x.std(0)
    f = np.stack(
        [jax.vmap(m)(jnp.asarray(x, jnp.float32))[:, 0] for m in fitted.members]
    )
    f = f * d.y.std() + d.y.mean()
    noise = d.y.std() ** 2  # scale 1 in the network's units
    p = fitted.predict(d.x)
    close = {"rtol": 1e-5}
    np.testing.assert_allclose(p.mean, f.mean(0), **close)
    np.testing.assert_allclose(p.epistemic, f.var(0), rtol=1e-4)
    np.testing.assert_allclose(p.aleatoric, np.full(30, noise), **close)
    # law of total variance
    np.testing.assert_allclose(p.observed.variance, f.var(0) + noise, **close)
    density = np.exp(-0.5 * (d.y - f) ** 2 / noise) / np.sqrt(2 * np.pi * noise)
    np.testing.assert_allclose(p.log_prob(d.y), np.log(density.mean(0)), rtol=1e-4)


def test_members_trained_elsewhere_give_the_same(fitted):
    again = DeepEnsemble.of(fitted.members, problem(), data())
    x = data().x[:5]
    np.testing.assert_array_equal(again.predict(x).mean, fitted.predict(x).mean)
    drawn = fitted.sample(KEY, 4)
    assert drawn.layers[0].weight.shape == (4, 5, 2)


def test_members_of_different_kinds_keep_their_own_activation():
    one = mlp(2, 1, width=5, activation=jnp.tanh)(KEY)
    two = mlp(2, 1, width=5, activation=jax.nn.relu)(KEY)
    posterior = DeepEnsemble.of([one, two], BNN(one, Gaussian()), data())
    x = jnp.asarray(data().x[:4], jnp.float32)
    expected = (jax.vmap(one)(x) + jax.vmap(two)(x))[:, 0] / 2
    np.testing.assert_allclose(posterior.predict(x).mean, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="one architecture"):
        posterior.sample(KEY, 2)


def test_several_outputs_and_classes():
    d = data(outputs=2)
    build = mlp(2, 2, width=5, depth=1)
    modules = [build(jax.random.key(n)) for n in range(2)]
    bnn = BNN(Network(build), Gaussian(np.array([0.5, 2.0])), scaling=Standardize())
    p = DeepEnsemble.of(modules, bnn, d).predict(d.x)
    assert p.mean.shape == p.epistemic.shape == p.aleatoric.shape == (30, 2)
    expected = (np.array([0.5, 2.0]) * d.y.std(0)) ** 2
    np.testing.assert_allclose(p.aleatoric[0], expected, rtol=1e-5)
    total = np.asarray(p.epistemic + p.aleatoric)
    np.testing.assert_allclose(p.observed.variance, total, rtol=1e-5)
    labels = Dataset(d.x, (d.y[:, 0] > 0).astype(int))
    p = DeepEnsemble.of(modules, BNN(Network(build), Categorical()), labels).predict(
        d.x
    )
    x = jnp.asarray(d.x, jnp.float32)
    probs = sum(jax.nn.softmax(jax.vmap(m)(x)) for m in modules) / 2
    np.testing.assert_allclose(p.mean, probs, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(p.mean).sum(-1), 1.0, rtol=1e-6)
    assert (np.asarray(p.epistemic) >= 0).all()


def test_bad_members_are_refused():
    good = mlp(2, 1, width=5)(KEY)
    bnn = BNN(good, Gaussian())
    with pytest.raises(ValueError, match="2 or more modules, got 1"):
        DeepEnsemble.of([good], bnn, data())
    with pytest.raises(ValueError, match="the network has 2"):
        DeepEnsemble.of([good, mlp(2, 2)(KEY)], bnn, data())
    broken = eqx.tree_at(
        lambda m: m.layers[0].bias, good, good.layers[0].bias.at[0].set(jnp.inf)
    )
    with pytest.raises(ValueError, match="finite weights"):
        DeepEnsemble.of([good, broken], bnn, data())

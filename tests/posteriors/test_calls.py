"""Calls of methods and posteriors that are refused, and in which words."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import DataError, Dataset
from ntkuq.models import BNN, Bernoulli, Gaussian, Standardize, Train, mlp
from ntkuq.models.hyperparameters import Fixed
from ntkuq.posteriors import MAP
from ntkuq.posteriors.laplace import (
    KFAC,
    CrossValidation,
    Full,
    GridSearch,
    Laplace,
    LastLayer,
    LowRank,
)


pytestmark = pytest.mark.usefixtures("untyped")
KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((12, 3))
DATA = Dataset(X, np.sin(X[:, 0]))
NETWORK = eqx.nn.MLP(3, 1, 4, 1, jnp.tanh, key=KEY)


@functools.cache
def fitted(name):
    scaling = Standardize() if name == "scaled" else None
    if name == "map":
        return MAP(Train(steps=2)).fit(BNN(mlp(3, 1), Gaussian()), DATA, key=KEY)
    bnn = BNN(NETWORK, Gaussian(), scaling=scaling)
    return Laplace(tune=Fixed()).fit(bnn, DATA)


POSTERIORS = ("laplace", "scaled", "map")
INPUTS = {
    "nan": (np.full((2, 3), np.nan), "finite numbers, came nan in row 0, column 0"),
    "complex": (X + 1j, "expected numbers"),
    "none": (X[:0], "at least one input"),
    "data set": (DATA, "give data.x"),
}


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("name", POSTERIORS)
def test_inputs_are_checked(name, case):
    x, message = INPUTS[case]
    posterior = fitted(name)
    for call in ("predict", "latent", "joint", "joint_operator"):
        if hasattr(posterior, call):
            with pytest.raises(DataError, match=message):
                getattr(posterior, call)(x)
    if hasattr(posterior, "sample_functions"):
        with pytest.raises(DataError, match=message):
            posterior.sample_functions(KEY, 2)(x)


@pytest.mark.parametrize("name", POSTERIORS)
def test_lists_are_inputs_and_traced_values_are_not_looked_at(name):
    posterior = fitted(name)
    expected = posterior.predict(X).mean
    np.testing.assert_array_equal(posterior.predict(x=X.tolist()).mean, expected)
    traced = eqx.filter_jit(lambda x: posterior.predict(x).mean)(X)
    np.testing.assert_allclose(traced, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [0, -1, 2.0, None])
def test_at_least_one_sample(n):
    for call in (fitted("laplace").sample_functions, fitted("laplace").sample):
        with pytest.raises(ValueError, match=f"at least one sample, .* got n = {n}"):
            call(KEY, n)
    with pytest.raises(ValueError, match="at least one sample"):
        fitted("map").sample(KEY, n=n)


MADE = {
    "structure": (lambda: Laplace("full"), r"structure: expected Full\(\).*got 'full'"),
    "no structure": (lambda: Laplace(None), "structure: .*got None"),
    "a class": (lambda: Laplace(KFAC), r"the class KFAC: call it, KFAC\(\)"),
    "subset": (lambda: Laplace(subset="last"), r"subset: .*LastLayer\(\).*got 'last'"),
    "subset class": (lambda: Laplace(subset=LastLayer), r"call it, LastLayer\(\)"),
    "tune": (lambda: Laplace(tune=Fixed), r"tune: .*call it, Fixed\(\)"),
    "link": (lambda: Laplace(link="probit"), r"link: .*Probit\(\).*got 'probit'"),
    "view": (lambda: Full(view="weight"), r"Full: view: .*WeightSpace\(\).*'weight'"),
    "nested": (lambda: Full(KFAC()), "Full: view: .*got KFAC"),
    "sharing": (lambda: KFAC(Full()), r"KFAC: sharing: expected Expand\(\).*got Full"),
    "fisher": (lambda: KFAC(fisher="a"), r"KFAC: fisher: .*ExactFisher\(\).*got 'a'"),
    "validation": (lambda: GridSearch(None), r"validation: .*Dataset\(x, y\), got No"),
    "a pair": (lambda: GridSearch((X, X[:, 0])), "validation: .* got tuple"),
    "a network": (lambda: Laplace().fit(NETWORK, DATA), r"Laplace.fit: .*BNN\(.*MLP"),
    "its cost": (lambda: MAP().cost(NETWORK, DATA), r"MAP.cost: .*BNN\(.* got MLP"),
}


@pytest.mark.parametrize("case", MADE)
def test_parts_of_another_type_are_refused_at_once(case):
    make, message = MADE[case]
    with pytest.raises(TypeError, match=message):
        make()


def test_numbers_are_whole():
    with pytest.raises(ValueError, match=r"LowRank: expected rank >= 1.*got 2.5"):
        LowRank(2.5)
    with pytest.raises(ValueError, match=r"a whole number of folds >= 2, got 5.0"):
        CrossValidation(folds=5.0)


def test_the_evidence_is_asked_for_with_numbers_that_fit():
    posterior = fitted("laplace")
    with jax.enable_x64(True):
        assert np.isfinite(posterior.log_evidence(np.zeros(4), 1.0))
    with pytest.raises(ValueError, match=r"shape \(\) or \(4,\).* got \(3,\)"):
        posterior.log_evidence(np.zeros(3))
    labels = Dataset(X, (X[:, 0] > 0).astype(int))
    without = [
        Laplace(KFAC(), tune=Fixed()).fit(BNN(NETWORK, Bernoulli()), labels),
        Laplace(KFAC(), LastLayer(), Fixed()).fit(BNN(NETWORK, Gaussian()), DATA),
    ]
    for posterior in without:
        with pytest.raises(ValueError, match=r"expected log_noise = 0, .* got 1.0"):
            posterior.log_evidence(0.0, 1.0)
        assert np.isfinite(posterior.log_evidence(0.0))
        traced = jax.jit(lambda noise, p=posterior: p.log_evidence(0.0, noise))
        assert np.isfinite(traced(0.0))


def test_few_labels_are_added():
    y = np.array([[0, 1, 0], [1, 1, 0]] * 6)
    data = Dataset(X, y)
    bnn = BNN(eqx.nn.MLP(3, 3, 4, 1, jnp.tanh, key=KEY), Bernoulli())
    posterior = Laplace(KFAC(), tune=Fixed()).fit(bnn, data)
    more = posterior.update(data.take([0])).update(Dataset(X[:1], y[:1]))
    assert more.problem.fit.count == 14 * 3

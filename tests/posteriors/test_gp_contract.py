"""Bad input: every GP method and solver gives finite answers, or refuses in words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.kernels import (
    RBF,
    ComputationAware,
    ConjugateGradients,
    Inducing,
    SubsetOfData,
)
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Standardize,
)
from ntkuq.models.hyperparameters import Fixed, LeaveOneOut, MarginalLikelihood
from ntkuq.posteriors.gp import (
    GP,
    NNGP,
    NTKGP,
    EllipticalSlice,
    LabelRegression,
    WideEnsemble,
)


RNG = np.random.default_rng(6)
KEY = jax.random.key(0)
TUNE = MarginalLikelihood(max_steps=10)
PLAIN = RBF(ard=False)
X = RNG.standard_normal((6, 2))
Y = RNG.standard_normal(6)
TWICE = np.concatenate([X[:3], X[:3]])
REGRESSION = {
    "duplicates": (TWICE, Y),
    "one point": (X[:1], np.array([3.0])),
    "constant": (X, np.full(6, 7.0)),
    "tiny": (1e-8 * X, 1e-8 * Y),
    "huge": (1e8 * X, 1e8 * Y),
    "wild": (X * np.array([1e8, 1e-8]), Y),
    "single": (X.astype(np.float32), Y.astype(np.float32)),
}
METHODS = {
    "gp": GP(PLAIN, TUNE),
    "gp leaving one out": GP(PLAIN, LeaveOneOut(max_steps=10)),
    "nngp": NNGP(tune=TUNE),
    "ntkgp": NTKGP(tune=TUNE),
    "at a time": NTKGP(tune=Fixed(), time=3.0),
    "ensemble": WideEnsemble(tune=Fixed()),
    "conjugate gradients": GP(PLAIN, Fixed(), solver=ConjugateGradients()),
    "computation aware": NTKGP(tune=Fixed(), solver=ComputationAware(steps=4)),
    "subset": GP(PLAIN, Fixed(), solver=SubsetOfData(4)),
    "inducing": GP(PLAIN, Fixed(), solver=Inducing(4)),
}


def network(outputs=1):
    return lambda key: eqx.nn.MLP(2, outputs, 8, 2, jax.nn.relu, key=key)


def finite(posterior, x, y):
    p = posterior.predict(x)
    assert np.isfinite(p.mean).all()
    assert np.isfinite(p.log_prob(y)).all()
    if p.epistemic is not None:
        assert (np.asarray(p.epistemic) >= 0).all()
    if posterior.log_marginal_likelihood is not None:
        assert np.isfinite(posterior.log_marginal_likelihood)
    return p


@pytest.mark.parametrize("case", REGRESSION)
@pytest.mark.parametrize("name", METHODS)
def test_regression(name, case):
    x, y = REGRESSION[case]
    p = finite(
        METHODS[name].fit(BNN(network(), Gaussian()), Dataset(x, y), key=KEY), x, y
    )
    assert p.mean.dtype == jnp.float32
    assert (np.asarray(p.observed.variance) > 0).all()
    if case == "constant":
        np.testing.assert_allclose(p.mean, 7.0, atol=1e-4)
    if case == "one point":
        np.testing.assert_allclose(p.mean, 3.0, atol=1e-4)


@pytest.mark.parametrize("case", ["duplicates", "one point", "tiny", "huge", "single"])
def test_noise_of_its_own(case):
    x, y = REGRESSION[case]
    size = np.abs(y).max()
    noise = Dataset(x, y, noise_scale=0.3 * size * np.ones(len(y)))
    finite(GP(PLAIN, TUNE).fit(BNN(network(), Gaussian(size)), noise, key=KEY), x, y)
    bnn = BNN(network(2), HeteroscedasticGaussian())
    finite(GP(PLAIN, TUNE).fit(bnn, Dataset(x, y), key=KEY), x, y)


@pytest.mark.parametrize("case", ["duplicates", "one point", "tiny", "huge"])
def test_classes(case):
    x, _ = REGRESSION[case]
    y = np.arange(len(x)) % 2
    data = Dataset(x, y)
    two = BNN(network(2), Categorical(), scaling=Standardize())
    finite(GP(PLAIN, TUNE).fit(two, data, key=KEY), x, y)
    finite(LabelRegression(GP(PLAIN, Fixed())).fit(two, data, key=KEY), x, y)
    short = EllipticalSlice(samples=20, warmup=20, thin=1, chains=2)
    one = BNN(network(), Bernoulli())
    finite(GP(PLAIN, Fixed(), short).fit(one, data, key=KEY), x, y)


def test_a_constant_target_is_not_standardized():
    with pytest.raises(ValueError, match="expected targets that vary"):
        GP().fit(
            BNN(network(), Gaussian(), scaling=Standardize()),
            Dataset(X, np.full(6, 7.0)),
            key=KEY,
        )

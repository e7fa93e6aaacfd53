"""Methods on batches: the posterior of the whole, with one batch in memory."""

import jax
import numpy as np
import pytest

from ntkuq.data import Batches, BatchesChanged, DataError, Dataset
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Fixed,
    Gaussian,
    Network,
    Poisson,
    Standardize,
    Train,
    mlp,
)
from ntkuq.posteriors import (
    GP,
    KFAC,
    MAP,
    DeepEnsemble,
    Diagonal,
    Full,
    Laplace,
    WeightSpace,
    estimate,
)


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
CASES = {
    "gaussian": (Gaussian(0.5), np.sin(X[:, 0]), 1),
    "categorical": (Categorical(), (X[:, 0] > 0).astype(int) + (X[:, 1] > 0), 3),
    "counts": (Poisson(), RNG.poisson(2.0, 40).astype(float), 1),
    "bernoulli": (Bernoulli(), (X[:, 0] > 0).astype(int), 1),
}


def problem(name):
    likelihood, y, outputs = CASES[name]
    build = mlp(3, outputs, width=5, depth=1)
    network = Network(build, build(KEY))
    return BNN(network, likelihood, scaling=Standardize()), Dataset(X, y)


@pytest.mark.parametrize(
    ("structure", "name"),
    [
        (KFAC(), "gaussian"),
        (KFAC(), "categorical"),
        (Diagonal(), "bernoulli"),
        (Full(WeightSpace()), "counts"),
    ],
    ids=["kfac", "kfac of classes", "diagonal", "full"],
)
@pytest.mark.filterwarnings("ignore::ntkuq.posteriors.NotAtMAP")
def test_laplace_of_batches_is_that_of_the_dataset(name, structure):
    bnn, data = problem(name)
    method = Laplace(structure, tune=Fixed())
    whole = method.fit(bnn, data, key=KEY)
    parts = method.fit(bnn, Batches.of(data, size=7), key=KEY)
    # sums in another order, in float64 for Full and else in float32
    rtol = 1e-10 if structure.double else 1e-4
    evidence = parts.log_marginal_likelihood
    assert evidence == pytest.approx(whole.log_marginal_likelihood, rel=rtol)
    one, two = whole.predict(X), parts.predict(X)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-5, atol=1e-6)
    spread, other = np.asarray(one.epistemic), np.asarray(two.epistemic)
    np.testing.assert_allclose(spread, other, rtol=1e-3, atol=1e-6)


def test_a_plain_list_of_batches_is_data():
    bnn, data = problem("gaussian")
    pairs = [(data.x[:25], data.y[:25]), (data.x[25:], data.y[25:])]
    train = Train(1e-2, steps=20, batch=8)
    for method in (MAP(train, rounds=2), DeepEnsemble(2, train)):
        posterior = method.fit(bnn, pairs, key=KEY)
        assert np.isfinite(posterior.predict(X).mean).all()
        again = method.fit(bnn, Batches.of(data, size=9), key=KEY)
        # regrouped to 8 rows, the batches are the same
        np.testing.assert_allclose(
            again.predict(X).mean, posterior.predict(X).mean, rtol=1e-3, atol=1e-4
        )


def test_batches_that_do_not_repeat_are_refused():
    bnn, data = problem("gaussian")

    class Shuffled:
        def __iter__(self):
            for rows in np.array_split(RNG.permutation(40), 4):
                yield data.x[rows], data.y[rows]

    with pytest.raises(BatchesChanged, match="shuffle=False"):
        Laplace(KFAC()).fit(bnn, Shuffled(), key=KEY)
    with pytest.raises(DataError, match="one-shot iterator list_it"):
        Laplace(KFAC()).fit(bnn, iter([(data.x, data.y)]), key=KEY)
    two = Batches([(data.x, np.stack([data.y, data.y], 1))])
    with pytest.raises(ValueError, match="asks for 2 network"):
        Laplace(KFAC()).fit(bnn, two, key=KEY)
    classes, _ = problem("categorical")
    with pytest.raises(TypeError, match="integer class codes"):
        Laplace(KFAC()).fit(classes, Batches.of(data, size=9), key=KEY)


def test_methods_that_need_all_rows_take_batches_too():
    bnn, data = problem("gaussian")
    method = GP(tune=Fixed())
    one = method.fit(bnn, Batches.of(data, size=9), key=KEY)
    two = method.fit(bnn, data, key=KEY)
    np.testing.assert_array_equal(one.predict(X).mean, two.predict(X).mean)
    assert estimate(Laplace(KFAC()), bnn, Batches.of(data, size=9)) == estimate(
        Laplace(KFAC()), bnn, data
    )

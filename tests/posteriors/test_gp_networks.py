"""GP posteriors of networks with a `__call__` of their own, and of several depths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.kernels import Analytic
from ntkuq.models import BNN, Fixed, Gaussian, Network, NormalPrior, Standardize
from ntkuq.posteriors import NNGP, NTKGP, load, save


KEY = jax.random.key(0)
X = np.random.default_rng(1).standard_normal((24, 2)).astype(np.float32)
DATA = Dataset(X, np.sin(2 * X[:, 0]).astype(np.float32))


class Plain(eqx.Module):
    """Nonlinearities that only the trace shows."""

    first: eqx.nn.Linear
    inner: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(2, 8, key=keys[0])
        self.inner = eqx.nn.Linear(8, 8, key=keys[1])
        self.last = eqx.nn.Linear(8, 1, key=keys[2])

    def __call__(self, x):
        h = jnp.tanh(self.first(x))
        return self.last(jax.nn.silu(self.inner(h)))


class Branched(Plain):
    """The same layers with a residual branch."""

    def __call__(self, x):
        h = self.first(x)
        return self.last(jnp.tanh(h + self.inner(jnp.tanh(h))))


def problem(build):
    prior = NormalPrior(precision=1.0)
    return BNN(Network(build), Gaussian(0.1), prior, scaling=Standardize())


@pytest.mark.parametrize("build", [Plain, Branched])
def test_round_trip_of_a_network_with_a_call_of_its_own(build, tmp_path, need):
    need("frozendict")
    method = NTKGP(tune=Fixed())
    bnn = problem(build)
    posterior = method.fit(bnn, DATA, key=KEY)
    save(tmp_path / "posterior", posterior, data=DATA)
    again = load(tmp_path / "posterior", problem(build), data=DATA)
    assert bool(eqx.tree_equal(posterior, again, typematch=True))
    for a, b in zip(
        jax.tree.leaves(posterior.predict(X)), jax.tree.leaves(again.predict(X))
    ):
        np.testing.assert_array_equal(a, b)
    # read again, it is the same program: nothing is compiled for another fit
    other = method.fit(bnn, DATA, key=KEY)
    assert eqx.tree_equal(other.covariance, posterior.covariance)
    static = [jax.tree.structure(p.covariance) for p in (posterior, other, again)]
    assert static[0] == static[1] == static[2]
    assert hash(static[0]) == hash(static[1])


def test_depth_is_chosen_by_the_evidence():
    def build(key):
        return eqx.nn.MLP(2, 1, 8, 2, key=key)

    bnn = problem(build)
    one = {
        depth: NNGP(Analytic(depth=depth), tune=Fixed()).fit(bnn, DATA, key=KEY)
        for depth in (1, 4)
    }
    best = max(one, key=lambda depth: one[depth].log_marginal_likelihood)
    chosen = NNGP(Analytic(depth=(1, 4)), tune=Fixed()).fit(bnn, DATA, key=KEY)
    assert chosen.diagnostics["depth"] == best
    assert chosen.diagnostics["log evidence by depth"] == {
        str(depth): posterior.log_marginal_likelihood
        for depth, posterior in one.items()
    }
    np.testing.assert_array_equal(chosen.predict(X).mean, one[best].predict(X).mean)

"""Bayesian optimization with surrogates other than the plain GP."""

import jax
import numpy as np
import optax
import pytest

import ntkuq as nq
from ntkuq.decisions import LogEI, Thompson
from ntkuq.decisions.search import BayesOpt, Box, Optimizer, Retrained


TRAIN = nq.Train(optax.adam(1e-2), steps=100)
METHODS = {
    "ensemble": nq.DeepEnsemble(3, train=TRAIN),
    "laplace": Retrained(nq.MAP(TRAIN, rounds=1), nq.Laplace()),
    "ntk": nq.NTKGP(),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ensemble", marks=pytest.mark.long),
        "laplace",
        # its kernel and gradients take minutes to compile
        pytest.param("ntk", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("acquisition", [LogEI(), Thompson()], ids=["logei", "ts"])
def test_any_method_asks_for_a_batch(name, acquisition):
    box = Box(np.array([-1.0]), np.array([3.0]))
    bnn = nq.BNN(
        nq.Network(nq.models.mlp(1, 1, width=16)),
        nq.Gaussian(0.05),
        nq.NormalPrior(),
        scaling=nq.Standardize(),
    )
    search = BayesOpt(
        METHODS[name],
        acquisition,
        box,
        optimizer=Optimizer(candidates=64, near=16, restarts=4, steps=10),
    )
    x = np.linspace(-1.0, 3.0, 6)[:, None]
    state = search.init(
        bnn, nq.Dataset(x, -((x[:, 0] - 1.3) ** 2)), key=jax.random.key(0)
    )
    asked, after = search.ask(state, 2)
    again, _ = search.ask(state, 2)
    assert np.array_equal(asked, again)
    assert asked.shape == (2, 1)
    # no point twice, none that is known
    assert abs(asked[0, 0] - asked[1, 0]) > 1e-6
    assert np.abs(asked - x.T).min() > 1e-6
    assert np.isfinite(after.pending).all()
    gradients = after.diagnostics["chosen by"] == "gradients"
    assert gradients == (name == "ntk")
    told = search.tell(after, asked, -((asked[:, 0] - 1.3) ** 2))
    assert told.calibration.z.size == 2

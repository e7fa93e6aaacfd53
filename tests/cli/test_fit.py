"""`ntkuq fit`: the posterior of a comparison, in a file."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli import main
from tests.cli.conftest import QUICK


TABLE = ["--data", "houses.csv", "--target", "price"]


@pytest.mark.parametrize("method", [QUICK, "Laplace(structure=Diagonal())"])
def test_it_is_the_posterior_of_a_comparison(method, here, capsys):
    import nets

    flags = ["nets:build", *TABLE, "--seed", "5", "--method", method]
    assert main(["compare", *flags, "--out", "run", "--quiet"]) == 0
    assert main(["fit", *flags, "--out", "post.eqx"]) == 0
    out = capsys.readouterr().out
    assert "noise scale" in out
    assert "saved  post.eqx" in out
    posterior = nq.load("post.eqx", nq.BNN(nq.Network(nets.build), nq.Gaussian()))
    data = nq.data.read("houses.csv", target="price")
    key = jax.random.fold_in(jax.random.key(5), 1)
    test = data.split(train=0.8, test=0.2, key=key).test
    stored = json.loads((here / "run" / "run.json").read_text())["methods"][0]
    with np.load(here / "run" / stored["predictions"]) as found:
        p = posterior.predict(test.x)
        np.testing.assert_array_equal(np.asarray(p.mean), found["mean"])
        np.testing.assert_array_equal(np.sqrt(p.observed.variance), found["std"])


def test_json_is_one_document_and_all_rows_are_used(here, capsys):
    flags = [*TABLE, "--method", "GP(kernel=RBF(ard=False))", "--split", "1"]
    assert main(["fit", *flags, "--json", "--out", "gp.eqx"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["n_train"] == 60
    assert record["posterior"] == "gp.eqx"
    assert {"name", "value", "se", "at_bound", "unit"} == set(
        record["hyperparameters"][0]
    )
    assert "60 training rows" in err
    # never written over unless asked
    before = (here / "gp.eqx").read_bytes()
    assert main(["fit", *flags, "--out", "gp.eqx"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (here / "gp.eqx").read_bytes() == before
    assert main(["fit", *flags, "--out", "gp.eqx", "--force", "--quiet"]) == 0
    assert capsys.readouterr().out == "gp.eqx\n"


def test_a_fit_that_fails_exits_with_3_and_writes_nothing(here, capsys):
    flags = [*TABLE, "--method", "MAP(train=Train(1e12, steps=50))"]
    assert main(["fit", *flags, "--out", "m.eqx"]) == 3
    assert "failed" in capsys.readouterr().out
    assert not (here / "m.eqx").exists()
    assert main(["fit", *flags, "--out", "m.eqx", "--json"]) == 3
    assert "diverged" in json.loads(capsys.readouterr().out)["failed"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (TABLE, ["--method"]),
        ([*TABLE, "--method", "KFAC()"], ["part of one"]),
        ([*TABLE, "--method", QUICK, "--out", "absent/m.eqx"], ["--out", "directory"]),
        ([*TABLE, "--method", QUICK, "--out", "."], ["--out", "a directory"]),
        ([*TABLE, "--method", QUICK, "--max-memory", "1e-6"], ["GB", "allowed"]),
        ([*TABLE, "--method", QUICK, "--split", "0.5"], ["sum to 1"]),
        (["nets:wide", *TABLE, "--method", QUICK], ["1 network output", "has 2"]),
    ],
)
def test_what_cannot_be_fitted_is_refused(flags, words, here, capsys):
    if "nets:wide" not in flags:
        flags = ["nets:build", *flags]
    assert main(["fit", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    for word in words:
        assert word in err
    assert not list(here.glob("*.eqx"))


def test_weights_are_used_as_they_are(here, capsys):
    import nets

    net = nets.build(jax.random.key(3))
    eqx.tree_serialise_leaves(here / "net.eqx", net)
    flags = ["nets:build", "--weights", "net.eqx", *TABLE, "--scaling", "none"]
    assert main(["fit", *flags, "--method", "MAP(train=None)", "--out", "m.eqx"]) == 0
    posterior = nq.load("m.eqx", net)
    assert eqx.tree_equal(posterior.bnn.network.trained, net)

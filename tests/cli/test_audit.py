"""`ntkuq audit`: every check fires where it should, and only there."""

import json
import re

import equinox as eqx
import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli import main
from ntkuq.data import Dataset, Split
from ntkuq.report.checks import CHECKS, Inputs, run_checks
from tests.cli.conftest import houses, write_csv


TABLE = ["--data", "houses.csv", "--target", "price"]


class WithDropout(eqx.Module):
    """A network with a dropout layer."""

    first: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key, rate=0.3):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(2, 4, key=keys[0])
        self.dropout = eqx.nn.Dropout(rate)
        self.last = eqx.nn.Linear(4, 1, key=keys[1])

    def __call__(self, x, key=None):
        return self.last(self.dropout(jax.nn.relu(self.first(x)), key=key))


def data(rows=40, seed=0, **changes):
    """Random rows of two features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    given = {"x": x, "y": x[:, 0] + rng.normal(size=rows), "features": ("a", "b")}
    given |= changes
    return Dataset(given.pop("x"), given.pop("y"), **given)


def inputs(train=None, test=None, bnn=None, **rest):
    train = data() if train is None else train
    test = data(20, seed=1) if test is None else test
    bnn = bnn or nq.BNN(nq.models.mlp(2, 1, width=4), nq.Gaussian())
    return Inputs(bnn, Split(train, None, test), **rest)


def found(code, given):
    (check,) = run_checks(given, only=[code])
    assert check.code == code
    return check.severity, check.text


def test_codes_are_listed_once_and_titles_differ():
    assert all(re.fullmatch(r"NQ\d{3}", code) for code in CHECKS)
    assert len({title for title, _ in CHECKS.values()}) == len(CHECKS)


def test_nothing_is_found_in_a_sound_problem():
    many = inputs(data(2000), data(1000, seed=1), methods={"MAP": nq.MAP()})
    severities = {check.code: check.severity for check in run_checks(many)}
    assert set(severities.values()) == {"passed", "not applicable"}


def test_remarks_are_tips():
    assert found("NQ001", inputs(remarks=("odd",))) == ("tip", "odd")


def test_constant_columns():
    x = np.random.default_rng(0).normal(size=(40, 2))
    x[:, 1] = 7.0
    severity, text = found("NQ003", inputs(data(x=x)))
    assert severity == "tip"
    assert text.endswith(": b")


def test_repeated_and_leaked_rows():
    train = data()
    twice = train.take([*range(40), 3, 3, 5])
    assert found("NQ004", inputs(twice))[1].startswith("3 training rows of 43")
    fresh = data(20, seed=1)
    assert found("NQ005", inputs(train, fresh))[0] == "passed"
    # 1 of 20 is 5 per cent, 1 of 21 is less
    one = Dataset(
        np.concatenate([fresh.x[:19], train.x[:1]]),
        np.concatenate([fresh.y[:19], train.y[:1]]),
        features=("a", "b"),
    )
    assert found("NQ005", inputs(train, one))[0] == "issue"
    longer = data(41, seed=2)
    less = Dataset(
        np.concatenate([longer.x, train.x[:1]]),
        np.concatenate([longer.y, train.y[:1]]),
        features=("a", "b"),
    )
    assert found("NQ005", inputs(train, less))[0] == "tip"
    # the same inputs with another target
    other = Dataset(train.x[:20], fresh.y, features=("a", "b"))
    severity, text = found("NQ005", inputs(train, other))
    assert severity == "tip"
    assert "another target" in text


def test_zero_and_minus_zero_are_one_number():
    train = Dataset([[0.0], [1.0]], [1.0, 2.0])
    test = Dataset([[-0.0], [3.0]], [1.0, 4.0])
    bnn = nq.BNN(nq.models.mlp(1, 1, width=4), nq.Gaussian())
    assert found("NQ005", inputs(train, test, bnn))[0] == "issue"


def test_groups_in_both_parts():
    train = data(group=np.arange(40) // 4)
    severity, text = found("NQ006", inputs(train, data(4, 1, group=[9, 9, 70, 71])))
    assert severity == "tip"
    assert text.startswith("1 of 3 groups")
    assert found("NQ006", inputs(train, data(2, 1, group=[70, 71])))[0] == "passed"
    assert found("NQ006", inputs())[0] == "not applicable"


@pytest.mark.parametrize(
    ("rows", "severity"), [(99, "tip"), (100, "tip"), (3000, "passed")]
)
def test_number_of_test_rows(rows, severity):
    came, text = found("NQ007", inputs(test=data(rows, seed=1)))
    assert came == severity
    assert ("cannot rank" in text) == (rows < 100)


def test_rows_of_every_class():
    def coded(y):
        x = np.random.default_rng(0).normal(size=(len(y), 2))
        return Dataset(x, np.asarray(y), classes=("cat", "dog", "eel"))

    bnn = nq.BNN(nq.models.mlp(2, 3, width=4), nq.Categorical())
    full = coded([0, 1, 2] * 10)
    assert found("NQ008", inputs(full, coded([0, 1, 2]), bnn))[0] == "passed"
    severity, text = found("NQ008", inputs(coded([0, 1] * 10), coded([0, 2]), bnn))
    assert severity == "issue"
    assert "eel" in text
    rare = coded([0] * 20 + [1] * 10 + [2] * 9)
    severity, text = found("NQ008", inputs(rare, coded([0]), bnn))
    assert severity == "tip"
    assert "eel (9)" in text
    assert "dog" not in text


def test_outputs_that_do_not_fit():
    bnn = nq.BNN(nq.models.mlp(2, 3, width=4), nq.Gaussian())
    severity, text = found("NQ020", inputs(bnn=bnn))
    assert severity == "issue"
    assert "has 3" in text
    assert found("NQ030", inputs(bnn=bnn, methods={"MAP": nq.MAP()}))[0] == (
        "not applicable"
    )


def test_columns_that_float32_cannot_tell_apart():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=40), 1e8 + rng.normal(size=40)], axis=1)
    plain = nq.BNN(nq.models.mlp(2, 1, width=4), nq.Gaussian())
    severity, text = found("NQ021", inputs(data(x=x), bnn=plain))
    assert severity == "issue"
    assert ": b;" in text
    scaled = nq.BNN(nq.models.mlp(2, 1), nq.Gaussian(), scaling=nq.Standardize())
    assert found("NQ021", inputs(data(x=x), bnn=scaled))[0] == "passed"


def test_active_dropout():
    trained = WithDropout(jax.random.key(0))
    for network in (nq.Network(WithDropout), trained):
        severity, text = found("NQ022", inputs(bnn=nq.BNN(network, nq.Gaussian())))
        assert severity == "tip"
        assert "rate 0.3" in text
    off = eqx.nn.inference_mode(trained)
    for network in (off, WithDropout(jax.random.key(0), rate=0.0)):
        bnn = nq.BNN(network, nq.Gaussian())
        assert found("NQ022", inputs(bnn=bnn))[0] == "passed"


def test_networks_that_do_not_respond():
    net = nq.models.mlp(2, 1, width=4)(jax.random.key(0))
    assert found("NQ023", inputs(bnn=nq.BNN(net, nq.Gaussian())))[0] == "passed"
    dead = jax.tree.map(lambda a: 0 * a if eqx.is_inexact_array(a) else a, net)
    severity, text = found("NQ023", inputs(bnn=nq.BNN(dead, nq.Gaussian())))
    assert severity == "issue"
    assert "ignores its inputs" in text
    broken = jax.tree.map(lambda a: a + np.inf if eqx.is_inexact_array(a) else a, net)
    severity, text = found("NQ023", inputs(bnn=nq.BNN(broken, nq.Gaussian())))
    assert severity == "issue"
    assert "not finite" in text


def test_methods_that_would_be_skipped():
    few = nq.report.Limits(bytes=1.0)
    methods = {"MAP": nq.MAP(), "GP": nq.GP()}
    severity, text = found("NQ030", inputs(methods=methods, limits=few))
    assert severity == "tip"
    assert "MAP would need" in text
    assert found("NQ030", inputs(methods=methods))[1].startswith("2 methods, about")


def test_the_command(here, capsys):
    assert main(["audit", "nets:build", *TABLE]) == 0
    out = capsys.readouterr().out
    assert [line[:5] for line in out.splitlines()[: len(CHECKS)]] == list(CHECKS)
    assert "0 issues, 1 tip" in out
    assert main(["audit", "nets:wide", *TABLE, "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {c["code"]: c["severity"] for c in checks}["NQ020"] == "issue"
    assert main(["audit", "nets:wide", *TABLE, "--ignore", "NQ020", "--quiet"]) == 0
    assert capsys.readouterr().out == "0 issues, 1 tip\n"
    assert main(["audit", *TABLE, "--only", "nq005,NQ007", "--only", "NQ004"]) == 0
    assert capsys.readouterr().out.count("NQ0") == 3
    assert main(["audit", *TABLE, "--only", "NQ999"]) == 2
    assert "there are NQ001" in capsys.readouterr().err


def test_weights_that_do_not_fit_the_data_are_an_issue(here, capsys):
    import nets

    eqx.tree_serialise_leaves(here / "w.eqx", nets.wide(jax.random.key(0)))
    flags = ["nets:wide", "--weights", "w.eqx", *TABLE, "--only", "NQ020"]
    assert main(["audit", *flags]) == 1
    assert "has 2" in capsys.readouterr().out


def test_names_with_markup_are_text(here, capsys):
    rows = houses()
    table = {"[red]a[/red]": [1.0] * 60, "b": rows["age"], "price": rows["price"]}
    write_csv(here / "m.csv", table)
    flags = ["--data", "m.csv", "--target", "price", "--only", "NQ003"]
    assert main(["audit", *flags]) == 0
    assert "[red]a[/red]" in capsys.readouterr().out

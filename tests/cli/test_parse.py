"""Methods as text: read without `eval`, written back the same."""

import jax
import optax
import pytest

import ntkuq as nq
from ntkuq.cli.errors import UsageError
from ntkuq.cli.parse import parse
from ntkuq.models import constructor, identity


@pytest.mark.parametrize(
    "text",
    [
        "MAP()",
        "MAP(train=None)",
        "MAP(train=Train(optimizer=0.003, steps=50, batch=10), rounds=1)",
        "Laplace()",
        "Laplace(structure=KFAC(), subset=LastLayer(), tune=Fixed())",
        "NTKGP(kernel=Empirical())",
        "NTKGP(kernel=Analytic(ard=False), tune=MarginalLikelihood(restarts=2))",
        "GP(kernel=RBF(ard=True))",
        "DeepEnsemble(size=3, train=Train(steps=7))",
        "NormalPrior(precision=2.0)",
    ],
)
def test_text_round_trips(text):
    thing = parse(text)
    again = parse(constructor(thing))
    assert constructor(again) == constructor(thing)
    assert identity(again) == identity(thing)


def test_fields_may_be_positional_and_parentheses_left_out():
    assert constructor(parse("DeepEnsemble(3)")) == "DeepEnsemble(size=3)"
    assert isinstance(parse("Laplace"), nq.Laplace)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Laplac()", r"'Laplac' is not a known strategy; did you mean Laplace\?"),
        ("Laplace(struct=KFAC())", r"no field 'struct'; did you mean structure\?"),
        ("DeepEnsemble(size=1)", r"expected size >= 2, got 1"),
        ("DeepEnsemble(size='x')", r"expected size= a number, got 'x'"),
        ("Laplace(structure=3)", r"expected structure= a strategy such as Full"),
        ("DeepEnsemble(1, 2, 3)", r"takes at most 2 arguments \(size, train\), got 3"),
        ("__import__('os').system('true')", r"cannot use|not a known strategy"),
        ("Laplace(", r"expected a method as in Python"),
        ("(lambda: 1)()", r"cannot use"),
        ("Select(where=open)", r"'Select' is not a known strategy"),
        ("[Laplace()]", r"cannot use"),
    ],
)
def test_bad_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_nothing_is_executed(tmp_path):
    target = tmp_path / "made"
    for text in (f"open({str(target)!r}, 'w')", f"GP(open({str(target)!r}, 'w'))"):
        with pytest.raises(UsageError):
            parse(text)
    assert not target.exists()


def test_identity_tells_optimizers_apart():
    slow, fast = (nq.Train(optax.adam(rate)) for rate in (1e-3, 1e-2))
    assert identity(slow) == identity(nq.Train(optax.adam(1e-3)))
    assert identity(slow) != identity(fast)
    momentum = nq.Train(optax.sgd(1e-3, momentum=0.9))
    assert len({identity(t) for t in (slow, fast, momentum)}) == 3


def test_identity_tells_functions_apart():
    first = nq.Select(lambda m: m.layers[0])
    second = nq.Select(lambda m: m.layers[1])
    assert identity(first) == identity(nq.Select(lambda m: m.layers[0]))
    assert identity(first) != identity(second)


def test_identity_sees_arrays():
    one, two = (nq.Gaussian(jax.numpy.asarray(s)) for s in (1.0, 2.0))
    assert identity(one) != identity(two)

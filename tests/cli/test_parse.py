"""Methods as text: read without `eval`, written back the same."""

import functools as ft

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
        ("DeepEnsemble(size='x')", r"expected size= a whole number, got 'x'"),
        ("DeepEnsemble(size=2.5)", r"expected size= a whole number, got 2\.5"),
        ("DeepEnsemble(size=None)", r"expected size= a whole number, got None"),
        ("DeepEnsemble(2, size=3)", r"size is given twice"),
        ("Laplace(**{'structure': 1})", r"cannot use '\*\*'"),
        ("MAP(), GP()", r"expected one method; repeat the flag"),
        ("Laplace(structure=LastLayer())", r"structure= a strategy such as"),
        ("Laplace(subset=KFAC())", r"subset= a strategy such as All"),
        ("NTKGP(kernel=RBF())", r"kernel= a strategy such as Analytic"),
        ("MAP(train=KFAC())", r"expected train= a strategy such as Train"),
        ("MAP(rounds=1.5)", r"expected rounds= a whole number"),
        ("RBF(ard=3)", r"expected ard= True or False or None, got 3"),
        ("Gaussian(scale='x')", r"expected scale= a number"),
        ("Laplace(structure=3)", r"expected structure= a strategy such as Full"),
        (
            "DeepEnsemble(1, 2, 3, 4)",
            r"takes at most 3 arguments \(size, train, member\), got 4",
        ),
        ("__import__('os').system('true')", r"cannot use|not a known strategy"),
        ("LabelRegression()", r"LabelRegression needs method, got"),
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


def test_identity_sees_closures_partials_defaults_and_optimizer_state():
    def pick(i):
        return lambda m: m.layers[i]

    def get(i, m):
        return m.layers[i]

    def two(i, m):
        return (lambda: m.layers[1])() if i else (lambda: m.layers[2])()

    def three(i, m):
        return (lambda: m.layers[1])() if i else (lambda: m.layers[3])()

    adam = optax.inject_hyperparams(optax.adam)
    pairs = [
        (nq.Select(pick(0)), nq.Select(pick(1))),
        (nq.Select(ft.partial(get, 0)), nq.Select(ft.partial(get, 1))),
        (nq.Select(lambda m, i=0: m.layers[i]), nq.Select(lambda m, i=1: m.layers[i])),
        (nq.Select(ft.partial(two, 0)), nq.Select(ft.partial(three, 0))),
        (nq.Select(jax.jit(pick(0))), nq.Select(jax.jit(pick(1)))),
        (nq.Train(adam(1e-3)), nq.Train(adam(1e-1))),
        (
            nq.Train(optax.noisy_sgd(1e-2, key=jax.random.key(0))),
            nq.Train(optax.noisy_sgd(1e-2, key=jax.random.key(1))),
        ),
    ]
    for one, other in pairs:
        assert identity(one) != identity(other)
        assert identity(one) == identity(one)
    assert identity(nq.Select(pick(0))) == identity(nq.Select(pick(0)))


def test_identity_of_an_opaque_callable_is_its_own():
    class Pick:
        def __init__(self, layer):
            self.layer = layer

        def __call__(self, model):
            return model.layers[self.layer]

    one, other = Pick(0), Pick(1)
    assert identity(nq.Select(one)) != identity(nq.Select(other))

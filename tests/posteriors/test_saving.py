"""Posteriors in files: exact round trips, and every damage or mismatch is noticed."""

import json
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Batches, Dataset, digest
from ntkuq.kernels import Analytic, Empirical
from ntkuq.linearize import SampledFisher
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Fixed,
    Gaussian,
    Network,
    NormalPrior,
    Poisson,
    Standardize,
    mlp,
)
from ntkuq.posteriors import (
    GP,
    KFAC,
    MAP,
    NTKGP,
    CrossValidation,
    DeepEnsemble,
    Diagonal,
    Full,
    FunctionSpace,
    GridSearch,
    Laplace,
    LastLayer,
    LoadError,
    Select,
    WeightSpace,
    load,
    save,
)


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BUILD = mlp(2, 1, width=4, depth=1)
X = np.random.default_rng(1).standard_normal((12, 2))
DATA = Dataset(X, np.sin(X[:, 0]), units="m")
CLASSES = Dataset(X, (X[:, 0] > 0).astype(int) + (X[:, 1] > 0))
SEVERAL = Dataset(X, (X > 0).astype(int))


def regression():
    return BNN(
        Network(BUILD, BUILD(KEY)), Gaussian(0.3), NormalPrior(2.0), Standardize()
    )


def classes():
    return BNN(mlp(2, 3, width=4, depth=1)(KEY), Categorical())


def several(likelihood, outputs):
    """Two targets an example."""
    return lambda: BNN(mlp(2, outputs, width=4, depth=1)(KEY), likelihood)


def ensemble(bnn, data):
    return DeepEnsemble.of([BUILD(k) for k in jax.random.split(KEY, 3)], bnn, data)


def by(method):
    return lambda bnn, data: method.fit(bnn, data, key=KEY)


def first_layer(model):
    return model.layers[0]


FITS = {
    "map": (by(MAP(None, tune=Fixed())), regression),
    "ensemble": (ensemble, regression),
    "weight space": (by(Laplace(Full(WeightSpace()))), regression),
    "function space": (by(Laplace(Full(FunctionSpace()), tune=Fixed())), regression),
    "kfac": (by(Laplace(KFAC())), classes),
    "diagonal": (by(Laplace(Diagonal(), tune=Fixed())), classes),
    "sampled fisher": (by(Laplace(KFAC(fisher=SampledFisher(KEY)))), classes),
    "labels": (by(Laplace(KFAC())), several(Categorical(), 4)),
    "binary labels": (by(Laplace(KFAC())), several(Bernoulli(), 2)),
    "counts": (by(Laplace(Diagonal())), several(Poisson(), 2)),
    "grid": (by(Laplace(KFAC(), tune=GridSearch(DATA))), regression),
    "cross-validation": (by(Laplace(KFAC(), tune=CrossValidation(3))), regression),
    "last layer": (by(Laplace(subset=LastLayer(), tune=Fixed())), classes),
    "gp": (by(GP(tune=Fixed())), regression),
    "gp of classes": (by(GP(tune=Fixed())), classes),
    "ntk": (by(NTKGP(Analytic(), tune=Fixed())), regression),
    "empirical ntk": (by(NTKGP(Empirical(), tune=Fixed())), regression),
}


def assert_same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FITS)
def test_round_trip_is_exact(name, tmp_path):
    fit, make = FITS[name]
    bnn = make()
    data = DATA if make is regression else CLASSES if make is classes else SEVERAL
    posterior = fit(bnn, data)
    path = tmp_path / "posterior"
    save(path, posterior, data=data)
    again = load(path, make(), data=data)
    assert type(again) is type(posterior)
    # every array, number, class and static field, float64 ones in a float32 session
    assert bool(eqx.tree_equal(posterior, again, typematch=True))
    assert_same(posterior.predict(X), again.predict(X))
    assert again.hyperparameters == posterior.hyperparameters
    assert again.log_marginal_likelihood == posterior.log_marginal_likelihood
    assert again.diagnostics == posterior.diagnostics
    assert [file.name for file in tmp_path.iterdir()] == ["posterior"]
    content = path.read_bytes()
    assert b" at 0x" not in content  # nothing of this process
    # saved again it is the same file
    save(path, again, data=data)
    assert path.read_bytes() == content


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file, the posterior in it, and its header."""
    path = tmp_path_factory.mktemp("saved") / "posterior"
    posterior = by(MAP(None, tune=Fixed()))(regression(), DATA)
    save(path, posterior, data=DATA)
    return path, posterior, json.loads(path.read_bytes().partition(b"\n")[0])


def test_the_header_says_what_the_file_is(saved):
    path, posterior, header = saved
    assert header["format"] == "ntkuq/posterior/2"
    assert header["posterior"] == "MAPPosterior"
    assert header["data"] == DATA.fingerprint()
    # the arrays are Equinox's leaves
    with path.open("rb") as file:
        file.readline()
        like = [np.zeros(a["shape"], a["dtype"]) for a in header["arrays"]]
        leaves = eqx.tree_deserialise_leaves(file, like)
    stored = {array.tobytes() for array in leaves}
    for leaf in jax.tree.leaves(posterior.bnn.parameters):
        assert np.asarray(leaf).tobytes() in stored
    # an array met twice is written once
    assert len(stored) == len(leaves)


def test_the_network_alone_or_a_builder_are_enough(saved):
    path, posterior, _ = saved
    expected = posterior.predict(X)
    for like in (BUILD, BUILD(jax.random.key(7)), Network(BUILD), regression()):
        again = load(path, like)
        assert_same(again.predict(X), expected)
        built = not isinstance(like, eqx.nn.MLP)
        assert again.bnn.network.build is (BUILD if built else None)


class Own(eqx.Module):
    """A network of the user's: switches, numbers and functions that are not arrays."""

    weight: jax.Array
    slope: float
    dropout: eqx.nn.Dropout
    activation: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.dropout(self.activation(self.weight @ x) * self.slope)


def own(rows=1, slope=0.5, activation=jnp.tanh):
    dropout = eqx.nn.Dropout(0.5)
    return Own(1 + jnp.arange(2.0 * rows).reshape(rows, 2), slope, dropout, activation)


def test_networks_and_parts_of_the_user_are_found_again(tmp_path):
    path = tmp_path / "own"
    like = BNN(own(), Gaussian())
    # one precision a leaf, in the shape of the network
    leaves = eqx.filter(own(), eqx.is_inexact_array)
    prior = NormalPrior(jax.tree.map(lambda _: 3.0, leaves))
    bnn = BNN(own(slope=0.25), Gaussian(), prior)
    posterior = by(MAP(None, tune=Fixed()))(bnn, DATA)
    save(path, posterior)
    again = load(path, like)
    assert bool(eqx.tree_equal(again, posterior))
    assert again.bnn.model.slope == 0.25
    precision = again.bnn.prior.precisions(again.bnn.parameters)
    assert float(precision.weight) == 3.0
    assert_same(again.predict(X), posterior.predict(X))


def test_functions_of_the_user_come_from_the_method(tmp_path):
    path = tmp_path / "selected"
    method = Laplace(Diagonal(), Select(first_layer), tune=Fixed())
    posterior = by(method)(classes(), CLASSES)
    save(path, posterior)
    again = load(path, classes(), method=method)
    assert eqx.tree_equal(again, posterior)
    assert_same(again.predict(X), posterior.predict(X))
    with pytest.raises(
        LoadError, match=r"first_layer of yours inside.*give it as load"
    ):
        load(path, classes())


def rewritten(content, change, *, signed=True):
    """The file with a changed header, and where `signed` a digest that fits."""
    line, _, body = content.partition(b"\n")
    header = json.loads(line)
    header.pop("sha256")
    change(header)
    header["sha256"] = digest(header) if signed else "0" * 64
    return json.dumps(header).encode() + b"\n" + body


def longer(header):
    header["arrays"][0]["shape"] = [2**50]


def misnamed(name):
    def change(header):
        header["tree"]["$class"] = name

    return change


DAMAGE = {
    "empty": (lambda c: b"", "first line is JSON"),
    "not ours": (lambda c: b"\x93NUMPY" + c, "file that ntkuq.posteriors.save wrote"),
    "a number": (lambda c: b"3\n", "of the form ntkuq/posterior/2, came"),
    "deep": (lambda c: b"[" * 200_000, "first line is JSON"),
    "half a header": (lambda c: c[:100], "first line is JSON"),
    "no arrays": (lambda c: c[: c.index(b"\n") + 1], "bytes of arrays, came 0: .* cut"),
    "cut": (lambda c: c[:-1], "expected array .* damaged bytes"),
    "more": (lambda c: c + b"x", "end of the file after the last array"),
    "flipped": (lambda c: c[:-3] + bytes([c[-3] ^ 1]) + c[-2:], "damaged bytes"),
    "changed number": (
        lambda c: c.replace(b'"name": "noise scale"', b'"name": "noise scalf"', 1),
        "header that was written, came a damaged one",
    ),
    "unsigned": (
        lambda c: rewritten(c, lambda h: None, signed=False),
        "header that was written",
    ),
    "another version": (
        lambda c: c.replace(b"posterior/2", b"posterior/1", 1),
        "form ntkuq/posterior/2, came 'ntkuq/posterior/1': read it with the version",
    ),
    "huge": (lambda c: rewritten(c, longer), "bytes of arrays, came .* cut short"),
    "pickled": (
        lambda c: rewritten(c, lambda h: h["arrays"][0].update(dtype="object")),
        "expected a dtype of numbers, came 'object'",
    ),
    "another type": (
        lambda c: rewritten(c, lambda h: h["arrays"][0].update(dtype="uint8")),
        "array 0 .* damaged",
    ),
    "foreign class": (
        lambda c: rewritten(c, misnamed("subprocess:Popen")),
        "class of this version of ntkuq, came 'subprocess:Popen'",
    ),
    "function for a class": (
        lambda c: rewritten(c, misnamed("ntkuq.data.store:write_bytes")),
        "class of this version of ntkuq, came 'ntkuq.data.store:write_bytes'",
    ),
    "unknown class": (
        lambda c: rewritten(c, misnamed("ntkuq.models.nowhere:X")),
        "read the file with the version that wrote it",
    ),
    "no posterior": (
        lambda c: rewritten(c, lambda h: h.update(tree=1)),
        "expected a posterior",
    ),
    "other fields": (
        lambda c: rewritten(c, lambda h: h["tree"]["fields"].pop("bnn")),
        "MAPPosterior with the fields bnn, .* came hyper.*: read the file with the v",
    ),
    "unknown entry": (
        lambda c: rewritten(c, lambda h: h.update(tree={"$eval": "1"})),
        "known kind of entry .* came '\\$eval'",
    ),
    "no such array": (
        lambda c: rewritten(c, lambda h: h.update(tree={"$array": 99, "form": "jax"})),
        "cannot read .IndexError",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_one_clear_error(case, saved, tmp_path):
    damage, message = DAMAGE[case]
    path = tmp_path / "damaged"
    path.write_bytes(damage(saved[0].read_bytes()))
    with pytest.raises(LoadError, match=message) as caught:
        load(path, regression())
    assert str(path) in str(caught.value)


def test_every_cut_and_every_changed_byte_is_noticed(saved, tmp_path):
    content = saved[0].read_bytes()
    path, like = tmp_path / "damaged", regression()
    for place in RNG.integers(0, len(content), 40).tolist():
        path.write_bytes(content[:place])
        with pytest.raises(LoadError):
            load(path, like)
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(LoadError):
            load(path, like)


OTHERS = {
    "width": (lambda: mlp(2, 1, width=5, depth=1), "structure that was saved"),
    "depth": (lambda: mlp(2, 1, width=4, depth=2), "structure that was saved"),
    "activation": (
        lambda: mlp(2, 1, width=4, depth=1, activation=jax.nn.relu),
        r"saved, '.*tanh.*', came '.*relu.*': build it as it was",
    ),
    "kind": (lambda: own(), "structure that was saved, '…MLP.*came '…Own"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_network_is_refused(case, saved):
    make, message = OTHERS[case]
    with pytest.raises(LoadError, match=message):
        load(saved[0], make())


def test_arrays_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "own"
    save(path, by(MAP(None, tune=Fixed()))(BNN(own(), Gaussian()), DATA))
    with pytest.raises(LoadError, match=r"shape \(1, 2\) where .* has \(3, 2\): build"):
        load(path, own(rows=3))


def test_other_data_are_refused(saved, tmp_path):
    path, posterior, _ = saved
    with pytest.raises(LoadError, match="data that the posterior was saved with, of f"):
        load(path, regression(), data=DATA.take(range(11)))
    batches = Batches.of(DATA, size=5)
    save(tmp_path / "batches", posterior, data=batches)
    load(tmp_path / "batches", regression(), data=batches)
    save(tmp_path / "none", posterior)
    with pytest.raises(LoadError, match="came one without: leave data= out"):
        load(tmp_path / "none", regression(), data=DATA)


def test_what_could_not_be_read_again_is_not_written(saved, tmp_path):
    _, posterior, _ = saved
    path = tmp_path / "file"
    with pytest.raises(TypeError, match="posterior"):
        save(path, regression())  # pyright: ignore
    for thing in (object(), own(), {1: 2}):
        strange = eqx.tree_at(lambda p: p.diagnostics, posterior, {"a": thing})
        with pytest.raises(TypeError, match=r"save: expected .*\.diagnostics"):
            save(path, strange)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "no folder" / "file", posterior)


def test_numbers_of_every_kind_survive(saved, tmp_path):
    _, posterior, _ = saved
    with jax.enable_x64(True):
        wide = jnp.asarray(np.pi, jnp.float64)
    things = {
        "nan": float("nan"),
        "inf": -float("inf"),
        "tiny": 5e-324,
        "third": 1 / 3,
        "big": 2**70,
        "text": "ü\n",
        "none": None,
        "flags": (True, [False]),
        "scalar": np.float32(0.1),
        "float64": wide,
        "bfloat16": jnp.asarray([1.5, -2.25], jnp.bfloat16),
        "complex": np.asarray([1 + 2j]),
        "empty": np.zeros((0, 3), np.int8),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "dtype": np.dtype("float16"),
    }
    strange = eqx.tree_at(lambda p: p.diagnostics, posterior, things)
    save(tmp_path / "file", strange)
    again = load(tmp_path / "file", regression()).diagnostics
    assert set(again) == set(things)
    for name, expected in things.items():
        came = again[name]
        assert type(came) is type(expected), name
        if hasattr(expected, "dtype"):
            assert came.dtype == expected.dtype.newbyteorder("="), name
            np.testing.assert_array_equal(came, expected)
        else:
            assert repr(came) == repr(expected)

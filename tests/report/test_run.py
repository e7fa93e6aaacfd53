"""`compare`: what is shared, what is stored, and what is found again."""

import equinox as eqx
import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.report import DocumentError, html
from ntkuq.report.repeats import over_seeds
from tests.report.test_extras import Notes


KEY = jax.random.key(0)
QUICK = nq.MAP(nq.Train(0.03, steps=100), rounds=2)


def split(likelihood="Gaussian", rows=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    f = x[:, 0] - 0.5 * x[:, 1]
    y = {
        "Gaussian": f + 0.2 * rng.normal(size=rows),
        "HeteroscedasticGaussian": f + 0.2 * rng.normal(size=rows),
        "Categorical": np.digitize(f, [-0.5, 0.5]),
        "Bernoulli": (f + 0.3 * rng.normal(size=rows) > 0).astype(int),
        "Poisson": rng.poisson(np.exp(0.5 * f)).astype(float),
    }[likelihood]
    return nq.Dataset(x, y).split(train=0.7, test=0.3, key=KEY)


def chain(activation, outputs=1):
    def build(key):
        first, second = jax.random.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, 6, key=first),
                eqx.nn.Lambda(activation),
                eqx.nn.Linear(6, outputs, key=second),
            ]
        )

    return build


def problem(activation=jax.nn.relu):
    network = nq.Network(chain(activation))
    return nq.BNN(network, nq.Gaussian(), scaling=nq.Standardize())


def test_another_network_of_the_same_shapes_is_another_problem(tmp_path):
    methods = {"MAP": QUICK}
    nq.compare(problem(jax.nn.relu), methods, split(), out=tmp_path / "a", key=KEY)
    with pytest.raises(ValueError, match="program"):
        nq.compare(problem(jax.nn.tanh), methods, split(), out=tmp_path / "a", key=KEY)


@pytest.mark.parametrize("change", ["prior", "scaling", "data"])
def test_a_changed_problem_is_refused(tmp_path, change):
    bnn, data = problem(), split()
    nq.compare(bnn, {"MAP": QUICK}, data, out=tmp_path / "a", key=KEY)
    if change == "prior":
        bnn = nq.BNN(bnn.network, bnn.likelihood, nq.NormalPrior(2.0), bnn.scaling)
    if change == "scaling":
        bnn = nq.BNN(bnn.network, bnn.likelihood, bnn.prior, None)
    if change == "data":
        data = split(seed=1)
    with pytest.raises(ValueError, match=change):
        nq.compare(bnn, {"MAP": QUICK}, data, out=tmp_path / "a", key=KEY)


def test_what_depends_on_the_training_is_stored_with_it(tmp_path):
    """A GP that keeps the noise of the problem sees another noise after more rounds."""
    fixed = nq.GP(tune=nq.Fixed())
    found = []
    for rounds in (1, 4):
        trainer = nq.MAP(nq.Train(0.03, steps=100), rounds=rounds)
        methods = {"MAP": trainer, "GP": fixed, "tuned GP": nq.GP()}
        result = nq.compare(problem(), methods, split(), out=tmp_path / "a", key=KEY)
        alone = nq.compare(problem(), methods, split(), key=KEY)
        assert result.rows()[1]["nll"] == alone.rows()[1]["nll"]
        found.append(result.rows())
    assert found[0][1]["nll"] != found[1][1]["nll"]
    # the tuned one uses nothing of the training, and is found again
    assert found[0][2]["fit_seconds"] == found[1][2]["fit_seconds"]


def test_a_trained_network_is_used_as_it_is():
    data = split()
    trained = QUICK.fit(problem(), data.train, key=KEY).bnn
    laplace = nq.Laplace(tune=nq.Fixed())
    alone = nq.compare(trained, {"L": laplace}, data, key=KEY).rows()[0]
    bad = nq.MAP(nq.Train(0.01, steps=2), rounds=1)
    beside = nq.compare(trained, {"MAP": bad, "L": laplace}, data, key=KEY).rows()
    assert beside[1]["nll"] == alone["nll"]
    expected = nq.score(
        laplace.fit(trained, data.train, key=KEY).predict(data.test.x), data.test.y
    )
    assert alone["nll"] == pytest.approx(expected["nll"].value, rel=1e-6)


def test_units_are_found_by_what_they_are_not_by_their_label(tmp_path):
    first = nq.compare(
        problem(), {"MAP": QUICK, "one": nq.Laplace()}, split(), out=tmp_path, key=KEY
    )
    again = nq.compare(
        problem(), {"MAP": QUICK, "two": nq.Laplace()}, split(), out=tmp_path, key=KEY
    )
    assert again.rows()[1]["label"] == "two"
    assert again.rows()[1]["fit_seconds"] == first.rows()[1]["fit_seconds"]
    other = nq.compare(
        problem(),
        {"MAP": QUICK, "two": nq.Laplace()},
        split(),
        out=tmp_path,
        key=jax.random.key(1),
    )
    assert other.rows()[0]["nll"] != first.rows()[0]["nll"]


def test_no_method_and_no_file_is_lost_to_an_equal_name(tmp_path):
    def pick(n):
        return lambda model: model.layers[n]

    methods = [nq.Laplace(subset=nq.Select(pick(n))) for n in (0, 2)]
    result = nq.compare(problem(), [QUICK, *methods], split(), key=KEY)
    assert len({row["label"] for row in result.rows()}) == 3
    assert result.rows()[1]["nll"] != result.rows()[2]["nll"]
    named = {"MAP": QUICK, "L (a)": methods[0], "L [a]": methods[1]}
    stored = nq.compare(problem(), named, split(), out=tmp_path, key=KEY).document
    files = [method["predictions"] for method in stored["methods"]]
    assert len(set(files)) == 3
    stds = []
    for file in files[1:]:
        with np.load(tmp_path / file) as arrays:
            stds.append(arrays["std"])
    assert not np.array_equal(*stds)


OUTPUTS = {
    "Gaussian": 1,
    "HeteroscedasticGaussian": 2,
    "Categorical": 3,
    "Bernoulli": 1,
    "Poisson": 1,
}


#: More of the same, in the nox session `long`.
MORE = ("Bernoulli", "HeteroscedasticGaussian")


@pytest.mark.parametrize(
    "likelihood",
    [
        pytest.param(name, marks=pytest.mark.long if name in MORE else ())
        for name in OUTPUTS
    ],
)
def test_every_likelihood_gets_through_every_method(likelihood, tmp_path):
    data = split(likelihood)
    network = nq.Network(chain(jax.nn.tanh, OUTPUTS[likelihood]))
    bnn = nq.BNN(network, getattr(nq, likelihood)(), scaling=nq.Standardize())
    methods = {
        "MAP": QUICK,
        "KFAC": nq.Laplace(structure=nq.KFAC()),
        "last layer": nq.Laplace(subset=nq.LastLayer()),
        "empirical": nq.NTKGP(kernel=nq.Empirical()),
        "GP": nq.GP(tune=nq.MarginalLikelihood(max_steps=3)),
        "ensemble": nq.DeepEnsemble(2, nq.Train(0.03, steps=50)),
    }
    result = nq.compare(bnn, methods, data, key=KEY)
    status = {row["label"]: row["status"] for row in result.rows()}
    expected = dict.fromkeys(methods, "done")
    assert status == expected, [m["reason"] for m in result.document["methods"]]
    for row in result.rows():
        if row["status"] == "done":
            assert np.isfinite(row["nll"])
    page = result.report(tmp_path / "report.html").read_text()
    assert "ensemble" in page


def test_seeds_repeat_the_whole_comparison(tmp_path):
    methods = {"MAP": QUICK, "GP": nq.GP(), "two": nq.DeepEnsemble(2, QUICK.train)}
    kwargs = {"out": tmp_path / "a", "key": KEY}
    first = nq.compare(problem(), methods, split(), **kwargs)
    nq.compare(problem(), methods, split(), seeds=2, **kwargs)
    notes = Notes()
    found = nq.compare(problem(), methods, split(), seeds=3, progress=notes, **kwargs)
    # what two seeds found is there
    assert len(notes.reused) == 2 * len(methods)
    assert notes.started == list(methods)
    assert notes.notes == ["seed 2 of 3", "seed 3 of 3"]
    # the report is that of the first seed, which was stored
    assert found.rows() == first.rows()
    assert "seeds" not in first.document
    each = [
        nq.compare(problem(), methods, split(), key=key)
        for key in (KEY, *(jax.random.fold_in(KEY, n) for n in (1, 2)))
    ]
    table = np.array([[row["nll"] for row in one.rows()] for one in each])
    # nothing of a GP is drawn
    assert np.ptp(table[:, 1]) == 0.0 < np.ptp(table[:, 0])
    seeds = found.document["seeds"]
    rows = {row["label"]: row for row in seeds["rows"]}
    for column, row in enumerate(rows.values()):
        assert row["scores"]["nll"]["value"] == pytest.approx(table[:, column].mean())
        assert row["spread"] == pytest.approx(table[:, column].std(ddof=1))
        assert row["best"] == (table.argmin(axis=1) == column).sum()
        best = list(rows).index(seeds["best"])
        if column != best:
            gap = table[:, column] - table[:, best]
            assert row["difference"]["value"] == pytest.approx(gap.mean())
    text = str(found)
    assert f"over seeds  {seeds['best']} has the best negative log-likelihood" in text
    page = found.report(tmp_path / "a" / "report.html").read_text()
    assert "Does it hang on the seed?" in page
    with pytest.raises(ValueError, match="seeds >= 1"):
        nq.compare(problem(), methods, split(), seeds=0, key=KEY)


def scored(label, value, status="done", reason=None):
    scores = None if value is None else {"nll": {"value": value}}
    return {"label": label, "scores": scores, "status": status, "reason": reason}


def test_a_method_that_fails_in_a_seed_is_left_out_with_the_reason(documents):
    lost = scored("b", None, "failed", "loss is not finite")
    repeats = [
        [scored("a", 2.0), scored("b", 1.0), scored("c", 2.0)],
        [scored("a", 2.0), lost, scored("c", 3.0)],
    ]
    document = {"comparison": {"score": "nll"}}
    seeds = over_seeds(document, repeats, trained=False)
    # b was best where it finished, so a was not; a tie would count for both
    wins = {row["label"]: row["best"] for row in seeds["rows"]}
    assert wins == {"a": 1, "c": 0}
    assert seeds["missing"] == [
        {"label": "b", "seed": 2, "status": "failed", "reason": "loss is not finite"}
    ]
    whole = documents.regression() | {"seeds": seeds}
    assert "b in seed 2: failed, loss is not finite" in html.page(whole)
    nothing = over_seeds(document, [[lost], [lost]], trained=False)
    assert nothing["best"] is None
    page = html.page(documents.regression() | {"seeds": nothing})
    assert "no method has a finite score in every seed" in page


def test_seeds_that_change_nothing_are_said_to(documents):
    repeats = [[scored("a", 1.0), scored("b", 2.0)]] * 2
    seeds = over_seeds({"comparison": {"score": "nll"}}, repeats, trained=True)
    page = html.page(documents.regression() | {"seeds": seeds})
    assert "Its score is the same with every seed." in page
    assert "The network is the given one in every seed" in page


def test_levels_and_classes_have_their_calibration_over_seeds():
    result = nq.compare(
        problem(), {"MAP": QUICK}, split(), seeds=2, levels=(0.8,), key=KEY
    )
    assert result.document["seeds"]["calibration"] == "coverage_80"
    classes = nq.BNN(nq.Network(chain(jax.nn.relu, 3)), nq.Categorical())
    data = split("Categorical")
    result = nq.compare(classes, {"MAP": QUICK}, data, seeds=2, key=KEY)
    assert result.document["seeds"]["calibration"] == "ece"
    # one method alone has nothing to be compared with
    assert "alone" in str(result)


def test_a_seeds_entry_from_outside_is_checked(documents):
    repeats = [[scored("a", 1.0), scored("b", 2.0)], [scored("a", 1.5), scored("b", 2)]]
    seeds = over_seeds({"comparison": {"score": "nll"}}, repeats, trained=False)
    whole = documents.regression() | {"seeds": seeds}
    for change in ({"best": "<script>nobody"}, {"score": "crps"}, {"rows": []}):
        page = html.page(whole | {"seeds": seeds | change})
        assert "<script" not in page
    seeds["rows"][0]["scores"]["nll"]["interval"] = [1.0]
    with pytest.raises(DocumentError, match="two numbers"):
        html.page(whole)

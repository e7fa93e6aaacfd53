"""The probe of the optimizer in a comparison and in its report."""

import copy

import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli.extras import EXTRAS
from ntkuq.cli.wanted import NAMES
from ntkuq.data import Dataset, Split
from ntkuq.optimization.probe import GaussNewtonStep, GradientStep
from ntkuq.report import DocumentError, SecondOrder, html, markdown, validate, verdict


HEADING = "## Would second order help?"


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1))
    whole = Dataset(x, np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=120), name="sine")
    data = Split(whole.take(range(90)), None, whole.take(range(90, 120)))
    build = nq.models.mlp(1, 1, width=4, depth=1, activation=jax.nn.tanh)
    bnn = nq.BNN(nq.Network(build), nq.Gaussian(0.2))
    bnn = bnn.with_model(bnn.network.init(jax.random.key(0)))
    extra = SecondOrder((GradientStep((0.0,)), GaussNewtonStep((0.1,))), batches=4)
    methods = {"MAP": nq.MAP(train=None, tune=nq.Fixed())}
    return nq.compare(bnn, methods, data, extras=(extra,), key=jax.random.key(1))


def section(document):
    return markdown.page(document).split(HEADING)[1].split("\n## ")[0]


def test_the_section_shows_the_probe(result):
    document = result.document
    validate(document)
    text = section(document)
    assert "4 pairs of batches" in text
    assert "Gauss-Newton" in text
    assert "says nothing about the end of training" in text
    assert "7 disjoint" not in text
    assert "Times as much a second" in text
    page = html.page(document)
    assert page == html.page(document)
    assert "Would second order help?" in page


def test_the_verdict_has_its_line(result):
    document = result.document
    (line,) = (one for one in verdict(document) if one["code"] == "probe")
    assert line["answer"] == document["probe"]["answer"]
    assert line["section"] == "second-order"
    assert "worth its time" in line["rule"]
    other = copy.deepcopy(document)
    other["probe"]["answer"] = "maybe"
    (line,) = (one for one in verdict(other) if one["code"] == "probe")
    assert line["answer"] == "cannot tell"


def test_what_was_not_asked_for_stays_and_says_so(result):
    document = {k: v for k, v in result.document.items() if k != "probe"}
    assert "SecondOrder() or --with probe" in section(document)
    assert all(line["code"] != "probe" for line in verdict(document))
    failed = document | {"omitted": {"probe": "expected a finite loss, got nan"}}
    assert "expected a finite loss, got nan" in section(failed)


def test_numbers_that_are_missing_are_said(result):
    document = copy.deepcopy(result.document)
    (one,) = document["probe"]["against"]
    one["times"] = None
    rows = document["probe"]["rows"]
    del rows[0]["scores"]["predicted"]
    rows[1]["scores"]["realized"]["value"] = None
    validate(document)
    text = section(document)
    assert "too uncertain for a ratio" in text
    assert "not computed" in text
    assert "not finite" in text
    one["word"] = 3
    with pytest.raises(DocumentError, match=r"probe\.against\[0\]\.word"):
        validate(document)


def test_outside_text_is_escaped(result):
    document = copy.deepcopy(result.document)
    document["probe"]["rows"][0]["name"] = "<script>x</script>"
    document["probe"]["verdict"] = "<b>bold</b>"
    page = html.page(document)
    assert "<script>x" not in page
    assert "<b>bold" not in page


def test_the_command_line_knows_it():
    assert set(NAMES) == set(EXTRAS)
    assert isinstance(EXTRAS["probe"](), SecondOrder)
    with pytest.raises(ValueError, match="batches >= 2"):
        SecondOrder(batches=1)

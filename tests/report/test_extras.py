"""Extras of a comparison, what changed since a baseline, figures and notebooks."""

import copy
import shutil
import subprocess

import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.data import Dataset, Split
from ntkuq.data.shifts import FeatureNoise
from ntkuq.report import (
    AbstractProgress,
    KernelRegime,
    OutsideSets,
    Reference,
    Shifts,
    figures,
    html,
    load,
    markdown,
    write,
)


class Notes(AbstractProgress):
    """Remembers what it was told."""

    def __init__(self):
        self.started, self.notes, self.reused = [], [], []

    def plan(self, units, problem):
        pass

    def repeat(self, number, count):
        self.notes.append(f"seed {number} of {count}")

    def start(self, label):
        self.started.append(label)

    def step(self, label, steps, loss):
        pass

    def finish(self, label, record, *, reused):
        if reused:
            self.reused.append(label)

    def note(self, text):
        self.notes.append(text)


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(180, 1))
    y = np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=180)
    whole = Dataset(x, y, name="sine")
    parts = Split(*(whole.take(range(k * 60, (k + 1) * 60)) for k in range(3)))
    build = nq.models.mlp(1, 1, width=8, depth=1, activation=jax.nn.tanh)
    bnn = nq.BNN(nq.Network(build), nq.Gaussian(0.2), nq.NormalPrior(1.0))
    return bnn, parts


METHODS = {"MAP": nq.MAP(nq.Train(steps=200), tune=nq.Fixed())}
EXTRAS = (
    Shifts({"noise": FeatureNoise()}, severities=(0, 5)),
    OutsideSets({"far": np.full((30, 1), 9.0)}),
    # chains that are too short to be a reference: the report says so
    Reference(nq.NUTS(chains=2, warmup=50, samples=20, depth=4)),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    bnn, data = problem()
    key = jax.random.key(0)
    result = nq.compare(bnn, METHODS, data, out=out, extras=EXTRAS, key=key)
    return out, result


def test_shifts_and_outside_sets_are_in_the_record(finished):
    _, result = finished
    (method,) = result.document["methods"]
    rows = {(row["shift"], row["severity"]): row for row in method["severity"]}
    assert set(rows) == {("noise", 0), ("noise", 5), ("mean", 0), ("mean", 5)}
    plain = method["scores"]["nll"]["value"]
    np.testing.assert_allclose(rows["noise", 0]["scores"]["nll"]["value"], plain)
    assert (
        rows["noise", 5]["scores"]["rmse"]["value"]
        > rows["noise", 0]["scores"]["rmse"]["value"]
    )
    # the epistemic uncertainty of MAP is zero everywhere: it guesses
    (far,) = method["detection"]
    assert far["name"] == "far"
    assert far["uncertainty"] == "epistemic"
    assert far["scores"]["auroc"]["value"] == 0.5


def test_chains_that_do_not_mix_give_no_distance(finished):
    _, result = finished
    reference = result.document["reference"]
    assert "no reference" in reference["reason"]
    assert "distance" not in result.document["methods"][0]
    assert "no reference" in html.page(result.document)


def test_a_rerun_begins_nothing(finished):
    out, result = finished
    bnn, data = problem()
    told = Notes()
    key = jax.random.key(0)
    again = nq.compare(
        bnn, METHODS, data, out=out, extras=EXTRAS, progress=told, key=key
    )
    assert told.reused == ["MAP"]
    assert told.started == told.notes == []
    assert again.document["methods"] == result.document["methods"]
    assert again.document["reference"] == result.document["reference"]
    assert load(out / "run.json")["reference"]["text"].startswith("NUTS(")


def test_an_extra_that_fails_does_not_end_the_run():
    bnn, data = problem()
    few = Split(data.train, None, data.test.take(range(10)))
    # the regime needs 16 test inputs
    result = nq.compare(
        bnn, METHODS, few, extras=(KernelRegime(seeds=2),), key=jax.random.key(0)
    )
    assert result.document["methods"][0]["status"] == "done"
    assert "16" in result.document["omitted"]["regime"]
    assert "16" in markdown.page(result.document).split("Kernel regime?")[-1][:400]


def test_extras_are_checked():
    bnn, data = problem()
    with pytest.raises(TypeError, match="extras"):
        nq.compare(bnn, METHODS, data, extras=("shift",), key=jax.random.key(0))


def test_what_changed(regression, tmp_path):
    old = copy.deepcopy(regression)
    new = copy.deepcopy(regression)
    score = new["methods"][0]["scores"]["nll"]
    score["value"] += 1.0
    new["methods"][1]["label"] = "renamed"
    new["verdict"][0]["answer"] = "no"
    text = markdown.page(new, old)
    head = text.split("## Which method?")[0]
    assert "## What changed" in head
    assert "renamed" in head
    assert "was not in the run before" in head
    assert "is not in this run" in head
    line = next(x for x in head.splitlines() if "MAP: Negative log" in x)
    assert line.rstrip().endswith("yes |")
    # the same run: nothing is told apart
    same = markdown.page(old, old).split("## Which method?")[0]
    assert "| yes |" not in same
    assert "No answer of the verdict changed." in same
    assert "<script" not in html.page(new, old)
    with pytest.raises(ValueError, match=r"\.html or \.md"):
        write(new, tmp_path / "a.csv", old)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_figures_are_files(classification, tmp_path, suffix):
    files = figures.write_all(classification, tmp_path / "figures", suffix)
    assert {file.stem for file in files} >= {"differences", "reliability", "price"}
    assert all(file.stat().st_size > 1000 for file in files)
    first = [file.read_bytes() for file in files]
    again = figures.write_all(classification, tmp_path / "figures", suffix)
    assert [file.read_bytes() for file in again] == first


@pytest.mark.skipif(shutil.which("xelatex") is None, reason="needs LaTeX (xelatex)")
def test_pgf_is_typeset_by_latex(classification, documents, tmp_path):
    # a name that LaTeX would obey, and one with all its special characters
    hostile = documents.with_label(classification, 0, r"\errmessage{obeyed}")
    hostile = documents.with_label(hostile, 1, "a_b ^ & # 90 % $ { } ~ \\")
    files = figures.write_all(hostile, tmp_path, ".pgf")
    assert all(file.read_text().startswith("%% Creator: Matplotlib") for file in files)
    lines = [
        r"\documentclass{article}\usepackage{pgf}\begin{document}",
        *(rf"\input{{{file.name}}}\par" for file in files),
        r"\end{document}",
    ]
    (tmp_path / "all.tex").write_text("\n".join(lines))
    # stops at the first error
    subprocess.run(
        [shutil.which("xelatex"), "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    assert (tmp_path / "all.pdf").stat().st_size > 1000


def test_names_are_quoted_for_latex(classification, documents):
    hostile = documents.with_label(classification, 0, r"\input{x}")
    figure = figures.draw(hostile, "differences")
    figures._quote_for_latex(figure)
    axis = figure.axes[0].yaxis
    names = [
        axis.get_major_formatter()(place, None) for place in axis.get_majorticklocs()
    ]
    assert r"\textbackslash{}input\{x\}" in "".join(names)
    assert r"\input{" not in "".join(names)


def test_pgf_needs_latex(classification, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="LaTeX"):
        figures.write_all(classification, tmp_path, ".pgf")
    with pytest.raises(ValueError, match=r"\.pdf"):
        figures.write_all(classification, tmp_path, ".jpg")


def test_a_notebook_shows_the_verdict(finished):
    _, result = finished
    shown = result._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/markdown", "text/html"}
    assert "MAP" in shown["text/html"]
    hostile = copy.deepcopy(result.document)
    hostile["methods"][0]["label"] = "<script>x</script>"
    from ntkuq.report import fragment

    assert "<script" not in fragment.html(hostile)
    assert "&lt;script&gt;" in fragment.html(hostile)

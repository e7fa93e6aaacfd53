"""`ntkuq score`: every kind of prediction, several files, reports, conditions."""

import json
from pathlib import Path

import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli import main
from tests.cli.conftest import write_csv


N = 200


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Outcomes with a mean and a standard deviation that are right."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    mean = rng.normal(size=N)
    return {"y": mean + rng.normal(0, 0.5, N), "mu": mean, "s": np.full(N, 0.5)}


def scored(capsys, *arguments, code=0):
    """The run document that a command prints."""
    assert main(["score", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def values(document, place=0):
    return {k: v["value"] for k, v in document["methods"][place]["scores"].items()}


NORMAL = ["--mean", "mu", "--std", "s"]


def test_a_table_and_arrays_give_the_scores_of_the_api(made, capsys):
    write_csv("p.csv", made)
    np.savez("p.npz", y=made["y"], mean=made["mu"], std=made["s"])
    expected = nq.score(nq.Predictive.normal(made["mu"], made["s"]), made["y"])
    expected = {k: v.value for k, v in expected.values.items()}
    document = scored(capsys, "p.csv", *NORMAL)
    assert document["schema"] == "ntkuq/run/1"
    assert values(document) == pytest.approx(expected, rel=1e-12)
    assert values(scored(capsys, "p.npz")) == pytest.approx(expected, rel=1e-12)
    named = ["--y", "y", "--mean", "mean", "--std", "std"]
    assert values(scored(capsys, "p.npz", *named)) == pytest.approx(expected)


def test_quantiles_in_any_order(made, capsys):
    levels = [0.95, 0.05, 0.5, 0.25, 0.75]
    rows = {level: made["mu"] + level for level in levels}
    table = {f"q{level}": values for level, values in rows.items()}
    write_csv("q.csv", {"y": made["y"], **table})
    ordered = np.stack([rows[level] for level in sorted(levels)])
    p = nq.Predictive.quantiles(np.array(sorted(levels)), ordered)
    expected = {k: v.value for k, v in nq.score(p, made["y"]).values.items()}
    assert values(scored(capsys, "q.csv", "--quantiles", "q")) == expected
    listed = ",".join(table)
    assert values(scored(capsys, "q.csv", "--quantiles", listed)) == expected
    np.savez("q.npz", y=made["y"], levels=sorted(levels), quantiles=ordered)
    assert values(scored(capsys, "q.npz")) == expected


def test_samples_and_probabilities_from_arrays(made, capsys):
    draws = np.random.default_rng(1).normal(made["mu"], 0.5, size=(30, N))
    np.savez("s.npz", y=made["y"], samples=draws)
    expected = nq.score(nq.Predictive.samples(draws), made["y"])["crps"].value
    assert values(scored(capsys, "s.npz"))["crps"] == pytest.approx(expected)
    p = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    np.savez("c.npz", y=[0, 1, 1], probabilities=p)
    document = scored(capsys, "c.npz")
    assert document["problem"]["task"] == "classification"
    expected = -np.mean(np.log([0.7, 0.8, 0.4]))
    assert values(document)["nll"] == pytest.approx(expected)
    # as a run stores them
    np.savez("r.npz", y=[0, 1, 1], mean=p, epistemic=np.ones(3))
    assert values(scored(capsys, "r.npz")) == values(document)


def test_levels(made, capsys):
    write_csv("p.csv", made)
    found = values(scored(capsys, "p.csv", *NORMAL, "--level", "0.8", "--level", ".99"))
    assert {"coverage_80", "coverage_99"} <= set(found)
    assert "coverage_90" not in found


def test_several_files_are_compared_in_pairs(made, capsys):
    write_csv("good.csv", made)
    write_csv("wide.csv", made | {"s": np.full(N, 5.0)})
    document = scored(capsys, "wide.csv", "good.csv", *NORMAL)
    assert [m["label"] for m in document["methods"]] == ["wide", "good"]
    comparison = document["comparison"]
    assert comparison["best"] == "good"
    difference = comparison["differences"][0]
    losses = [
        -np.asarray(nq.Predictive.normal(made["mu"], s).log_prob(made["y"]))
        for s in (made["s"], np.full(N, 5.0))
    ]
    d = losses[1] - losses[0]
    assert difference["value"] == pytest.approx(d.mean(), rel=1e-5)
    assert difference["se"] == pytest.approx(d.std(ddof=1) / np.sqrt(N), rel=1e-5)
    assert difference["distinguishable"]
    assert main(["score", "wide.csv", "good.csv", *NORMAL]) == 0
    out = capsys.readouterr().out
    assert "best" in out
    assert "wide" in out


def test_files_without_a_density_are_compared_by_another_score(made, capsys):
    draws = np.random.default_rng(1).normal(made["mu"], 0.5, size=(30, N))
    for name, shift in (("a", 0.0), ("b", 3.0)):
        np.savez(f"{name}.npz", y=made["y"], samples=draws + shift)
    comparison = scored(capsys, "a.npz", "b.npz")["comparison"]
    assert comparison["score"] == "crps"
    assert comparison["best"] == "a"


@pytest.mark.parametrize("suffix", ["html", "md", "csv", "tex", "json"])
def test_a_report_of_predictions_alone(suffix, made, capsys):
    name = "<script>alert(1)<"
    write_csv("p.csv", {name: made["y"], "mu": made["mu"], "s": made["s"]})
    command = ["score", "p.csv", "--y", name, *NORMAL, "--out", f"r.{suffix}"]
    assert main(command) == 0
    assert f"report r.{suffix}" in capsys.readouterr().out
    text = Path(f"r.{suffix}").read_text(encoding="utf-8")
    if suffix == "json":
        assert nq.report.load("r.json")["problem"]["data"]["target"] == name
        assert main(["report", "r.json", "--to", "again.html"]) == 0
    if suffix == "html":
        assert "<script" not in text
        assert "&lt;script" in text
    if suffix in ("html", "md"):
        assert "made elsewhere" in text


def test_conditions(made, capsys):
    write_csv("p.csv", made)
    write_csv("narrow.csv", made | {"s": np.full(N, 0.1)})
    files = ["p.csv", "narrow.csv"]
    assert main(["score", *files, *NORMAL, "--fail-on", "coverage<0.8"]) == 1
    err = capsys.readouterr().err
    assert "narrow has coverage_90" in err
    assert "p has" not in err
    assert main(["score", "p.csv", *NORMAL, "--fail-on", "coverage<0.8"]) == 0
    assert main(["score", "p.csv", *NORMAL, "--fail-on", "covrage<0.8"]) == 2
    assert "there are nll" in capsys.readouterr().err
    # a run that fails its condition is still one document
    document = scored(capsys, *files, *NORMAL, "--fail-on", "nll>1", code=1)
    assert len(document["methods"]) == 2


def test_groups_widen_the_errors(made, capsys):
    site = np.repeat([f"site {k}" for k in range(N // 10)], 10)
    shift = np.repeat(np.random.default_rng(2).normal(0, 1, N // 10), 10)
    table = made | {"y": made["y"] + shift, "site": site}
    write_csv("p.csv", table)
    alone = scored(capsys, "p.csv", *NORMAL)["methods"][0]["scores"]["nll"]
    grouped = scored(capsys, "p.csv", *NORMAL, "--group", "site")
    found = grouped["methods"][0]["scores"]["nll"]
    assert found["value"] == pytest.approx(alone["value"])
    assert found["se"] > 1.5 * alone["se"]
    codes = np.unique(site, return_inverse=True)[1]
    arrays = {"y": table["y"], "mean": made["mu"], "std": made["s"], "g": codes}
    np.savez("p.npz", **arrays)
    other = scored(capsys, "p.npz", "--group", "g")["methods"][0]["scores"]["nll"]
    assert other["se"] == pytest.approx(found["se"], rel=0.2)


def test_quiet_prints_the_path_alone(made, capsys):
    write_csv("p.csv", made)
    assert main(["score", "p.csv", *NORMAL, "--quiet", "--out", "r.md"]) == 0
    assert capsys.readouterr().out == "r.md\n"


BAD = {
    "no file": ([], ["expected a file of predictions"]),
    "missing file": (["absent.csv", *NORMAL], ["absent.csv"]),
    "missing arrays": (["absent.npz"], ["absent.npz"]),
    "kinds": (["p.csv", *NORMAL, "--quantiles", "q"], ["one kind"]),
    "level": (["p.csv", *NORMAL, "--level", "1.0"], ["between 0 and 1"]),
    "twice": (["p.csv", "p.csv", *NORMAL], ["different files", "more than once"]),
    "group": (["p.csv", *NORMAL, "--group", "sight"], ["group", "'sight'", "'y'"]),
    "rows": (["p.csv", "less.csv", *NORMAL], ["200 rows in p and 199 in less"]),
    "order": (["p.csv", "moved.csv", *NORMAL], ["same order", "row 0", "sort"]),
    "quantile name": (["bad.csv", "--quantiles", "q5,q95"], ["'q5'", "q0.05"]),
    "one quantile": (["bad.csv", "--quantiles", "q5"], ["two or more", "1 for 'q5'"]),
    "crossing": (["cross.csv", "--quantiles", "q"], ["cross.csv", "row 2"]),
    "empty label": (["gap.csv", *NORMAL, "--group", "site"], ["site", "empty"]),
    "separator": (["pipe.csv", *NORMAL], ["commas, semicolons or tabs"]),
    "no truth": (["none.npz"], ["'y'", "mean"]),
    "no kind": (["half.npz"], ["mean and std, or samples"]),
    "std": (["zero.npz"], ["zero.npz", "positive", "row 3"]),
    "shape": (["turned.npz"], ["transposed"]),
    "one column": (["wide.npz"], ["shape (200,) like y"]),
    "probabilities": (["sum.npz"], ["summing to 1", "row 0"]),
    "text": (["text.npz"], ["class codes"]),
    "view": (["p.csv", *NORMAL, "--out", "r.docx"], [".docx"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, made, capsys):
    y, mu, s = made["y"], made["mu"], made["s"]
    write_csv("p.csv", made)
    write_csv("less.csv", {k: v[:-1] for k, v in made.items()})
    write_csv("moved.csv", {k: v[::-1] for k, v in made.items()})
    write_csv("bad.csv", {"y": y, "q5": mu - 1, "q95": mu + 1})
    high = mu + 1
    high[2] = mu[2] - 1
    write_csv("cross.csv", {"y": y, "q0.05": mu, "q0.95": high})
    write_csv("gap.csv", made | {"site": ["a"] * (N - 1) + [""]})
    Path("pipe.csv").write_text("y|mu|s\n1|2|3\n")
    np.savez("none.npz", mean=mu, std=s)
    np.savez("half.npz", y=y, mean=mu)
    np.savez("zero.npz", y=y, mean=mu, std=np.where(np.arange(N) == 3, 0.0, s))
    np.savez("turned.npz", y=y, samples=np.zeros((N, 7)))
    np.savez("wide.npz", y=y, mean=np.ones((N, 2)), std=np.ones((N, 2)))
    np.savez("sum.npz", y=np.zeros(3, int), probabilities=np.ones((3, 2)))
    np.savez("text.npz", y=np.array(["a", "b"]), probabilities=np.ones((2, 2)) / 2)
    arguments, words = BAD[case]
    assert main(["score", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    for word in words:
        assert word in err

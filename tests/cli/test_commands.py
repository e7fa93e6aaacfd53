"""The commands as a user types them, on a small problem."""

import json
import warnings

import equinox as eqx
import jax
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.cli import main
from tests.cli.conftest import QUICK, houses, write_csv


TABLE = ["--data", "houses.csv", "--target", "price"]
METHODS = ["--method", QUICK, "--method", "Laplace(structure=KFAC())"]


def test_compare_own_network_resumes(here, capsys):
    command = ["compare", "nets:build", *TABLE, *METHODS, "--out", "run"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "plan   2 methods" in first
    assert "report run/report.html" in first
    assert first.count(" done ") == 2
    document = json.loads((here / "run" / "run.json").read_text())
    assert document["schema"] == "ntkuq/run/1"
    assert [m["status"] for m in document["methods"]] == ["done", "done"]
    noise = document["methods"][0]["hyperparameters"][1]
    assert noise["name"] == "noise scale"
    assert 1.5 < noise["value"] < 8
    with np.load(here / "run" / document["methods"][1]["predictions"]) as stored:
        assert stored["y"].shape == stored["mean"].shape == stored["std"].shape == (12,)
        assert stored["lower_90"].mean() < stored["mean"].mean()
    page = (here / "run" / "report.html").read_bytes()
    # a third method: only it is fitted
    assert main([*command, "--method", "Laplace(subset=LastLayer())"]) == 0
    second = capsys.readouterr().out
    assert second.count(" stored ") == 2
    assert second.count(" done ") == 1
    # nothing changed: everything is reused, and the page of the same document is the
    # same, but for when and how it was made
    assert main(command) == 0
    assert capsys.readouterr().out.count(" stored ") == 2
    again = json.loads((here / "run" / "run.json").read_text())
    assert again["methods"] == document["methods"]
    assert len((here / "run" / "report.html").read_bytes()) == len(page)


def test_interrupted_run_keeps_what_is_done(here, capsys, monkeypatch):
    from ntkuq.posteriors import Laplace

    def interrupt(self, bnn, data, *, key):
        raise KeyboardInterrupt

    command = ["compare", *TABLE, *METHODS, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(Laplace, "fit", interrupt)
        assert main(command) == 130
    assert "same command again" in capsys.readouterr().err
    assert len(list((here / "run" / "units").glob("*.json"))) == 1
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count(" stored ") == 1
    assert out.count(" done ") == 1


def test_failing_method_exits_with_3_and_the_others_are_reported(here, capsys):
    bad = "MAP(train=Train(1e12, steps=50))"
    # the first MAP trains the shared network: the second one may fail
    command = ["compare", *TABLE, "--method", QUICK, "--method", bad, "--out", "run"]
    assert main(command) == 3
    out = capsys.readouterr().out
    assert "failed" in out
    assert "diverged" in out
    document = json.loads((here / "run" / "run.json").read_text())
    assert [m["status"] for m in document["methods"]] == ["done", "failed"]


@pytest.mark.parametrize("scaled", [False, True])
def test_weights_find_their_scaling(here, capsys, scaled):
    import nets

    data = nq.data.read("houses.csv", target="price")
    scaling = nq.Standardize() if scaled else None
    bnn = nq.BNN(nq.Network(nets.build), nq.Gaussian(), scaling=scaling)
    train = nq.Train(0.03 if scaled else 0.3, steps=1500)
    fitted = nq.MAP(train, rounds=1).fit(bnn, data, key=jax.random.key(0)).bnn
    eqx.tree_serialise_leaves("net.eqx", fitted.network.trained)
    methods = ["--method", "MAP(train=None)", "--method", "Laplace()"]
    command = ["compare", "nets:build", "--weights", "net.eqx", *TABLE, *methods]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"scaling={'standardize' if scaled else 'none'}" in out
    path = here / "runs" / "houses-nets-build" / "run.json"
    document = json.loads(path.read_text())
    assert document["problem"]["network"]["weights"] is not None
    rmse = document["methods"][0]["scores"]["rmse"]["value"]
    assert rmse < 0.5 * np.std(data.y)


def test_classes_from_text_labels(here, capsys):
    command = ["compare", "nets:classes", "--data", "kinds.csv", "--target", "kind"]
    assert main([*command, *METHODS]) == 0
    document = json.loads(
        (here / "runs" / "kinds-nets-classes" / "run.json").read_text()
    )
    assert document["problem"]["task"] == "classification"
    assert document["problem"]["data"]["classes"] == ["flat", "house", "villa"]
    assert document["methods"][0]["scores"]["accuracy"]["value"] > 0.6


def test_constant_column_is_kept_and_named(here, capsys):
    columns = {k: houses()[k] for k in ("area", "age", "price")}
    write_csv(here / "c.csv", {"site": [0.1 + 0.2] * 60, **columns})
    command = ["compare", "--data", "c.csv", "--target", "price", "--method", QUICK]
    assert main([*command, "--out", "run"]) == 0
    assert "site" in capsys.readouterr().out
    document = json.loads((here / "run" / "run.json").read_text())
    assert any("site" in w for w in document["problem"]["data"]["warnings"])
    assert np.isfinite(document["methods"][0]["scores"]["nll"]["value"])


def test_dry_run_writes_nothing(here, capsys):
    assert main(["compare", *TABLE, "--dry-run"]) == 0
    assert "plan   8 methods" in capsys.readouterr().out
    assert not (here / "runs").exists()


def test_json_is_one_document(here, capsys):
    assert main(["compare", *TABLE, "--method", QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == "ntkuq/run/1"
    assert "plan" in err


def test_too_slow_methods_are_skipped_with_the_reason(here, capsys):
    command = ["compare", *TABLE, "--method", QUICK, "--method", "DeepEnsemble()"]
    assert main([*command, "--max-time", "1e-9", "--max-memory", "64"]) in (0, 3)
    assert "--max-time" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["md", "csv", "tex", "json", "html"])
def test_report_writes_every_view(here, capsys, suffix):
    assert main(["compare", *TABLE, "--method", QUICK, "--out", "r", "--quiet"]) == 0
    assert main(["report", "r", "--to", f"view.{suffix}"]) == 0
    assert "MAP" in (here / f"view.{suffix}").read_text()
    assert main(["cite", "r"]) == 0
    assert "2310.00137" in capsys.readouterr().out


def test_score_of_predictions_made_elsewhere(here, capsys):
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    write_csv(here / "p.csv", {"y": y, "mu": np.zeros(400), "sigma": np.full(400, 1.0)})
    flags = ["--y", "y", "--mean", "mu", "--std", "sigma"]
    assert main(["score", "p.csv", *flags]) == 0
    out = capsys.readouterr().out
    assert "nll" in out
    assert "% intervals hold" in out
    assert main(["score", "p.csv", *flags, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["methods"][0]["scores"]
    expected = np.mean(0.5 * np.log(2 * np.pi) + 0.5 * y**2)
    assert scores["nll"]["value"] == pytest.approx(expected, abs=1e-9)


def test_score_of_class_probabilities(here, capsys):
    p = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    write_csv(here / "p.csv", {"y": [0, 1, 1], "p0": p[:, 0], "p1": p[:, 1]})
    assert main(["score", "p.csv", "--prob", "p0,p1", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["methods"][0]["scores"]
    expected = -np.mean(np.log([0.7, 0.8, 0.4]))
    assert scores["nll"]["value"] == pytest.approx(expected)


def test_data_lists_what_is_shipped(capsys):
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    assert "concrete" in out
    assert "digits" in out


def test_python_api_is_the_same_comparison(here, capsys):
    """The command line and `nq.compare` with the same key give the same scores."""
    assert main(["compare", "nets:build", *TABLE, *METHODS, "--out", "run"]) == 0
    document = json.loads((here / "run" / "run.json").read_text())
    import nets

    data = nq.data.read("houses.csv", target="price")
    key = jax.random.key(0)
    split = data.split(train=0.8, test=0.2, key=jax.random.fold_in(key, 1))
    bnn = nq.BNN(nq.Network(nets.build), nq.Gaussian(), scaling=nq.Standardize())
    methods = [
        nq.MAP(nq.Train(0.03, steps=300), rounds=2),
        nq.Laplace(structure=nq.KFAC()),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = nq.compare(bnn, methods, split, key=key)
    for mine, theirs in zip(result.rows(), document["methods"], strict=True):
        assert mine["nll"] == theirs["scores"]["nll"]["value"]
    text = str(result)
    assert "Laplace" in text
    assert "NLL" in text
    outside = nq.Predictive.normal(
        np.full(len(split.test), 250.0), np.full(len(split.test), 40.0)
    )
    joined = result.add("always the mean", outside)
    assert len(joined.rows()) == 3
    assert len(result.rows()) == 2
    assert joined.scalars()["always the mean/nll"] > joined.rows()[0]["nll"]
    with pytest.raises(ValueError, match="taken"):
        joined.add("always the mean", outside)


HOUSES = ["compare", "--data", "houses.csv", "--target", "price", "--out", "a"]


def test_a_method_without_a_network(here, capsys):
    assert main([*HOUSES, "--method", "GP(kernel=RBF(ard=False))", "--quiet"]) == 0


def test_failed_training_leaves_the_other_methods(here, capsys):
    methods = ["MAP(train=Train(1e9, steps=50))", "Laplace()", "GP(RBF(False))"]
    flags = [part for text in methods for part in ("--method", text)]
    assert main([*HOUSES, *flags, "--quiet"]) == 3
    found = json.loads((here / "a" / "run.json").read_text())["methods"]
    assert [m["status"] for m in found] == ["failed", "failed", "done"]
    assert "training failed" in found[1]["reason"]


def test_the_plan_binds_the_training_too(here, capsys):
    flags = ["--method", QUICK, "--method", "Laplace()", "--max-memory", "1e-6"]
    assert main([*HOUSES, *flags, "--quiet"]) == 3
    found = json.loads((here / "a" / "run.json").read_text())["methods"]
    assert [m["status"] for m in found] == ["skipped", "skipped"]


def test_constant_up_to_rounding_is_named(here, capsys):
    rows = houses()
    rows["flat"] = 1e6 + 1e-6 * rows["noise"]
    write_csv(here / "houses.csv", {k: v for k, v in rows.items() if k != "kind"})
    assert main([*HOUSES, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "standardized to zero): flat" in out
    assert "60 rows" not in out


def test_remarks_on_the_target_and_the_weights(here, capsys):
    import nets

    rows = houses()
    rows["price"] = np.round(rows["price"] / 40)
    write_csv(here / "houses.csv", {k: v for k, v in rows.items() if k != "kind"})
    eqx.tree_serialise_leaves(here / "net.eqx", nets.build(jax.random.key(0)))
    flags = ["nets:build", "--weights", "net.eqx", "--dry-run", "--method"]
    assert main([*HOUSES, *flags, QUICK]) == 0
    out = capsys.readouterr().out
    assert "different whole numbers" in out
    assert "net.eqx go unused" in out
    assert "plan   1 method," in out
    assert main([*HOUSES, *flags, "MAP(train=None)"]) == 0
    assert "go unused" not in capsys.readouterr().out


def test_a_feature_name_with_a_comma(here, capsys):
    rows = houses()
    table = {"area, m2": rows["area"], "age": rows["age"], "price": rows["price"]}
    write_csv(here / "houses.csv", table)
    assert main([*HOUSES, "--dry-run", "--features", 'age,"area, m2"']) == 0


def test_listed_columns_of_probabilities(here, capsys):
    table = {"y": ["b", "a"], "p_a": [0.3, 0.6], "p_b": [0.7, 0.4]}
    write_csv(here / "p.csv", table)
    assert main(["score", "p.csv", "--prob", "p_a,p_b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"][0]["scores"]["accuracy"]["value"] == 1.0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ntkuq {nq.__version__}\n"


def test_conditions_on_a_run(here, capsys):
    command = ["compare", *TABLE, "--method", QUICK, "--out", "run", "--quiet"]
    passing = ["coverage<0", "nll>1e6", "issue", "tip"]
    flags = [part for text in passing for part in ("--fail-on", text)]
    assert main([*command, *flags]) == 0
    assert main([*command, "--fail-on", "rmse>0", "--fail-on", "coverage<0"]) == 1
    out, err = capsys.readouterr()
    assert out == "run/report.html\n" * 2
    assert err.count("--fail-on") == 1
    assert "has rmse = " in err
    constant = {k: houses()[k] for k in ("area", "price")} | {"site": [1.0] * 60}
    write_csv(here / "c.csv", constant)
    tips = ["compare", "--data", "c.csv", *command[3:], "--out", "c"]
    assert main([*tips, "--fail-on", "tip"]) == 1
    assert "tip: data: constant" in capsys.readouterr().err
    # a name that is none is refused before anything is fitted
    command[command.index("run")] = "other"
    assert main([*command, "--fail-on", "covrage<0.9"]) == 2
    assert "there are nll" in capsys.readouterr().err
    assert not (here / "other").exists()


def test_a_part_for_calibration(here, capsys):
    flags = [*TABLE, "--split", "0.5,0.2,0.3", "--method", QUICK, "--dry-run"]
    assert main(["compare", *flags]) == 0
    out = capsys.readouterr().out
    assert "30 training rows, 12 calibration rows, 18 test rows" in out


def test_files_of_parts(here, capsys):
    table = {k: v for k, v in houses().items() if k != "kind"}
    for name, rows in (("a", slice(0, 40)), ("b", slice(40, 60))):
        write_csv(here / f"{name}.csv", {k: v[rows] for k, v in table.items()})
    flags = ["--train", "a.csv", "--test", "b.csv", "--target", "price"]
    assert main(["compare", *flags, "--method", QUICK, "--quiet"]) == 0
    document = json.loads((here / "runs" / "a" / "run.json").read_text())
    assert document["problem"]["data"]["n_test"] == 20


def test_device(here, capsys):
    flags = [*TABLE, "--method", QUICK, "--dry-run"]
    assert main(["compare", *flags, "--device", "cpu"]) == 0
    capsys.readouterr()
    if jax.default_backend() == "cpu":
        assert main(["compare", *flags, "--device", "gpu"]) == 2
        err = capsys.readouterr().err
        assert "--device: expected a gpu" in err
        assert "ntkuq[cuda12]" in err
    jax.config.update("jax_default_device", None)


def test_levels_of_a_run(here, capsys):
    flags = ["--method", QUICK, "--level", "0.8", "--json", "--out", "run"]
    assert main(["compare", *TABLE, *flags]) == 0
    scores = json.loads(capsys.readouterr().out)["methods"][0]["scores"]
    assert "coverage_80" in scores
    assert "coverage_90" not in scores


def test_what_changed_since_another_run(here, capsys, monkeypatch):
    command = ["compare", *TABLE, "--method", QUICK, "--quiet"]
    assert main([*command, "--out", "a"]) == 0
    assert main([*command, "--out", "b", "--seed", "1"]) == 0
    assert main(["report", "b", "--to", "r.md", "--baseline", "a"]) == 0
    assert (here / "r.md").is_file()
    capsys.readouterr()
    assert main(["report", "b", "--to", "r.md", "--baseline", "absent"]) == 2
    assert "no run document absent" in capsys.readouterr().err

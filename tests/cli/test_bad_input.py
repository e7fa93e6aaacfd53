"""Bad input: exit code 2, one message that says what to do, nothing overwritten."""

import equinox as eqx
import jax
import numpy as np
import pytest

from ntkuq.cli import main
from tests.cli.conftest import QUICK, houses, write_csv


def refused(capsys, *arguments):
    """The message of a refused command."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    return err


def table(**changes):
    columns = {k: list(v) for k, v in list(houses().items())[:4]}
    return columns | changes


CSV = {
    "non-numeric cell": (
        table(area=["1.0"] * 4 + ["tall"] + ["2.0"] * 55),
        ["area", "line 6", "tall"],
    ),
    "NaN": (table(age=[1.0] * 9 + ["nan"] + [2.0] * 50), ["age", "line 11"]),
    "infinite": (table(age=[1.0] * 9 + ["inf"] + [2.0] * 50), ["age", "line 11"]),
    "empty cell": (table(age=[1.0] * 9 + [""] + [2.0] * 50), ["age", "line 11"]),
    "one row": (
        {k: v[:1] for k, v in table().items()},
        ["at least two rows", "one row"],
    ),
    "no rows": ({k: [] for k in table()}, ["row"]),
    "constant target": (table(price=[3.0] * 60), ["price", "same in every row"]),
    "one class": (table(price=["yes"] * 60), ["price", "class"]),
}


@pytest.mark.parametrize("case", CSV)
def test_bad_table(case, here, capsys):
    columns, words = CSV[case]
    write_csv(here / "bad.csv", columns)
    message = refused(capsys, "compare", "--data", "bad.csv", "--target", "price")
    for word in words:
        assert word in message
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "houses.csv"], ["target", "area", "price"]),
        (["--data", "houses.csv", "--target", "prise"], ["prise", "price"]),
        (["--data", "absent.csv", "--target", "price"], ["absent.csv"]),
        (["--data", "concret"], ["concret", "concrete"]),
        (["--data", "concrete", "--target", "x"], ["--target", "file"]),
        (["--split", "20"], ["20", "split"]),
        (["--split", "x"], ["--split", "'x'"]),
        (["--method", "Laplac()"], ["Laplac", "did you mean Laplace"]),
        (["--method", "Laplace(subst=All())"], ["subst", "subset"]),
        (["--method", "KFAC()"], ["--method", "part of one"]),
        (["--likelihood", "Laplace()"], ["--likelihood", "Gaussian()"]),
        (["--prior", "NormalPrior(precision=0.0)"], ["precision > 0", "0.0"]),
        (["--weights", "net.eqx"], ["--weights", "MODEL"]),
        (["--max-time", "0"], ["--max-time"]),
        (["--max-memory", "0"], ["--max-memory"]),
        (["--max-memory", "nan"], ["--max-memory"]),
        (["--data", "table.xlsx"], ["table.xlsx", ".csv", "ntkuq data"]),
        (["--data", "table.parquet", "--target", "price"], ["no file table.parquet"]),
        (["--seeds", "0"], ["--seeds: expected 1 or more, got 0"]),
    ],
)
def test_bad_flag(flags, words, here, capsys):
    message = refused(capsys, "compare", *flags)
    for word in words:
        assert word in message
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nets", ["module:function", "nets"]),
        ("absent:build", ["absent", "current directory"]),
        ("nets:bild", ["bild", "build"]),
        ("nets:constant", ["constant", "function"]),
        ("nets:number", ["eqx.Module", "int"]),
        ("nets:no_arguments", ["key"]),
        ("nets:wide", ["1 network output", "has 2"]),
        ("nets.py:build", ["nets:build", "nets.py"]),
        ("..nets:build", ["nets:build"]),
        ("nets:broken", ["RuntimeError", "line", "nets.py", "boom"]),
        ("nets:missing", ["KeyError", "line", "nets.py"]),
        ("typo:build", ["SyntaxError", "line 1", "typo.py"]),
        ("quits:build", ["SystemExit"]),
    ],
)
def test_bad_model(model, words, here, capsys):
    flags = ["--data", "houses.csv", "--target", "price"]
    message = refused(capsys, "compare", model, *flags)
    for word in words:
        assert word in message


def test_a_defect_is_one_message_and_another_exit_code(here, capsys, monkeypatch):
    def broken(path, *args, **kwargs):
        raise KeyError("lost")

    monkeypatch.setattr("ntkuq.cli.predictions.read_predictions", broken)
    assert main(["score", "p.csv", "--mean", "mu", "--std", "s"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected KeyError")
    assert "--debug" in err


def test_report_into_a_missing_directory(here, capsys):
    flags = ["--data", "houses.csv", "--target", "price", "--out", "a", "--quiet"]
    assert main(["compare", *flags, "--method", QUICK]) == 0
    capsys.readouterr()
    message = refused(capsys, "report", "a", "--to", "absent/r.md")
    assert "cannot use absent: no such file or directory" in message


def test_constant_up_to_rounding(here, capsys):
    write_csv(here / "bad.csv", table(price=[3.0 + k * 1e-15 for k in range(60)]))
    message = refused(capsys, "compare", "--data", "bad.csv", "--target", "price")
    assert "same in every row" in message


def test_target_with_separators_of_thousands(here, capsys):
    cells = [f"{1234567.5 + k:,}" for k in range(60)]
    write_csv(here / "bad.csv", table(price=cells))
    message = refused(capsys, "compare", "--data", "bad.csv", "--target", "price")
    assert "no separator of thousands" in message
    write_csv(here / "bad.csv", table(area=cells))
    message = refused(capsys, "compare", "--data", "bad.csv", "--target", "price")
    assert "no separator of thousands" in message


def test_too_few_rows_to_split(here, capsys):
    write_csv(here / "two.csv", {k: v[:2] for k, v in table().items()})
    message = refused(capsys, "compare", "--data", "two.csv", "--target", "price")
    assert "two.csv" in message
    assert "got 2 rows" in message


@pytest.mark.parametrize("likelihood", ["Gaussian()", "Poisson()"])
def test_classes_are_no_measurements(likelihood, here, capsys):
    flags = ["--data", "kinds.csv", "--target", "kind", "--likelihood", likelihood]
    message = refused(capsys, "compare", *flags)
    assert "flat, house, villa" in message
    assert "Categorical()" in message


def test_target_that_float32_cannot_tell_apart(here, capsys):
    far = [1e9 + value for value in table()["price"]]
    write_csv(here / "far.csv", table(price=far))
    flags = ["--data", "far.csv", "--target", "price"]
    message = refused(capsys, "compare", *flags)
    assert "--x64" in message
    assert "subtract" in message
    assert main(["compare", *flags, "--x64", "--dry-run"]) == 0


def test_too_few_outputs_for_the_classes(here, capsys):
    flags = ["--data", "kinds.csv", "--target", "kind"]
    message = refused(capsys, "compare", "nets:wide", *flags)
    assert "3 network output" in message


def test_wrong_number_of_features(here, capsys):
    write_csv(here / "two.csv", {k: houses()[k] for k in ("area", "age", "price")})
    flags = ["--data", "two.csv", "--target", "price"]
    message = refused(capsys, "compare", "nets:build", *flags)
    assert "(2,)" in message


def test_weights_that_do_not_fit(here, capsys):
    other = eqx.nn.MLP(3, 1, 9, 1, jax.nn.relu, key=jax.random.key(0))
    eqx.tree_serialise_leaves(here / "other.eqx", other)
    (here / "junk.eqx").write_bytes(b"not weights")
    flags = ["--data", "houses.csv", "--target", "price"]
    for name in ("other.eqx", "junk.eqx"):
        message = refused(capsys, "compare", "nets:build", "--weights", name, *flags)
        assert name in message
        assert "do not fit" in message
        assert "(8, 3)" in message
        assert "GetAttrKey" not in message
    assert "bytes that are no array" in message
    message = refused(capsys, "compare", "nets:build", "--weights", "absent", *flags)
    assert "no weights file absent" in message


def test_weights_that_are_not_finite(here, capsys):
    import nets

    net = nets.build(jax.random.key(0))
    broken = eqx.tree_at(lambda m: m.layers[0].bias, net, np.full(8, np.nan, "f"))
    eqx.tree_serialise_leaves(here / "nan.eqx", broken)
    flags = ["--data", "houses.csv", "--target", "price", "--method", "Laplace()"]
    for method in ("Laplace()", QUICK):
        flags[-1] = method
        arguments = ["nets:build", "--weights", "nan.eqx", *flags]
        message = refused(capsys, "compare", *arguments)
        assert "finite" in message
        assert "bias" in message


def test_directory_of_another_problem_is_left_alone(here, capsys):
    base = ["compare", "--data", "houses.csv", "--method", QUICK, "--out", "a"]
    assert main([*base, "--target", "price", "--quiet"]) == 0
    capsys.readouterr()
    before = {p: p.read_bytes() for p in (here / "a").rglob("*") if p.is_file()}
    message = refused(capsys, *base, "--target", "age")
    assert "came that of another" in message
    assert "data sha256" in message
    after = {p: p.read_bytes() for p in (here / "a").rglob("*") if p.is_file()}
    assert before == after


def test_directory_that_is_no_run_is_left_alone(here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    flags = ["--data", "houses.csv", "--target", "price", "--out", "mine"]
    message = refused(capsys, "compare", *flags)
    assert "mine" in message
    assert [p.name for p in (here / "mine").iterdir()] == ["thesis.txt"]


def test_unknown_flag_exits_with_2(here, capsys):
    with pytest.raises(SystemExit) as info:
        main(["compare", "--dta", "concrete"])
    assert info.value.code == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "flags", "words"),
    [
        ({"y": [1.0], "mu": [1.0]}, ["--mean", "mu"], ["--std is missing"]),
        ({"y": [1.0, 2.0]}, [], ["--mean", "--samples", "--prob"]),
        (
            {"y": [1.0, 2.0], "mu": [1.0, 2.0], "s": [1.0, -1.0]},
            ["--mean", "mu", "--std", "s"],
            ["s", "-1"],
        ),
        (
            {"z": [1.0, 2.0], "mu": [1.0, 2.0], "s": [1.0, 1.0]},
            ["--mean", "mu", "--std", "s"],
            ["y", "z"],
        ),
    ],
)
def test_bad_predictions(columns, flags, words, here, capsys):
    write_csv(here / "p.csv", columns)
    message = refused(capsys, "score", "p.csv", *flags)
    for word in words:
        assert word in message


def test_report_of_nothing(here, capsys):
    assert "absent" in refused(capsys, "report", "absent")

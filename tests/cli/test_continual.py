"""`ntkuq continual`: runs, goes on, writes a page, and says what is wrong."""

import json

import pytest

from ntkuq.cli.main import main


QUICK = [
    *("continual", "--stream", "permuted-digits", "--tasks", "2", "--seeds", "2"),
    *("--rows", "120", "--width", "8", "--training", "Train(0.01, steps=20)"),
]


def test_it_writes_a_document_and_a_page_and_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    command = [*QUICK, "--strategy", "EWC(strength=10.0)", "--out", str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "average accuracy" in text
    assert "domain-incremental, single head" in text
    document = json.loads((out / "continual.json").read_text())
    assert document["schema"] == "ntkuq/continual/1"
    assert len(document["over_time"]["ece"]) == 2
    page = (out / "report.html").read_text()
    for part in ("Calibration over time", "What is forgotten", "Accuracy of each task"):
        assert part in page
    assert "<script" not in page
    assert "<image" not in page
    text = (out / "report.md").read_text()
    for part in ("# What is forgotten: permuted", "## Calibration over time"):
        assert part in text
    # one row of the matrix, as the document has it
    values = document["measures"]["accuracy"]
    cells = [f"{sum(one[1][j] for one in values) / 2:.3f}" for j in range(2)]
    assert f"| permutation 1 | {cells[0]} | {cells[1]} |" in text
    assert main(command) == 0
    assert "2 seeds stored" in capsys.readouterr().out
    assert (out / "report.html").read_text().count("<svg") == page.count("<svg")
    # another strategy does not go on from it
    assert main([*QUICK, "--strategy", "FineTuning()", "--out", str(out)]) == 2
    assert "strategy" in capsys.readouterr().err


def test_a_head_for_each_task_and_json(capsys):
    command = [*QUICK, "--heads", "each", "--json", "--strategy", "FineTuning()"]
    command[2] = "split-digits"
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["setting"] == "task-incremental, multi-head"
    assert document["tasks"] == ["0 1", "2 3"]


def test_regression_that_drifts(capsys):
    command = [*QUICK, "--quiet", "--strategy", "Replay(RandomPoints(10))"]
    command[2] = "drifting"
    command[-1] = "Replay(memory=RandomPoints(10))"
    assert main(command) == 0
    assert "R²" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--strategy", "Laplace()"], "expected what is done against forgetting"),
        (["--strategy", "EWCC()"], "did you mean EWC?"),
        (["--strategy", "EWC(strength=-1.0)"], "strength >= 0"),
        (["--tasks", "0"], "--tasks: expected 1 or more"),
        (["--heads", "each"], "expected a split stream"),
        (["--training", "KFAC()"], "--training"),
    ],
)
def test_what_cannot_be_is_said(flags, text, capsys):
    assert main([*QUICK, *flags]) == 2
    assert text in capsys.readouterr().err

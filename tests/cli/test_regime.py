"""`ntkuq regime`: the claims of kernel theory from the command line."""

import json
import subprocess
import sys
from typing import ClassVar

import jax
import numpy as np
import pytest
from rich.console import Console

from ntkuq.cli import main
from ntkuq.cli.commands.regime import Regime
from ntkuq.cli.regime import Announced, show, studies
from ntkuq.cli.studies import CHEAP, NAMES, read_studies
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, Gaussian, Train, mlp
from ntkuq.optimization.kernel_regime.study import AbstractStudy, Setting


DATA = ["--data", "houses.csv", "--target", "price", "--split", "0.6,0.4"]
SHORT = ["--seeds", "2", "--training", "Train(0.01, steps=30)"]
SIZED = """
import equinox as eqx


def build(key, width=8):
    return eqx.nn.MLP(3, 1, width, 1, key=key)
"""


def test_the_command_writes_what_it_shows(here, capsys):
    (here / "sized.py").write_text(SIZED)
    command = ["regime", "sized:build", *DATA, *SHORT, "--study", "limit"]
    assert main([*command, "--width", "4", "--width", "8", "--out", "run"]) == 0
    out = capsys.readouterr().out
    document = json.loads((here / "run" / "regime.json").read_text())
    assert document["schema"] == "ntkuq/regime/1"
    assert document["verdict"] in out
    assert len(document["consequences"]) == 3
    assert all(text in out for text in document["consequences"])
    assert document["setting"]["parametrization"] in out
    for claim in document["claims"]:
        assert f"{claim['word']:<11} {claim['number']}. {claim['statement']}: " in out
    tested = {claim["number"]: claim for claim in document["claims"]}
    # two widths tell no law
    assert "at least 3 widths" in tested[3]["reason"]
    assert tested[1]["statistic"]["n"] == 2
    assert "study  limit" in out
    assert "study  width" in out
    assert document["provenance"]["command"].startswith("ntkuq regime sized:build")
    (left,) = [note for note in document["notes"] if note.startswith("decided only")]
    assert "--study uncertainty" in left
    assert "--width" not in left


def test_one_json_document_and_failure(here, capsys):
    command = ["regime", "nets:build", *DATA, "--seeds", "2", "--study", "none"]
    assert main([*command, "--training", "Train(0.01, steps=30)", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [claim["number"] for claim in document["claims"]][:2] == [1, 2]
    assert "train  2 times" in err
    assert main([*command, "--training", "Train(1e12, steps=30)", "--json"]) == 3
    assert "diverged" in json.loads(capsys.readouterr().out)["failed"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "1"], ["--seeds", "2 or more"]),
        (["--study", "limits"], ["did you mean limit"]),
        (["--study", "width"], ["--width 16"]),
        (["--width", "0"], ["widths >= 1"]),
        (["nets:build", "--width", "8"], ["take a width", "def build(key, width=50)"]),
        (["--training", "MAP()"], ["how to train"]),
        (["--out", "houses.csv"], ["--out", "directory"]),
        (["--max-time", "1e-9"], ["5 trainings", "--seeds"]),
        (["--split", "0.9,0.1"], ["16 test inputs"]),
        (["--points", "1"], ["--points", "2 or more"]),
    ],
)
def test_what_cannot_be_done_is_refused(flags, words, here, capsys):
    small = ["--training", "Train(0.01, steps=2)"]
    given = [*DATA, *([] if "--training" in flags else small), *flags]
    assert main(["regime", *given]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_kernels_that_do_not_fit_are_refused(here, capsys, monkeypatch):
    room = "ntkuq.kernels.solvers.memory.available_bytes"
    monkeypatch.setattr(room, lambda: 1000.0)
    command = ["regime", "nets:build", *DATA, *SHORT, "--study", "none"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "test inputs × 1 outputs" in error
    assert "fewer test inputs" in error
    assert "defect" not in error


def test_names_are_those_of_the_studies():
    found = [study.name for study in studies(tuple(NAMES), {}, seeds=2)]
    assert found == list(NAMES)
    few = studies(("conditions", "rate", "limit"), {}, seeds=2, points=8)
    assert [getattr(study, "points", None) for study in few] == [8, 8, None]
    assert read_studies((), widths=()) == CHEAP
    assert read_studies(("none",), widths=()) == ()
    assert read_studies(("uncertainty",), widths=(8,)) == ("width", "uncertainty")


class Broken(AbstractStudy):
    """A study that cannot be done."""

    name: ClassVar[str] = "broken"

    def claims(self, setting, *, key):
        raise ValueError("out of luck")


def test_a_study_that_fails_is_announced_and_says_why():
    data = Dataset(np.zeros((3, 2)), np.zeros(3))
    setting = Setting(BNN(mlp(2, 1), Gaussian()), Split(data, None, data), Train(), ())
    lines = []
    (claim,) = Announced(Broken(), lines.append).claims(setting, key=jax.random.key(0))
    assert claim.reason == "out of luck"
    assert lines[0].endswith("1 not tested")


def test_the_table_takes_markup_as_text(capsys):
    claim = {
        "number": 4,
        "statement": "[red]near[/red]",
        "word": "undecided",
        "statistic": {"value": 0.5, "se": None, "n": 2, "interval": None},
        "confirm": "below 1",
        "refute": "above 2",
        "note": "[b]how[/b]",
        "reason": None,
    }
    entry = {
        "claims": [claim],
        "setting": {"[i]": "[x]"},
        "verdict": "[v]",
        "consequences": ["[c]"],
    }
    for terminal in (True, False):
        show(entry, Console(force_terminal=terminal, color_system=None, width=160))
        out = capsys.readouterr().out
        for text in ("[red]near[/red]", "[b]how[/b]", "[i]: [x]", "[v]", "[c]"):
            assert text in out
        assert "0.5 (no interval)" in out


def test_help_needs_no_jax():
    code = (
        "import sys; import ntkuq.cli.commands.regime, ntkuq.cli.studies; "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Regime().seeds == 5

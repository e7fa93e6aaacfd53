"""Flags from a TOML file: every type, who wins, what is refused."""

import json
import shlex

import pytest

from ntkuq.cli import main
from ntkuq.cli.commands.base import typed
from ntkuq.cli.commands.compare import Compare
from ntkuq.cli.commands.fit import Fit
from ntkuq.cli.config import is_config, read_config, with_config
from ntkuq.cli.errors import UsageError
from tests.cli.conftest import QUICK


FILE = """
model = "nets:build"
data = "houses.csv"
target = "price"
features = ["area", "age, years"]
split = [0.6, 0.2, 0.2]
method = ["MAP()", "Laplace()"]
level = 0.8
fail-on = ["coverage<0.88"]
seed = 3
max_time = 60
scaling = "none"
x64 = true
"""


@pytest.fixture
def config(tmp_path):
    """A file of flags."""
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def merged(path, *flags):
    first = Compare(model=str(path))
    assert is_config(first)
    return with_config(first, ["compare", str(path), *flags])


def test_a_file_sets_flags_of_every_type(config):
    found = merged(config)
    assert found == Compare(
        model="nets:build",
        data="houses.csv",
        target="price",
        features='area,"age, years"',
        split="0.6,0.2,0.2",
        method=("MAP()", "Laplace()"),
        level=(0.8,),
        fail_on=("coverage<0.88",),
        seed=3,
        max_time=60.0,
        scaling="none",
        x64=True,
    )
    assert isinstance(found.max_time, float)


def test_flags_win_over_the_file(config):
    flags = ["--method", "GP()", "--seed", "0", "--scaling", "auto", "--x64"]
    found = merged(config, *flags, "--out", "b", "--level", "0.5", "--level", "0.7")
    assert found.method == ("GP()",)
    assert found.seed == 0  # the usual value, but given
    assert found.scaling == "auto"
    assert found.level == (0.5, 0.7)
    assert found.out == "b"
    assert found.x64
    assert found.data == "houses.csv"


def test_the_merged_command_is_one_line_that_says_it_all(config):
    line = typed(merged(config, "--seed", "4", "--quiet"), positional="model")
    words = shlex.split(line)
    assert words[:3] == ["ntkuq", "compare", "nets:build"]
    assert "--quiet" not in words
    assert words[words.index("--seed") + 1] == "4"
    assert [words[i + 1] for i, w in enumerate(words) if w == "--method"] == [
        "MAP()",
        "Laplace()",
    ]
    # what it says is what was merged
    again = Compare.__init__.__annotations__  # the names of the flags
    flags = {w[2:].replace("-", "_") for w in words if w.startswith("--")}
    assert flags < set(again)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('metod = "MAP()"', ["'metod'", "did you mean method?"]),
        ('seed = "three"', ["seed", "a whole number", "'three'"]),
        ("seed = true", ["seed", "a whole number"]),
        ("seed = 1.5", ["seed", "a whole number"]),
        ("x64 = 1", ["x64", "true or false"]),
        ('max_time = "long"', ["max_time", "a number"]),
        ('scaling = "robust"', ["scaling", "one of auto, none, standardize"]),
        ("data = true", ["data", "text in quotes"]),
        ("features = []", ["features", "text in quotes"]),
        ("method = [1, {}]", ["method", "text in quotes"]),
        ("data = houses.csv", ["run.toml", "TOML", "line 1"]),
        ('[compare]\ndata = "a.csv"', ["outside of tables", "[compare]"]),
        ("max-time = 1\nmax_time = 2", ["max_time", "twice"]),
        ('model = "other.toml"', ["module:function"]),
    ],
)
def test_a_bad_file_is_refused(text, words, config, capsys):
    config.write_text(text)
    assert main(["compare", str(config)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert str(config) in err
    for word in words:
        assert word in err


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*absent"):
        read_config(tmp_path / "absent.toml", Compare)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="expected TOML"):
        read_config(tmp_path / "b.toml", Compare)


def test_keys_are_those_of_the_command(config):
    config.write_text("level = 0.9")
    with pytest.raises(UsageError, match="'level' is no flag of ntkuq fit"):
        read_config(config, Fit)
    config.write_text('method = "GP()"')
    assert read_config(config, Fit) == {"method": "GP()"}


def test_a_run_from_a_file_stores_what_was_merged(here, capsys):
    (here / "run.toml").write_text(
        f'model = "nets:build"\ndata = "houses.csv"\ntarget = "price"\n'
        f'method = "{QUICK}"\nout = "a"\nseed = 1\n'
    )
    assert main(["compare", "run.toml", "--seed", "2", "--quiet"]) == 0
    provenance = json.loads((here / "a" / "run.json").read_text())["provenance"]
    assert provenance["seed"] == 2
    words = shlex.split(provenance["command"])
    assert words[1:3] == ["compare", "nets:build"]
    assert "run.toml" not in words
    # typed as it stands there, it is the same run
    capsys.readouterr()
    assert main(words[1:]) == 0
    assert capsys.readouterr().out.count(" stored ") == 1


def test_extras_are_read_from_flags_and_files(tmp_path):
    from ntkuq.cli.commands.base import typed
    from ntkuq.cli.commands.compare import Compare
    from ntkuq.cli.config import read_config
    from ntkuq.cli.errors import UsageError
    from ntkuq.cli.extras import EXTRAS
    from ntkuq.cli.wanted import NAMES, read_extras

    command = Compare(with_=("regime,shift",))
    assert typed(command, positional="model") == "ntkuq compare --with regime,shift"
    file = tmp_path / "run.toml"
    file.write_text('with = ["shift", "outside"]\n')
    assert read_config(file, Compare) == {"with_": ("shift", "outside")}
    assert set(NAMES) == set(EXTRAS)
    assert all(make().name == name for name, make in EXTRAS.items())
    with pytest.raises(UsageError, match="did you mean regime"):
        read_extras(("regmie",))

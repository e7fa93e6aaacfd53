"""`ntkuq`: parse, run, and turn errors into one message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ntkuq.cli.commands import COMMANDS, AbstractCommand
from ntkuq.cli.config import STYLE, is_config, with_config
from ntkuq.cli.errors import UsageError


#: Exit codes: a defect, misuse or bad input, interrupted. A command gives the others.
DEFECT, MISUSE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went.

    0: fine. 1: what `--fail-on` names, or an issue of `audit`, was found; also a defect
    of the program, which says so. 2: misuse or bad input, with one message on stderr.
    3: a method failed numerically, the others are reported. 130: interrupted.
    """
    import tyro

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["--version"], ["-V"]):
        import ntkuq

        print(f"ntkuq {ntkuq.__version__}")
        return 0
    command: AbstractCommand = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="ntkuq",
        description=(
            "Which uncertainty should you trust for a network? Fits several methods to "
            "the same problem, scores them, and writes one report. `ntkuq --version` "
            "prints the version."
        ),
        args=given,
        config=STYLE,
    )
    if is_config(command):
        try:
            command = with_config(command, given)  # pyright: ignore[reportArgumentType]
        except (UsageError, OSError) as error:
            if command.debug:
                raise
            _say(f"error: {_message(error)}")
            return MISUSE
    return run(command)


def run(command: AbstractCommand) -> int:
    """Run a parsed command."""
    try:
        return command.execute()
    except KeyboardInterrupt:
        _say(command.interrupted())
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError) as error:
        if command.debug:
            raise
        _say(f"error: {_message(error)}")
        return MISUSE
    except Exception as error:
        if command.debug:
            raise
        _say(
            f"error: unexpected {type(error).__name__}: {_message(error)}. This is a "
            "defect of ntkuq or of your own code; the same command with --debug shows "
            "where"
        )
        return DEFECT


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        place = Path(str(error.filename))
        # a file is first written beside its place, under another name
        place = place.parent if place.suffix == ".tmp" else place
        return (
            f"cannot use {place}: {error.strerror.lower()}; check that its directory "
            "exists and that you may write there"
        )
    return str(error).strip() or type(error).__name__


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""`ntkuq`: parse, run, and turn errors into one message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ntkuq.cli.commands import COMMANDS, Common


#: Exit codes: fine, misuse or bad input, a method failed, interrupted.
FINE, MISUSE, FAILED, INTERRUPTED = 0, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went.

    0: fine. 2: misuse or bad input, with one message on stderr. 3: a method failed
    numerically, the others are reported. 130: interrupted.
    """
    import tyro

    command: Common = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="ntkuq",
        description=(
            "Which uncertainty should you trust for a network? Fits several methods to "
            "the same problem, scores them, and writes one report."
        ),
        args=None if arguments is None else list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    return run(command)


def run(command: Common) -> int:
    """Run a parsed command."""
    try:
        return command.execute()
    except KeyboardInterrupt:
        _say(command.interrupted())
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, AttributeError) as error:
        if command.debug:
            raise
        _say(f"error: {_message(error)}")
        return MISUSE


def _message(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, KeyError):
        text = text.strip("'\"")
    return text


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

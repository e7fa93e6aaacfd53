"""What all commands share."""

from __future__ import annotations

import abc
import dataclasses
import shlex


#: Flags that change what is shown, not what is computed.
SHOWN = frozenset({"debug", "quiet", "json", "no_progress"})


@dataclasses.dataclass(frozen=True)
class AbstractCommand(abc.ABC):
    """Flags of every command."""

    debug: bool = dataclasses.field(default=False, kw_only=True)
    """Show the traceback of an error."""

    @abc.abstractmethod
    def execute(self) -> int:
        """Do it; the exit code."""

    def interrupted(self) -> str:
        """What to say after Ctrl-C."""
        return "interrupted"


def typed(command: AbstractCommand, *, positional: str) -> str:
    """The command as one line for a shell, whatever file its flags came from.

    Args:
        command: what was parsed.
        positional: the field without a flag, text or several texts.

    >>> from ntkuq.cli.commands.compare import Compare
    >>> typed(Compare("nets:build", data="a b.csv", level=(0.9,)), positional="model")
    "ntkuq compare nets:build --data 'a b.csv' --level 0.9"
    """
    words = ["ntkuq", type(command).__name__.lower()]
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name in SHOWN or value == field.default:
            continue
        values = value if isinstance(value, tuple) else (value,)
        if field.name == positional:
            words += [str(one) for one in values]
            continue
        # a name that Python reserves, such as with, ends in an underscore
        flag = f"--{field.name.rstrip('_').replace('_', '-')}"
        for one in values:
            words += [flag] if one is True else [flag, str(one)]
    return shlex.join(words)

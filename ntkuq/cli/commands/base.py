"""What all commands share."""

from __future__ import annotations

import abc
import dataclasses


@dataclasses.dataclass(frozen=True)
class Common(abc.ABC):
    """Flags of every command."""

    debug: bool = dataclasses.field(default=False, kw_only=True)
    """Show the traceback of an error."""

    @abc.abstractmethod
    def execute(self) -> int:
        """Do it; the exit code."""

    def interrupted(self) -> str:
        """What to say after Ctrl-C."""
        return "interrupted"

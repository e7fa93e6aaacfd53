"""The commands, each a frozen dataclass: its fields are the flags."""

from ntkuq.cli.commands.base import Common as Common
from ntkuq.cli.commands.cite import Cite
from ntkuq.cli.commands.compare import Compare
from ntkuq.cli.commands.data import Data
from ntkuq.cli.commands.report import Report
from ntkuq.cli.commands.score import Score


#: Name on the command line -> command.
COMMANDS: dict[str, type[Common]] = {
    "compare": Compare,
    "score": Score,
    "report": Report,
    "data": Data,
    "cite": Cite,
}

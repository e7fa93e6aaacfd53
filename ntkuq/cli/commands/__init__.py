"""The commands, each a frozen dataclass: its fields are the flags."""

from ntkuq.cli.commands.audit import Audit
from ntkuq.cli.commands.bandit import Bandit
from ntkuq.cli.commands.base import AbstractCommand as AbstractCommand
from ntkuq.cli.commands.cite import Cite
from ntkuq.cli.commands.compare import Compare
from ntkuq.cli.commands.continual import Continual
from ntkuq.cli.commands.data import Data
from ntkuq.cli.commands.fit import Fit
from ntkuq.cli.commands.regime import Regime
from ntkuq.cli.commands.report import Report
from ntkuq.cli.commands.score import Score


#: Name on the command line -> command.
COMMANDS: dict[str, type[AbstractCommand]] = {
    "compare": Compare,
    "fit": Fit,
    "score": Score,
    "report": Report,
    "regime": Regime,
    "continual": Continual,
    "bandit": Bandit,
    "audit": Audit,
    "data": Data,
    "cite": Cite,
}

"""The command line: one frozen dataclass a command, JAX only inside a command."""

from ntkuq.cli.main import main as main

"""What the commands with a problem set up before they begin."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from rich.console import Console

from ntkuq.cli import problem
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.loading import load_data
from ntkuq.data import Split
from ntkuq.models import BNN
from ntkuq.posteriors import AbstractMethod
from ntkuq.report import Limits


def console_of(flags: AbstractProblem) -> Console:
    """Where the command talks: stdout, or stderr where that is for JSON."""
    return Console(
        stderr=flags.json, quiet=flags.quiet, soft_wrap=True, highlight=False
    )


def limits_of(flags: AbstractProblem) -> Limits:
    """What a method may cost.

    Raises:
        UsageError: for limits that are not above 0.
    """
    memory = 1.0 if flags.max_memory is None else flags.max_memory
    if not (flags.max_time > 0 and memory > 0):
        raise UsageError(
            f"expected --max-time and --max-memory > 0, got {flags.max_time} and "
            f"{flags.max_memory}"
        )
    bytes_ = None if flags.max_memory is None else 1e9 * flags.max_memory
    return Limits(flags.max_time, bytes_)


def load_problem(
    flags: AbstractProblem, texts: Sequence[str], *, choose: bool = True
) -> tuple[BNN, list[AbstractMethod] | None, Split, list[str]]:
    """The problem, its methods, its data, and remarks on them.

    Args:
        flags: what was given.
        texts: methods as text; none stands for the default ones.
        choose: whether a scaling is chosen by how well given weights fit with it,
            which needs a network that fits the data.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(flags)
    methods = problem.load_methods(texts)
    bnn, remarks = problem.load_bnn(flags, data.train, methods, choose=choose)
    return bnn, methods, data, [str(w.message) for w in caught] + remarks

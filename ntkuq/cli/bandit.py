"""What `ntkuq bandit` needs: reading its flags, progress, summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ntkuq.cli.errors import UsageError
from ntkuq.cli.parse import known_in, parse
from ntkuq.decisions.bandits import (
    TABLES,
    AbstractEnvironment,
    AbstractPolicy,
    NeuralRewards,
    Refitted,
    Uniform,
    table,
)
from ntkuq.posteriors.base import AbstractMethod
from ntkuq.report.bandit.page import WORDS


#: Names that the flags of this command may call beside those of all commands.
BANDIT = (
    "UCB",
    "Thompson",
    "JointThompson",
    "Greedy",
    "EpsilonGreedy",
    "Uniform",
    "NeuralRewards",
    "Refitted",
    "Perceptron",
    "Kronecker",
    "LowRank",
    "Immediate",
    "Delayed",
    "Batched",
    "FunctionSpace",
    "Evidence",
    "Constant",
    "Theoretical",
    "InfiniteWidth",
    "Every",
    "Geometric",
    "Adam",
    "Synthetic",
    "Wheel",
    "Square",
    "Quadratic",
    "Cosine",
)
#: Names that mean a bandit's covariance inside of `NeuralRewards`.
SHARED = ("Diagonal", "LastLayer", "Full")


def load_policy(text: str) -> AbstractPolicy:
    """The policy that the text says.

    Raises:
        UsageError: for anything else.

    >>> type(load_policy("Thompson(NeuralRewards(covariance=Diagonal()))")).__name__
    'Thompson'
    """
    names = BANDIT + SHARED if "NeuralRewards" in text else BANDIT
    policy = parse(text, known_in("decisions.bandits", names))
    if not isinstance(policy, AbstractPolicy):
        raise UsageError(
            f"--policy: expected a policy such as 'UCB(NeuralRewards())', got {text!r}"
        )
    fits = isinstance(policy.model, NeuralRewards | Refitted | AbstractMethod)
    if not fits and not isinstance(policy, Uniform):
        raise UsageError(
            "--policy: expected a policy over NeuralRewards() or a method such as "
            f"Laplace(), got {text!r}"
        )
    return policy


def load_environment(text: str) -> AbstractEnvironment:
    """The environment that the text names.

    Raises:
        UsageError: for anything else, or data that is not there.

    >>> load_environment("Wheel(0.9)").arms
    5
    """
    if text in TABLES:
        try:
            return table(text)
        except ValueError as error:
            raise UsageError(f"--env: {error}") from error
    if "(" not in text:
        raise UsageError(
            f"--env: expected one of {', '.join(TABLES)}, or an environment such as "
            f"'Wheel(0.9)', got {text!r}"
        )
    environment = parse(text, known_in("decisions.bandits", BANDIT))
    if not isinstance(environment, AbstractEnvironment):
        raise UsageError(
            f"--env: expected an environment such as 'Wheel(0.9)', got {text!r}"
        )
    return environment


class Lines:
    """A line for each tenth of the rounds."""

    def __init__(self) -> None:
        self.tenth = 0

    def __call__(self, done: int, total: int) -> None:
        """Print, where another tenth is done."""
        if 10 * done // total > self.tenth:
            self.tenth = 10 * done // total
            print(f"round {done} of {total}", flush=True)


def summary(document: Mapping[str, Any]) -> Iterator[str]:
    """The document in a few lines."""
    yield (
        f"{document['policy']} in {document['environment']}: {document['rounds']} "
        f"rounds, {document['seeds']} seeds, {document['seconds']:.0f} s"
    )
    yield f"regret        {_interval(document['regret'], '.1f')}"
    yield f"random arms   {_interval(document['random'], '.1f')}"
    yield f"last quarter  {_interval(document['last_quarter'], '.1f')}"
    yield f"exponent      {_interval(document['exponent'], '.2f')}  (1 is linear)"
    last = document["calibration"][-1]
    if last["count"]:
        yield (
            f"90 % intervals of the chosen arms, last rounds: hold "
            f"{_interval(last['coverage_90'], '.3f')}"
        )
    if document["at_an_end"]:
        yield (
            f"in {document['at_an_end']} of {document['seeds']} seeds lambda is the "
            "smallest or largest it may be: the evidence would go on"
        )
    yield ""
    for record in document["verdict"]:
        yield f"{WORDS[record['code']]}? {record['answer']}: {record['sentence']}"


def _interval(each: Mapping[str, float | None], form: str) -> str:
    if each["mean"] is None:
        return "none"
    if each["lower"] is None or each["upper"] is None:
        return f"{each['mean']:{form}}"
    return f"{each['mean']:{form}} [{each['lower']:{form}}, {each['upper']:{form}}]"

"""`ntkuq bandit`: how much a policy regrets, and was it honest where it chose?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ntkuq.cli.commands.base import AbstractCommand
from ntkuq.cli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Bandit(AbstractCommand):
    """Play a contextual bandit with a policy, over several seeds."""

    env: str
    """mushroom, adult, shuttle, covertype, mnist or fashion_mnist (folder $NTKUQ_DATA),
    or an environment as in Python: 'Wheel(0.9)', 'Synthetic(Cosine())'."""
    policy: str = "UCB(NeuralRewards())"
    """As in Python: 'Thompson(NeuralRewards(covariance=Diagonal()))',
    'UCB(Laplace(), width=1.0)', 'EpsilonGreedy(NeuralRewards(), 0.1)', 'Uniform()'."""
    rounds: int = 10000
    """Rounds of each seed."""
    seeds: int = 10
    """How many seeds, 2 or more for an interval."""
    seed: int = 0
    """The key from which all are drawn."""
    out: str | None = None
    """Write report.html and bandit.json into this directory; a killed run goes on."""
    quiet: bool = dataclasses.field(default=False, kw_only=True)
    """Print the regret only."""
    json: bool = dataclasses.field(default=False, kw_only=True)
    """Print the document."""

    def execute(self) -> int:
        if self.seeds < 1 or self.rounds < 1:
            raise UsageError(
                "--seeds and --rounds: expected 1 or more, got "
                f"{self.seeds} and {self.rounds}"
            )
        folder = None if self.out is None else Path(self.out)
        if folder is not None and folder.is_file():
            raise UsageError(f"--out: expected a directory, got the file {folder}")

        # imported here, so that --help answers at once
        import jax

        from ntkuq.cli import bandit as work
        from ntkuq.cli.commands.base import typed
        from ntkuq.data.store import write_bytes
        from ntkuq.decisions.bandits import NeuralRewards, Uniform, run_bandit
        from ntkuq.report import html
        from ntkuq.report.bandit import bandit_document, bandit_page
        from ntkuq.report.provenance import provenance

        policy = work.load_policy(self.policy)
        environment = work.load_environment(self.env)
        checkpoint = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(policy.model, NeuralRewards):
                checkpoint = folder / "bandit-checkpoint.npz"
        show = not (self.quiet or self.json)
        keys = jax.random.split(jax.random.key(self.seed), self.seeds)
        result = run_bandit(
            policy,
            environment,
            rounds=self.rounds,
            keys=keys,
            progress=work.Lines() if show else None,
            checkpoint=checkpoint,
        )
        uniform = run_bandit(Uniform(), environment, rounds=self.rounds, keys=keys)
        document = bandit_document(
            result,
            uniform,
            environment=self.env,
            policy=self.policy,
            provenance=provenance(
                command=typed(self, positional=""), seed=self.seed, dtype="float32"
            ),
        )
        text = json.dumps(document, allow_nan=False, indent=1) + "\n"
        if folder is not None:
            write_bytes(folder / "bandit.json", text.encode())
            page = html.render(bandit_page(document))
            write_bytes(folder / "report.html", page.encode())
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
        if self.json:
            print(text, end="")
        elif self.quiet:
            print(f"{result.regret.mean:.1f}")
        else:
            for line in work.summary(document):
                print(line)
            if folder is not None:
                print(f"\nwritten {folder / 'report.html'} and bandit.json")
        return 0

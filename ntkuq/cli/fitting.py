"""One method fitted as `compare` would fit it."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

import ntkuq as nq
from ntkuq.calibration.records import finite
from ntkuq.cli import problem as problems
from ntkuq.cli.commands.problem import AbstractProblem
from ntkuq.cli.errors import UsageError
from ntkuq.cli.loading import load_parts
from ntkuq.cli.progress import duration
from ntkuq.data import Dataset, digest
from ntkuq.models import constructor, identity
from ntkuq.posteriors import AbstractMethod, AbstractPosterior
from ntkuq.report import Limits, run
from ntkuq.report.limits import make_plan
from ntkuq.report.units import NOT_APPLICABLE, NUMERICAL, fit as fit_method


if TYPE_CHECKING:
    from rich.console import Console


class Training(NamedTuple):
    """A problem and the rows to fit, with remarks on them."""

    bnn: nq.BNN
    train: Dataset
    notes: list[str]


class Fitted(NamedTuple):
    """A posterior, and how long it took."""

    posterior: AbstractPosterior
    method: AbstractMethod
    rows: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """What is known of the fit, as plain numbers."""
        p = self.posterior
        return {
            "method": constructor(self.method),
            "n_train": self.rows,
            "fit_seconds": self.seconds,
            "hyperparameters": [
                {
                    "name": h.name,
                    "value": finite(float(h.value)),
                    "se": None if h.se is None else finite(float(h.se)),
                    "at_bound": bool(h.at_bound),
                    "unit": h.unit,
                }
                for h in p.hyperparameters
            ],
            "log_marginal_likelihood": finite(p.log_marginal_likelihood),
            "diagnostics": {
                name: finite(value) if isinstance(value, float) else value
                for name, value in p.diagnostics.items()
                if isinstance(value, bool | int | float | str)
            },
        }


def load_training(flags: AbstractProblem, method: AbstractMethod) -> Training:
    """The problem with its scaling fitted to the training rows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train = load_parts(flags).train
    bnn, remarks = problems.load_bnn(flags, train, [method])
    notes = [str(w.message) for w in caught] + remarks
    return Training(bnn.prepare(train), train, notes)


def need(problem: Training, method: AbstractMethod, limits: Limits) -> None:
    """Refuse what would take too long or too much memory.

    Raises:
        UsageError: with what it would need.
    """
    (plan,) = make_plan({"it": method}, problem.bnn, problem.train, limits).values()
    if isinstance(plan, str):
        raise UsageError(f"{constructor(method)} {plan}")


def fit(
    problem: Training, method: AbstractMethod, console: Console, *, bar: bool, seed: int
) -> Fitted | str:
    """The posterior, or why there is none: it failed numerically.

    Raises:
        UsageError: where the method does not apply to the problem.
    """
    bnn, trainer = problem.bnn, None
    # The same rule as in a comparison: what uses the weights, or the precision and
    # noise found with them, starts from a trained network.
    needs = not isinstance(method, nq.MAP) and not run._independent(method)
    console.print(
        f"data   {problem.train.name or 'data'}: {len(problem.train):,} training rows",
        markup=False,
    )
    if needs and not bnn.trained:
        trainer = identity(nq.MAP())
        first = _one(nq.MAP(), bnn, problem.train, console, bar, seed, None)
        if isinstance(first, str):
            return f"training the network failed: {first}"
        bnn = first.posterior.bnn
    return _one(method, bnn, problem.train, console, bar, seed, trainer)


def _one(
    method: AbstractMethod,
    bnn: nq.BNN,
    train: Dataset,
    console: Console,
    bar: bool,
    seed: int,
    trainer: str | None,
) -> Fitted | str:
    # the key that the same method has in a comparison with the same seed
    key = jax.random.key(seed)
    number = int.from_bytes(np.asarray(jax.random.key_data(key), ">u4").tobytes())
    own = digest([identity(method), number, trainer, nq.__version__])
    key = jax.random.fold_in(key, int(own[:7], 16))
    name = constructor(method)
    start = time.perf_counter()
    with console.status("") as status:
        if not (bar and console.is_terminal):
            status.stop()

        def callback(steps: int, loss: float) -> None:
            status.update(f"step {steps:,}, loss {loss:.4g}")

        try:
            posterior = fit_method(
                method, bnn, train, callback=callback, checkpoint=None, key=key
            )
            jax.block_until_ready(eqx.filter(posterior, eqx.is_array))
        except NOT_APPLICABLE as error:
            raise UsageError(f"{name} does not apply here: {error}") from error
        except NUMERICAL as error:
            return " ".join(str(error).split()) or type(error).__name__
    seconds = time.perf_counter() - start
    console.print(f"fit    {name}: {duration(seconds)}", markup=False)
    return Fitted(posterior, method, len(train), seconds)


def show(record: dict[str, Any], console: Console) -> None:
    """Hyper-parameters and diagnostics, one a line."""
    rows = []
    for h in record["hyperparameters"]:
        text = "not finite" if h["value"] is None else f"{h['value']:.4g}"
        text += f" ± {h['se']:.2g}" if h["se"] is not None else ""
        text += f" {h['unit']}" if h["unit"] else ""
        rows.append((h["name"], text + (" (at a bound)" if h["at_bound"] else "")))
    evidence = record["log_marginal_likelihood"]
    if evidence is not None:
        rows.append(("log evidence", f"{evidence:.2f}"))
    for name, value in record["diagnostics"].items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        rows.append((name.replace("_", " "), text))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        console.print(f"       {name:<{width}}  {text}", markup=False)

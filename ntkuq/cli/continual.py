"""What `ntkuq continual` computes and shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ntkuq import continual
from ntkuq.cli.errors import UsageError
from ntkuq.cli.parse import CONTINUAL, known_in, parse
from ntkuq.cli.regime import load_training
from ntkuq.continual import AbstractStrategy, Stream, WithReplay, multi_head
from ntkuq.data import (
    Dataset,
    Split,
    jsonable,
    load,
    load_images,
    write_bytes,
    write_json,
)
from ntkuq.models import (
    BNN,
    Categorical,
    Gaussian,
    NormalPrior,
    Standardize,
    Train,
    mlp,
)
from ntkuq.report import html, markdown
from ntkuq.report.continual import continual_document, continual_page
from ntkuq.report.provenance import provenance


if TYPE_CHECKING:
    from ntkuq.cli.commands.continual import Continual

#: Tasks unless said otherwise, and degrees from the first to the last when rotated.
TASKS, TURN = 5, 90.0


def load_strategy(text: str, training: str) -> AbstractStrategy:
    """A strategy from its text, trained as `training` says unless it says so itself.

    Raises:
        UsageError: for something else.
    """
    found = parse(text, known_in("continual", CONTINUAL))
    if not isinstance(found, AbstractStrategy):
        raise UsageError(
            "--strategy: expected what is done against forgetting, such as "
            f"'EWC(strength=1000.0)', got {text!r}"
        )
    inner = found.strategy if isinstance(found, WithReplay) else found
    train = getattr(inner, "train", None)
    if isinstance(train, Train) and "Train(" not in text:
        found = trained_by(found, load_training(training))
    return found


def trained_by(strategy: AbstractStrategy, train: Train) -> AbstractStrategy:
    """The strategy with this training, also where it is inside another one."""
    if isinstance(strategy, WithReplay):
        inner = trained_by(strategy.strategy, train)
        return dataclasses.replace(strategy, strategy=inner)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(strategy, train=train)  # pyright: ignore[reportCallIssue]


def load_stream(flags: Continual) -> tuple[BNN, Stream]:
    """The problem and the stream that the flags name."""
    key = jax.random.key(flags.seed)
    if flags.stream == "drifting":
        stream = continual.drifting(flags.tasks or TASKS, flags.rows or 200, key=key)
        build = mlp(1, 1, width=flags.width, depth=2)
        return BNN(build, Gaussian(0.2), NormalPrior(), Standardize()), stream
    kind, _, name = flags.stream.partition("-")
    data = _images(name, flags.rows)
    if kind == "rotated":
        data = _as_images(data)
        angles = np.linspace(0.0, TURN, flags.tasks or TASKS).tolist()
        stream = continual.rotated(data, angles)
    elif kind == "permuted":
        stream = continual.permuted(data, flags.tasks or TASKS, key=key)
    else:
        stream = continual.split_classes(data, 2, heads=flags.heads == "each")
        if flags.tasks is not None:
            stream = _first(stream, flags.tasks)
    inputs = int(np.prod(np.shape(data.train.x)[1:]))
    build = mlp(inputs, 10, width=flags.width, depth=2, activation=jax.nn.relu)
    if kind == "rotated":
        build = _flattened(build)
    if stream.heads is not None:
        build = multi_head(build, stream.heads)
    return BNN(build, Categorical(), NormalPrior()), stream


def _images(name: str, most: int | None) -> Split:
    """Images as rows of float32."""
    data = load("digits") if name == "digits" else load_images(name)

    def rows(part: Dataset, most: int | None) -> Dataset:
        x = np.asarray(part.x, np.float32)[:most]
        classes = part.classes
        return Dataset(x.reshape(len(x), -1), part.y[:most], classes=classes, name=name)

    return Split(rows(data.train, most), None, rows(data.test, None))


def _as_images(data: Split) -> Split:
    """Rows as square images again."""

    def square(part: Dataset) -> Dataset:
        side = round(np.shape(part.x)[1] ** 0.5)
        x = np.asarray(part.x).reshape(-1, side, side)
        return Dataset(x, part.y, classes=part.classes, name=part.name)

    return Split(square(data.train), None, square(data.test))


def _flattened(build: Callable) -> Callable:
    """A builder of a network that takes images to one that takes rows."""
    import equinox as eqx

    def with_rows(key: Any) -> Any:
        return eqx.nn.Sequential([eqx.nn.Lambda(jax.numpy.ravel), build(key)])

    return with_rows


def _first(stream: Stream, tasks: int) -> Stream:
    if tasks > len(stream):
        raise UsageError(f"--tasks: expected at most {len(stream)}, got {tasks}")
    return dataclasses.replace(stream, names=stream.names[:tasks])


def execute(
    flags: Continual, target: Path | None, say: Callable[[str], None], command: str
) -> dict[str, Any]:
    """Run, show, and write the document and the page."""
    strategy = load_strategy(flags.strategy, flags.training)
    bnn, stream = load_stream(flags)
    say(f"stream    {flags.stream}: {len(stream)} tasks, {stream.setting}")
    say(f"network   {bnn.prepare(stream[0].train).size():,} parameters")
    say(f"strategy  {strategy}")
    found = continual.run(
        strategy,
        bnn,
        stream,
        seeds=flags.seeds,
        out=None if target is None else target / "units",
        say=say,
        key=jax.random.key(flags.seed),
    )
    made = provenance(
        command=command, seed=flags.seed, dtype="float64" if flags.x64 else "float32"
    )
    document = jsonable(
        continual_document(found, provenance=made, data={"stream": flags.stream})
    )
    say("")
    say(str(found))
    for record in document["verdict"]:
        say(f"{record['code']}: {record['answer']}. {record['sentence']}")
    if target is not None:
        write_json(target / "continual.json", document)
        page = continual_page(document)
        write_bytes(target / "report.html", html.render(page).encode())
        write_bytes(target / "report.md", markdown.render(page).encode())
        say(f"\nwritten {target / 'report.html'}")
    return document

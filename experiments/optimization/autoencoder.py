"""The MNIST autoencoder: KFAC beside kfac-jax, from the same weights, in turns."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ntkuq as nq
from experiments import pictures
from experiments.record import save
from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.optimization import LevenbergMarquardt, QuadraticModel, kfac


PEER = Path(__file__).parent / "peers" / "kfac_jax_run.py"
#: Of the mean over the images, as kfac-jax has them (`examples/autoencoder_mnist`).
L2, DAMPING = 1e-5, 150.0
#: Steps from one inversion to the next: the shortest time that may be compared.
CYCLE = 5


@dataclasses.dataclass(frozen=True)
class Size:
    """Images, units of the layers up to the code, and steps, a multiple of CYCLE."""

    images: int
    half: tuple[int, ...]
    steps: int


SIZES = {
    "smoke": Size(100, (64, 32, 8), 10),
    "cpu": Size(5_000, (784, 1000, 500, 250, 30), 40),
    "gpu": Size(60_000, (784, 1000, 500, 250, 30), 5_000),
}


class Pixels(AbstractLikelihood):
    """Grey levels in [0, 1] as shares of a Bernoulli distribution for each output.

    log p(y | f) = sum_c y_c f_c - log(1 + exp(f_c)), the sigmoid cross-entropy. Its
    Hessian, diagonal with s (1 - s) at s = sigmoid(f), has no y in it.
    """

    classes: ClassVar[bool] = True
    continuous: ClassVar[bool] = False
    canonical: ClassVar[bool] = True

    def distribution(self, latent):
        return dist.Bernoulli(logits=latent).to_event(1)

    def outputs(self, y):
        return y.shape[-1]

    def rescale(self, loc, scale):
        del loc, scale
        return self

    def shift(self, mean, loc, scale):
        del loc, scale
        return mean, jnp.ones(mean.shape[-1], mean.dtype)

    def log_prob(self, latent, y):
        y = jnp.asarray(y, latent.dtype)
        return jnp.sum(y * latent - jax.nn.softplus(latent))

    def hessian(self, latent, y=None):
        return self.hessian_sqrt(latent, y) ** 2

    def hessian_sqrt(self, latent, y=None):
        del y
        s = jax.nn.sigmoid(latent)
        return jnp.diag(jnp.sqrt(s * (1 - s)))

    def marginalize(self, mean, covariance, link=None):
        raise NotImplementedError("Pixels is for training only, without predictions")

    def mixture(self, latent):
        raise NotImplementedError("Pixels is for training only, without predictions")


class Contestant(Protocol):
    """What takes steps."""

    def steps(self, number: int) -> dict[str, Any]:
        """Take so many; their seconds and the losses before each."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Those reached; no step follows."""
        ...


def network(arrays: dict[str, np.ndarray]) -> eqx.nn.Sequential:
    """tanh but for the code and the last layer."""
    count = sum(name.startswith("w") for name in arrays)
    layers: list[Any] = []
    for n in range(count):
        weight, bias = jnp.asarray(arrays[f"w{n}"]), jnp.asarray(arrays[f"b{n}"])
        layer = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
        layers.append(
            eqx.tree_at(lambda one: (one.weight, one.bias), layer, (weight, bias))
        )
        if n not in (count // 2 - 1, count - 1):
            layers.append(eqx.nn.Lambda(jnp.tanh))
    return eqx.nn.Sequential(layers)


def start(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Weights w0, … (out, in) of scale 1 / sqrt(in), biases of zero."""
    sides = [*size.half, *size.half[-2::-1]]
    keys = jax.random.split(jax.random.key(seed), len(sides) - 1)
    arrays = {}
    for n, (into, out, key) in enumerate(zip(sides[:-1], sides[1:], keys, strict=True)):
        drawn = jax.random.truncated_normal(key, -2.0, 2.0, (out, into), np.float32)
        arrays[f"w{n}"] = np.asarray(drawn) / np.float32(into**0.5)
        arrays[f"b{n}"] = np.zeros(out, np.float32)
    return arrays


def images(size: Size) -> np.ndarray:
    """Grey levels, (N, D): MNIST, or digits of 8 x 8 pixels for a small network."""
    small = size.half[0] == 64  # noqa: PLR2004
    found = nq.data.load("digits").train.x if small else pictures.load("mnist").x
    return found[: size.images].reshape(size.images, -1).astype(np.float32)


class Ours:
    """`kfac` of this package."""

    def __init__(self, arrays: dict[str, np.ndarray], x: np.ndarray, seed: int) -> None:
        model = network(arrays)
        self.count = len(arrays) // 2
        self.x, total = jnp.asarray(x), len(x)
        likelihood = Pixels()
        # damping and precision are those of the sum over the images here
        transform = kfac(
            model,
            likelihood,
            damping=LevenbergMarquardt(
                initial=DAMPING * total,
                down=0.95,
                up=1 / 0.95,
                least=1e-5 * total,
                most=1e3 * total,
            ),
            learning_rate=QuadraticModel(),
            every=CYCLE,
            prior=nq.NormalPrior(precision=L2 * total),
            key=jax.random.key(seed),
        )

        def loss(params, x):
            f = jax.vmap(eqx.combine(params, model))(x)
            square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            fit = jnp.mean(jax.vmap(likelihood.log_prob)(f, x))
            return 0.5 * L2 * square - fit

        def step(params, state, x):
            value, gradient = jax.value_and_grad(loss)(params, x)
            updates, state = transform.update(gradient, state, params, x=x, y=x)
            return eqx.apply_updates(params, updates), state, value

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.loss = jax.jit(loss)
        params = nq.models.parameters(model)
        begin = params, transform.init(params)
        # the steps overwrite what they get, and no two arrays may be one
        self.params, self.state = jax.tree.map(jnp.copy, begin)
        # both shapes of the state are compiled before the clock starts
        self.steps(2)
        self.params, self.state = jax.tree.map(jnp.copy, begin)

    def steps(self, number: int) -> dict[str, Any]:
        """Some steps."""
        losses = []
        begin = time.perf_counter()
        for _ in range(number):
            self.params, self.state, loss = self.step(self.params, self.state, self.x)
            losses.append(loss)
        jax.block_until_ready((self.params, losses))
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "losses": [float(one) for one in losses]}

    def weights(self) -> dict[str, np.ndarray]:
        """Those reached."""
        leaves = iter(jax.tree.leaves(self.params))
        found = {}
        for n in range(self.count):
            found |= {f"w{n}": np.asarray(next(leaves))}
            found |= {f"b{n}": np.asarray(next(leaves))}
        return found


class Theirs:
    """kfac-jax, in its own environment and process, which waits between its turns."""

    def __init__(self, python: Path, folder: Path, code: int, seed: int) -> None:
        self.out = folder / "reached.npz"
        command = [str(python), str(PEER), "--inputs", str(folder / "start.npz")]
        command += ["--out", str(self.out), "--code", str(code), "--seed", str(seed)]
        command += ["--l2", str(L2), "--damping", str(DAMPING)]
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        # a second process on the same card must not find its memory taken
        kept |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept,
        )
        self.versions = self.answer()["versions"]

    def steps(self, number: int) -> dict[str, Any]:
        """Some steps."""
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """One line of what it says."""
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"kfac-jax stopped with exit code {self.process.wait()}: see its "
                "message above"
            )
        return json.loads(line)

    def weights(self) -> dict[str, np.ndarray]:
        """Those reached."""
        self.process.communicate()
        with np.load(self.out, allow_pickle=False) as archive:
            return dict(archive)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """KFAC on the MNIST autoencoder: time a step and loss, beside kfac-jax."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """smoke: small digits; cpu: 5 000 images, 40 steps; gpu: 60 000, 5 000 steps."""
    kfac_python: Path | None = None
    """A Python with kfac-jax (0.0.8 wants jax 0.7); without it only ours runs."""
    seeds: int = 3
    """Runs from other weights."""
    steps: int | None = None
    """Steps, a multiple of 5; those of the size unless given."""
    out: Path = Path("runs/experiments/autoencoder.json")
    """The document."""

    def execute(self) -> None:
        """Run, print the tables, write the document."""
        runs = [self.run(seed) for seed in range(self.seeds)]
        print(curves(runs))
        found = summary(runs)
        for name, value in found.items():
            print(f"{name}: {value}")
        given = dataclasses.asdict(self) | {"kfac_python": self.kfac_python is not None}
        content = given | {"out": str(self.out), "summary": found, "runs": runs}
        print(f"\nwritten {save(self.out, 'autoencoder', content)}")

    def run(self, seed: int) -> dict[str, Any]:
        """Both from the same weights, by turns of a few steps."""
        size = SIZES[self.size]
        steps = size.steps if self.steps is None else self.steps
        if steps < CYCLE or steps % CYCLE:
            raise ValueError(
                f"expected steps in multiples of {CYCLE}, from one inversion to the "
                f"next, got {steps}"
            )
        x, arrays = images(size), start(size, seed)
        ours = Ours(arrays, x, seed)
        both: dict[str, Contestant] = {"ntkuq": ours}
        record: dict[str, Any] = {"seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            if self.kfac_python is not None:
                np.savez(Path(folder) / "start.npz", x=x, **arrays)  # pyright: ignore[reportArgumentType]
                code = len(size.half) - 2
                peer = Theirs(self.kfac_python, Path(folder), code, seed)
                record["peer_versions"] = peer.versions
                both["kfac_jax"] = peer
            for name in both:
                record[name] = {"seconds": [], "losses": []}
            for turn in range(steps // CYCLE):
                # who goes first changes
                for name in list(both)[:: 1 if turn % 2 else -1]:
                    made = both[name].steps(CYCLE)
                    record[name]["seconds"].append(made["seconds"] / CYCLE)
                    record[name]["losses"] += made["losses"]
            for name, one in both.items():
                record[name] |= reached(ours, one.weights(), x)
        return record


def reached(ours: Ours, arrays: dict[str, np.ndarray], x: np.ndarray) -> dict[str, Any]:
    """Loss and squared error of an image at the end, by one program for both."""
    model = network(arrays)
    f = jax.vmap(model)(jnp.asarray(x))
    error = jnp.mean(jnp.sum((jax.nn.sigmoid(f) - x) ** 2, axis=-1))
    loss = ours.loss(nq.models.parameters(model), jnp.asarray(x))
    return {"loss": float(loss), "squared_error": float(error)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds a step and final losses; ratios to the peer with their range.

    Seconds: median and quartiles over pairs of turns. Losses: range over the seeds.
    """
    found: dict[str, Any] = {}
    for name in ("ntkuq", "kfac_jax"):
        if name in runs[0]:
            seconds = np.concatenate([run[name]["seconds"] for run in runs])
            found[f"seconds a step, {name}"] = float(np.median(seconds))
            for what in ("loss", "squared_error"):
                values = [run[name][what] for run in runs]
                found[f"{what}, {name}"] = float(np.mean(values))
    if "kfac_jax" in runs[0]:
        pairs = [
            np.divide(run["ntkuq"]["seconds"], run["kfac_jax"]["seconds"])
            for run in runs
        ]
        quartiles = np.quantile(np.concatenate(pairs), [0.5, 0.25, 0.75])
        found["time ratio: median, quartiles"] = [float(q) for q in quartiles]
        ratios = [run["ntkuq"]["loss"] / run["kfac_jax"]["loss"] for run in runs]
        shown = [np.mean(ratios), np.min(ratios), np.max(ratios)]
        found["loss ratio: mean, range"] = [float(r) for r in shown]
    return found


def curves(runs: list[dict[str, Any]]) -> str:
    """Losses of the first seed side by side."""
    names = [name for name in ("ntkuq", "kfac_jax") if name in runs[0]]
    lines = ["| step | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    count = len(runs[0]["ntkuq"]["losses"])
    for at in range(0, count, max(1, count // 10)):
        values = " | ".join(f"{runs[0][name]['losses'][at]:.3f}" for name in names)
        lines.append(f"| {at} | {values} |")
    last = " | ".join(f"{runs[0][name]['loss']:.3f}" for name in names)
    return "\n".join([*lines, f"| {count} | {last} |"])

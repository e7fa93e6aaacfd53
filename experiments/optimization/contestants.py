"""KFAC of this package and of kfac-jax on the autoencoder, a few steps at a time."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ntkuq as nq
from ntkuq.models.likelihoods import AbstractLikelihood
from ntkuq.optimization import LevenbergMarquardt, QuadraticModel, kfac


PEER = Path(__file__).parent / "peers" / "kfac_jax_run.py"
#: Of the mean over the images, as kfac-jax has them (`examples/autoencoder_mnist`).
L2, DAMPING = 1e-5, 150.0
#: Steps from one inversion, and one change of the damping, to the next: the shortest
#: time that may be compared.
CYCLE = 5


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

    def residual(self, latent, y):
        return jnp.asarray(y, latent.dtype) - jax.nn.sigmoid(latent)

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
        """Take so many; seconds, seconds of the processor, the loss before each."""
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
                down=0.95**CYCLE,
                up=0.95**-CYCLE,
                least=1e-5 * total,
                most=1e3 * total,
                every=CYCLE,
            ),
            learning_rate=QuadraticModel(),
            every=CYCLE,
            prior=nq.NormalPrior(precision=L2 * total),
            example=(self.x, self.x),
            key=jax.random.key(seed),
        )

        def loss(params, x):
            f = jax.vmap(eqx.combine(params, model))(x)
            square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            fit = jnp.mean(jax.vmap(likelihood.log_prob)(f, x))
            return 0.5 * L2 * square - fit

        def step(params, state, x):
            value, gradient = jax.value_and_grad(loss)(params, x)
            # NumPyro draws Bernoulli variables by the standard rules of promotion
            with jax.numpy_dtype_promotion("standard"):
                updates, state = transform.update(gradient, state, params, x=x, y=x)
            return eqx.apply_updates(params, updates), state, value

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.loss = jax.jit(loss)
        params = nq.models.parameters(model)
        begin = params, transform.init(params)
        # the steps overwrite what they get, and no two arrays may be one
        self.params, self.state = jax.tree.map(jnp.copy, begin)
        # compiled before the clock starts
        self.steps(1)
        self.params, self.state = jax.tree.map(jnp.copy, begin)

    def steps(self, number: int) -> dict[str, Any]:
        """Some steps."""
        losses = []
        begin, busy = time.perf_counter(), time.process_time()
        for _ in range(number):
            self.params, self.state, loss = self.step(self.params, self.state, self.x)
            losses.append(loss)
        jax.block_until_ready((self.params, losses))
        return {
            "seconds": time.perf_counter() - begin,
            "processor": time.process_time() - busy,
            "losses": [float(one) for one in losses],
        }

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
            self.process.communicate()
            raise RuntimeError(
                f"kfac-jax stopped with exit code {self.process.returncode}: see its "
                "message above, and whether --kfac-python names a Python that has it"
            )
        return json.loads(line)

    def weights(self) -> dict[str, np.ndarray]:
        """Those reached."""
        self.process.communicate()
        with np.load(self.out, allow_pickle=False) as archive:
            return dict(archive)

"""The autoencoder with kfac-jax, in its own environment, a few steps at a time.

It reads weights `w0`, `b0`, … (out, in) and images `x` from an `.npz`, says in one line
of JSON that it is ready, and then for each line on its input that holds a number takes
so many steps and answers with their seconds and the loss before each. At the end of
its input it writes the weights it reached. NumPy, JAX and kfac-jax only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np


PACKAGES = ("kfac-jax", "jax", "numpy")
#: Steps before the clock starts: all programs are compiled in them.
WARM = 6


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--code", type=int, required=True, help="its layer is linear")
    parser.add_argument("--l2", type=float, required=True)
    parser.add_argument("--damping", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


class Work:
    """Parameters, optimizer and images."""

    def __init__(self, given: argparse.Namespace) -> None:
        with np.load(given.inputs, allow_pickle=False) as archive:
            arrays = dict(archive)
        count = sum(name.startswith("w") for name in arrays)
        self.start = [
            (np.ascontiguousarray(arrays[f"w{n}"].T), arrays[f"b{n}"])
            for n in range(count)
        ]
        self.x = jnp.asarray(arrays["x"])
        self.given = given

        def loss(params, x):
            logits = x
            for n, (weight, bias) in enumerate(params):
                logits = logits @ weight + bias
                if n not in (given.code, count - 1):
                    logits = jnp.tanh(logits)
            kfac_jax.register_sigmoid_cross_entropy_loss(logits, x)
            each = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=-1)
            square = kfac_jax.utils.inner_product(params, params)
            return jnp.mean(each) + 0.5 * given.l2 * square

        # examples/autoencoder_mnist/pipeline.py of kfac-jax
        self.optimizer = kfac_jax.Optimizer(
            value_and_grad_func=jax.value_and_grad(loss),
            l2_reg=given.l2,
            use_adaptive_learning_rate=True,
            use_adaptive_momentum=True,
            use_adaptive_damping=True,
            initial_damping=given.damping,
            min_damping=1e-5,
            max_damping=1000.0,
            damping_adaptation_interval=5,
            damping_adaptation_decay=0.95,
            num_burnin_steps=5,
            curvature_ema=0.95,
            inverse_update_period=5,
        )
        self.begin()

    def begin(self) -> None:
        """From the weights that were given."""
        self.key = jax.random.key_data(jax.random.key(self.given.seed))
        self.params = jax.tree.map(jnp.asarray, self.start)
        self.state = self.optimizer.init(self.params, self.key, self.x)
        self.taken = 0

    def steps(self, number: int) -> dict[str, object]:
        """Some steps."""
        batches = itertools.repeat(self.x)
        losses = []
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(number):
            self.key, now = jax.random.split(self.key)
            self.params, self.state, stats = self.optimizer.step(
                self.params,
                self.state,
                now,
                data_iterator=batches,
                global_step_int=self.taken,
            )
            losses.append(stats["loss"])
            self.taken += 1
        jax.block_until_ready((self.params, losses))
        return {
            "seconds": time.perf_counter() - start,
            "processor": time.process_time() - busy,
            "losses": [float(one) for one in losses],
        }


def say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    given = arguments()
    work = Work(given)
    work.steps(WARM)
    work.begin()
    say({"versions": {name: metadata.version(name) for name in PACKAGES}})
    for line in sys.stdin:
        say(work.steps(int(line)))
    found = {}
    for n, (weight, bias) in enumerate(work.params):
        found |= {f"w{n}": np.asarray(weight).T, f"b{n}": np.asarray(bias)}
    np.savez(given.out, **found)


if __name__ == "__main__":
    main()

"""neural-tangents: the empirical tangent kernel, by each of its implementations."""

from __future__ import annotations

import os
import sys
import types
from importlib import metadata


# Its TensorFlow bridge is imported with it, and needs TensorFlow; nothing here does.
_bridge = types.ModuleType("neural_tangents.experimental")
_bridge.__path__ = []
sys.modules["neural_tangents.experimental"] = _bridge

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402, TID251
import numpy as np  # noqa: E402
from clock import Laps, arguments, load, run  # noqa: E402
from jax import lax  # noqa: E402


BLOCK = 20


def network(params, x):
    """Outputs (N, C): relu; average pooling after a convolution."""
    for n, (weight, bias) in enumerate(params):
        if weight.ndim == 4:
            padding = [(2, 2)] * 2 if n == 0 else [(0, 0)] * 2
            x = (
                lax.conv(x, weight, (1, 1), "VALID")
                if n
                else (lax.conv_general_dilated(x, weight, (1, 1), padding))
            )
            x = x + bias[:, None, None]
        else:
            x = x.reshape(len(x), -1) @ weight.T + bias
        if n < len(params) - 1:
            x = jax.nn.relu(x)
        if weight.ndim == 4:
            window = (1, 1, 2, 2)
            x = lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 4
    return x


def main() -> None:
    given = arguments()
    arrays = load(given.inputs)
    count = sum(name.startswith("w") for name in arrays)
    params = [
        (
            jnp.asarray(arrays[f"w{n}"], jnp.float32),
            jnp.asarray(arrays[f"b{n}"], jnp.float32),
        )
        for n in range(count)
    ]
    x = jnp.asarray(arrays["x_ntk"], jnp.float32)
    trace = given.task == "T5_trace"
    kernel = nt.empirical_ntk_fn(
        network,
        trace_axes=(-1,) if trace else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation[given.variant],
    )
    # compiled beforehand: only the run is timed, the first included
    compiled = jax.jit(kernel).lower(x, None, params).compile()

    def work(_laps: Laps):
        ntk = jax.block_until_ready(compiled(x, None, params))
        ntk = np.asarray(ntk)[:BLOCK, :BLOCK]
        if not trace:  # (N, M, C, C)
            side = ntk.shape[0] * ntk.shape[2]
            ntk = np.moveaxis(ntk, 2, 1).reshape(side, side)
        return {"ntk": ntk}

    versions = {name: metadata.version(name) for name in ("neural-tangents", "jax")}
    run(given, work, versions, len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main()

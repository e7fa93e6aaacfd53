"""Many steps in tenths: reports, divergence, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.data import Checkpoint, StoreError
from ntkuq.models import TrainingError


#: state, first step, number of steps -> state, loss of each step, is it finite?
Advance = Callable[[Any, int, int], tuple[Any, Array, Array]]


def in_tenths(
    advance: Advance,
    state: PyTree,
    steps: int,
    *,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[PyTree, list[float]]:
    """Run `advance` over all steps, a tenth at a time.

    Args:
        advance: some steps in one program; what it does must depend on its arguments
            only, so that an interrupted run can be continued.
        state: the first state, a pytree of arrays.
        steps: number of steps.
        callback: called as `callback(steps, loss)` after each tenth.
        checkpoint: where the state is written after each tenth, before the callback.

    Returns:
        The last state, and the mean loss of each tenth.

    Raises:
        TrainingError: where a step is not finite.
        StoreError: for the checkpoint of another computation.
    """
    done, losses = 0, []
    saved = None if checkpoint is None else checkpoint.read()
    if saved is not None:
        done, losses = int(saved["done"]), saved["losses"].tolist()
        state = _restored(state, saved, checkpoint)
    for start, length in tenths(steps):
        if start < done:
            continue
        state, each, finite = advance(state, start, length)
        finite = np.asarray(finite)
        if not finite.all():
            step = start + int(np.argmin(finite)) + 1
            raise TrainingError(
                "the run diverged: the loss or a parameter is not finite after step "
                f"{step} of {steps}; lower the step size (learning rate), or check the "
                "scaling of inputs and targets"
            )
        losses.append(float(np.mean(np.asarray(each, np.float64))))
        if checkpoint is not None:
            leaves = jax.tree.leaves(state)
            arrays = {f"leaf {n}": np.asarray(a) for n, a in enumerate(leaves)}
            done = np.array(start + length)
            checkpoint.write({"done": done, "losses": np.array(losses), **arrays})
        if callback is not None:
            callback(start + length, losses[-1])
    return state, losses


def tenths(steps: int) -> Iterator[tuple[int, int]]:
    """First step and number of steps of each tenth; the last takes what is left.

    >>> list(tenths(25))[-2:]
    [(20, 2), (22, 3)]
    """
    length, done = max(steps // 10, 1), 0
    while done < steps:
        # so that at most two lengths compile
        now = length if steps - done >= 2 * length else steps - done
        yield done, now
        done += now


def _restored(state: PyTree, saved: dict[str, np.ndarray], checkpoint: Any) -> PyTree:
    leaves, structure = jax.tree.flatten(state)
    found = [saved[f"leaf {n}"] for n in range(len(leaves))]
    for new, old in zip(found, leaves, strict=True):
        if new.shape != old.shape or new.dtype != old.dtype:
            raise StoreError(
                f"{checkpoint.path}: expected a state of {old.dtype}{old.shape}, came "
                f"{new.dtype}{new.shape}: go on in the precision (jax_enable_x64) in "
                "which the run began, or remove the file to begin anew"
            )
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in found])

"""What identifies a fit in progress, so that only the same fit goes on from it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import jax
from jaxtyping import Array

from ntkuq.data import Batches, Checkpoint, Dataset, digest
from ntkuq.models import BNN, identity
from ntkuq.posteriors.base import AbstractMethod


def checkpoint_of(
    path: str | Path | None,
    method: AbstractMethod,
    bnn: BNN,
    data: Dataset | Batches,
    *,
    key: Array,
) -> Checkpoint | None:
    """The checkpoint of `method.fit(bnn, data, key=key)` in a file; `None` for none."""
    if path is None:
        return None
    numbers = jax.random.key_data(key).tolist()
    parts = [identity(method), identity(bnn), data.fingerprint(), numbers]
    version = metadata.version("ntkuq")
    return Checkpoint(Path(path), digest([*parts, version, jax.__version__]))

"""Where and with what a run was made."""

from __future__ import annotations

import datetime as dt
import platform
from importlib import metadata
from typing import Any

import jax

import ntkuq


#: Packages whose versions a run records.
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpyro", "numpy", "scipy")


def provenance(*, command: str, seed: int, dtype: str) -> dict[str, Any]:
    """Versions, platform, device, time and command of a run.

    >>> provenance(command="ntkuq compare", seed=0, dtype="float32")["seed"]
    0
    """
    versions = {name: metadata.version(name) for name in PACKAGES}
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    device = jax.devices()[0]
    return {
        "ntkuq": ntkuq.__version__,
        "versions": {"python": platform.python_version(), **versions},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform} x {jax.device_count()}",
        "created": now.isoformat().replace("+00:00", "Z"),
        "command": command,
        "seed": seed,
        "dtype": dtype,
    }

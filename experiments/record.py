"""Writing what an experiment found."""

import datetime as dt
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import ntkuq as nq


def save(path: Path, name: str, content: dict[str, Any]) -> Path:
    """Write a JSON document with versions and time beside the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packages = ("jax", "equinox", "optax", "numpyro", "numpy", "scipy")
    document = {
        "experiment": name,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": {
            "ntkuq": nq.__version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
        **content,
    }
    nq.data.write_json(path, document)
    return path

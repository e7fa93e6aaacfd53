"""Whether a computation fits into the memory of this machine, before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import jax


#: Where the system tells what can be had without swapping.
_MEMINFO = Path("/proc/meminfo")


class NotEnoughMemory(MemoryError):
    """A computation that would not fit into memory, refused before it starts."""


def available_bytes() -> float:
    """Bytes that can be had: of the accelerator if there is one, else of the system."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * float(line.split()[1])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        # a system that does not say
        return 8e9


def need_memory(needed: float, what: str, way_out: str) -> None:
    """Refuse what does not fit.

    Args:
        needed: bytes.
        what: the computation and its size, to begin the message.
        way_out: what to do instead, to end it.

    Raises:
        NotEnoughMemory: where more is needed than can be had.

    >>> need_memory(1.0, "one byte", "nothing")
    """
    room = available_bytes()
    if needed > room:
        raise NotEnoughMemory(
            f"{what}: expected to fit into the {room / 1e9:.3g} GB of memory that are "
            f"free, but needs about {needed / 1e9:.3g} GB: {way_out}"
        )

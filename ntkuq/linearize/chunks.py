"""How many examples at once: chunks that fit into the memory given."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ntkuq.linearize.jacobian import Jacobian
from ntkuq.linearize.sites import Site


#: Bytes that one chunk of factors may take (a chunk is what is alive at once); less
#: where little memory is free.
CHUNK_BYTES = 2**27


def chunk_size(jacobian: Jacobian, outputs: int, itemsize: int) -> int:
    """Examples whose dense Jacobian rows fit into `CHUNK_BYTES`.

    A row costs C (A + P) numbers: C backward passes through A activations, and the
    row itself.
    """
    return fitting(outputs * (jacobian.plan.activations + jacobian.size), itemsize)


def factor_chunk_size(jacobian: Jacobian, outputs: int, itemsize: int) -> int:
    """Examples whose factors fit into `CHUNK_BYTES`."""
    return fitting(predicted_numbers(jacobian, outputs), itemsize)


def fitting(numbers: int, itemsize: int) -> int:
    """Examples of so many numbers each that fit into a chunk."""
    return max(1, chunk_bytes() // max(1, numbers * itemsize))


def chunk_bytes() -> int:
    """`CHUNK_BYTES`, or an eighth of the memory that is free where that is less."""
    # a power of two: programs are not compiled anew for each change of what is free
    free = 2 ** int(math.log2(max(2**20, _free_bytes() // 8)))
    return min(CHUNK_BYTES, free)


def _free_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        # a system that does not say: take the fixed size
        return 8 * CHUNK_BYTES


def predicted_numbers(jacobian: Jacobian, outputs: int) -> int:
    """How many numbers one example's factors take while they are made."""
    own = factor_numbers(jacobian, outputs) + _written_out(jacobian)
    if jacobian.is_readout:  # no backward pass, but the Hessian and its products
        return own + jacobian.plan.activations + 2 * outputs**2
    return own + (1 + outputs) * jacobian.plan.activations


def factor_numbers(jacobian: Jacobian, outputs: int) -> int:
    """How many numbers the factors of one example hold, and what products need.

    A layer met at T positions costs T (I + C O), one of the last layer I, every other
    leaf C P; so does, for products that need its Jacobian, a layer met several times.
    """
    total = 0
    for leaf, size in zip(jacobian.subset, jacobian.sizes, strict=True):
        site = jacobian.site(leaf)
        if leaf in jacobian.plan.readout:
            total += size // outputs + outputs
        elif site is None:
            total += outputs * size
        else:
            total += _site_numbers(site, outputs)
            if site.positions > 1:
                total += outputs * size
    return total


def _written_out(jacobian: Jacobian) -> int:
    """Unit vectors that stand for one row of a table, where its Jacobian does not.

    An input factor that is no diagonal (`Reduce`) is made from them.
    """
    sites = [jacobian.site(leaf) for leaf in jacobian.subset]
    tables = [site for site in sites if site is not None and site.kind == "rows"]
    return sum(site.into for site in tables if site.positions == 1)


def _site_numbers(site: Site, outputs: int) -> int:
    into = 1 if site.kind == "rows" else site.into
    return site.positions * (into + outputs * site.out)


def rows(x: PyTree) -> int:
    """The number of examples in x."""
    return jax.tree.leaves(x)[0].shape[0]


def split_rows(x: PyTree, size: int) -> Iterator[PyTree]:
    """x in chunks of at most `size` rows.

    All chunks but the last are of one size, so that one program serves them.
    """
    total = rows(x)
    if size >= total:
        yield x
        return
    for start in range(0, total, size):
        yield jax.tree.map(lambda leaf, s=start: leaf[s : s + size], x)


def even(total: int, size: int) -> int:
    """The chunk size at most `size` that makes the fewest chunks of nearly one size."""
    return max(1, math.ceil(total / math.ceil(total / max(1, size))))


def map_chunks(fn: Callable, x: PyTree, size: int) -> PyTree:
    """Apply a batched `fn` to x in chunks of at most `size` rows; join the results."""
    parts = [fn(part) for part in split_rows(x, size)]
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

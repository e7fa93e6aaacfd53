"""Matrix products with all digits of their type."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array


def exact_product(a: Array, b: Array) -> Array:
    """The product with all digits, on accelerators too."""
    # a CPU has no other, and XLA takes its slower products where one is asked for
    precision = None if jax.default_backend() == "cpu" else "highest"
    return jnp.matmul(a, b, precision=precision)

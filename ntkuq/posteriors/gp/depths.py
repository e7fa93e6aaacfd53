"""Choose the depth of a network by the evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from ntkuq.kernels import AbstractNetworkKernel, Analytic


def best_depth[P](
    kernel: AbstractNetworkKernel, fit: Callable[[AbstractNetworkKernel], P]
) -> P:
    """The posterior of the kernel's depth with the largest evidence.

    Args:
        kernel: `Analytic(depth=(1, 2, 3))`; any other is fitted as it is.
        fit: the posterior of one kernel.

    Returns:
        The posterior, with "depth" and "log evidence by depth" in its diagnostics.

    Raises:
        ValueError: when no depth has a finite evidence.
    """
    if not isinstance(kernel, Analytic) or not isinstance(kernel.depth, tuple):
        return fit(kernel)
    posteriors: list[Any] = [fit(choice) for choice in kernel.choices]
    found = [posterior.log_marginal_likelihood for posterior in posteriors]
    if any(value is None for value in found):
        raise TypeError(
            "Analytic(depth=...): expected a posterior with an evidence to choose by, "
            f"got {type(posteriors[0]).__name__}: give one depth"
        )
    evidence = np.asarray(found, np.float64)
    if not np.isfinite(evidence).any():
        raise ValueError(
            f"Analytic(depth={kernel.depth}): expected a finite evidence for one of "
            f"the depths, got {evidence}: check the data, or give one depth"
        )
    best = int(np.argmax(np.where(np.isfinite(evidence), evidence, -np.inf)))
    diagnostics = {
        **posteriors[best].diagnostics,
        "depth": kernel.depth[best],
        "log evidence by depth": {
            str(depth): float(value)
            for depth, value in zip(kernel.depth, evidence, strict=True)
        },
    }
    return eqx.tree_at(lambda p: p.diagnostics, posteriors[best], diagnostics)

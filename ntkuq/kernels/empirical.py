"""The empirical neural tangent kernel of the trained network."""

from __future__ import annotations

import equinox as eqx


class Empirical(eqx.Module):
    """J(x) L^-1 J(x')^T at the trained network, from the structured Jacobian.

    The prior covariance of the network linearized at its trained weights, for the prior
    of the `BNN`; its scale and the noise are fitted. No Gram matrix of a P-sized object
    is formed: the posterior is solved in weight or function space, whichever is
    smaller.

    Reference: Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572).

    >>> Empirical()
    Empirical()
    """

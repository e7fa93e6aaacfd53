"""How a finite network writes its weights, which decides how fast each one learns."""

from __future__ import annotations

import equinox as eqx


class AbstractParametrization(eqx.Module):
    """What gradient descent moves; the random network is the same in all of them."""


class NTKParametrization(AbstractParametrization):
    r"""A layer is $\sigma_w W h / \sqrt{\text{fan-in}} + \sigma_b b$, and (W, b) learn.

    Θ is the covariance of the linearized network, of any parametrization.

    Reference: Jacot, Gabriel and Hongler, *Neural tangent kernel*, NeurIPS 2018.

    >>> NTKParametrization()
    NTKParametrization()
    """


class StandardParametrization(AbstractParametrization):
    r"""A layer is $W h + b$ with variances $\sigma_w^2 / \text{fan-in}$, $\sigma_b^2$.

    So the weights of a layer count in Θ with its fan-in, its biases with 1. The fan-ins
    are those of the network given.

    Reference: Sohl-Dickstein, Novak, Schoenholz and Lee, *On the infinite width limit
    of neural networks with a standard parameterization*, 2020 (arXiv 2001.07301).

    >>> StandardParametrization()
    StandardParametrization()
    """

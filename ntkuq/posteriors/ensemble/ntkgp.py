r"""Members whose wide limit is a draw of the NTK-GP posterior.

A wide network stays near $f(x, \theta_0) + J(x)(\theta - \theta_0)$. Trained on noisy
targets $y + \epsilon$ with a regularizer that pulls towards a center, it ends at

$g(x) + \Theta(x, X)\,[\Theta(X, X) + \sigma^2 I]^{-1}\,(y + \epsilon - g(X))$,

a draw of the posterior if g is a draw of $N(0, \Theta)$ (Matheron's rule), where g is
the linearized network at the center, plus whatever fixed function is added. Alone, the
network at initialization is only a draw of $N(0, K)$, with the NNGP kernel K: each
member below adds what is missing. The parameters are drawn from the problem's prior,
which so is the prior of the GP too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ntkuq.linearize import find_sites
from ntkuq.models import BNN, parameters
from ntkuq.posteriors.ensemble.members import AbstractMember, Start, from_prior
from ntkuq.posteriors.ensemble.networks import Offset, Tangent, TangentMinusValue


class NTKGPParam(AbstractMember):
    r"""A network pulled to its initialization, plus a fixed linear function.

    $f(x, \theta) + J(x, \theta_0)\tilde\theta$: the entries of $\tilde\theta$ in the
    last layer are zero and the others drawn from the prior, which adds $\Theta - K$.

    Args:
        noise: whether Gaussian targets get noise of the likelihood, as the theory asks.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864).

    >>> NTKGPParam().noise
    True
    """

    noise: bool = True

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        model, center, other = _draws(bnn, key)
        last = find_sites(model, x).last()
        leaves, structure = jax.tree.flatten(other)
        kept = [
            jnp.zeros_like(leaf) if number in last else leaf
            for number, leaf in enumerate(leaves)
        ]
        fixed = Tangent.of(model, jax.tree.unflatten(structure, kept))
        return Start(Offset.of(model, fixed), center, noise=self.noise)


class NTKGPFn(AbstractMember):
    r"""The change of a network since its initialization, plus a fixed linear function.

    $f(x, \theta) - f(x, \theta_0) + J(x, \theta_0)\tilde\theta$ with $\tilde\theta$
    drawn from the prior and theta pulled to $\theta_0$: the prior of the function is
    all in the fixed part. (As published, this variant pulls theta to zero and adds
    another function. That moves every weight by its own size, at any width, so that the
    linearization does not hold, and its members do not approach the NTK-GP: see the
    page "Ensembles".)

    Args:
        noise: whether Gaussian targets get noise of the likelihood, as the theory asks.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864).

    >>> NTKGPFn().noise
    True
    """

    noise: bool = True

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        model, center, other = _draws(bnn, key)
        fixed = TangentMinusValue(Tangent.of(model, other))
        return Start(Offset.of(model, fixed), center, noise=self.noise)


class NTKGPLin(AbstractMember):
    r"""The linearized network itself: $J(x, \theta_0)\theta$.

    theta starts at, and is pulled to, a draw of the prior that is independent of
    $\theta_0$. Members are draws of the posterior at any width, of the GP with the
    empirical NTK at $\theta_0$.

    Args:
        noise: whether Gaussian targets get noise of the likelihood, as the theory asks.

    References: He, Lakshminarayanan, Teh 2020 (arXiv 2007.05864).

    >>> NTKGPLin().noise
    True
    """

    noise: bool = True

    def start(self, bnn: BNN, x: PyTree, *, key: Array) -> Start:
        del x
        model, _, other = _draws(bnn, key)
        tangent = Tangent.of(model, other)
        return Start(tangent, parameters(tangent), noise=self.noise)


def _draws(bnn: BNN, key: Array) -> tuple[PyTree, PyTree, PyTree]:
    """A network drawn from the prior, its parameters, and another draw of these."""
    init, first, second = jax.random.split(key, 3)
    model = from_prior(bnn, bnn.network.init(init), key=first)
    center = parameters(model)
    return model, center, bnn.prior.sample(center, key=second)

"""How far is the tangent kernel at initialization from its infinite-width limit?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.calibration.claims import Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.data import Dataset
from ntkuq.kernels import AbstractCovariance, PriorKernel, UnsupportedLayer
from ntkuq.linearize import Jacobian, ntk
from ntkuq.models import BNN, FanInPrior, Network, cast, parameters
from ntkuq.optimization.kernel_regime.describe import written
from ntkuq.optimization.kernel_regime.slope import why_no_slope, width_slope
from ntkuq.optimization.kernel_regime.study import AbstractStudy, Setting
from ntkuq.optimization.kernel_regime.width import LAW, some, with_network


#: The distance at which a kernel counts as that of the limit, for the width it needs.
NEAR = 0.05
#: Refuted where the network would have to be so many times wider to get there.
TIMES = 10
#: At NEAR √TIMES a distance that falls as m^(-1/2) needs TIMES the width.
RULE = Below(0.1, NEAR * math.sqrt(TIMES))
#: Standard deviation of biases that start at zero: a prior has to be positive.
NO_BIAS = 1e-3


class Limit(AbstractStudy):
    r"""Claim 4: the width in use is near the limit.

    $\|\hat\Theta_0 - \Theta_\infty \otimes I_C\|_F / \|\Theta_\infty \otimes I_C\|_F$
    at test inputs, in float64, over draws of the weights. Both kernels are prior
    covariances of the linearized network, $\hat\Theta_0 = J \Sigma_0 J^\top$, with
    independent weights of variance $\sigma_w^2$ / fan-in and biases of variance
    $\sigma_b^2$: how a network is parametrized plays no part, and $\Theta_\infty$ is
    the limit of $\hat\Theta_0$ (`PriorKernel`). They are those of the problem's
    `FanInPrior`; for another prior, whose networks have no limit, those of the
    network's own initialization (root mean squares over weights and biases).

    A Monte-Carlo average over m units errs by $m^{-1/2}$, so that a distance d needs
    $(d / 0.05)^2$ times the width to come to 5 %: above $0.05 \sqrt{10}$ more than ten
    times the width.

    Args:
        draws: networks drawn.
        networks: width -> `Network` or builder, where the law itself is to be tested:
            the slope of log d against log m, and the width for 5 % by this fit.

    Raises:
        ValueError: for fewer than 2 draws.

    References: Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572); Hanin and Nica 2020
    (arXiv 1909.05989).

    >>> Limit().draws
    10
    """

    name: ClassVar[str] = "limit"
    asked: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "the tangent kernel at initialization is that of infinite width",
            None,
            RULE,
            4,
        ),
    )
    draws: int = 10
    networks: Mapping[int, Network | Callable[..., PyTree]] | None = None

    def __check_init__(self):
        if self.draws < 2:
            raise ValueError(
                f"Limit: expected draws >= 2 for an interval, got {self.draws}"
            )

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        """The distance, and with `networks` its slope.

        Args:
            setting: the network and the test inputs.
            key: random key.
        """
        chosen, *keys = jax.random.split(key, 1 + self.draws)
        part = some(setting.data.test, setting.bnn.outputs(setting.data.test), chosen)
        prior = limit_prior(setting.bnn, key=chosen)
        bnn = setting.bnn.with_prior(prior)
        try:
            found = mean_score(distances(bnn, part, keys))
        except (UnsupportedLayer, ImportError) as error:  # the limit is not known
            return self.untested(" ".join(str(error).split()))
        times = (found.value / NEAR) ** 2
        note = (
            f"relative Frobenius distance at {len(part)} test inputs over {self.draws} "
            f"networks with {_said(prior)}; falling as width^-1/2 it is "
            f"{NEAR:.0%} at {times:.3g} times the width"
        )
        if setting.bnn.prior is not prior:
            note += "; this prior has the variances of the initialization"
        own = dataclasses.replace(self.asked[0], statistic=found, note=note)
        return (own, *self._law(bnn, part, keys))

    def _law(self, bnn: BNN, part: Dataset, keys: list[Array]) -> tuple[Claim, ...]:
        """Does the distance fall with the width as it should?"""
        if self.networks is None:
            return ()
        text = "the tangent kernel at initialization tends to its limit as width^-1/2"
        widths = sorted(self.networks)
        reason = why_no_slope(widths)
        if reason is not None:
            return (Claim(text, None, LAW, 4, reason=reason),)
        values = np.stack(
            [
                distances(with_network(bnn, self.networks[width]), part, keys)
                for width in widths
            ],
            axis=1,
        )
        slope = width_slope(widths, values)
        first = with_network(bnn, self.networks[widths[0]]).network.init(keys[0])
        note = (
            f"widths {', '.join(map(str, widths))}, {self.draws} draws each, not "
            f"trained; {written(first)}; mean at each width: "
            f"{', '.join(f'{value:.3g}' for value in values.mean(axis=0))}"
        )
        if slope.value < 0:
            middle = np.mean(np.log(widths))
            line = np.mean(np.log(values))
            needed = math.exp(middle + (math.log(NEAR) - line) / slope.value)
            note += f"; by this fit {NEAR:.0%} is reached at width {needed:.3g}"
        return (Claim(text, slope, LAW, 4, note=note),)


def limit_prior(bnn: BNN, *, key: Array) -> FanInPrior:
    r"""A prior whose networks have a limit of infinite width.

    That of the problem where it is a `FanInPrior`; else with the variances of the
    initialization: root mean squares of $\sqrt{\text{fan-in}}\, w$ over all weights
    and of all biases.
    """
    if isinstance(bnn.prior, FanInPrior):
        return bnn.prior
    model = bnn.network.init(key) if bnn.network.build is not None else bnn.model
    found = jax.tree_util.tree_leaves_with_path(parameters(model))
    biases = [leaf for path, leaf in found if _is_bias(path, leaf)]
    weights = [
        leaf * math.sqrt(leaf[0].size)
        for path, leaf in found
        if not _is_bias(path, leaf)
    ]
    return FanInPrior(_size(weights) or 1.0, _size(biases) or NO_BIAS)


def _is_bias(path: tuple, leaf: Array) -> bool:
    # those of convolutions have the axes of an image, of length 1
    return leaf.ndim < 2 or getattr(path[-1], "name", None) == "bias"


def _size(leaves: list[Array]) -> float:
    """The root mean square of all numbers; 0 for none."""
    if not leaves:
        return 0.0
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in leaves])
    return float(np.sqrt(np.mean(flat**2)))


def distances(bnn: BNN, data: Dataset, keys: list[Array]) -> Float[np.ndarray, " S"]:
    """The relative distance to the limit, of networks drawn from the prior.

    Args:
        bnn: prepared, with a `FanInPrior`.
        data: the inputs.
        keys: one for each network.

    Raises:
        UnsupportedLayer: for a network whose limit is not known.
        TypeError: for another prior.
    """
    given = bnn.prior
    if not isinstance(given, FanInPrior):
        raise TypeError(f"expected a FanInPrior, got {type(given).__name__}")
    with jax.enable_x64(True):
        x = bnn.inputs(data.x, np.float64)
        if not isinstance(x, jax.Array):
            raise UnsupportedLayer(
                f"the limit is known for inputs in one array, got {type(x).__name__}"
            )
        covariance = PriorKernel().ntk(bnn, x, 1.0)
        limit = _limit(covariance, x)
    # one module for all draws, so that one program serves them
    has_builder = bnn.network.build is not None
    model = bnn.network.init(keys[0]) if has_builder else bnn.model
    with jax.enable_x64(True):
        jacobian = Jacobian.at(cast(model, np.float64), x[0])
        return np.asarray(
            [float(_distance(jacobian, given, limit, x, k)) for k in keys]
        )


@eqx.filter_jit
def _limit(covariance: AbstractCovariance, x: Array) -> Float[Array, "N N"]:
    return covariance.gram(covariance.initial(), x)


@eqx.filter_jit
def _distance(
    jacobian: Jacobian,
    prior: FanInPrior,
    limit: Float[Array, "N N"],
    x: Array,
    key: Array,
) -> Float[Array, ""]:
    """Of one network drawn from the prior."""
    theta = prior.sample(parameters(jacobian.model), key=key)
    model = jacobian.replace(jax.tree.leaves(theta))
    variances = [1.0 / p for p in jax.tree.leaves(prior.precisions(theta))]
    drawn = Jacobian(model, jacobian.plan, jacobian.subset)
    kernel = ntk(drawn, x, None, variances)
    full = limit[:, None, :, None] * jnp.eye(kernel.shape[1])[None, :, None, :]
    return jnp.linalg.norm(kernel - full) / jnp.linalg.norm(full)


def _said(prior: FanInPrior) -> str:
    """The prior to three digits."""
    factor = float(np.asarray(prior.precision)) ** -0.5
    return (
        f"weight_std {prior.weight_std * factor:.3g}, bias_std "
        f"{prior.bias_std * factor:.3g}"
    )

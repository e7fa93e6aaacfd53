"""Do deviations from the kernel regime vanish as networks get wider?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.calibration.claims import Claim, Power
from ntkuq.data import Dataset
from ntkuq.linearize import Jacobian, ntk
from ntkuq.models import BNN, Job, Network, cast, forward
from ntkuq.optimization.kernel_regime.alike import alike
from ntkuq.optimization.kernel_regime.describe import trained, written
from ntkuq.optimization.kernel_regime.slope import why_no_slope, width_slope
from ntkuq.optimization.kernel_regime.study import AbstractStudy, Setting


#: Test inputs at which networks are compared: so many kernel rows, examples × outputs.
ROWS, LEAST = 256, 8
#: Deviations below this are rounding: there is nothing left that could vanish.
ROUNDING = 1e-9
#: What theory says of the slope, and where it is refuted.
LAW = Power(-0.5, -0.2)


class Deviation(NamedTuple):
    """How far training left the kernel regime, one number for each seed.

    relative_error: ‖f_T − f^lin‖ / ‖f_T − f₀‖.
    kernel_change: ‖Θ_T − Θ₀‖_F / ‖Θ₀‖_F.
    """

    relative_error: np.ndarray
    kernel_change: np.ndarray


class Widths(AbstractStudy):
    r"""Claim 3: the deviations vanish as $m^{-1/2}$ in the width m.

    The same problem is solved by networks of several widths, each from `seeds`
    initializations, trained as the setting says. All widths have the same keys, so that
    a seed is a row of paired values. The slopes of the logarithms of the relative
    linearization error and of the kernel's change against log m decide.

    Whether they fall, and how fast, depends on parametrization, step size and stopping
    rule as much as on the width.

    Args:
        networks: width -> `Network` or builder, key -> module.
        seeds: trainings of each width.

    Raises:
        ValueError: for a width that is not positive, or fewer than 2 seeds.

    References: Lee et al. 2019 (arXiv 1902.06720).

    >>> from ntkuq.models import mlp
    >>> sorted(Widths.of(lambda m: mlp(2, 1, width=m), (16, 64, 256)).networks)
    [16, 64, 256]
    """

    name: ClassVar[str] = "width"
    asked: ClassVar[tuple[Claim, ...]] = (
        Claim("the linearization error vanishes as width^-1/2", None, LAW, 3),
        Claim("the change of the tangent kernel vanishes as width^-1/2", None, LAW, 3),
    )
    networks: Mapping[int, Network | Callable[..., PyTree]]
    seeds: int = 5

    def __check_init__(self):
        if any(width < 1 for width in self.networks):
            raise ValueError(
                f"Widths: expected widths >= 1, got {sorted(self.networks)}"
            )
        if self.seeds < 2:
            raise ValueError(
                f"Widths: expected seeds >= 2 for an interval, got {self.seeds}"
            )

    @staticmethod
    def of(
        build: Callable[[int], Callable[..., PyTree]],
        widths: Iterable[int],
        *,
        seeds: int = 5,
    ) -> Widths:
        """Networks from a function of the width.

        Args:
            build: width -> builder, key -> module.
            widths: at least 3 of them, the largest at least 8 times the smallest.
            seeds: trainings of each width.
        """
        return Widths({int(width): build(width) for width in widths}, seeds)

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        """The slopes of both deviations.

        Args:
            setting: of its network only likelihood, prior and scaling are used.
            key: random key.
        """
        widths = sorted(self.networks)
        reason = why_no_slope(widths)
        if reason is not None:
            return self.untested(reason)
        chosen, *keys = jax.random.split(key, 1 + self.seeds)
        part = some(setting.data.test, setting.bnn.outputs(setting.data.test), chosen)
        first = with_network(setting.bnn, self.networks[widths[0]]).network.init(key)
        found = []
        for width in widths:
            bnn = with_network(setting.bnn, self.networks[width])
            deviation = _deviations(bnn, setting, part, keys)
            if isinstance(deviation, str):
                return self.untested(f"width {width}: {deviation}")
            found.append(deviation)
        how = (
            f"slope of logarithms over widths {', '.join(map(str, widths))}, "
            f"{self.seeds} paired seeds, {len(part)} test inputs; "
            f"{written(first)}; {trained(setting, first)}; mean at each width"
        )
        values = [
            np.stack([one[number] for one in found], axis=1) for number in range(2)
        ]
        return tuple(
            _decided(claim, widths, value, how)
            for claim, value in zip(self.asked, values, strict=True)
        )


def _decided(
    claim: Claim, widths: list[int], values: Float[np.ndarray, "S W"], how: str
) -> Claim:
    if not np.isfinite(values).all():
        reason = "training did not change the outputs at some width"
        return dataclasses.replace(claim, reason=reason)
    if (values < ROUNDING).any():
        reason = (
            "the deviation is zero up to rounding at some width: there is nothing left "
            "that could vanish"
        )
        return dataclasses.replace(claim, reason=reason)
    means = ", ".join(f"{value:.3g}" for value in values.mean(axis=0))
    slope = width_slope(widths, values)
    return dataclasses.replace(claim, statistic=slope, note=f"{how}: {means}")


def with_network(bnn: BNN, network: Network | Callable[..., PyTree]) -> BNN:
    """The same prepared problem with another, untrained network."""
    build = network.build if isinstance(network, Network) else network
    return BNN(Network(build), bnn.likelihood, bnn.prior, bnn.scaling, bnn.target_shape)


def some(data: Dataset, outputs: int, key: Array) -> Dataset:
    """So many random rows that their kernel fits."""
    count = min(len(data), max(ROWS // outputs, LEAST))
    rows = np.asarray(jax.random.permutation(key, len(data)))[:count]
    return data.take(rows)


def _deviations(
    bnn: BNN, setting: Setting, part: Dataset, keys: list[Array]
) -> Deviation | str:
    """After training from each key; text where one of them diverged."""
    pairs = [jax.random.split(key) for key in keys]
    models = alike([bnn.network.init(first) for first, _ in pairs])
    # the network's dtype is known once there is one
    begun = bnn.with_model(models[0])
    train = setting.data.train
    x, y = begun.inputs(train.x), begun.targets(train)
    jobs = [
        Job(bnn.with_model(model), model, x, y, steps)
        for model, (_, steps) in zip(models, pairs, strict=True)
    ]
    trained = setting.train.run_many(jobs)
    lost = [one.diverged for one in trained if one.diverged is not None]
    if lost:
        return (
            f"training diverged for {len(lost)} of {len(jobs)} seeds, the first after "
            f"step {lost[0]}; lower the learning rate"
        )
    found = [
        deviation(begun, model, one.model, part)
        for model, one in zip(models, trained, strict=True)
    ]
    return Deviation(*np.asarray(found).T)


def deviation(
    bnn: BNN, initial: PyTree, final: PyTree, data: Dataset
) -> tuple[float, float]:
    """Relative linearization error and kernel change at the inputs of `data`."""
    with jax.enable_x64(True):
        x = bnn.inputs(data.x, np.float64)
        example = jax.tree.map(lambda a: a[0], x)
        before, after = [
            Jacobian.at(cast(eqx.nn.inference_mode(model), np.float64), example)
            for model in (initial, final)
        ]
        first, last = ntk(before, x), ntk(after, x)
        change = jnp.linalg.norm(last - first) / jnp.linalg.norm(first)
        return float(_relative_error(before, after, x)), float(change)


@eqx.filter_jit
def _relative_error(before: Jacobian, after: Jacobian, x: PyTree) -> Array:
    pairs = zip(before.leaves, after.leaves, strict=True)
    begun, linear = before.push(x, [(b - a).reshape(-1) for a, b in pairs])
    ended = jax.vmap(lambda a: forward(after.model, a))(x)
    change = ended - begun
    return jnp.linalg.norm(change - linear) / jnp.linalg.norm(change)

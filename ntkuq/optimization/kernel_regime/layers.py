"""Is natural gradient with one block a layer as good as the exact one?"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ntkuq.calibration.claims import Below, Claim
from ntkuq.calibration.means import mean_score
from ntkuq.linearize import Factors, Jacobian, gram
from ntkuq.models import parameters
from ntkuq.optimization.kernel_regime.points import sample
from ntkuq.optimization.kernel_regime.study import (
    AbstractStudy,
    Setting,
    check_points,
    decided,
)


ISOTROPIC = Claim(
    "the layer-wise Fisher acts like the exact one (sd / mean of eigenvalues)",
    None,
    Below(0.2, 1.0),
    10,
)


class LayerFisher(AbstractStudy):
    r"""Claim 10: natural gradient with a block for each layer moves all outputs alike.

    A step $G^{-1} J^T r$ changes the outputs by $J G^{-1} J^T r$, for the exact Fisher
    matrix r itself. With blocks $G_l = J_l^T J_l + \epsilon I$, one for each layer
    (weights and bias together), $J_l G_l^{-1} J_l^T = K_l (K_l + \epsilon I)^{-1}$ with
    $K_l = J_l J_l^T$, so that for $\epsilon \to 0$ it is $\sum_l \Pi_l$, the projectors
    on the ranges of the kernels of the layers. Where every $K_l$ has full rank that is
    L times the identity: the same direction as the exact step. The standard deviation
    of its eigenvalues over their mean says how far it is from that.

    Args:
        points: training inputs N of a kernel; `None` for N·C ≤ 64, but
            at least 16.

    Raises:
        ValueError: for fewer than 2 points.

    References: Karakida and Osawa 2020 (arXiv 2010.00879).

    >>> LayerFisher().name
    'layers'
    """

    name: ClassVar[str] = "layers"
    asked: ClassVar[tuple[Claim, ...]] = (ISOTROPIC,)
    points: int | None = None

    def __check_init__(self):
        check_points(self, self.points)

    def claims(self, setting: Setting, *, key: Array) -> tuple[Claim, ...]:
        found = sample(setting, self.points, key=key)
        layers = layers_of(found.units[0].jacobian.model)
        spreads, ranks = [], []
        with jax.enable_x64(True):
            for one in found.units:
                values, rank = layer_spectrum(one.jacobian, one.x, layers)
                spreads.append(float(jnp.std(values) / jnp.mean(values)))
                ranks.append(np.asarray(rank))
        each = ", ".join(f"{rank:.0f}" for rank in np.mean(ranks, axis=0))
        note = (
            f"eigenvalues of J G⁺ Jᵀ, a block for each of {len(layers)} layers, no "
            f"damping; ranks of the layers' kernels {each} of {found.side}; "
            f"{found.words}, float64, where training began"
        )
        return (decided(ISOTROPIC, mean_score(np.array(spreads)), note=note),)


def layers_of(model: PyTree) -> tuple[tuple[int, ...], ...]:
    """Positions of the parameter leaves that belong to one layer.

    A layer is the smallest module that holds them: weight and bias together.

    >>> layers_of(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)))
    ((0, 1), (2, 3))
    """
    paths = jax.tree_util.tree_leaves_with_path(parameters(model))
    found: dict[str, list[int]] = {}
    for number, (path, _) in enumerate(paths):
        found.setdefault(jax.tree_util.keystr(path[:-1]), []).append(number)
    return tuple(map(tuple, found.values()))


@eqx.filter_jit
def layer_spectrum(
    jacobian: Jacobian, x: PyTree, layers: tuple[tuple[int, ...], ...]
) -> tuple[Float[Array, " M"], Array]:
    """Eigenvalues of Σ_l Π_l, (N·C,), and the rank of each layer's kernel.

    Args:
        jacobian: of all leaves, in float64.
        x: inputs (N, …).
        layers: positions of the leaves of each layer.
    """
    factors = jacobian.factors(x)
    side = factors.outputs.size
    total = jnp.zeros((side, side), factors.outputs.dtype)
    ranks = []
    for layer in layers:
        leaves = tuple(factors.leaves[n] for n in layer)
        part = Factors(factors.outputs, leaves, factors.weighed)
        ones = [jnp.ones((), total.dtype) for _ in leaves]
        values, vectors = jnp.linalg.eigh(gram(part, part, ones).reshape(side, side))
        # eigenvalues that are zero to rounding are no part of the range
        floor = side * jnp.finfo(values.dtype).eps * values[-1]
        inside = jnp.where(values > floor, vectors, 0.0)
        total = total + inside @ inside.T
        ranks.append(jnp.sum(values > floor))
    return jnp.linalg.eigvalsh(total), jnp.stack(ranks)

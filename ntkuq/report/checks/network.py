"""Checks of the network: outputs, precision, dropout."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ntkuq.models import BNN, Identity, forward
from ntkuq.report import formats
from ntkuq.report.checks.record import (
    Inputs,
    Outcome,
    issue,
    not_applicable,
    passed,
    tip,
)


#: Rows that the network is run on.
ROWS = 256


def outputs(inputs: Inputs) -> Outcome:
    """Outputs, likelihood and targets fit together."""
    try:
        bnn = inputs.bnn.prepare(inputs.data.train)
        bnn.check_outputs(inputs.data.test)
    except (ValueError, TypeError) as error:
        return issue(" ".join(str(error).split()))
    count = bnn.outputs(inputs.data.train)
    name = type(inputs.bnn.likelihood).__name__
    return passed(f"{formats.plural(count, 'output')}, as {name} asks for")


def precision(inputs: Inputs) -> Outcome:
    """Columns whose variation is lost in the network's precision."""
    bnn, train = inputs.bnn, inputs.data.train
    dtype = bnn.dtype if bnn.trained else np.dtype(jnp.zeros(()).dtype)
    eps = float(jnp.finfo(dtype).eps)
    if not isinstance(bnn.scaling, Identity):
        # the scaling is done in float64, before the network's type is taken
        return passed(f"columns are scaled in float64, then taken in {dtype}")
    lost = []
    for leaf in jax.tree.leaves(train.x):
        if np.ndim(leaf) != 2:
            continue
        columns = np.asarray(leaf, np.float64)
        spread, size = columns.std(axis=0), np.abs(columns).max(axis=0)
        for j in np.flatnonzero((spread > 0) & (spread < 100 * eps * size)):
            names = train.features
            lost.append(f"column {j}" if names is None else names[j])
    if lost:
        return issue(
            f"columns that vary by less than {dtype} can tell: {', '.join(lost[:8])}; "
            "subtract a constant, or say --scaling standardize or --x64"
        )
    return passed(f"the columns keep their digits in {dtype}")


def dropout(inputs: Inputs) -> Outcome:
    """Dropout that is active in the network."""
    model = _model(inputs.bnn)
    found = [
        layer
        for layer in jax.tree.leaves(model, is_leaf=_is_dropout)
        if _is_dropout(layer)
    ]
    active = [layer for layer in found if not layer.inference and float(layer.p) > 0]
    if not found:
        return passed("the network has no dropout")
    if not active:
        return passed(f"{formats.plural(len(found), 'dropout layer')}, switched off")
    shares = ", ".join(sorted({f"{float(layer.p):g}" for layer in active}))
    return tip(
        f"{formats.plural(len(active), 'active dropout layer')} (rate {shares}): "
        "training and prediction here have dropout off; MCDropout() keeps it on"
    )


def responds(inputs: Inputs) -> Outcome:
    """The given network gives finite numbers that depend on its inputs."""
    if not inputs.bnn.trained:
        return not_applicable("the network is not trained yet")
    try:
        bnn = inputs.bnn.prepare(inputs.data.train)
        rows = jax.tree.map(lambda leaf: leaf[:ROWS], inputs.data.train.x)
        model = bnn.model
        values = np.asarray(jax.vmap(lambda x: forward(model, x))(bnn.inputs(rows)))
    except (ValueError, TypeError) as error:
        return not_applicable(f"it cannot be run: {' '.join(str(error).split())}")
    bad = int(np.sum(~np.isfinite(values).all(axis=1)))
    shown = f"{len(values):,} training rows"
    if bad:
        return issue(
            f"the network gives numbers that are not finite for {bad} of {shown}: its "
            "weights are broken, train it again"
        )
    if len(values) > 1 and np.all(np.ptp(values, axis=0) == 0):
        return issue(
            f"the network gives the same outputs for all of {shown}: it ignores its "
            "inputs (dead units, or another scaling than it was trained with)"
        )
    return passed(f"finite outputs that vary over {shown}")


def _model(bnn: BNN) -> Any:
    """The network as it was given or built, dropout as it stands."""
    if bnn.network.trained is not None:
        return bnn.network.trained
    if bnn.network.build is None:
        raise ValueError("expected a network with a builder or weights, got neither")
    # only its structure is looked at: nothing is computed
    return eqx.filter_eval_shape(bnn.network.build, jax.random.key(0))


def _is_dropout(node: Any) -> bool:
    return isinstance(node, eqx.nn.Dropout)

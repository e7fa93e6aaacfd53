"""Networks of several seeds with one static part."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import PyTree

from ntkuq.models import trainable
from ntkuq.models.train.assemble import one_static


def alike(models: list[PyTree]) -> list[PyTree]:
    """The same networks with one static part, so that programs compile once."""
    apart = [eqx.partition(model, trainable(model)) for model in models]
    statics = one_static([static for _, static in apart])
    return [
        eqx.combine(params, static)
        for (params, _), static in zip(apart, statics, strict=True)
    ]

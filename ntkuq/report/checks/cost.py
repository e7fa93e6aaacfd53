"""Checks of what the methods would cost."""

from __future__ import annotations

from ntkuq.posteriors import Estimate
from ntkuq.report import formats
from ntkuq.report.checks.record import Inputs, Outcome, not_applicable, passed, tip
from ntkuq.report.limits import make_plan


def cost(inputs: Inputs) -> Outcome:
    """Estimated time and memory, and the methods that would be skipped."""
    if not inputs.methods:
        return not_applicable("no methods were named")
    try:
        bnn = inputs.bnn.prepare(inputs.data.train)
    except (ValueError, TypeError) as error:
        return not_applicable(f"not known: {' '.join(str(error).split())}")
    plan = make_plan(inputs.methods, bnn, inputs.data.train, inputs.limits)
    known = [found for found in plan.values() if isinstance(found, Estimate)]
    skipped = [f"{name} {why}" for name, why in plan.items() if isinstance(why, str)]
    seconds = formats.seconds(sum(found.seconds for found in known))
    peak = max((found.bytes for found in known), default=0.0)
    total = (
        f"{formats.plural(len(known), 'method')}, about {seconds}, peak about "
        f"{peak / 1e9:.1f} GB"
    )
    if skipped:
        return tip(f"{total}; skipped: {'; '.join(skipped)}")
    return passed(total)

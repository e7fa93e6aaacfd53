"""All checks with their codes, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ntkuq.report.checks import cost, network, rows
from ntkuq.report.checks.record import Check, Inputs, Outcome


type Function = Callable[[Inputs], Outcome]

#: Code -> title and check. A code keeps its meaning for ever; new ones go to the end
#: of their block: data 001 to 019, network 020 to 029, cost 030 to 039.
CHECKS: Mapping[str, tuple[str, Function]] = {
    "NQ001": ("remarks on data and weights", rows.remarks),
    "NQ002": ("finite numbers", rows.finite),
    "NQ003": ("constant columns", rows.constant),
    "NQ004": ("repeated training rows", rows.repeated),
    "NQ005": ("test rows in the training rows", rows.leaked),
    "NQ006": ("groups in both parts", rows.shared_groups),
    "NQ007": ("number of test rows", rows.enough),
    "NQ008": ("rows of every class", rows.classes),
    "NQ020": ("outputs and likelihood", network.outputs),
    "NQ021": ("precision of the columns", network.precision),
    "NQ022": ("dropout", network.dropout),
    "NQ023": ("response to the inputs", network.responds),
    "NQ030": ("time and memory", cost.cost),
}


def run_checks(
    inputs: Inputs,
    *,
    only: Collection[str] = (),
    ignore: Collection[str] = (),
) -> tuple[Check, ...]:
    """Every check, in the order of their codes.

    Args:
        inputs: the problem; nothing is fitted.
        only: the codes to run; all unless given.
        ignore: codes to leave out.

    Raises:
        ValueError: for a code that there is not.
    """
    unknown = [code for code in (*only, *ignore) if code not in CHECKS]
    if unknown:
        raise ValueError(
            f"expected a code of a check, got {unknown[0]!r}; there are "
            f"{', '.join(CHECKS)}"
        )
    return tuple(
        Check(code, title, *function(inputs))
        for code, (title, function) in CHECKS.items()
        if (not only or code in only) and code not in ignore
    )

"""The extras of a comparison by the names of `--with`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ntkuq.report import KernelRegime, OutsideSets, Reference, SecondOrder, Shifts
from ntkuq.report.extras import AbstractExtra


#: Name on the command line -> the extra as it is unless told otherwise.
EXTRAS: Mapping[str, Callable[[], AbstractExtra]] = {
    "regime": KernelRegime,
    "probe": SecondOrder,
    "reference": Reference,
    "shift": Shifts,
    "outside": OutsideSets,
}

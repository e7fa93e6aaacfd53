"""Extreme eigenvalues of a kernel, and whether they are more than rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ntkuq.optimization.kernel_regime.drift import kernel_of
from ntkuq.optimization.kernel_regime.points import Points, Sample
from ntkuq.optimization.kernel_regime.study import Setting


#: A smallest eigenvalue above so many times its rounding error is sure.
SAFE = 1e3


class Spectrum(NamedTuple):
    """Extreme eigenvalues of a kernel, and what rounding makes of zero."""

    least: float
    most: float
    floor: float

    @staticmethod
    def of(kernel: np.ndarray) -> Spectrum:
        """Of a symmetric matrix; the floor is N·ε·λ_max."""
        values = np.linalg.eigvalsh(kernel)
        most = float(values[-1])
        floor = len(values) * float(np.finfo(values.dtype).eps) * most
        return Spectrum(float(values[0]), most, floor)

    @property
    def sure(self) -> bool:
        """Is the smallest eigenvalue known to three digits, so that one may divide?"""
        return self.least > SAFE * self.floor


def kernel_spectrum(one: Points) -> Spectrum:
    """Of the kernel where training began."""
    return Spectrum.of(np.asarray(kernel_of(one.jacobian, one.x)[1]))


class Sure(NamedTuple):
    """The units whose smallest eigenvalue is sure.

    units, spectra: of these, at least two.
    note: how many were left out; empty for none.
    """

    units: tuple[Points, ...]
    spectra: list[Spectrum]
    note: str

    @staticmethod
    def of(setting: Setting, found: Sample, spectra: list[Spectrum]) -> Sure:
        """The units that can be used.

        Raises:
            ValueError: for fewer than two of them.
        """
        size = found.units[0].jacobian.size
        if size < found.side:
            raise ValueError(
                f"the kernel of {found.words} has rank at most {size}, the number of "
                "parameters, and nothing can be divided by its smallest eigenvalue: "
                "take fewer points=…"
            )
        pairs = zip(found.units, spectra, strict=True)
        kept = [(one, spectrum) for one, spectrum in pairs if spectrum.sure]
        left = len(spectra) - len(kept)
        what = (
            f"the smallest eigenvalue of the kernel of {found.words} is below "
            f"{SAFE:g} times its rounding error in {left} of {len(spectra)} "
            f"{setting.over}"
        )
        if len(kept) < 2:
            raise ValueError(f"{what}: take fewer points=…")
        units, known = zip(*kept, strict=True)
        return Sure(units, list(known), f"; {what}, which are left out" if left else "")

"""More that a comparison finds out when it is asked to: `compare(..., extras=…)`."""

from .base import AbstractExtra as AbstractExtra
from .outside import OutsideSets as OutsideSets
from .reference import Reference as Reference
from .regime import KernelRegime as KernelRegime
from .second_order import SecondOrder as SecondOrder
from .shifts import Shifts as Shifts

"""Regions with a coverage guarantee that needs no trust in the model."""

from .adaptive import (
    AdaptiveConformal as AdaptiveConformal,
    AdaptivePath as AdaptivePath,
    AdaptiveState as AdaptiveState,
)
from .assess import coverage_by as coverage_by, region_scores as region_scores
from .base import (
    AbstractConformal as AbstractConformal,
    AbstractScore as AbstractScore,
    Conformal as Conformal,
)
from .classes import (
    CumulativeProbability as CumulativeProbability,
    Improbability as Improbability,
)
from .groups import FittedGroups as FittedGroups, GroupConformal as GroupConformal
from .joint import (
    Box as Box,
    Ellipsoid as Ellipsoid,
    JointConformal as JointConformal,
    LargestResidual as LargestResidual,
)
from .law import CoverageLaw as CoverageLaw
from .plus import (
    CVPlus as CVPlus,
    FittedPlus as FittedPlus,
    JackknifePlus as JackknifePlus,
)
from .regions import (
    Boxes as Boxes,
    ClassSets as ClassSets,
    Ellipsoids as Ellipsoids,
    Interval as Interval,
    Region as Region,
)
from .residuals import (
    AbsoluteResidual as AbsoluteResidual,
    NormalizedResidual as NormalizedResidual,
    Quantiles as Quantiles,
)
from .sets import APS as APS, LAC as LAC, RAPS as RAPS
from .split import CQR as CQR, SplitConformal as SplitConformal
from .tail import Tail as Tail

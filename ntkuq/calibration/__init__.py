"""Scores of predictions, each with its uncertainty, and comparisons between methods."""

from .bands import (
    ConfidenceBand as ConfidenceBand,
    ConsistencyBand as ConsistencyBand,
)
from .binned import (
    class_calibration_error as class_calibration_error,
    expected_calibration_error as expected_calibration_error,
)
from .binning import EqualCount as EqualCount, EqualWidth as EqualWidth
from .conformal import (
    APS as APS,
    CQR as CQR,
    LAC as LAC,
    RAPS as RAPS,
    AbsoluteResidual as AbsoluteResidual,
    AdaptiveConformal as AdaptiveConformal,
    Box as Box,
    ClassSets as ClassSets,
    Conformal as Conformal,
    CoverageLaw as CoverageLaw,
    CVPlus as CVPlus,
    Ellipsoid as Ellipsoid,
    GroupConformal as GroupConformal,
    Interval as Interval,
    JackknifePlus as JackknifePlus,
    JointConformal as JointConformal,
    NormalizedResidual as NormalizedResidual,
    Quantiles as Quantiles,
    SplitConformal as SplitConformal,
    Tail as Tail,
    coverage_by as coverage_by,
    region_scores as region_scores,
)
from .decomposition import Corp as Corp, corp as corp
from .distance import Distance as Distance, distance as distance
from .export import to_datatree as to_datatree
from .groups import (
    AdversarialGroups as AdversarialGroups,
    GroupTable as GroupTable,
    WorstSlab as WorstSlab,
    adversarial_groups as adversarial_groups,
    confident_errors as confident_errors,
    coverage_by_group as coverage_by_group,
    distance_to_training as distance_to_training,
    quantile_groups as quantile_groups,
    reliability_by_group as reliability_by_group,
    worst_slab as worst_slab,
)
from .kernel_calibration import kernel_calibration_error as kernel_calibration_error
from .norms import L1 as L1, L2 as L2, DebiasedL2 as DebiasedL2, Largest as Largest
from .ood import Detection as Detection, detection as detection
from .overlap import OverlapWarning as OverlapWarning
from .pairs import Difference as Difference, paired as paired
from .recalibrate import (
    BetaCalibration as BetaCalibration,
    IsotonicCalibration as IsotonicCalibration,
    IsotonicRecalibration as IsotonicRecalibration,
    PlattScaling as PlattScaling,
    ScaleCalibration as ScaleCalibration,
    TemperatureScaling as TemperatureScaling,
    VectorScaling as VectorScaling,
)
from .records import Score as Score, Scores as Scores
from .scores import score as score
from .selective import Selective as Selective, selective as selective
from .severity import severity_curve as severity_curve
from .severity_table import SeverityTable as SeverityTable
from .smooth import smooth_calibration_error as smooth_calibration_error
from .uncertainty import (
    Entropy as Entropy,
    Epistemic as Epistemic,
    MaxProbability as MaxProbability,
    MutualInformation as MutualInformation,
    TotalVariance as TotalVariance,
)

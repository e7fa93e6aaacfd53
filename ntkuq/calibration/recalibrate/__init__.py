"""Recalibration: better probabilities learned from a calibrate part."""

from .base import (
    AbstractRecalibrated as AbstractRecalibrated,
    AbstractRecalibration as AbstractRecalibration,
    Diagnostics as Diagnostics,
)
from .beta import BetaCalibration as BetaCalibration, FittedBeta as FittedBeta
from .isotonic import (
    FittedIsotonic as FittedIsotonic,
    IsotonicCalibration as IsotonicCalibration,
)
from .pit_map import (
    FittedPitMap as FittedPitMap,
    IsotonicRecalibration as IsotonicRecalibration,
)
from .platt import FittedPlatt as FittedPlatt, PlattScaling as PlattScaling
from .recalibrated import Recalibrated as Recalibrated
from .scale import FittedScale as FittedScale, ScaleCalibration as ScaleCalibration
from .temperature import (
    FittedTemperature as FittedTemperature,
    TemperatureScaling as TemperatureScaling,
)
from .vector import FittedVector as FittedVector, VectorScaling as VectorScaling

"""Shifts: inputs that differ from those a network was trained on, on purpose."""

from ntkuq.data.shifts.base import AbstractShift as AbstractShift, label as label
from ntkuq.data.shifts.blur import (
    DefocusBlur as DefocusBlur,
    GaussianBlur as GaussianBlur,
    MotionBlur as MotionBlur,
)
from ntkuq.data.shifts.corrupted import corrupted as corrupted
from ntkuq.data.shifts.features import (
    CategoryFlip as CategoryFlip,
    FeatureNoise as FeatureNoise,
    MeanShift as MeanShift,
    ScaleShift as ScaleShift,
)
from ntkuq.data.shifts.geometry import (
    ElasticTransform as ElasticTransform,
    Pixelate as Pixelate,
    Rotation as Rotation,
    Translation as Translation,
)
from ntkuq.data.shifts.images import (
    AbstractImageShift as AbstractImageShift,
    AsImages as AsImages,
)
from ntkuq.data.shifts.light import (
    Brightness as Brightness,
    Contrast as Contrast,
    Fog as Fog,
    Saturate as Saturate,
)
from ntkuq.data.shifts.missing import (
    AbstractFill as AbstractFill,
    DrawFill as DrawFill,
    FeatureDropout as FeatureDropout,
    MeanFill as MeanFill,
    MissingFeatures as MissingFeatures,
)
from ntkuq.data.shifts.noise import (
    GaussianNoise as GaussianNoise,
    ImpulseNoise as ImpulseNoise,
    ShotNoise as ShotNoise,
    SpeckleNoise as SpeckleNoise,
)
from ntkuq.data.shifts.outside import (
    outside as outside,
    permuted_features as permuted_features,
    uniform_noise as uniform_noise,
)
from ntkuq.data.shifts.splits import (
    AbstractCut as AbstractCut,
    ByRank as ByRank,
    ByValue as ByValue,
    FeatureSplits as FeatureSplits,
    gap_splits as gap_splits,
    tail_splits as tail_splits,
)
from ntkuq.data.shifts.tables import AbstractTableShift as AbstractTableShift

"""Active learning: which points of a pool to label, several at a time."""

from ntkuq.decisions.active.learning import (
    ActiveLearning as ActiveLearning,
    ActiveState as ActiveState,
    AskedRows as AskedRows,
)
from ntkuq.decisions.active.queries import (
    EPIG as EPIG,
    AbstractQuery as AbstractQuery,
    BatchBALD as BatchBALD,
    CoreSet as CoreSet,
    MaxEntropy as MaxEntropy,
    Top as Top,
    Uniform as Uniform,
    VarianceReduction as VarianceReduction,
)
from ntkuq.decisions.active.result import (
    ActiveResult as ActiveResult,
    ChosenClasses as ChosenClasses,
    LabelCurve as LabelCurve,
)

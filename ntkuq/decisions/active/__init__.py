"""Active learning: which points of a pool to label, several at a time."""

from ntkuq.decisions.active.base import AbstractQuery as AbstractQuery
from ntkuq.decisions.active.information import (
    EPIG as EPIG,
    BatchBALD as BatchBALD,
    VarianceReduction as VarianceReduction,
)
from ntkuq.decisions.active.learning import ActiveLearning as ActiveLearning
from ntkuq.decisions.active.queries import (
    CoreSet as CoreSet,
    MaxEntropy as MaxEntropy,
    Top as Top,
    Uniform as Uniform,
)
from ntkuq.decisions.active.result import (
    ActiveResult as ActiveResult,
    ChosenClasses as ChosenClasses,
    LabelCurve as LabelCurve,
)
from ntkuq.decisions.active.state import (
    ActiveState as ActiveState,
    AskedRows as AskedRows,
)

"""The training loop, for one network or many."""

from ntkuq.models.train.jobs import (
    AbstractRecord as AbstractRecord,
    Job as Job,
    Trained as Trained,
)
from ntkuq.models.train.method import (
    Train as Train,
    diverged as diverged,
    numbered as numbered,
)
from ntkuq.models.train.plans import (
    AbstractPlan as AbstractPlan,
    Threads as Threads,
    Vectorized as Vectorized,
)
from ntkuq.models.train.problem import (
    AbstractPenalty as AbstractPenalty,
    AbstractWrapper as AbstractWrapper,
    At as At,
    Given as Given,
    TrainingError as TrainingError,
    as_arrays as as_arrays,
    log_likelihoods as log_likelihoods,
    with_dropout as with_dropout,
    without_noise as without_noise,
)
from ntkuq.models.train.stop import EarlyStopping as EarlyStopping

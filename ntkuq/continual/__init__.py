"""Continual learning: tasks one after another, and what is kept of the earlier ones."""

from ntkuq.continual.learned import Learned as Learned
from ntkuq.continual.metrics import (
    average_accuracy as average_accuracy,
    backward_transfer as backward_transfer,
    forgetting as forgetting,
    forward_transfer as forward_transfer,
)
from ntkuq.continual.results import Results as Results
from ntkuq.continual.sequence import run as run
from ntkuq.continual.strategies import (
    AGEM as AGEM,
    EWC as EWC,
    FROMP as FROMP,
    OGD as OGD,
    SFSVI as SFSVI,
    VCL as VCL,
    AbstractSelection as AbstractSelection,
    AbstractStrategy as AbstractStrategy,
    DarkReplay as DarkReplay,
    FineTuning as FineTuning,
    Joint as Joint,
    KernelRecursion as KernelRecursion,
    LwF as LwF,
    OnlineEWC as OnlineEWC,
    OnlineLaplace as OnlineLaplace,
    RandomPoints as RandomPoints,
    Replay as Replay,
    SynapticIntelligence as SynapticIntelligence,
    UncertainPoints as UncertainPoints,
    UntilFitted as UntilFitted,
    WithReplay as WithReplay,
)
from ntkuq.continual.streams import (
    MultiHead as MultiHead,
    Stream as Stream,
    Task as Task,
    drifting as drifting,
    multi_head as multi_head,
    permuted as permuted,
    rotated as rotated,
    sliced as sliced,
    split_classes as split_classes,
)
from ntkuq.continual.theory import (
    Arm as Arm,
    Drift as Drift,
    drift as drift,
    drift_claim as drift_claim,
    forgetting_claims as forgetting_claims,
    overlap as overlap,
    overlap_claim as overlap_claim,
    subspace_overlap as subspace_overlap,
)

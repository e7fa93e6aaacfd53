"""Strategies against forgetting, one file each."""

from ntkuq.continual.strategies.base import AbstractStrategy as AbstractStrategy
from ntkuq.continual.strategies.distillation import LwF as LwF
from ntkuq.continual.strategies.ewc import EWC as EWC, OnlineEWC as OnlineEWC
from ntkuq.continual.strategies.finetuning import (
    FineTuning as FineTuning,
    Joint as Joint,
)
from ntkuq.continual.strategies.functional import FROMP as FROMP
from ntkuq.continual.strategies.gem import AGEM as AGEM
from ntkuq.continual.strategies.intelligence import (
    SynapticIntelligence as SynapticIntelligence,
)
from ntkuq.continual.strategies.memory import (
    AbstractSelection as AbstractSelection,
    RandomPoints as RandomPoints,
    UncertainPoints as UncertainPoints,
)
from ntkuq.continual.strategies.online_laplace import OnlineLaplace as OnlineLaplace
from ntkuq.continual.strategies.orthogonal import OGD as OGD
from ntkuq.continual.strategies.recursion import KernelRecursion as KernelRecursion
from ntkuq.continual.strategies.repeated import UntilFitted as UntilFitted
from ntkuq.continual.strategies.replay import (
    DarkReplay as DarkReplay,
    Replay as Replay,
)
from ntkuq.continual.strategies.sequential import SFSVI as SFSVI
from ntkuq.continual.strategies.variational import VCL as VCL
from ntkuq.continual.strategies.with_replay import WithReplay as WithReplay

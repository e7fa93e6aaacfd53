"""Decisions: which point to observe next, from any posterior's predictions."""

from ntkuq.decisions import active as active, bandits as bandits, search as search
from ntkuq.decisions.acquisition import (
    BALD as BALD,
    UCB as UCB,
    AbstractAcquisition as AbstractAcquisition,
    ExpectedImprovement as ExpectedImprovement,
    LogEI as LogEI,
    Random as Random,
    Thompson as Thompson,
)
from ntkuq.decisions.improvement import log_improvement as log_improvement
from ntkuq.decisions.pool import Selection as Selection, select as select

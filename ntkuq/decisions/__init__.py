"""Decisions: which point to observe next, from any posterior's predictions."""

from ntkuq.decisions.acquisition import AbstractAcquisition as AbstractAcquisition
from ntkuq.decisions.acquisition import BALD as BALD
from ntkuq.decisions.acquisition import UCB as UCB
from ntkuq.decisions.acquisition import ExpectedImprovement as ExpectedImprovement
from ntkuq.decisions.acquisition import LogEI as LogEI
from ntkuq.decisions.acquisition import Random as Random
from ntkuq.decisions.acquisition import Thompson as Thompson
from ntkuq.decisions.improvement import log_improvement as log_improvement
from ntkuq.decisions.select import Selection as Selection
from ntkuq.decisions.select import select as select

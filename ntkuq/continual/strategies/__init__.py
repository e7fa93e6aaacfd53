"""Strategies against forgetting, one file each."""

from ntkuq.continual.strategies.base import AbstractStrategy as AbstractStrategy
from ntkuq.continual.strategies.ewc import EWC as EWC, OnlineEWC as OnlineEWC
from ntkuq.continual.strategies.finetuning import (
    FineTuning as FineTuning,
    Joint as Joint,
)

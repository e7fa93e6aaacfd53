"""Continual learning: tasks one after another, and what is kept of the earlier ones."""

from ntkuq.continual.metrics import (
    average_accuracy as average_accuracy,
    backward_transfer as backward_transfer,
    forgetting as forgetting,
    forward_transfer as forward_transfer,
)
from ntkuq.continual.strategies import (
    EWC as EWC,
    AbstractStrategy as AbstractStrategy,
    FineTuning as FineTuning,
    Joint as Joint,
    OnlineEWC as OnlineEWC,
)
from ntkuq.continual.streams import (
    Stream as Stream,
    Task as Task,
    permuted as permuted,
    split_classes as split_classes,
)
from ntkuq.continual.tangent import overlap as overlap

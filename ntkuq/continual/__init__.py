"""Continual learning: tasks one after another, and what is kept of the earlier ones."""

from ntkuq.continual.metrics import (
    average_accuracy as average_accuracy,
    backward_transfer as backward_transfer,
    forgetting as forgetting,
    forward_transfer as forward_transfer,
)
from ntkuq.continual.sequence import Results as Results, run as run
from ntkuq.continual.strategies import (
    AbstractStrategy as AbstractStrategy,
    FineTuning as FineTuning,
)
from ntkuq.continual.streams import Task as Task, permuted as permuted
from ntkuq.continual.tangent import overlap as overlap

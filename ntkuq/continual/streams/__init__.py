"""Streams of tasks, made when they are met."""

from ntkuq.continual.streams.base import (
    Stream as Stream,
    Task as Task,
    as_stream as as_stream,
)
from ntkuq.continual.streams.drifting import drifting as drifting, sliced as sliced
from ntkuq.continual.streams.heads import (
    MultiHead as MultiHead,
    multi_head as multi_head,
)
from ntkuq.continual.streams.met import Met as Met
from ntkuq.continual.streams.permuted import permuted as permuted
from ntkuq.continual.streams.rotated import rotated as rotated
from ntkuq.continual.streams.splits import split_classes as split_classes

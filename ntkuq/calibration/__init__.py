"""Scores of predictions, each with its uncertainty, and comparisons between methods."""

from .distance import Distance as Distance, distance as distance
from .export import to_datatree as to_datatree
from .pairs import Difference as Difference, paired as paired
from .records import Score as Score, Scores as Scores
from .scores import score as score

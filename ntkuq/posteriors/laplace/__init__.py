"""Linearized Laplace."""

from ntkuq.posteriors.laplace.evidence import Tuned as Tuned
from ntkuq.posteriors.laplace.method import Laplace as Laplace
from ntkuq.posteriors.laplace.method import LaplacePosterior as LaplacePosterior
from ntkuq.posteriors.laplace.structures import KFAC as KFAC
from ntkuq.posteriors.laplace.structures import Diagonal as Diagonal
from ntkuq.posteriors.laplace.structures import Full as Full
from ntkuq.posteriors.laplace.structures import FunctionSpace as FunctionSpace
from ntkuq.posteriors.laplace.structures import TooLarge as TooLarge
from ntkuq.posteriors.laplace.structures import WeightSpace as WeightSpace
from ntkuq.posteriors.laplace.subsets import All as All
from ntkuq.posteriors.laplace.subsets import LastLayer as LastLayer
from ntkuq.posteriors.laplace.subsets import Select as Select

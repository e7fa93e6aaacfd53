"""Approximations of the Gauss-Newton matrix G = J^T H J."""

from ntkuq.linearize.curvature.base import AbstractCovariance as AbstractCovariance
from ntkuq.linearize.curvature.base import AbstractCurvature as AbstractCurvature
from ntkuq.linearize.curvature.base import Slopes as Slopes
from ntkuq.linearize.curvature.full import FunctionSpace as FunctionSpace
from ntkuq.linearize.curvature.full import WeightSpace as WeightSpace
from ntkuq.linearize.curvature.full import function_space as function_space
from ntkuq.linearize.curvature.full import function_space_cost as function_space_cost
from ntkuq.linearize.curvature.full import weight_space as weight_space
from ntkuq.linearize.curvature.full import weight_space_cost as weight_space_cost
from ntkuq.linearize.curvature.kfac import blocks as blocks
from ntkuq.linearize.curvature.whiten import whiten as whiten

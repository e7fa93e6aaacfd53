"""Approximations of the Gauss-Newton matrix G = J^T H J."""

from ntkuq.linearize.curvature.base import (
    AbstractCovariance as AbstractCovariance,
    AbstractCurvature as AbstractCurvature,
    Slopes as Slopes,
)
from ntkuq.linearize.curvature.full import (
    FunctionSpace as FunctionSpace,
    WeightSpace as WeightSpace,
    function_space as function_space,
    function_space_cost as function_space_cost,
    weight_space as weight_space,
    weight_space_cost as weight_space_cost,
)
from ntkuq.linearize.curvature.kfac import (
    BlocksCovariance as BlocksCovariance,
    blocks as blocks,
)
from ntkuq.linearize.curvature.whiten import whiten as whiten

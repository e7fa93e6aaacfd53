"""Approximations of the Gauss-Newton matrix G = J^T H J."""

from ntkuq.linearize.curvature.accumulate import Summary as Summary
from ntkuq.linearize.curvature.base import (
    AbstractCovariance as AbstractCovariance,
    AbstractCurvature as AbstractCurvature,
    Slopes as Slopes,
)
from ntkuq.linearize.curvature.blocks import (
    Blocks as Blocks,
    BlocksCovariance as BlocksCovariance,
)
from ntkuq.linearize.curvature.fisher import (
    AbstractFisher as AbstractFisher,
    EmpiricalFisher as EmpiricalFisher,
    ExactFisher as ExactFisher,
    SampledFisher as SampledFisher,
)
from ntkuq.linearize.curvature.function import (
    FunctionCovariance as FunctionCovariance,
    FunctionSpace as FunctionSpace,
    function_space as function_space,
    function_space_cost as function_space_cost,
)
from ntkuq.linearize.curvature.kfac import (
    AbstractSharing as AbstractSharing,
    Expand as Expand,
    Reduce as Reduce,
    corrected_blocks as corrected_blocks,
    kronecker_blocks as kronecker_blocks,
)
from ntkuq.linearize.curvature.lowrank import (
    LowRankCovariance as LowRankCovariance,
    LowRankCurvature as LowRankCurvature,
    low_rank as low_rank,
)
from ntkuq.linearize.curvature.weight import (
    WeightSpace as WeightSpace,
    weight_space as weight_space,
    weight_space_cost as weight_space_cost,
)

"""Linearize: the structured Jacobian and what follows from it."""

from ntkuq.linearize.curvature import (
    AbstractCovariance as AbstractCovariance,
    AbstractCurvature as AbstractCurvature,
    BlocksCovariance as BlocksCovariance,
    FunctionSpace as FunctionSpace,
    Slopes as Slopes,
    WeightSpace as WeightSpace,
    blocks as blocks,
    function_space as function_space,
    function_space_cost as function_space_cost,
    weight_space as weight_space,
    weight_space_cost as weight_space_cost,
    whiten as whiten,
)
from ntkuq.linearize.jacobian import (
    Dense as Dense,
    Factors as Factors,
    Jacobian as Jacobian,
    Outer as Outer,
)
from ntkuq.linearize.products import (
    chunk_size as chunk_size,
    dense as dense,
    factor_chunk_size as factor_chunk_size,
    gram as gram,
    map_chunks as map_chunks,
    pull as pull,
    push as push,
    rows as rows,
)
from ntkuq.linearize.sites import Plan as Plan, Site as Site, find_sites as find_sites

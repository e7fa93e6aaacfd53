"""Linearize: the structured Jacobian and what follows from it."""

from ntkuq.linearize.chunks import (
    chunk_size as chunk_size,
    factor_chunk_size as factor_chunk_size,
    map_chunks as map_chunks,
    rows as rows,
)
from ntkuq.linearize.curvature import (
    AbstractCovariance as AbstractCovariance,
    AbstractCurvature as AbstractCurvature,
    AbstractFisher as AbstractFisher,
    AbstractSharing as AbstractSharing,
    Blocks as Blocks,
    EmpiricalFisher as EmpiricalFisher,
    ExactFisher as ExactFisher,
    Expand as Expand,
    FunctionSpace as FunctionSpace,
    LowRankCurvature as LowRankCurvature,
    Reduce as Reduce,
    SampledFisher as SampledFisher,
    Slopes as Slopes,
    Summary as Summary,
    WeightSpace as WeightSpace,
    corrected_blocks as corrected_blocks,
    function_space as function_space,
    function_space_cost as function_space_cost,
    kronecker_blocks as kronecker_blocks,
    low_rank as low_rank,
    weight_space as weight_space,
    weight_space_cost as weight_space_cost,
)
from ntkuq.linearize.examples import (
    AbstractExamples as AbstractExamples,
    Examples as Examples,
)
from ntkuq.linearize.jacobian import (
    Dense as Dense,
    Factors as Factors,
    Jacobian as Jacobian,
    Outer as Outer,
    Readout as Readout,
    Rows as Rows,
)
from ntkuq.linearize.kernel import (
    ntk as ntk,
    ntk_diagonal as ntk_diagonal,
    ntk_per_output as ntk_per_output,
    ntk_trace as ntk_trace,
)
from ntkuq.linearize.operators import (
    AbstractPSD as AbstractPSD,
    BlockDiagonal as BlockDiagonal,
    Diagonal as Diagonal,
    Eigh as Eigh,
    GGNOperator as GGNOperator,
    HessianOperator as HessianOperator,
    JacobianOperator as JacobianOperator,
    Kronecker as Kronecker,
    KroneckerEigh as KroneckerEigh,
    LowRankPlusDiagonal as LowRankPlusDiagonal,
    NTKOperator as NTKOperator,
    TraceNTKOperator as TraceNTKOperator,
    dual_ggn_operator as dual_ggn_operator,
    fisher_operator as fisher_operator,
    ggn_operator as ggn_operator,
    ntk_operator as ntk_operator,
    per_leaf as per_leaf,
)
from ntkuq.linearize.products import (
    dense as dense,
    gram as gram,
    own_gram as own_gram,
    pull as pull,
    push as push,
    trace_gram as trace_gram,
)
from ntkuq.linearize.sites import Plan as Plan, Site as Site, find_sites as find_sites

"""Matrix-free and structured matrices as lineax operators."""

from ntkuq.linearize.operators import register as register
from ntkuq.linearize.operators.base import (
    AbstractPSD as AbstractPSD,
    Diagonal as Diagonal,
)
from ntkuq.linearize.operators.blocks import BlockDiagonal as BlockDiagonal
from ntkuq.linearize.operators.eigh import Eigh as Eigh, KroneckerEigh as KroneckerEigh
from ntkuq.linearize.operators.ggn import (
    GGNOperator as GGNOperator,
    fisher_operator as fisher_operator,
    ggn_operator as ggn_operator,
)
from ntkuq.linearize.operators.hessian import HessianOperator as HessianOperator
from ntkuq.linearize.operators.jacobian import JacobianOperator as JacobianOperator
from ntkuq.linearize.operators.kronecker import Kronecker as Kronecker
from ntkuq.linearize.operators.lowrank import (
    LowRankPlusDiagonal as LowRankPlusDiagonal,
)
from ntkuq.linearize.operators.ntk import (
    NTKOperator as NTKOperator,
    TraceNTKOperator as TraceNTKOperator,
    dual_ggn_operator as dual_ggn_operator,
    ntk_operator as ntk_operator,
    per_leaf as per_leaf,
)

"""Solvers: how a Gaussian process is conditioned on few or on many data."""

from ntkuq.kernels.solvers.aware import ComputationAware as ComputationAware
from ntkuq.kernels.solvers.base import (
    AbstractSolution as AbstractSolution,
    AbstractSolver as AbstractSolver,
    Conditioned as Conditioned,
    Work as Work,
)
from ntkuq.kernels.solvers.exact import (
    Cholesky as Cholesky,
    Exact as Exact,
    SubsetOfData as SubsetOfData,
    draw as draw,
    extended as extended,
)
from ntkuq.kernels.solvers.gradients import ConjugateGradients as ConjugateGradients
from ntkuq.kernels.solvers.inducing import Inducing as Inducing
from ntkuq.kernels.solvers.memory import (
    NotEnoughMemory as NotEnoughMemory,
    need_memory as need_memory,
)
from ntkuq.kernels.solvers.preconditioners import (
    AbstractPreconditioner as AbstractPreconditioner,
    Nystrom as Nystrom,
    PivotedCholesky as PivotedCholesky,
)
from ntkuq.kernels.solvers.system import System as System

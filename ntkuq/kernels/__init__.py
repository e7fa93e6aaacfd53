"""Kernels: covariances of networks and of inputs, their solvers, and their fit."""

from ntkuq.kernels.analytic import Analytic as Analytic
from ntkuq.kernels.base import (
    AbstractCovariance as AbstractCovariance,
    AbstractKernel as AbstractKernel,
    AbstractNetworkKernel as AbstractNetworkKernel,
    LogValues as LogValues,
    Parameter as Parameter,
)
from ntkuq.kernels.compose import ARD as ARD, Scale as Scale, Sum as Sum
from ntkuq.kernels.convolution import (
    ConvolutionNNGP as ConvolutionNNGP,
    ConvolutionNTK as ConvolutionNTK,
)
from ntkuq.kernels.dense import DenseNNGP as DenseNNGP, DenseNTK as DenseNTK
from ntkuq.kernels.empirical import Empirical as Empirical
from ntkuq.kernels.layers import (
    Graph as Graph,
    Node as Node,
    UnsupportedLayer as UnsupportedLayer,
)
from ntkuq.kernels.montecarlo import MonteCarlo as MonteCarlo
from ntkuq.kernels.optimize import Optimum as Optimum, minimize as minimize
from ntkuq.kernels.parametrization import (
    AbstractParametrization as AbstractParametrization,
    NTKParametrization as NTKParametrization,
    StandardParametrization as StandardParametrization,
)
from ntkuq.kernels.prior import PriorKernel as PriorKernel
from ntkuq.kernels.rbf import RBF as RBF
from ntkuq.kernels.solve import (
    Lower as Lower,
    NotPositiveDefinite as NotPositiveDefinite,
    cholesky as cholesky,
)
from ntkuq.kernels.solvers import (
    AbstractPreconditioner as AbstractPreconditioner,
    AbstractSolver as AbstractSolver,
    Cholesky as Cholesky,
    ComputationAware as ComputationAware,
    ConjugateGradients as ConjugateGradients,
    Inducing as Inducing,
    NotEnoughMemory as NotEnoughMemory,
    Nystrom as Nystrom,
    PivotedCholesky as PivotedCholesky,
    SubsetOfData as SubsetOfData,
)
from ntkuq.kernels.trace import walk as walk

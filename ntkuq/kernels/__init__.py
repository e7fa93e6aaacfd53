"""Kernels: covariances of networks and of inputs, their solvers, and their fit."""

from ntkuq.kernels.analytic import Analytic as Analytic
from ntkuq.kernels.base import (
    AbstractCovariance as AbstractCovariance,
    AbstractKernel as AbstractKernel,
    AbstractNetworkKernel as AbstractNetworkKernel,
    LogValues as LogValues,
    Parameter as Parameter,
)
from ntkuq.kernels.dense import DenseNNGP as DenseNNGP, DenseNTK as DenseNTK
from ntkuq.kernels.empirical import Empirical as Empirical
from ntkuq.kernels.layers import UnsupportedLayer as UnsupportedLayer, walk as walk
from ntkuq.kernels.optimize import Optimum as Optimum, minimize as minimize
from ntkuq.kernels.rbf import RBF as RBF
from ntkuq.kernels.solve import (
    Cholesky as Cholesky,
    NotPositiveDefinite as NotPositiveDefinite,
    cholesky as cholesky,
)

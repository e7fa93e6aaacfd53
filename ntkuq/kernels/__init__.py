"""Kernels: covariances of networks and of inputs, their solvers, and their fit."""

from ntkuq.kernels.analytic import Analytic as Analytic
from ntkuq.kernels.base import AbstractCovariance as AbstractCovariance
from ntkuq.kernels.base import AbstractKernel as AbstractKernel
from ntkuq.kernels.base import AbstractNetworkKernel as AbstractNetworkKernel
from ntkuq.kernels.base import LogValues as LogValues
from ntkuq.kernels.base import Parameter as Parameter
from ntkuq.kernels.dense import DenseNNGP as DenseNNGP
from ntkuq.kernels.dense import DenseNTK as DenseNTK
from ntkuq.kernels.optimize import Optimum as Optimum
from ntkuq.kernels.optimize import minimize as minimize
from ntkuq.kernels.rbf import RBF as RBF
from ntkuq.kernels.solve import Cholesky as Cholesky
from ntkuq.kernels.solve import NotPositiveDefinite as NotPositiveDefinite
from ntkuq.kernels.solve import cholesky as cholesky
from ntkuq.kernels.walk import UnsupportedLayer as UnsupportedLayer
from ntkuq.kernels.walk import walk as walk
from ntkuq.kernels.empirical import Empirical as Empirical

"""Stochastic-gradient Markov chain Monte Carlo."""

from ntkuq.posteriors.sgmcmc.kernels import (
    SGHMC as SGHMC,
    SGLD as SGLD,
    AbstractKernel as AbstractKernel,
)
from ntkuq.posteriors.sgmcmc.method import SGMCMC as SGMCMC

"""Markov chains over the weights: the reference, and what it is judged by."""

from ntkuq.posteriors.mcmc.method import NUTS as NUTS
from ntkuq.posteriors.mcmc.mixing import (
    NotAReference as NotAReference,
    NotMixed as NotMixed,
)
from ntkuq.posteriors.mcmc.noise import (
    AbstractNoisePrior as AbstractNoisePrior,
    HalfNormalNoise as HalfNormalNoise,
    LogNormalNoise as LogNormalNoise,
)
from ntkuq.posteriors.mcmc.posterior import NUTSPosterior as NUTSPosterior

"""Likelihoods: what the data say about a network's output."""

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood as AbstractLikelihood,
    Marginal as Marginal,
    block_diagonal as block_diagonal,
    curvature as curvature,
    log_density as log_density,
    square_root as square_root,
)
from ntkuq.models.likelihoods.classes import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
)
from ntkuq.models.likelihoods.density import LogDensity as LogDensity
from ntkuq.models.likelihoods.gaussian import Gaussian as Gaussian
from ntkuq.models.likelihoods.heteroscedastic import (
    HeteroscedasticGaussian as HeteroscedasticGaussian,
)
from ntkuq.models.likelihoods.integrated import IntegratedDensity as IntegratedDensity
from ntkuq.models.likelihoods.known import (
    KnownNoise as KnownNoise,
    NoisyTargets as NoisyTargets,
)
from ntkuq.models.likelihoods.links import (
    AbstractLink as AbstractLink,
    LaplaceBridge as LaplaceBridge,
    MeanField as MeanField,
    MonteCarlo as MonteCarlo,
    Probit as Probit,
)
from ntkuq.models.likelihoods.poisson import Poisson as Poisson
from ntkuq.models.likelihoods.positions import Positions as Positions

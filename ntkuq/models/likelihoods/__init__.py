"""Likelihoods: what the data say about a network's output."""

from ntkuq.models.likelihoods.base import (
    AbstractLikelihood as AbstractLikelihood,
    Marginal as Marginal,
    curvature as curvature,
    square_root as square_root,
)
from ntkuq.models.likelihoods.classes import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
)
from ntkuq.models.likelihoods.gaussian import Gaussian as Gaussian
from ntkuq.models.likelihoods.heteroscedastic import (
    HeteroscedasticGaussian as HeteroscedasticGaussian,
)
from ntkuq.models.likelihoods.poisson import Poisson as Poisson

"""Likelihoods: what the data say about a network's output."""

from ntkuq.models.likelihoods.base import AbstractLikelihood as AbstractLikelihood
from ntkuq.models.likelihoods.base import Marginal as Marginal
from ntkuq.models.likelihoods.base import curvature as curvature
from ntkuq.models.likelihoods.base import square_root as square_root
from ntkuq.models.likelihoods.classes import Bernoulli as Bernoulli
from ntkuq.models.likelihoods.classes import Categorical as Categorical
from ntkuq.models.likelihoods.gaussian import Gaussian as Gaussian
from ntkuq.models.likelihoods.heteroscedastic import (
    HeteroscedasticGaussian as HeteroscedasticGaussian,
)
from ntkuq.models.likelihoods.poisson import Poisson as Poisson

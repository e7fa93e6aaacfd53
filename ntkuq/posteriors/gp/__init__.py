"""Gaussian process methods: `GP`, `NNGP`, `NTKGP`."""

from ntkuq.posteriors.gp.methods import GP as GP
from ntkuq.posteriors.gp.methods import NNGP as NNGP
from ntkuq.posteriors.gp.methods import NTKGP as NTKGP
from ntkuq.posteriors.gp.methods import LatentLaplace as LatentLaplace
from ntkuq.posteriors.gp.posteriors import GaussianPosterior as GaussianPosterior
from ntkuq.posteriors.gp.posteriors import LatentPosterior as LatentPosterior

"""Gaussian process methods: `GP`, `NNGP`, `NTKGP`."""

from ntkuq.posteriors.gp.methods import (
    GP as GP,
    NNGP as NNGP,
    NTKGP as NTKGP,
    LatentLaplace as LatentLaplace,
)
from ntkuq.posteriors.gp.posteriors import (
    GaussianPosterior as GaussianPosterior,
    LatentPosterior as LatentPosterior,
)

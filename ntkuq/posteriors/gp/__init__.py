"""Gaussian process methods: `GP`, `NNGP`, `NTKGP`, and laws of wide networks."""

from ntkuq.posteriors.gp.dynamics import GradientFlowLaw as GradientFlowLaw
from ntkuq.posteriors.gp.elliptical import (
    SampledLatentPosterior as SampledLatentPosterior,
)
from ntkuq.posteriors.gp.heteroscedastic import (
    HeteroscedasticPosterior as HeteroscedasticPosterior,
)
from ntkuq.posteriors.gp.inference import (
    EllipticalSlice as EllipticalSlice,
    LatentLaplace as LatentLaplace,
)
from ntkuq.posteriors.gp.labels import (
    LabelRegression as LabelRegression,
    LabelRegressionPosterior as LabelRegressionPosterior,
)
from ntkuq.posteriors.gp.methods import GP as GP, NNGP as NNGP, NTKGP as NTKGP
from ntkuq.posteriors.gp.noise import UnequalNoisePosterior as UnequalNoisePosterior
from ntkuq.posteriors.gp.posteriors import (
    GaussianPosterior as GaussianPosterior,
    LatentPosterior as LatentPosterior,
)
from ntkuq.posteriors.gp.wide import WideEnsemble as WideEnsemble

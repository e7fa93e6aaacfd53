"""Posteriors: the methods, what they return, and their predictions."""

from ntkuq.posteriors.base import (
    AbstractMethod as AbstractMethod,
    AbstractPosterior as AbstractPosterior,
    Cost as Cost,
    Joint as Joint,
)
from ntkuq.posteriors.costs import Estimate as Estimate, estimate as estimate
from ntkuq.posteriors.draws import (
    NetworkFunctions as NetworkFunctions,
    SampledPosterior as SampledPosterior,
)
from ntkuq.posteriors.dropout import (
    MCDropout as MCDropout,
    MCDropoutPosterior as MCDropoutPosterior,
)
from ntkuq.posteriors.empirical import EmpiricalPosterior as EmpiricalPosterior
from ntkuq.posteriors.ensemble import (
    AbstractMember as AbstractMember,
    Anchored as Anchored,
    Bootstrap as Bootstrap,
    DeepEnsemble as DeepEnsemble,
    EnsemblePosterior as EnsemblePosterior,
    Mixture as Mixture,
    NTKGPFn as NTKGPFn,
    NTKGPLin as NTKGPLin,
    NTKGPParam as NTKGPParam,
    Plain as Plain,
    RandomizedPrior as RandomizedPrior,
    Snapshot as Snapshot,
)
from ntkuq.posteriors.gaussian_weights import (
    GaussianWeightsPosterior as GaussianWeightsPosterior,
)
from ntkuq.posteriors.gp import (
    GP as GP,
    NNGP as NNGP,
    NTKGP as NTKGP,
    EllipticalSlice as EllipticalSlice,
    GaussianPosterior as GaussianPosterior,
    GradientFlowLaw as GradientFlowLaw,
    HeteroscedasticPosterior as HeteroscedasticPosterior,
    LabelRegression as LabelRegression,
    LabelRegressionPosterior as LabelRegressionPosterior,
    LatentLaplace as LatentLaplace,
    LatentPosterior as LatentPosterior,
    SampledLatentPosterior as SampledLatentPosterior,
    UnequalNoisePosterior as UnequalNoisePosterior,
    WideEnsemble as WideEnsemble,
)
from ntkuq.posteriors.laplace import (
    EKFAC as EKFAC,
    KFAC as KFAC,
    All as All,
    CrossValidation as CrossValidation,
    Diagonal as Diagonal,
    Full as Full,
    FunctionSpace as FunctionSpace,
    GridSearch as GridSearch,
    Laplace as Laplace,
    LaplacePosterior as LaplacePosterior,
    LastLayer as LastLayer,
    LowRank as LowRank,
    NotAtMAP as NotAtMAP,
    SampledFunctions as SampledFunctions,
    SampledLaplace as SampledLaplace,
    SampledLaplacePosterior as SampledLaplacePosterior,
    Select as Select,
    TooLarge as TooLarge,
    WeightSpace as WeightSpace,
)
from ntkuq.posteriors.map import MAP as MAP, MAPPosterior as MAPPosterior
from ntkuq.posteriors.mcmc import (
    NUTS as NUTS,
    AbstractNoisePrior as AbstractNoisePrior,
    HalfNormalNoise as HalfNormalNoise,
    LogNormalNoise as LogNormalNoise,
    NotAReference as NotAReference,
    NotMixed as NotMixed,
    NUTSPosterior as NUTSPosterior,
)
from ntkuq.posteriors.mix import mix as mix
from ntkuq.posteriors.predictive import Predictive as Predictive
from ntkuq.posteriors.record import LoadError as LoadError
from ntkuq.posteriors.saving import load as load, save as save
from ntkuq.posteriors.sgmcmc import SGHMC as SGHMC, SGLD as SGLD, SGMCMC as SGMCMC
from ntkuq.posteriors.swag import SWAG as SWAG
from ntkuq.posteriors.variational import Variational as Variational

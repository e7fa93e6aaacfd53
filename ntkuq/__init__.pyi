# The public names of the top level, room by room. lazy_loader reads this file at run
# time, type checkers read it as the interface: a name added here needs nothing else.
from . import (
    calibration as calibration,
    continual as continual,
    data as data,
    decisions as decisions,
    kernels as kernels,
    linearize as linearize,
    models as models,
    optimization as optimization,
    posteriors as posteriors,
    report as report,
)
from .calibration import Score as Score, Scores as Scores, score as score
from .data import Batches as Batches, Dataset as Dataset, Split as Split
from .kernels import (
    RBF as RBF,
    Analytic as Analytic,
    Cholesky as Cholesky,
    ComputationAware as ComputationAware,
    ConjugateGradients as ConjugateGradients,
    Empirical as Empirical,
    Inducing as Inducing,
    NTKParametrization as NTKParametrization,
    Nystrom as Nystrom,
    PivotedCholesky as PivotedCholesky,
    StandardParametrization as StandardParametrization,
    SubsetOfData as SubsetOfData,
)
from .models import (
    BNN as BNN,
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    FanInPrior as FanInPrior,
    Fixed as Fixed,
    Gaussian as Gaussian,
    HeteroscedasticGaussian as HeteroscedasticGaussian,
    Identity as Identity,
    LaplaceBridge as LaplaceBridge,
    LeaveOneOut as LeaveOneOut,
    LogDensity as LogDensity,
    MarginalLikelihood as MarginalLikelihood,
    MeanField as MeanField,
    MonteCarlo as MonteCarlo,
    Network as Network,
    NormalPrior as NormalPrior,
    Poisson as Poisson,
    Probit as Probit,
    Standardize as Standardize,
    Train as Train,
)
from .optimization import regime as regime
from .posteriors import (
    EKFAC as EKFAC,
    GP as GP,
    KFAC as KFAC,
    MAP as MAP,
    NNGP as NNGP,
    NTKGP as NTKGP,
    All as All,
    CrossValidation as CrossValidation,
    DeepEnsemble as DeepEnsemble,
    Diagonal as Diagonal,
    EllipticalSlice as EllipticalSlice,
    Full as Full,
    GridSearch as GridSearch,
    LabelRegression as LabelRegression,
    Laplace as Laplace,
    LastLayer as LastLayer,
    LatentLaplace as LatentLaplace,
    LowRank as LowRank,
    Predictive as Predictive,
    SampledLaplace as SampledLaplace,
    Select as Select,
    WideEnsemble as WideEnsemble,
    estimate as estimate,
    load as load,
    save as save,
)
from .report import Comparison as Comparison, compare as compare

__version__: str

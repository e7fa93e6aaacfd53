"""Linearized Laplace."""

from ntkuq.posteriors.laplace.evidence import Tuned as Tuned
from ntkuq.posteriors.laplace.functions import SampledFunctions as SampledFunctions
from ntkuq.posteriors.laplace.method import Laplace as Laplace
from ntkuq.posteriors.laplace.posterior import (
    LaplacePosterior as LaplacePosterior,
    NotAtMAP as NotAtMAP,
)
from ntkuq.posteriors.laplace.sampled import (
    SampledLaplace as SampledLaplace,
    SampledLaplacePosterior as SampledLaplacePosterior,
)
from ntkuq.posteriors.laplace.search import (
    CrossValidation as CrossValidation,
    GridSearch as GridSearch,
    negative_log_density as negative_log_density,
)
from ntkuq.posteriors.laplace.structures import (
    EKFAC as EKFAC,
    KFAC as KFAC,
    Diagonal as Diagonal,
    Full as Full,
    FunctionSpace as FunctionSpace,
    LowRank as LowRank,
    TooLarge as TooLarge,
    WeightSpace as WeightSpace,
)
from ntkuq.posteriors.laplace.subsets import (
    All as All,
    LastLayer as LastLayer,
    Select as Select,
)

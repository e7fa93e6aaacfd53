"""Linearized Laplace."""

from ntkuq.posteriors.laplace.evidence import Tuned as Tuned
from ntkuq.posteriors.laplace.method import (
    Laplace as Laplace,
    LaplacePosterior as LaplacePosterior,
)
from ntkuq.posteriors.laplace.structures import (
    KFAC as KFAC,
    Diagonal as Diagonal,
    Full as Full,
    FunctionSpace as FunctionSpace,
    TooLarge as TooLarge,
    WeightSpace as WeightSpace,
)
from ntkuq.posteriors.laplace.subsets import (
    All as All,
    LastLayer as LastLayer,
    Select as Select,
)

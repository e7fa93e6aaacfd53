r"""Variance of a reward, $\phi^\top (\lambda I + \sum \phi \phi^\top)^{-1} \phi$."""

from ntkuq.decisions.bandits.covariances.base import (
    AbstractCovariance as AbstractCovariance,
    Chunk as Chunk,
    Seen as Seen,
)
from ntkuq.decisions.bandits.covariances.diagonal import Diagonal as Diagonal
from ntkuq.decisions.bandits.covariances.full import Full as Full
from ntkuq.decisions.bandits.covariances.function_space import (
    FunctionSpace as FunctionSpace,
)
from ntkuq.decisions.bandits.covariances.kronecker import Kronecker as Kronecker
from ntkuq.decisions.bandits.covariances.last_layer import LastLayer as LastLayer
from ntkuq.decisions.bandits.covariances.low_rank import LowRank as LowRank

"""Bayesian optimization: search a box with any method as the surrogate."""

from ntkuq.decisions.search.bayesopt import BayesOpt as BayesOpt
from ntkuq.decisions.search.box import Box as Box
from ntkuq.decisions.search.calibration import ChosenCalibration as ChosenCalibration
from ntkuq.decisions.search.functions import (
    Benchmark as Benchmark,
    ackley as ackley,
    branin as branin,
    hartmann6 as hartmann6,
)
from ntkuq.decisions.search.loop import (
    Outcome as Outcome,
    Searched as Searched,
    run as run,
)
from ntkuq.decisions.search.objective import (
    AbstractDirection as AbstractDirection,
    AbstractNoise as AbstractNoise,
    Exact as Exact,
    Maximize as Maximize,
    Minimize as Minimize,
    Noisy as Noisy,
)
from ntkuq.decisions.search.propose import Optimizer as Optimizer
from ntkuq.decisions.search.retrain import Retrained as Retrained
from ntkuq.decisions.search.state import (
    Asked as Asked,
    Best as Best,
    SearchState as SearchState,
)

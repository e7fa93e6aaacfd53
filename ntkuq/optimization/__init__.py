"""Optimization: natural-gradient steps, and whether training follows its kernel."""

from ntkuq.optimization.natural import NaturalGradientState as NaturalGradientState
from ntkuq.optimization.natural import NaturalStep as NaturalStep
from ntkuq.optimization.natural import natural_gradient as natural_gradient
from ntkuq.optimization.natural import natural_step as natural_step
from ntkuq.optimization.regime import regime as regime
from ntkuq.optimization.regimes import Claim as Claim
from ntkuq.optimization.regimes import Regime as Regime

"""Optimization: natural-gradient steps, and whether training follows its kernel."""

from ntkuq.optimization.measure import regime as regime
from ntkuq.optimization.natural import (
    NaturalGradientState as NaturalGradientState,
    NaturalStep as NaturalStep,
    natural_gradient as natural_gradient,
    natural_step as natural_step,
)
from ntkuq.optimization.records import Claim as Claim, Regime as Regime

"""Optimization: natural-gradient steps, and whether training follows its kernel."""

from ntkuq.calibration.claims import (
    Above as Above,
    AbstractRule as AbstractRule,
    Below as Below,
    Claim as Claim,
    Power as Power,
    Within as Within,
)
from ntkuq.optimization.kernel_regime import (
    STUDIES as STUDIES,
    AbstractStudy as AbstractStudy,
    Conditions as Conditions,
    LayerFisher as LayerFisher,
    LazyPhase as LazyPhase,
    Limit as Limit,
    NaturalGradientRate as NaturalGradientRate,
    Outcome as Outcome,
    Regime as Regime,
    Run as Run,
    Scaled as Scaled,
    Setting as Setting,
    Settling as Settling,
    Uncertainty as Uncertainty,
    Widths as Widths,
    link as link,
    regime as regime,
    scaled as scaled,
)
from ntkuq.optimization.kfac import KFACState as KFACState, kfac as kfac
from ntkuq.optimization.natural import (
    NaturalGradientState as NaturalGradientState,
    NaturalStep as NaturalStep,
    gauss_newton as gauss_newton,
    natural_gradient as natural_gradient,
    natural_step as natural_step,
)
from ntkuq.optimization.probe import (
    AbstractStep as AbstractStep,
    GaussNewtonStep as GaussNewtonStep,
    GradientStep as GradientStep,
    KFACStep as KFACStep,
    Probe as Probe,
    probe as probe,
)
from ntkuq.optimization.steps.damping import (
    AbstractDamping as AbstractDamping,
    Constant as Constant,
    LevenbergMarquardt as LevenbergMarquardt,
)
from ntkuq.optimization.steps.rates import (
    AbstractRate as AbstractRate,
    KLClip as KLClip,
    LineSearch as LineSearch,
    QuadraticModel as QuadraticModel,
    Scheduled as Scheduled,
)
from ntkuq.optimization.steps.solve import (
    AbstractSolve as AbstractSolve,
    ConjugateGradients as ConjugateGradients,
    FunctionSpace as FunctionSpace,
    Smaller as Smaller,
    WeightSpace as WeightSpace,
)

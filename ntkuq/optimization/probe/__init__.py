"""Would a second-order step help this network, from where it stands?"""

from ntkuq.optimization.probe.method import STEPS as STEPS, probe as probe
from ntkuq.optimization.probe.record import (
    Against as Against,
    Probe as Probe,
    StepRow as StepRow,
)
from ntkuq.optimization.probe.steps import (
    AbstractStep as AbstractStep,
    GaussNewtonStep as GaussNewtonStep,
    GradientStep as GradientStep,
    KFACStep as KFACStep,
)

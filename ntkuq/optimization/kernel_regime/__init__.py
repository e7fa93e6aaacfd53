"""Does the network train as its tangent kernel says? One file a group of claims."""

from .conditions import Conditions as Conditions
from .layers import LayerFisher as LayerFisher
from .limit import Limit as Limit
from .link import Outcome as Outcome, link as link
from .method import STUDIES as STUDIES, regime as regime
from .phase import LazyPhase as LazyPhase
from .rates import NaturalGradientRate as NaturalGradientRate
from .records import Regime as Regime
from .scale import Scaled as Scaled, scaled as scaled
from .settling import Settling as Settling
from .study import AbstractStudy as AbstractStudy, Run as Run, Setting as Setting
from .uncertainty import Uncertainty as Uncertainty
from .width import Widths as Widths

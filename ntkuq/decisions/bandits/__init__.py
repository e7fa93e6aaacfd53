"""Neural contextual bandits: environments, policies, and the loop between them."""

from ntkuq.decisions.bandits.claims import bandit_claims as bandit_claims
from ntkuq.decisions.bandits.coefficients import (
    AbstractCoefficient as AbstractCoefficient,
    Constant as Constant,
    Evidence as Evidence,
    InfiniteWidth as InfiniteWidth,
    Progress as Progress,
    Theoretical as Theoretical,
)
from ntkuq.decisions.bandits.covariances import (
    AbstractCovariance as AbstractCovariance,
    Diagonal as Diagonal,
    Full as Full,
    FunctionSpace as FunctionSpace,
    Kronecker as Kronecker,
    LastLayer as LastLayer,
    LowRank as LowRank,
)
from ntkuq.decisions.bandits.environments import (
    AbstractEnvironment as AbstractEnvironment,
    Cosine as Cosine,
    Quadratic as Quadratic,
    Round as Round,
    Rows as Rows,
    Square as Square,
    Synthetic as Synthetic,
    Wheel as Wheel,
    classification as classification,
)
from ntkuq.decisions.bandits.feedback import (
    AbstractFeedback as AbstractFeedback,
    Batched as Batched,
    Delayed as Delayed,
    Immediate as Immediate,
)
from ntkuq.decisions.bandits.general import Refitted as Refitted
from ntkuq.decisions.bandits.live import (
    LiveBandit as LiveBandit,
    LiveState as LiveState,
)
from ntkuq.decisions.bandits.model import (
    AbstractSchedule as AbstractSchedule,
    Adam as Adam,
    Every as Every,
    Geometric as Geometric,
    NeuralRewards as NeuralRewards,
)
from ntkuq.decisions.bandits.network import Perceptron as Perceptron
from ntkuq.decisions.bandits.policies import (
    UCB as UCB,
    AbstractPolicy as AbstractPolicy,
    EpsilonGreedy as EpsilonGreedy,
    Greedy as Greedy,
    JointThompson as JointThompson,
    Thompson as Thompson,
    Uniform as Uniform,
)
from ntkuq.decisions.bandits.result import (
    BanditResult as BanditResult,
    Interval as Interval,
)
from ntkuq.decisions.bandits.run import run_bandit as run_bandit
from ntkuq.decisions.bandits.tables import TABLES as TABLES, table as table

"""Models: network, likelihood, prior and scaling, which make up the `BNN`."""

from ntkuq.models.architectures import (
    CNN as CNN,
    ResNet as ResNet,
    cnn as cnn,
    describe as describe,
    mlp as mlp,
    resnet as resnet,
)
from ntkuq.models.bnn import BNN as BNN
from ntkuq.models.hyperparameters import (
    AbstractTune as AbstractTune,
    Fixed as Fixed,
    Hyperparameter as Hyperparameter,
    LeaveOneOut as LeaveOneOut,
    MarginalLikelihood as MarginalLikelihood,
)
from ntkuq.models.likelihoods import (
    AbstractLikelihood as AbstractLikelihood,
    AbstractLink as AbstractLink,
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Gaussian as Gaussian,
    HeteroscedasticGaussian as HeteroscedasticGaussian,
    IntegratedDensity as IntegratedDensity,
    KnownNoise as KnownNoise,
    LaplaceBridge as LaplaceBridge,
    LogDensity as LogDensity,
    Marginal as Marginal,
    MeanField as MeanField,
    MonteCarlo as MonteCarlo,
    NoisyTargets as NoisyTargets,
    Poisson as Poisson,
    Positions as Positions,
    Probit as Probit,
    log_density as log_density,
)
from ntkuq.models.network import (
    Frozen as Frozen,
    Network as Network,
    cast as cast,
    check_finite as check_finite,
    count as count,
    forward as forward,
    parameters as parameters,
    trainable as trainable,
)
from ntkuq.models.parametrization import (
    NTK as NTK,
    AbstractParametrization as AbstractParametrization,
    MuP as MuP,
    Place as Place,
    Role as Role,
    Scaled as Scaled,
    Scales as Scales,
    Standard as Standard,
    parametrized as parametrized,
)
from ntkuq.models.priors import (
    AbstractPrior as AbstractPrior,
    FanInPrior as FanInPrior,
    NormalPrior as NormalPrior,
)
from ntkuq.models.scaling import (
    AbstractScaling as AbstractScaling,
    Identity as Identity,
    Standardize as Standardize,
)
from ntkuq.models.text import constructor as constructor, identity as identity
from ntkuq.models.train import (
    AbstractPlan as AbstractPlan,
    EarlyStopping as EarlyStopping,
    Job as Job,
    Threads as Threads,
    Train as Train,
    Trained as Trained,
    TrainingError as TrainingError,
    Vectorized as Vectorized,
    as_arrays as as_arrays,
    log_likelihoods as log_likelihoods,
)

"""Ensembles: several networks, equally weighted."""

from ntkuq.posteriors.ensemble.members import (
    AbstractMember as AbstractMember,
    Anchored as Anchored,
    Bootstrap as Bootstrap,
    Plain as Plain,
    RandomizedPrior as RandomizedPrior,
)
from ntkuq.posteriors.ensemble.method import DeepEnsemble as DeepEnsemble
from ntkuq.posteriors.ensemble.mixture import Mixture as Mixture
from ntkuq.posteriors.ensemble.ntkgp import (
    NTKGPFn as NTKGPFn,
    NTKGPLin as NTKGPLin,
    NTKGPParam as NTKGPParam,
)
from ntkuq.posteriors.ensemble.posterior import EnsemblePosterior as EnsemblePosterior
from ntkuq.posteriors.ensemble.snapshot import Snapshot as Snapshot

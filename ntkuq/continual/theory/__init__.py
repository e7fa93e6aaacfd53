"""What kernel theory says about forgetting, and whether it is so."""

from ntkuq.continual.theory.claims import (
    Arm as Arm,
    drift_claim as drift_claim,
    forgetting_claims as forgetting_claims,
    overlap_claim as overlap_claim,
)
from ntkuq.continual.theory.drift import Drift as Drift, drift as drift
from ntkuq.continual.theory.tangent import (
    overlap as overlap,
    subspace_overlap as subspace_overlap,
)

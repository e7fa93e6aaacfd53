"""BoTorch's GP with LogEI on a benchmark: one JSON line a search. Runs alone.

What to do is read from standard input: `function`, `noise` ("inferred" is the default
of `SingleTaskGP`, "exact" sets it as known), `budget`, and for each seed of `seeds` its
`starts`, positions in the unit cube.
"""

import json
import sys
import time
import warnings

import botorch
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.optim import optimize_acqf
from botorch.test_functions import Ackley, Branin, Hartmann
from gpytorch.mlls import ExactMarginalLogLikelihood


FUNCTIONS = {
    "branin": lambda: Branin(negate=True),
    "hartmann6": lambda: Hartmann(dim=6, negate=True),
    "ackley10": lambda: Ackley(dim=10, negate=True),
}
#: Variance of the noise of an exact objective over that of its values.
EXACT = 1e-8


def run(name: str, noise: str, starts: list, seed: int, budget: int) -> dict:
    """The values found by one search, what was predicted of them, and its seconds."""
    torch.manual_seed(seed)
    function = FUNCTIONS[name]().to(torch.float64)
    bounds = function.bounds
    side = bounds[1] - bounds[0]
    dim = bounds.shape[1]
    u = torch.tensor(starts, dtype=torch.float64)
    y = function(bounds[0] + side * u).unsqueeze(-1)
    cube = torch.stack([torch.zeros(dim), torch.ones(dim)]).to(torch.float64)
    mean, std = [float("nan")] * len(u), [float("nan")] * len(u)
    start, initial = time.perf_counter(), len(u)
    while len(u) < budget:
        known = torch.full_like(y, EXACT) * y.var() if noise == "exact" else None
        model = SingleTaskGP(u, y, known, outcome_transform=Standardize(1))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = LogExpectedImprovement(model, best_f=y.max())
        new, _ = optimize_acqf(acquisition, cube, q=1, num_restarts=10, raw_samples=512)
        with torch.no_grad():
            guess = model.posterior(new, observation_noise=noise != "exact")
        mean.append(guess.mean.item())
        std.append(guess.variance.sqrt().item())
        u = torch.cat([u, new])
        y = torch.cat([y, function(bounds[0] + side * new).unsqueeze(-1)])
    seconds = time.perf_counter() - start
    return {
        "y": y[:, 0].tolist(),
        "mean": mean,
        "std": std,
        "minimum": function.optimal_value * -1.0,
        "seconds_per_round": seconds / max(budget - initial, 1),
        "version": botorch.__version__,
    }


def main() -> None:
    """Print a line for each search."""
    given = json.load(sys.stdin)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for seed, starts in zip(given["seeds"], given["starts"], strict=True):
        found = run(given["function"], given["noise"], starts, seed, given["budget"])
        print(json.dumps({"seed": seed, **found}), flush=True)


if __name__ == "__main__":
    main()

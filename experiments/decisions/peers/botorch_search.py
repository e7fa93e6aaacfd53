"""BoTorch's GP with LogEI on a benchmark: one JSON line a seed. Runs alone."""

import argparse
import json
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


def run(name: str, seed: int, initial: int, budget: int) -> dict:
    """The best values so far of one search, and its seconds."""
    torch.manual_seed(seed)
    function = FUNCTIONS[name]().to(torch.float64)
    bounds = function.bounds
    side = bounds[1] - bounds[0]
    dim = bounds.shape[1]
    unit = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(initial)
    u = unit.to(torch.float64)
    y = function(bounds[0] + side * u).unsqueeze(-1)
    cube = torch.stack([torch.zeros(dim), torch.ones(dim)]).to(torch.float64)
    start = time.perf_counter()
    while len(u) < budget:
        # the objective is exact: its noise is set, as on the other side
        noise = torch.full_like(y, 1e-8) * y.var()
        model = SingleTaskGP(u, y, noise, outcome_transform=Standardize(1))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = LogExpectedImprovement(model, best_f=y.max())
        new, _ = optimize_acqf(acquisition, cube, q=1, num_restarts=10, raw_samples=512)
        u = torch.cat([u, new])
        y = torch.cat([y, function(bounds[0] + side * new).unsqueeze(-1)])
    seconds = time.perf_counter() - start
    best = torch.cummax(y[:, 0], 0).values
    regret = [max(function.optimal_value - b, 0.0) for b in best.tolist()]
    return {
        "function": name,
        "seed": seed,
        "regret": regret,
        "seconds_per_round": seconds / (budget - initial),
        "version": botorch.__version__,
    }


def main() -> None:
    """Print a line for each seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--function", choices=FUNCTIONS, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--initial", type=int, required=True)
    parser.add_argument("--budget", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for seed in range(given.seeds):
        print(json.dumps(run(given.function, seed, given.initial, given.budget)))
        print(end="", flush=True)


if __name__ == "__main__":
    main()

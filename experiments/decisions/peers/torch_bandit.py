"""NeuralUCB in plain PyTorch, as its published algorithm reads: one arm at a time.

Run by a Python with PyTorch alone: reads an `.npz`, writes seconds and regret as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--covariance", choices=("diagonal", "full"), required=True)
    for name in ("width", "rounds", "interval", "steps", "batch", "repeat"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("rate", "gamma", "ratio"):
        parser.add_argument(f"--{name}", type=float, required=True)
    given = parser.parse_args()
    # as XLA does: without it the full covariance takes six times as long here
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    with np.load(given.inputs, allow_pickle=False) as archive:
        contexts, rewards = (
            torch.as_tensor(archive[name]) for name in ("contexts", "rewards")
        )
    seconds, regrets = [], []
    for seed in range(given.repeat):
        torch.manual_seed(seed)
        order = torch.randperm(len(contexts))[: given.rounds]
        start = time.process_time()
        regrets.append(play(given, contexts[order], rewards[order]))
        seconds.append(time.process_time() - start)
    found = {
        "seconds": seconds,
        "regret": regrets,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    given.out.write_text(json.dumps(found))


def play(given: argparse.Namespace, contexts, rewards) -> float:
    """The total regret of all rounds."""
    arms, features = rewards.shape[1], contexts.shape[1]
    network = nn.Sequential(
        nn.Linear(arms * features, given.width), nn.ReLU(), nn.Linear(given.width, 1)
    )
    weights = list(network.parameters())
    size = sum(w.numel() for w in weights)
    full = given.covariance == "full"
    state = torch.eye(size) / given.ratio if full else given.ratio * torch.ones(size)
    inputs, paid, regret = [], [], 0.0
    for t in range(given.rounds):
        x = torch.block_diag(*[contexts[t][None]] * arms)
        mean = network(x)[:, 0]
        gradients = []
        for arm in range(arms):
            each = torch.autograd.grad(mean[arm], weights, retain_graph=arm + 1 < arms)
            gradients.append(torch.cat([g.reshape(-1) for g in each]))
        g = torch.stack(gradients)
        solved = g @ state if full else g / state
        variance = (solved * g).sum(1)
        arm = int(torch.argmax(mean.detach() + given.gamma * variance.sqrt()))
        if full:
            u = state @ g[arm]
            # in place: no P x P temporary
            state.addr_(u, u, alpha=-1.0 / float(1.0 + g[arm] @ u))
        else:
            state += g[arm] ** 2
        inputs.append(x[arm])
        paid.append(rewards[t, arm])
        regret += float(rewards[t].max() - rewards[t, arm])
        if (t + 1) % given.interval == 0:
            train(given, network, torch.stack(inputs), torch.stack(paid))
    return regret


def train(given: argparse.Namespace, network, x, y) -> None:
    """Steps of Adam on random minibatches."""
    optimizer = torch.optim.Adam(network.parameters(), given.rate)
    for _ in range(given.steps):
        rows = torch.randint(len(x), (given.batch,))
        optimizer.zero_grad()
        loss = 0.5 * ((network(x[rows])[:, 0] - y[rows]) ** 2).mean()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()

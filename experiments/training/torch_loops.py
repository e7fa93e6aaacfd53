"""The same trainings in PyTorch: a loop over members, and torch.func's vmap.

Run by a Python with PyTorch alone: reads an `.npz`, writes seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--members", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--repeat", type=int, required=True)
    given = parser.parse_args()
    with np.load(given.inputs, allow_pickle=False) as archive:
        x, y = (torch.as_tensor(archive[name]) for name in ("x", "y"))
    make, loss = TASKS[given.task]
    found: dict[str, list[float]] = {"torch loop": [], "torch vmap": []}
    for _ in range(given.repeat):
        for name, run in (("torch loop", loop), ("torch vmap", together)):
            start = time.perf_counter()
            run(make, loss, x, y, given.members, given.epochs)
            found[name].append(time.perf_counter() - start)
    given.out.write_text(
        json.dumps({"seconds": found, "threads": torch.get_num_threads()})
    )


def mlp() -> nn.Module:
    """8-50-50-2: a mean and the log of a scale."""
    return nn.Sequential(
        nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2)
    )


def lenet() -> nn.Module:
    """LeNet with average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def normal(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Minus log-likelihood of a normal with mean and log-scale."""
    mean, log_scale = outputs[..., 0], outputs[..., 1]
    return (log_scale + 0.5 * ((y - mean) * torch.exp(-log_scale)) ** 2).mean()


TASKS: dict[str, tuple[Callable, Callable]] = {
    "mlp": (mlp, normal),
    "cnn": (lenet, nn.functional.cross_entropy),
}
BATCH, RATE = 100, 1e-3


def batches(size: int, epochs: int):
    """Row numbers of each update, shuffled in every pass."""
    for _ in range(epochs):
        order = torch.randperm(size)
        for start in range(0, size - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def loop(make, loss, x, y, members: int, epochs: int) -> None:
    """One member after the other."""
    for _ in range(members):
        network = make()
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        for rows in batches(len(x), epochs):
            optimizer.zero_grad()
            loss(network(x[rows]), y[rows]).backward()
            optimizer.step()


def together(make, loss, x, y, members: int, epochs: int) -> None:
    """All members by vmap; each with batches of its own."""
    networks = [make() for _ in range(members)]
    base = networks[0]
    parameters, buffers = stack_module_state(networks)

    def one(parameters, x, y):
        return loss(functional_call(base, (parameters, buffers), (x,)), y)

    step = vmap(grad_and_value(one))
    values = list(parameters.values())
    optimizer = torch.optim.Adam(values, RATE)
    for rows in zip(*(batches(len(x), epochs) for _ in range(members)), strict=True):
        chosen = torch.stack(rows)
        found, _ = step(parameters, x[chosen], y[chosen])
        for value, gradient in zip(values, found.values(), strict=True):
            value.grad = gradient
        optimizer.step()


if __name__ == "__main__":
    main()

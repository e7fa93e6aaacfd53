"""Elastic weight consolidation on permuted images in plain PyTorch.

Run by a Python with PyTorch alone: reads an `.npz`, writes seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap


RATE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--strength", type=float, required=True)
    given = parser.parse_args()
    # as XLA does; small Fisher values would slow the loop down several times
    torch.set_flush_denormal(True)
    with np.load(given.inputs, allow_pickle=False) as archive:
        arrays = {name: torch.as_tensor(archive[name]) for name in archive.files}
    torch.manual_seed(0)
    # what PyTorch sets up at the first step is not counted
    warm_up = network(given.width)
    fisher(warm_up, arrays["x"][:64], arrays["y"][:64])
    start, processors = time.perf_counter(), time.process_time()
    accuracy = sequence(arrays, given)
    found = {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processors,
        "accuracy": accuracy,
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
    }
    given.out.write_text(json.dumps(found))


def network(width: int) -> nn.Module:
    """784-width-width-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def sequence(arrays: dict[str, torch.Tensor], given: argparse.Namespace) -> list:
    """The accuracy on every task after each of them."""
    model = network(given.width)
    parameters = list(model.parameters())
    y, test_y = arrays["y"], arrays["test_y"]
    tests = [arrays["test_x"][:, order] for order in arrays["orders"]]
    anchors: list[tuple[list, list]] = []
    rows = []
    for order in arrays["orders"]:
        x = arrays["x"][:, order]
        optimizer = torch.optim.Adam(parameters, RATE)
        for chosen in torch.randperm(len(x)).split(given.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            for weights, centers in anchors:
                for p, f, c in zip(parameters, weights, centers, strict=True):
                    loss = loss + 0.5 * given.strength * (f * (p - c) ** 2).sum()
            loss.backward()
            optimizer.step()
        chosen = torch.randperm(len(x))[: given.examples]
        centers = [p.detach().clone() for p in parameters]
        anchors.append((fisher(model, x[chosen], y[chosen]), centers))
        with torch.no_grad():
            rows.append(
                [(model(t).argmax(1) == test_y).float().mean().item() for t in tests]
            )
    return rows


def fisher(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """The mean squared gradient of each example's loss."""
    values = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values, a, b):
        found = functional_call(model, values, (a[None],))
        return nn.functional.cross_entropy(found, b[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    sums = [torch.zeros_like(p) for p in values.values()]
    for part, labels in zip(x.split(100), y.split(100), strict=True):
        for total, g in zip(sums, each(values, part, labels).values(), strict=True):
            total += g.square().sum(0)
    return [total / len(x) for total in sums]


if __name__ == "__main__":
    main()

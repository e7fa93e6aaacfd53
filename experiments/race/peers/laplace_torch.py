"""laplace-torch: the tasks T1 to T4. Variants: curvlinops (its default), backpack.

T1_f64 with the default backend has a second variant, curvlinops-default64, which sets
PyTorch's default type to float64 besides the network's.
"""

from __future__ import annotations

import argparse
from importlib import metadata

import numpy as np
import torch
from clock import Laps, arguments, load, run
from laplace import Laplace
from laplace.curvature import BackPackGGN, CurvlinopsGGN
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


BACKENDS = {"curvlinops": CurvlinopsGGN, "backpack": BackPackGGN}
#: Examples in a batch of the fit; test points whose Jacobians are held at once.
BATCH, POINTS = 1_000, 50


def network(arrays: dict[str, np.ndarray], dtype: torch.dtype) -> nn.Sequential:
    """tanh for one output, relu else; average pooling after a convolution."""
    count = sum(name.startswith("w") for name in arrays)
    activation = nn.Tanh if arrays[f"b{count - 1}"].size == 1 else nn.ReLU
    layers: list[nn.Module] = []
    flat = True
    for n in range(count):
        weight, bias = arrays[f"w{n}"], arrays[f"b{n}"]
        if weight.ndim == 4:
            out, into, size, _ = weight.shape
            layer = nn.Conv2d(into, out, size, padding=2 if n == 0 else 0)
            flat = False
        else:
            if not flat:
                layers.append(nn.Flatten())
                flat = True
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer = layer.to(dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight, dtype=dtype))
            layer.bias.copy_(torch.as_tensor(bias, dtype=dtype))
        layers.append(layer)
        if n < count - 1:
            layers.append(activation())
        if weight.ndim == 4:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers)


def main() -> None:
    given = arguments()
    arrays = load(given.inputs)
    double = "f64" in given.task or given.task == "T4_full"
    dtype = torch.float64 if double else torch.float32
    backend, _, default = given.variant.partition("-")
    if default:
        torch.set_default_dtype(dtype)
    model = network(arrays, dtype)
    packages = ("laplace-torch", "torch", "curvlinops-for-pytorch")
    packages += ("backpack-for-pytorch",)
    run(
        given,
        work(given, arrays, model, dtype, BACKENDS[backend]),
        {name: metadata.version(name) for name in packages},
        torch.get_num_threads(),
    )


def work(given: argparse.Namespace, arrays, model, dtype, backend):
    head, _, name = given.task.partition("_")
    x = torch.as_tensor(arrays["x"], dtype=dtype)
    regression = arrays["y"].dtype.kind == "f"
    y = torch.as_tensor(arrays["y"], dtype=dtype if regression else torch.int64)
    y = y[:, None] if regression else y
    points = 50 if "f64" in head else None
    x_test = torch.as_tensor(arrays["x_test"][:points], dtype=dtype)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)
    structures = {"kron": "kron", "diag": "diag"}

    def fitted(sigma: float = 1.0):
        options = {"sigma_noise": sigma} if regression else {}
        la = Laplace(
            model,
            "regression" if regression else "classification",
            subset_of_weights="last_layer" if name == "lastlayer" else "all",
            hessian_structure=structures.get(name, "full"),
            prior_precision=1.0,
            backend=backend,
            **options,
        )
        la.fit(loader)
        return la

    def task_1(laps: Laps):
        with laps("fit"):
            la = fitted(0.3)
            logev = la.log_marginal_likelihood()
        with laps("predict"):
            mean, cov = la(x_test, joint=True)
        return {"mean": plain(mean), "cov": plain(cov), "logev": plain(logev)}

    def task_2(laps: Laps):
        with laps("fit"):
            la = fitted()
            logev = la.log_marginal_likelihood()
        with laps("predict"):
            # the moments behind la(x): mean (N, C) and covariance (N, C, C)
            found = [
                la._glm_predictive_distribution(part) for part in x_test.split(POINTS)
            ]
            mean, cov = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {"mean": plain(mean), "cov": plain(cov), "logev": plain(logev)}

    def task_4(laps: Laps):
        with laps("fit"):
            la = fitted()
        log_delta = torch.zeros(1, dtype=dtype, requires_grad=True)
        free = [log_delta]
        if regression:
            free.append(torch.zeros(1, dtype=dtype, requires_grad=True))
        adam = torch.optim.Adam(free, lr=0.1)

        def evidence():
            return la.log_marginal_likelihood(*(value.exp() for value in free))

        with laps("steps"):
            for _ in range(100):
                adam.zero_grad()
                loss = -evidence()
                loss.backward()
                adam.step()
            found = {"log_delta": plain(log_delta), "logev": plain(evidence())}
        if regression:
            found["log_sigma"] = plain(free[1])
        return found

    return {"T1": task_1, "T4": task_4}.get(head, task_2)


def plain(value: torch.Tensor) -> np.ndarray:
    return value.detach().numpy()


if __name__ == "__main__":
    main()

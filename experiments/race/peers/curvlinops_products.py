"""curvlinops: the tasks T9, beside PyTorch's gradient of the same loss."""

from __future__ import annotations

from importlib import metadata

import torch
from clock import Laps, arguments, load, repeated, run
from curvlinops import GGNLinearOperator, KFACLinearOperator
from curvlinops.kfac import FisherType
from laplace_torch import network
from torch import nn


TIMES = 20


def main() -> None:
    given = arguments()
    arrays = load(given.inputs)
    model = network(arrays, torch.float32)
    x = torch.as_tensor(arrays["x"][:1_000], dtype=torch.float32)
    y = torch.as_tensor(arrays["y"][:1_000], dtype=torch.int64)
    loss = nn.CrossEntropyLoss()
    params = [p for p in model.parameters() if p.requires_grad]
    vector = [
        torch.sin(torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape)
        for p in params
    ]
    options = {"check_deterministic": False}
    ggn = GGNLinearOperator(model, loss, params, [(x, y)], **options)

    def gradient():
        return torch.autograd.grad(loss(model(x), y), params)

    def ggn_product():
        return ggn @ vector

    def factors(fisher: FisherType):
        operator = KFACLinearOperator(
            *(model, loss, params, [(x, y)]),
            fisher_type=fisher,
            mc_samples=1,
            separate_weight_and_bias=True,
            **options,
        )
        operator.compute_kronecker_factors()
        return operator

    product = {
        "T9_ggnvp": ggn_product,
        "T9_kfac": lambda: factors(FisherType.TYPE2),
        "T9_fisher": lambda: factors(FisherType.MC),
    }[given.task]

    def work(laps: Laps):
        with laps("gradient"):
            grad = repeated(TIMES, gradient)
        with laps("product"):
            found = repeated(TIMES, product)
        arrays = {"grad": torch.cat([g.reshape(-1) for g in grad]).numpy()}
        if given.task == "T9_ggnvp":
            arrays["ggnv"] = torch.cat([p.reshape(-1) for p in found]).numpy()
        return arrays

    names = ("curvlinops-for-pytorch", "torch")
    versions = {name: metadata.version(name) for name in names}
    run(given, work, versions, torch.get_num_threads())


if __name__ == "__main__":
    main()

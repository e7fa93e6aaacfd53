"""torch.func by hand: the empirical tangent kernel, as in PyTorch's own tutorial.

Variants: contraction (per-example Jacobians of two blocks of inputs, contracted leaf by
leaf) and products (a vector-Jacobian and a Jacobian-vector product for each output).
"""

from __future__ import annotations

import torch
from clock import Laps, arguments, load, run
from laplace_torch import network
from torch.func import functional_call, jacrev, jvp, vjp, vmap


BLOCK = 20
#: Examples in a block: two blocks of Jacobians are held at once.
ROWS = 100


def main() -> None:
    given = arguments()
    arrays = load(given.inputs)
    model = network(arrays, torch.float32)
    x = torch.as_tensor(arrays["x_ntk"], dtype=torch.float32)
    params = {name: p.detach() for name, p in model.named_parameters()}
    trace = given.task == "T5_trace"

    def single(params, one):
        return functional_call(model, params, (one[None],))[0]

    def jacobians(part):
        found = vmap(jacrev(single), (None, 0))(params, part)
        return [j.flatten(2) for j in found.values()]

    def contraction():
        parts = x.split(ROWS)
        pattern = "Naf,Maf->NM" if trace else "Naf,Mbf->NaMb"
        rows = []
        for left in parts:
            j1 = jacobians(left)
            row = []
            for right in parts:
                j2 = j1 if right is left else jacobians(right)
                row.append(
                    sum(
                        torch.einsum(pattern, a, b) for a, b in zip(j1, j2, strict=True)
                    )
                )
            rows.append(torch.cat(row, 1 if trace else 2))
        return torch.cat(rows)

    def products():
        def entry(x1, x2):
            out, pull = vjp(lambda p: single(p, x1), params)

            def column(v):
                return jvp(lambda p: single(p, x2), (params,), pull(v))[1]

            block = vmap(column)(torch.eye(len(out)))
            return torch.trace(block) if trace else block

        # the inner map one row of the kernel at a time: bounded memory
        rows = [vmap(lambda b, a=a: entry(a, b))(x) for a in x]
        whole = torch.stack(rows)  # (N, M) or (N, M, C, C)
        return whole if trace else whole.movedim(1, 2)

    kernel = {"contraction": contraction, "products": products}[given.variant]

    def work(_laps: Laps):
        with torch.no_grad():
            ntk = kernel()
        if trace:
            ntk = ntk / arrays["b2"].size
            return {"ntk": ntk[:BLOCK, :BLOCK].numpy()}
        corner = ntk[:BLOCK, :, :BLOCK]
        side = corner.shape[0] * corner.shape[1]
        return {"ntk": corner.reshape(side, side).numpy()}

    run(given, work, {"torch": torch.__version__}, torch.get_num_threads())


if __name__ == "__main__":
    main()

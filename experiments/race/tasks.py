"""The tasks of the race: who runs what, and what ntkuq has to reach."""

from __future__ import annotations

from dataclasses import dataclass


#: (script below peers/, variant)
Entry = tuple[str, str]

LAPLACE: tuple[Entry, ...] = (
    ("laplace_torch", "curvlinops"),
    ("laplace_torch", "backpack"),
)
TANGENT: tuple[Entry, ...] = (
    ("neural_tangents_ntk", "JACOBIAN_CONTRACTION"),
    ("neural_tangents_ntk", "NTK_VECTOR_PRODUCTS"),
    ("neural_tangents_ntk", "STRUCTURED_DERIVATIVES"),
    ("torch_func", "contraction"),
    ("torch_func", "products"),
)
PRODUCTS: tuple[Entry, ...] = (("curvlinops_products", ""),)

#: Names of the contestants as the table shows them.
NAMES = {
    "ntkuq": "ntkuq",
    "laplace_torch": "laplace-torch",
    "curvlinops_products": "curvlinops",
    "neural_tangents_ntk": "neural-tangents",
    "torch_func": "torch.func",
}


@dataclass(frozen=True)
class Task:
    """One row of the race.

    problem: which shared arrays (`inputs`).
    what: the work that is timed, in a few words.
    peers: who else runs it.
    ratio: times faster than the best peer, at least.
    gigabytes: peak memory of ntkuq, at most.
    error: largest relative error of the variances (of the kernel, of the product), at
        most.
    part: the part of the work that counts, "total" or a lap.
    gradients: time in gradients, at most; the row then shows gradients, not seconds.
    run: the task whose run is shown, where a row shows a part of another task.
    """

    problem: str
    what: str
    peers: tuple[Entry, ...]
    ratio: float | None = None
    gigabytes: float | None = None
    error: float | None = None
    part: str = "total"
    gradients: float | None = None
    run: str | None = None


TASKS = {
    "T1_f64": Task(
        "concrete",
        "full GGN, MLP 8-50-50-1, joint predictive, float64",
        (*LAPLACE, ("laplace_torch", "curvlinops-default64")),
        ratio=80,
        error=1e-10,
    ),
    "T1_f32": Task("concrete", "the same, float32", LAPLACE, ratio=35, error=2e-4),
    "T2_kron": Task(
        "mlp",
        "KFAC, MLP 784-256-256-10, 10 000 train, 500 test",
        LAPLACE,
        ratio=100,
        gigabytes=0.5,
        error=2e-3,
    ),
    "T2_kron_predict": Task(
        "mlp",
        "the predictive alone",
        LAPLACE,
        ratio=500,
        part="predict",
        run="T2_kron",
    ),
    "T2_diag": Task("mlp", "the same, diagonal", LAPLACE, ratio=28),
    "T2_lastlayer": Task(
        "mlp", "the same, last layer, full", LAPLACE, ratio=12, error=1e-4
    ),
    "T3_kron": Task("cnn", "KFAC, LeNet-like CNN", LAPLACE, ratio=20),
    "T3_lastlayer": Task(
        "cnn", "the same, last layer, full", LAPLACE, ratio=6, error=1e-4
    ),
    "T4_full": Task(
        "concrete", "evidence maximized, full, float64", LAPLACE, ratio=1_000
    ),
    "T4_kron": Task("mlp", "evidence maximized, KFAC", LAPLACE, ratio=3),
    "T5_trace": Task(
        "ntk",
        "NTK, mean over outputs, MLP 784-512-512-10, N = 500",
        TANGENT,
        ratio=700,
        gigabytes=0.4,
    ),
    "T5_full": Task("ntk", "NTK, all 5 000 x 5 000", TANGENT, ratio=400),
    "T5_cnn": Task("cnn", "NTK, LeNet-like CNN, N = 100", TANGENT, ratio=5),
    "T9_ggnvp": Task("mlp", "GGN-vector product, in gradients", PRODUCTS, gradients=1),
    "T9_kfac": Task("mlp", "KFAC factors, exact, in gradients", PRODUCTS, gradients=7),
    "T9_fisher": Task(
        "mlp", "KFAC factors, sampled Fisher, in gradients", PRODUCTS, gradients=3
    ),
    **{
        f"T{n}f64_{name}": Task(
            problem,
            f"{what}, {structure}, float64, 50 test points: errors only",
            LAPLACE,
            error=1e-10,
        )
        for n, problem, what in ((2, "mlp", "MLP"), (3, "cnn", "CNN"))
        for name, structure in (
            ("kron", "KFAC"),
            ("diag", "diagonal"),
            ("lastlayer", "last layer"),
        )
    },
}

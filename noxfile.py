"""Every check of the project. `nox -l` lists them; CI runs what is here."""

from pathlib import Path

import nox


nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "uv"
# A missing interpreter would otherwise skip the session and pass.
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests"]

PYTHON = "3.12"
WORKERS = ("-n", "2", "--dist", "worksteal")
# Two workers on two cores: more threads of the BLAS in SciPy would only spin.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """Run the tests and the doctests: `nox -s tests -- tests/test_data.py -k csv`."""
    session.install("-e", ".", "--group", "test")
    session.run("pytest", *(session.posargs or WORKERS), env=ONE_THREAD)


@nox.session(python=PYTHON)
def long(session: nox.Session) -> None:
    """Run the tests that compute for long, with optimized programs."""
    session.install("-e", ".", "--group", "test")
    session.run(
        *("pytest", "-m", "long", *session.posargs),
        env={"XLA_FLAGS": ""},
        success_codes=[0, 5],
    )


# For the two sessions below, whose folders the other sessions leave out.
ALONE = ("-o", "addopts=--import-mode=importlib --strict-markers -ra")


@nox.session(python=PYTHON)
def browser(session: nox.Session) -> None:
    """Open reports in a headless Chromium; axe-core looks for barriers."""
    session.install("-e", ".", "--group", "browser")
    session.run(
        *("pytest", *ALONE, *(session.posargs or (*WORKERS, "tests/browser"))),
        env={**ONE_THREAD, "JAX_PLATFORMS": "cpu"},
    )


@nox.session(python=PYTHON)
def oracles(session: nox.Session) -> None:
    """Check metrics against those of other packages, named by convention."""
    session.install("-e", ".", "--group", "oracles")
    session.run(
        *("pytest", *ALONE, "-W", "default", *(session.posargs or ("tests/oracles",))),
        env={**ONE_THREAD, "JAX_PLATFORMS": "cpu"},
    )


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Check style, import order and the direction of imports between rooms."""
    session.install("--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Check the types of the package."""
    session.install("-e", ".", "--group", "types")
    session.run("basedpyright", "--pythonpath", f"{session.bin}/python")


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Build the documentation; its examples run while it is built."""
    session.install("-e", ".", "--group", "docs")
    session.run(
        *("mkdocs", "build", "--strict"),
        env={"NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu"},
    )


@nox.session(python=PYTHON)
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest direct dependencies that are allowed."""
    session.install("-e", ".", "--group", "test", "--resolution", "lowest-direct")
    session.run("pytest", *(session.posargs or WORKERS), env=ONE_THREAD)


@nox.session(python=PYTHON)
def build(session: nox.Session) -> None:
    """Build the wheel, install it alone, and use it from another folder."""
    dist = Path(session.create_tmp()) / "dist"
    session.run_install(
        *("uv", "build", "--wheel", "--clear", "-q", "--out-dir", str(dist)),
        external=True,
    )
    (wheel,) = dist.glob("*.whl")
    session.install(str(wheel))
    check = Path("tests/check_wheel.py").resolve()
    session.chdir(session.create_tmp())
    session.run("python", "-I", str(check))
    session.run("ntkuq", "--help", silent=True)
    session.run("python", "-I", "-m", "ntkuq", "--help", silent=True)


# What each peer needs, in an environment of its own. The newest JAX on which all
# implementations of neural-tangents run is 0.4.25.
PEERS = {
    "torch": (
        "laplace-torch==0.3",
        "curvlinops-for-pytorch==3.0.1",
        "backpack-for-pytorch==1.7.1",
    ),
    "nt": (
        *("neural-tangents==0.6.5", "frozendict", "jax==0.4.25"),
        *("jaxlib==0.4.25", "numpy<2", "scipy<1.13"),
    ),
    "kfac": ("kfac-jax==0.0.8", "jax==0.7.2", "jaxlib==0.7.2"),
    "botorch": ("botorch>=0.15",),
    "toolbox": ("uncertainty-toolbox>=0.1.1",),
}
# Experiments that race ntkuq against peers.
RACES = {
    "race": ("torch", "nt"),
    "training": ("torch",),
    "autoencoder": ("kfac",),
    "scores": ("toolbox",),
    "search": ("botorch",),
    "bandit-race": ("torch",),
    "continual-race": ("torch",),
}


@nox.session(python=PYTHON)
def race(session: nox.Session) -> None:
    """Race ntkuq against its peers: `nox -s race -- [EXPERIMENT] [FLAGS]`.

    `-- --tasks T1_f64`, `-- bandit-race --rounds 500`; without a name, `race`.
    """
    session.install("-e", ".")
    name, *flags = session.posargs or ["race"]
    if name.startswith("-"):
        name, flags = "race", session.posargs
    if name not in RACES:
        session.error(f"expected one of {', '.join(RACES)}, got {name}")
    folder = Path(session.create_tmp()).resolve()
    for peer in RACES[name]:
        python = folder / peer / "bin" / "python"
        session.run_install(
            *("uv", "venv", "-q", "--clear", "--python", f"{session.bin}/python"),
            str(folder / peer),
            external=True,
        )
        session.run_install(
            *("uv", "pip", "install", "-q", "--python", str(python), *PEERS[peer]),
            external=True,
        )
        flags = [f"--{peer}-python", str(python), *flags]
    session.run("python", "-m", "experiments", name, *flags)


@nox.session(python=PYTHON)
def pins(session: nox.Session) -> None:
    """Write requirements.txt: the versions and hashes of everything but CUDA."""
    session.run_install(
        *("uv", "export", "-q", "--no-header", "--all-groups", "--extra", "nt"),
        *("--no-emit-project", "--no-annotate", "-o", "requirements.txt"),
        external=True,
    )
    if "://" in Path("requirements.txt").read_text():
        session.error("requirements.txt names an address; it may hold names only")

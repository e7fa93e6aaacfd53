"""Strict JAX for every test, and the fixtures that all rooms share."""

import importlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jaxtyping
import pytest


# Tests compile much and compute little: LLVM's optimizations would take a third of
# their time. Read when JAX's backend starts; `XLA_FLAGS= pytest …` keeps them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Rank promotion stays allowed: NumPyro's own sampling of a mixture or of a batch of
# multivariate normals broadcasts over ranks (numpyro 0.22, seen 2026-11-24).


#: Memory maps of a process after which compiled programs are dropped. Linux allows
#: 65 530 by default; each program takes several, and XLA aborts without any left.
MOST_MAPS = 20_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between files, drop compiled programs where there are very many."""
    maps = Path("/proc/self/maps")
    if (nextitem is not None and nextitem.path == item.path) or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


def missing(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped (NTKUQ_REQUIRE_ALL=1)."""
    if os.environ.get("NTKUQ_REQUIRE_ALL") == "1":
        pytest.fail(f"NTKUQ_REQUIRE_ALL=1 forbids skipping: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for users: tests also check annotations, before the library's own checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], jax.Array]:
    """Fresh keys, the same on every run: they depend on the name of the test only."""
    key = jax.random.key(zlib.crc32(request.node.nodeid.encode()))

    def fresh() -> jax.Array:
        nonlocal key
        key, now = jax.random.split(key)
        return now

    return fresh


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the larger data sets, named by NTKUQ_DATA."""
    named = os.environ.get("NTKUQ_DATA")
    if not named:
        missing("NTKUQ_DATA does not name a folder with data sets")
        raise AssertionError("not reached")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"NTKUQ_DATA={named} is not a folder", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def need() -> Callable[[str], ModuleType]:
    """Import an optional package or skip: `scoringrules = need("scoringrules")`."""

    def importable(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing(f"{error.name} is not installed")
            raise

    return importable


#: State of a test module's generator after its import, by module name.
_STATES: dict[str, dict] = {}


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """Start a module's `RNG` from the same state for each test, in whatever order."""
    module = getattr(request.node, "module", None)
    generator = getattr(module, "RNG", None)
    if generator is not None:
        bits = generator.bit_generator
        bits.state = _STATES.setdefault(module.__name__, bits.state)

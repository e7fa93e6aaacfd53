"""The user's own network: an import string and a weights file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ntkuq.cli.errors import UsageError


def load_builder(text: str) -> Callable[..., Any]:
    """The function `package.module:build`, key -> `eqx.Module`.

    The current directory is on the path.

    Raises:
        UsageError: where module or function are missing, or it is no function.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name:
        raise UsageError(
            f"expected MODEL as module:function, such as nets:build, got {text!r}"
        )
    if module_name.endswith(".py") or "/" in module_name or module_name[0] == ".":
        stem = Path(module_name).name.removesuffix(".py").lstrip(".") or "nets"
        raise UsageError(
            f"expected MODEL as module:function without path and ending, such as "
            f"{stem}:{name}, got {text!r}; run the command in the directory of the file"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise UsageError(
                f"importing {module_name} failed: it needs {error.name}, which is not "
                "installed"
            ) from error
        raise UsageError(
            f"there is no module {module_name!r}: looked in the current directory "
            f"({here}) and the installed packages; expected a file "
            f"{module_name.replace('.', '/')}.py with a function {name}(key)"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"importing {module_name} failed: {_raised(error)}") from error
    if not hasattr(module, name):
        defined = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
        raise UsageError(
            f"module {module_name} has no {name!r}; it has {', '.join(defined) or '-'}"
        )
    build = getattr(module, name)
    if not callable(build):
        raise UsageError(
            f"expected {text} to be a function key -> eqx.Module, got "
            f"{type(build).__name__}"
        )
    return build


def check_builder(build: Callable[..., Any], text: str) -> Any:
    """One network from the builder.

    Raises:
        UsageError: where the builder does not take a key or makes no module.
    """
    import equinox as eqx
    import jax

    from ntkuq.models import parameters

    try:
        model = build(jax.random.key(0))
    except TypeError as error:
        raise UsageError(
            f"expected {text} to take one argument, a JAX random key, and return an "
            f"eqx.Module; calling it gave: {error}"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"expected {text} to return an eqx.Module, {_raised(error)}"
        ) from error
    if not isinstance(model, eqx.Module):
        raise UsageError(
            f"expected {text}(key) to return an eqx.Module, got {type(model).__name__}"
        )
    if not jax.tree.leaves(parameters(model)):
        raise UsageError(f"the network of {text} has no floating-point parameters")
    return model


def load_weights(path: str, model: Any, text: str) -> Any:
    """The network with the leaves stored in a file.

    Raises:
        UsageError: where the file is missing or holds another network's leaves.
    """
    import equinox as eqx
    import jax
    import numpy as np

    from ntkuq.models import parameters

    if not Path(path).is_file():
        raise UsageError(f"there is no weights file {path}")
    try:
        with Path(path).open("rb") as file:
            loaded = eqx.tree_deserialise_leaves(file, model)
            rest = file.read(1)
    except Exception as error:
        # Equinox raises RuntimeError, ValueError, EOFError … for a file that does not
        # fit; all mean the same to the user.
        raise _misfit(path, model, text) from error
    if rest:
        raise _misfit(path, model, text)
    for place, leaf in jax.tree.leaves_with_path(parameters(loaded)):
        bad = int(np.sum(~np.isfinite(np.asarray(leaf, np.float64))))
        if bad:
            raise UsageError(
                f"the weights in {path} are not usable: expected finite numbers, got "
                f"{bad} of {leaf.size} that are not in {jax.tree_util.keystr(place)}; "
                "training diverged before they were saved, train again"
            )
    return loaded


def _misfit(path: str, model: Any, text: str) -> UsageError:
    import jax

    from ntkuq.models import parameters

    wanted = [leaf.shape for leaf in jax.tree.leaves(parameters(model))]
    held, whole = _stored_shapes(Path(path))
    shapes = ", ".join(str(shape) for shape in held)
    came = f"arrays of the shapes {shapes}" if held else "no arrays"
    if not whole:
        came += " and then bytes that are no array (cut off, or not weights)"
    return UsageError(
        f"the weights in {path} do not fit the network of {text}: expected arrays of "
        f"the shapes {', '.join(str(shape) for shape in wanted)}, got {came}; save "
        "them with eqx.tree_serialise_leaves from the network of the same builder"
    )


def _stored_shapes(path: Path) -> tuple[list[tuple[int, ...]], bool]:
    """Shapes of the arrays in a weights file, and whether all of it was read."""
    import numpy as np

    shapes = []
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            try:
                shapes.append(np.load(file, allow_pickle=False).shape)
            except (ValueError, OSError, EOFError):
                return shapes, False
    return shapes, True


def _raised(error: BaseException) -> str:
    """What the user's code raised, with the line where."""
    where = ""
    if isinstance(error, SyntaxError):
        where = f" in line {error.lineno} of {Path(error.filename or '').name}"
        return f"SyntaxError{where}: {error.msg}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename).name
        where = f" in line {frame.tb_lineno} of {file}"
    return f"it raised {type(error).__name__}{where}: {error}"

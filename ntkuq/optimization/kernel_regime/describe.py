"""What every statement about laziness depends on, in words."""

from __future__ import annotations

import functools as ft

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ntkuq.models import Scaled, constructor, parameters
from ntkuq.optimization.kernel_regime.scale import output_scale
from ntkuq.optimization.kernel_regime.study import Run, Setting


def describe(setting: Setting) -> dict[str, str]:
    """Parametrization, output scale, widths, optimizer, step size, stopping rule.

    Args:
        setting: what was measured. Of a pair that was given it is not known how it was
            trained.
    """
    model = setting.runs[0].initial
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters(model)))
    size = len(setting.data.train)
    found = {
        "parametrization": parametrization(model),
        "output scale": f"{output_scale(model):g}",
        "widths": widths(model),
        "parameters": str(count),
        "training examples": str(size),
    }
    if setting.over == "seeds":
        return found | _training(setting, size)
    unknown = "not known: a trained network was given"
    return found | {"optimizer": unknown, "step size": unknown, "stopping": unknown}


def written(model: PyTree) -> str:
    """Parametrization and output scale, for the note of a statement about width."""
    scale = output_scale(model)
    return f"parametrization {parametrization(model)}, output scale {scale:g}"


def trained(setting: Setting, model: PyTree) -> str:
    """Optimizer, step size and stopping rule of such a network, for the same."""
    setting = setting._replace(runs=(Run(model, model),))
    found = _training(setting, len(setting.data.train))
    return (
        f"{found['optimizer']}, step size {found['step size']}, stopped "
        f"{found['stopping']}"
    )


def parametrization(model: PyTree) -> str:
    """In which form the weights are written, as far as the module shows it.

    >>> parametrization(eqx.nn.Linear(2, 1, key=jax.random.key(0)))
    "standard (layers and initialization of Equinox's constructors)"
    """
    stated = {node.text for node in _modules(model) if isinstance(node, Scaled)}
    if stated:
        return ", ".join(sorted(stated))
    strange = sorted(
        {
            type(node).__name__
            for node in _modules(model)
            if not type(node).__module__.startswith("equinox.")
        }
    )
    if not strange:
        return "standard (layers and initialization of Equinox's constructors)"
    return (
        f"not known: {', '.join(strange)} may scale weights in its own way; the other "
        "layers are Equinox's"
    )


def _modules(model: PyTree) -> list[eqx.Module]:
    """The modules that hold a parameter themselves."""
    found: list[eqx.Module] = []

    def visit(node: PyTree) -> None:
        def below(child: PyTree) -> bool:
            return isinstance(child, eqx.Module) and child is not node

        for child in jax.tree.leaves(node, is_leaf=below):
            if isinstance(child, eqx.Module):
                visit(child)
            elif eqx.is_array(child) and isinstance(node, eqx.Module):
                found.append(node)

    visit(parameters(model))
    return found


def widths(model: PyTree) -> str:
    """The output sizes of all weight matrices but the last, in Equinox's layout.

    >>> widths(eqx.nn.MLP(8, 1, 50, 2, key=jax.random.key(0)))
    '50, 50'
    """
    leaves = jax.tree.leaves(parameters(model))
    sizes = [leaf.shape[0] for leaf in leaves if leaf.ndim >= 2]
    return ", ".join(map(str, sizes[:-1])) or "no hidden layer"


def _training(setting: Setting, size: int) -> dict[str, str]:
    train = setting.train
    if isinstance(train.optimizer, float | int):
        optimizer = "Adam, step size with cosine decay to 0"
        step = f"{train.optimizer:g} at its peak"
    else:
        optimizer, step = _name(train.optimizer), "that of the optimizer"
        try:
            rate, plain = step_size(setting)
        except ValueError:
            # a second-order step has no size of its own
            pass
        else:
            step = f"{rate:g} at its largest"
            optimizer += ", in proportion to the gradient" if plain else ", adaptive"
    if train.clip is not None:
        optimizer += f", gradient norm at most {train.clip:g}"
    batch = min(train.batch or size, size)
    rule = f"after {train.updates(size)} updates of {batch} examples"
    if train.stop is not None:
        rule += f", or earlier: {constructor(train.stop)}"
    return {"optimizer": optimizer, "step size": step, "stopping": rule}


def _name(optimizer: optax.GradientTransformation) -> str:
    """The optax function that made it, such as "optax.adam", where that is seen."""
    update = optimizer.update
    while isinstance(update, ft.partial):
        update = update.func
    name = getattr(update, "__qualname__", "").split(".<locals>")[0]
    return f"optax transformation ({name})" if name else "optax transformation"


def step_size(setting: Setting) -> tuple[float, bool]:
    """The largest step size of a training, and whether it is gradient descent's.

    The optimizer is given gradients that are one everywhere: what it subtracts is its
    step size η for gradient descent and for Adam alike, η/(1-β) in the long run with
    momentum β. Gradients twice as large move gradient descent twice as far, and an
    adaptive optimizer as far as before.

    Raises:
        ValueError: where the optimizer asks for more than the gradient.
    """
    train, model = setting.train, setting.runs[0].initial
    if isinstance(train.optimizer, float | int):
        return float(train.optimizer), False
    zeros = jax.tree.map(np.zeros_like, parameters(model))
    one, two = (jax.tree.map(lambda a, c=c: np.full_like(a, c), zeros) for c in (1, 2))
    size = sum(leaf.size for leaf in jax.tree.leaves(zeros))
    # about 1e9 numbers at most: of a long training of a large network, its beginning
    steps = max(min(train.updates(len(setting.data.train)), int(1e9) // size), 1)
    with jax.numpy_dtype_promotion("standard"):
        try:
            first = _steps(train.optimizer, zeros, one, steps)
            double = _steps(train.optimizer, zeros, two, steps)
        except (TypeError, KeyError) as error:
            raise ValueError(
                "the step size of the optimizer could not be found: it asks for more "
                f"than a gradient ({error})"
            ) from error
    return float(first.max()), bool(np.allclose(double, 2 * first, rtol=1e-3))


def _steps(
    optimizer: optax.GradientTransformation, zeros: PyTree, gradient: PyTree, steps: int
) -> np.ndarray:
    """The mean over the parameters of what each update subtracts."""

    @jax.jit
    def run():
        def one(state: PyTree, _: None):
            change, state = optimizer.update(gradient, state, zeros)
            leaves = jax.tree.leaves(change)
            total = sum(leaf.sum() for leaf in leaves)
            return state, -total / sum(leaf.size for leaf in leaves)

        return jax.lax.scan(one, optimizer.init(zeros), None, length=steps)[1]

    return np.asarray(run())

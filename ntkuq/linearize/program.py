"""The forward pass of one example as a flat list of equations.

Jitted functions inside it are written out, so that what meets what can be read off one
list. Values are numbered; the parameter leaves are the first ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import PyTree

from ntkuq.models import forward, trainable


class Equation(NamedTuple):
    """One operation: `outputs = primitive(inputs)`.

    inputs: numbers of values; `None` for a literal or a constant.
    sizes: how many numbers each input holds.
    """

    primitive: core.Primitive
    params: dict[str, Any]
    inputs: tuple[int | None, ...]
    sizes: tuple[int, ...]
    outputs: tuple[int, ...]


class Program(NamedTuple):
    """A forward pass.

    leaves: how many of the first values are parameter leaves.
    values: how many of the first values are leaves or data.
    outputs: the values that are returned.
    activations: numbers that the pass makes.
    """

    equations: tuple[Equation, ...]
    leaves: int
    values: int
    outputs: tuple[int | None, ...]
    activations: int


def program(model: PyTree, x: PyTree) -> Program:
    """The forward pass of `model` at one example x; nothing is computed."""
    tree, rest = eqx.partition(model, trainable(model))
    leaves, structure = jax.tree.flatten(tree)

    def run(leaves, x):
        return forward(eqx.combine(jax.tree.unflatten(structure, leaves), rest), x)

    jaxpr = jax.make_jaxpr(run)(leaves, x).jaxpr
    values = len(jaxpr.invars)
    equations: list[Equation] = []
    outputs, _ = _write_out(jaxpr, list(range(values)), values, equations)
    return Program(
        tuple(equations), len(leaves), values, tuple(outputs), _activations(jaxpr)
    )


def _write_out(
    jaxpr: core.Jaxpr, given: list[int | None], count: int, equations: list[Equation]
) -> tuple[list[int | None], int]:
    """Append the equations of `jaxpr`; the numbers of its outputs, and the next one."""
    numbers = dict(zip(jaxpr.invars, given, strict=True))

    def look(atom) -> int | None:
        return None if isinstance(atom, core.Literal) else numbers.get(atom)

    for equation in jaxpr.eqns:
        inputs = [look(atom) for atom in equation.invars]
        if equation.primitive is primitives.jit_p:
            inner = equation.params["jaxpr"].jaxpr
            made, count = _write_out(inner, inputs, count, equations)
        else:
            made = list(range(count, count + len(equation.outvars)))
            count += len(made)
            sizes = tuple(_size(atom.aval) for atom in equation.invars)
            equations.append(
                Equation(
                    equation.primitive,
                    equation.params,
                    tuple(inputs),
                    sizes,
                    tuple(made),
                )
            )
        numbers.update(zip(equation.outvars, made, strict=True))
    return [look(atom) for atom in jaxpr.outvars], count


class Use(NamedTuple):
    """One place where parameters meet data.

    leaves: positions of the leaves in `jax.tree.leaves(parameters(model))`; several
        where they were combined before they met data.
    added: were they added to data (or subtracted), not multiplied or anything else?
    last: does the result reach the outputs without meeting parameters again, additions
        aside?
    """

    leaves: tuple[int, ...]
    added: bool
    last: bool


def uses(program: Program) -> tuple[Use, ...]:
    """Where parameters meet data, in the order of the forward pass."""
    none = frozenset[int]()
    # what a value is made of: of data (`None`), or else of the leaves in a set
    made: dict[int, frozenset[int] | None] = {}
    for number in range(program.values):
        made[number] = frozenset([number]) if number < program.leaves else None
    met_at: dict[int, tuple[tuple[int, ...], bool]] = {}
    for place, equation in enumerate(program.equations):
        # literals and constants are made of no leaves
        given = [none if n is None else made[n] for n in equation.inputs]
        met = none.union(*(one for one in given if one is not None))
        data = any(one is None for one in given)
        if data and met:
            added = equation.primitive in (primitives.add_p, primitives.sub_p)
            met_at[place] = tuple(sorted(met)), added
        made.update(dict.fromkeys(equation.outputs, None if data else met))
    free = _reach(program, {place for place, (_, added) in met_at.items() if not added})
    return tuple(
        Use(leaves, added, bool(free.intersection(program.equations[place].outputs)))
        for place, (leaves, added) in met_at.items()
    )


def _reach(program: Program, barriers: set[int]) -> set[int]:
    """The values that reach an output and never enter an equation in `barriers`."""
    reaching = {n for n in program.outputs if n is not None}
    barred: set[int] = set()
    for place in reversed(range(len(program.equations))):
        equation = program.equations[place]
        inputs = {n for n in equation.inputs if n is not None}
        if place in barriers or barred.intersection(equation.outputs):
            barred |= inputs
        if reaching.intersection(equation.outputs):
            reaching |= inputs
    return reaching - barred


class Readout(NamedTuple):
    """The end of a network: `outputs = matrix @ data + bias + anything else`.

    matrix: the leaf multiplied with data.
    biases: leaves added to the product, each as it is.
    """

    matrix: int
    biases: tuple[int, ...]


#: Operations that keep each number and its place in the raveled array.
KEEP = (primitives.reshape_p, primitives.squeeze_p, primitives.copy_p)


def readout(program: Program) -> Readout | None:
    """The matrix whose product with data is the output, up to what is added to it.

    Followed backwards from the output through additions; each value on the way, the
    matrix and the biases included, may have no other use.
    """
    makers = {n: e for e in program.equations for n in e.outputs}
    count: dict[int, int] = {}
    for equation in program.equations:
        for number in equation.inputs:
            if number is not None:
                count[number] = count.get(number, 0) + 1
    for number in program.outputs:
        if number is not None:
            count[number] = count.get(number, 0) + 1

    def bare(number: int | None) -> int | None:
        """The leaf that a value is, reshaped at most; used nowhere else."""
        while number is not None and count[number] == 1:
            if number < program.leaves:
                return number
            maker = makers.get(number)
            if maker is None or maker.primitive not in KEEP:
                return None
            number = maker.inputs[0]
        return None

    def product(number: int | None) -> tuple[int, list[int]] | None:
        """The matrix, and the biases added on the way to this value."""
        if number is None or count[number] != 1 or number not in makers:
            return None
        maker = makers[number]
        if maker.primitive in KEEP:
            return product(maker.inputs[0])
        if maker.primitive is primitives.dot_general_p:
            matrix = [n for n in map(_turned, maker.inputs) if n is not None]
            return (matrix[0], []) if len(matrix) == 1 else None
        if maker.primitive in (primitives.add_p, primitives.sub_p):
            plus = maker.primitive is primitives.add_p
            sides = (0, 1) if plus else (0,)
            for side in sides:
                found = product(maker.inputs[side])
                # a broadcast product would be several outputs of one number
                if found is None or maker.sizes[side] != max(maker.sizes):
                    continue
                other = bare(maker.inputs[1 - side])
                whole = maker.sizes[1 - side] == maker.sizes[side]
                if plus and other is not None and whole:
                    found[1].append(other)
                return found
        return None

    def _turned(number: int | None) -> int | None:
        """The leaf that a value is, transposed at most; used nowhere else."""
        if number is None or count[number] != 1:
            return None
        if number < program.leaves:
            return number
        maker = makers.get(number)
        if maker is not None and maker.primitive is primitives.transpose_p:
            return _turned(maker.inputs[0])
        return None

    (output,) = program.outputs
    found = product(output)
    return None if found is None else Readout(found[0], tuple(found[1]))


def _activations(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [_activations(sub) for sub in _inner(equation.params)]
        own = sum(math.prod(var.aval.shape) for var in equation.outvars)
        repeats = equation.params.get("length", 1)
        total += max(own, repeats * sum(inner))
    return total


def _size(aval: Any) -> int:
    return math.prod(aval.shape)


def _inner(params: dict) -> list:
    """The jaxprs inside an equation: of a loop, a branch."""
    values = jax.tree.leaves(list(params.values()))
    closed = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in closed if hasattr(value, "eqns")]

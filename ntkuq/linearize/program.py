"""The forward pass of one example as a flat list of equations.

Jitted functions inside it are written out, so that what meets what can be read off one
list. Values are numbered; the parameter leaves are the first ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
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


def has_while(program: Program) -> bool:
    """Is there a loop whose length is not known beforehand?"""

    def found(primitive: core.Primitive, params: dict[str, Any]) -> bool:
        return primitive is primitives.while_p or any(
            found(equation.primitive, equation.params)
            for jaxpr in inner_jaxprs(params)
            for equation in jaxpr.eqns
        )

    return any(found(one.primitive, one.params) for one in program.equations)


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


class Layer(NamedTuple):
    """A matrix product and what is added to it: `matrix @ data + biases`.

    matrix: the leaf multiplied with data.
    biases: leaves added to the product, each as it is.
    """

    matrix: int
    biases: tuple[int, ...]


def keeps(equation: Equation) -> bool:
    """Does each number keep its place in the raveled array?"""
    reshaped = equation.primitive is primitives.reshape_p
    if reshaped and equation.params.get("dimensions") is not None:
        return False  # read in another order than that of C
    return reshaped or equation.primitive in (primitives.squeeze_p, primitives.copy_p)


#: Operations on the numbers of one place.
ELEMENTWISE = frozenset(
    {
        "abs",
        "add",
        "add_any",
        "and",
        "clamp",
        "convert_element_type",
        "copy",
        "cos",
        "div",
        "eq",
        "erf",
        "exp",
        "exp2",
        "expm1",
        "ge",
        "gt",
        "integer_pow",
        "le",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
        "pow",
        "reshape",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sqrt",
        "square",
        "squeeze",
        "sub",
        "tanh",
    }
)


class _Flow:
    """Where the values of a program come from and go to."""

    def __init__(self, program: Program):
        self.program = program
        #: the place of the equation that makes a value, and of those that use it
        self.maker = {
            n: place
            for place, equation in enumerate(program.equations)
            for n in equation.outputs
        }
        self.users: dict[int, list[int]] = {}
        for place, equation in enumerate(program.equations):
            for number in equation.inputs:
                if number is not None:
                    self.users.setdefault(number, []).append(place)
        self.returned = {n for n in program.outputs if n is not None}
        #: made of literals and constants alone
        self.fixed = set[int]()
        for equation in program.equations:
            if self.fixed.issuperset({n for n in equation.inputs if n is not None}):
                self.fixed.update(equation.outputs)

    def used_once(self, number: int) -> bool:
        """Has a value one use, an output of the program included?"""
        return len(self.users.get(number, ())) + (number in self.returned) == 1

    def made_by(self, number: int) -> Equation | None:
        place = self.maker.get(number)
        return None if place is None else self.program.equations[place]

    def bare(self, number: int | None) -> int | None:
        """The leaf that a value is, reshaped at most; used nowhere else."""
        return self._leaf(number, keeps)

    def turned(self, number: int | None) -> int | None:
        """The leaf that a value is, transposed at most; used nowhere else."""
        return self._leaf(number, lambda e: e.primitive is primitives.transpose_p)

    def _leaf(
        self, number: int | None, through: Callable[[Equation], bool]
    ) -> int | None:
        while number is not None and self.used_once(number):
            if number < self.program.leaves:
                return number
            maker = self.made_by(number)
            if maker is None or not through(maker):
                return None
            number = maker.inputs[0]
        return None

    def matrix(self, equation: Equation) -> int | None:
        """The leaf that a matrix product multiplies with something else."""
        if equation.primitive is not primitives.dot_general_p:
            return None
        found = [n for n in map(self.turned, equation.inputs) if n is not None]
        return found[0] if len(found) == 1 else None


def readout(program: Program) -> Layer | None:
    """The matrix whose product with data is the output, up to what else is added.

    Followed backwards from the output through additions; each value on the way, the
    matrix and the biases included, may have no other use.
    """
    flow = _Flow(program)

    def product(number: int | None) -> tuple[int, list[int]] | None:
        """The matrix, and the biases added on the way to this value."""
        maker = None if number is None else flow.made_by(number)
        if number is None or maker is None or not flow.used_once(number):
            return None
        if keeps(maker):
            return product(maker.inputs[0])
        matrix = flow.matrix(maker)
        if matrix is not None:
            return matrix, []
        if maker.primitive in (primitives.add_p, primitives.sub_p):
            plus = maker.primitive is primitives.add_p
            sides = (0, 1) if plus else (0,)
            for side in sides:
                found = product(maker.inputs[side])
                # a broadcast product would be several outputs of one number
                if found is None or maker.sizes[side] != max(maker.sizes):
                    continue
                other = flow.bare(maker.inputs[1 - side])
                whole = maker.sizes[1 - side] == maker.sizes[side]
                if plus and other is not None and whole:
                    found[1].append(other)
                return found
        return None

    (output,) = program.outputs
    found = product(output)
    return None if found is None else Layer(found[0], tuple(found[1]))


def hidden(program: Program, end: Layer) -> Layer | None:
    """The layer whose outputs, each changed by itself, are what the last matrix meets.

    Its gradient of output c is then (the last matrix's row c) times a derivative of
    each unit, the same for all outputs.
    """
    flow = _Flow(program)
    places = [
        n for n, e in enumerate(program.equations) if flow.matrix(e) == end.matrix
    ]
    if len(places) != 1:
        return None
    (last,) = places
    (data,) = (
        n for n in program.equations[last].inputs if flow.turned(n) != end.matrix
    )
    # back from there through operations on one place each
    between, products, wanted = {last}, set[int](), [data]
    while wanted:
        number = wanted.pop()
        if number is None or number < program.leaves or number in flow.fixed:
            continue
        place = flow.maker.get(number)
        if place is None:  # an input of the network
            return None
        if place in between:
            continue
        equation = program.equations[place]
        if _elementwise(equation.primitive, equation.params):
            between.add(place)
            wanted.extend(equation.inputs)
        elif flow.matrix(equation) is not None:
            products.add(place)
        else:
            return None
    if len(products) != 1:
        return None
    (place,) = products
    inside = {n for p in between - {last} for n in program.equations[p].outputs}
    (made,) = program.equations[place].outputs
    for number in (*inside, made):
        escapes = not between.issuperset(flow.users.get(number, ()))
        if escapes or number in flow.returned:
            return None
    matrix = flow.matrix(program.equations[place])
    return None if matrix is None else Layer(matrix, _added(flow, made))


def _added(flow: _Flow, number: int) -> tuple[int, ...]:
    """Leaves added to a product, each as it is, before anything else."""
    found = []
    while flow.used_once(number) and flow.users.get(number):
        equation = flow.program.equations[flow.users[number][0]]
        if equation.primitive is primitives.add_p:
            side = equation.inputs.index(number)
            other = flow.bare(equation.inputs[1 - side])
            if other is None or equation.sizes[0] != equation.sizes[1]:
                break
            found.append(other)
        elif not keeps(equation):
            break
        (number,) = equation.outputs
    return tuple(found)


def _elementwise(
    primitive: core.Primitive, params: dict[str, Any], *, moved: bool = True
) -> bool:
    """Is each result made of numbers of the same place, and its derivative too?

    moved: does a derivative pass through?
    """
    if primitive.name == "jit":
        return _all_elementwise(params["jaxpr"].jaxpr, moved=moved)
    if primitive.name == "custom_jvp_call":
        if moved:  # a rule may mix what the function does not
            return _all_elementwise(_with_rule(primitive, params), moved=False)
        return _all_elementwise(params["call_jaxpr"].jaxpr, moved=False)
    if primitive is primitives.reshape_p and params.get("dimensions") is not None:
        return False
    return primitive.name in ELEMENTWISE and not inner_jaxprs(params)


def _all_elementwise(jaxpr: core.Jaxpr, *, moved: bool) -> bool:
    fixed = set()
    for equation in jaxpr.eqns:
        given = [atom for atom in equation.invars if not isinstance(atom, core.Literal)]
        if fixed.issuperset(given):
            fixed.update(equation.outvars)
        elif not _elementwise(equation.primitive, equation.params, moved=moved):
            return False
    return True


def _with_rule(primitive: core.Primitive, params: dict[str, Any]) -> core.Jaxpr:
    """A function with a derivative of its own, and that derivative."""
    call = functools.partial(primitive.bind, **primitive.get_bind_params(params))
    given = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        for aval in params["call_jaxpr"].in_avals
    ]
    moved = [
        jax.ShapeDtypeStruct(one.shape, jax.dtypes.float0)
        if not jnp.issubdtype(one.dtype, jnp.inexact)
        else one
        for one in given
    ]
    return jax.make_jaxpr(lambda at, along: jax.jvp(call, at, along))(
        given, moved
    ).jaxpr


def _activations(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [_activations(sub) for sub in inner_jaxprs(equation.params)]
        own = sum(math.prod(var.aval.shape) for var in equation.outvars)
        repeats = equation.params.get("length", 1)
        total += max(own, repeats * sum(inner))
    return total


def _size(aval: Any) -> int:
    return math.prod(aval.shape)


def inner_jaxprs(params: dict) -> list:
    """The jaxprs inside an equation: of a loop, a branch."""
    values = jax.tree.leaves(list(params.values()))
    closed = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in closed if hasattr(value, "eqns")]

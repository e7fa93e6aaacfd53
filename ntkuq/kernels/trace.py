"""Read a network into a graph of layers, from a trace of its forward pass."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ntkuq.kernels.elementwise import OPERATIONS, Operand
from ntkuq.kernels.layers import Graph
from ntkuq.kernels.marks import PREFIX, mark, refusal
from ntkuq.kernels.translate import layer_of
from ntkuq.kernels.values import Builder, Data, Known, Weight


#: A value of the trace.
Value = Known | Weight | Data

#: Operations that only give a name to others, or say how to differentiate them.
_INSIDE = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
    | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
)
_CONVERT = "convert_element_type"
#: Operations that change nothing where they keep the shape.
_SAME = frozenset({"copy", "copy_p", "slice", "optimization_barrier"})


def walk(module: Any, shape: tuple[int, ...]) -> Graph:
    """The layers of a network, and which feeds which.

    The forward pass is traced, so that any class with a `__call__` of its own serves.
    Parts between supported layers are read off the trace: elementwise functions of one
    value, sums of several, multiplication by constants, flattening, means over all
    positions. Weights are not looked at. Dropout is off.

    Args:
        module: an Equinox network; its weights may be abstract, as those of
            `eqx.filter_eval_shape` are.
        shape: shape of one input.

    Returns:
        The graph; `chain()` gives the layers of a network without branches.

    Raises:
        UnsupportedLayer: naming the layer or operation, its place in the network, and
            what is supported.

    >>> import equinox as eqx, jax
    >>> net = eqx.nn.MLP(2, 1, 8, depth=1, key=jax.random.key(0))
    >>> [type(layer).__name__ for layer in walk(net, (2,)).chain()]
    ['Dense', 'Activation', 'Dense']
    """
    name = type(module).__name__
    with (
        jax.enable_x64(True),  # lest constants of the network lose half their digits
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        marked, marks = mark(eqx.nn.inference_mode(module))
        leaves, structure = jax.tree_util.tree_flatten_with_path(marked)
        weights = {
            n: _abstract(leaf) for n, (_, leaf) in enumerate(leaves) if _is(leaf)
        }

        def forward(arrays: dict[int, Any], x: Any) -> Any:
            filled = [arrays.get(n, leaf) for n, (_, leaf) in enumerate(leaves)]
            return jax.tree.unflatten(structure, filled)(x)

        example = jax.ShapeDtypeStruct(tuple(shape), np.dtype("float64"))
        program = jax.make_jaxpr(forward)(weights, example)
        places = [f"{name}{jax.tree_util.keystr(leaves[n][0])}" for n in weights]
        reader = _Reader(Builder(tuple(shape), name), marks)
        given: list[Value] = [Weight(frozenset({(place,)})) for place in places]
        outputs = reader.run(program.jaxpr, program.consts, [*given, Data(0)])
    if len(outputs) != 1 or not isinstance(outputs[0], Data):
        raise refusal(
            name,
            "expected one array that depends on the input as its output, got "
            f"{len(outputs)} {'arrays' if len(outputs) != 1 else 'that does not'}",
        )
    return reader.builder.graph(reader.builder.settle(outputs[0]))


def _is(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    inexact = jnp.issubdtype(leaf.dtype, jnp.floating)
    dtype = np.dtype("float64") if inexact else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


class _Reader:
    """Follows the values of a trace, and builds the graph."""

    def __init__(self, builder: Builder, marks: list[tuple[str, Any]]):
        self.builder = builder
        self.marks = marks
        self._used: set[tuple] = set()

    def run(self, jaxpr: Any, consts: Any, given: list[Value]) -> list[Value]:
        """The outputs of a traced function."""
        values: dict[Any, Value] = {
            var: Known(np.asarray(value))
            for var, value in zip(jaxpr.constvars, consts, strict=True)
        }
        values.update(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return Known(np.asarray(atom.val))
            return values[atom]

        for equation in jaxpr.eqns:
            made = self._equation(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        called = str(params.get("name", ""))
        if called.startswith(PREFIX) and any(isinstance(v, Data) for v in given):
            return [self._layer(int(called.removeprefix(PREFIX)), equation, given)]
        if name in _CALLS:
            inner = next(params[key] for key in _INSIDE if key in params)
            # that of `jax.checkpoint` holds no constants
            closed = hasattr(inner, "consts")
            jaxpr, consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            return self.run(jaxpr, consts, given)
        if not any(isinstance(value, Data) for value in given):
            return _without_data(equation, given)
        if name == "scan":
            return self._scan(equation, given)
        shapes = [var.aval.shape for var in equation.invars]
        new = equation.outvars[0].aval.shape if equation.outvars else ()
        first = given[0]
        if isinstance(first, Data) and name in ("reshape", "squeeze", "expand_dims"):
            return [self.builder.reshape(first, shapes[0], new)]
        if isinstance(first, Data) and shapes[0] == new and name in _SAME:
            return [first]
        if name == "transpose" and tuple(params["permutation"]) == tuple(
            range(len(new))
        ):
            return given
        if isinstance(first, Data) and name == "reduce_sum":
            return [self.builder.total(first, shapes[0], tuple(params["axes"]))]
        if isinstance(first, Data) and name == "broadcast_in_dim":
            if np.prod(new) == np.prod(shapes[0]):
                return [self.builder.reshape(first, shapes[0], new)]
            self._refuse(given, f"its entries are repeated, from {shapes[0]} to {new}")
        return [self._elementwise(equation, given)]

    def _layer(self, index: int, equation: Any, given: list[Value]) -> Data:
        place, module = self.marks[index]
        data = [value for value in given if isinstance(value, Data)]
        shape = next(
            var.aval.shape
            for var, value in zip(equation.invars, given)
            if isinstance(value, Data)
        )
        if len(data) > 1:
            raise refusal(place, "its weights depend on the input")
        weights = [value for value in given if isinstance(value, Weight)]
        key = (index, *(weight.sources for weight in weights))
        if weights and key in self._used:
            raise refusal(place, "it is used twice, with the same weights")
        self._used.add(key)
        node = self.builder.settle(data[0])
        if self.builder.shapes[node] != shape:
            logical = self.builder.shapes[node]
            if not (
                len(logical) <= 1 and shape in ((), (1,)) and logical in ((), (1,))
            ):
                raise refusal(place, f"its input has shape {shape}, not {logical}")
        layer, new = layer_of(module, shape, place)
        if layer is None:
            return Data(node)
        return Data(self.builder.node(layer, (node,), new, place))

    def _scan(self, equation: Any, given: list[Value]) -> list[Value]:
        body = equation.params["jaxpr"]
        outer, inner = equation.invars, body.jaxpr.invars
        # what is scanned over has one more axis outside than inside
        sliced = [a.aval.ndim > b.aval.ndim for a, b in zip(outer, inner)]
        pairs = zip(equation.outvars, body.jaxpr.outvars)
        carried = sum(a.aval.ndim == b.aval.ndim for a, b in pairs)
        if carried < len(equation.outvars):
            self._refuse(given, "a loop collects values")
        first = len(given) - sum(sliced) - carried
        steps = range(equation.params["length"])
        state = given[first : first + carried]
        for step in reversed(steps) if equation.params["reverse"] else steps:
            rest = [self._slice(v, step, given) for v in given[first + carried :]]
            state = self.run(body.jaxpr, body.consts, [*given[:first], *state, *rest])
        return state

    def _slice(self, value: Value, step: int, given: list[Value]) -> Value:
        if isinstance(value, Known):
            return Known(value.value[step])
        if isinstance(value, Weight):
            return Weight(frozenset((*source, step) for source in value.sources))
        return self._refuse(given, "a loop runs over its entries")

    def _elementwise(self, equation: Any, given: list[Value]) -> Value:
        name = equation.primitive.name
        data = [value for value in given if isinstance(value, Data)]
        weights = [value for value in given if isinstance(value, Weight)]
        known = name in OPERATIONS or name in ("integer_pow", "add_any", _CONVERT)
        if weights:
            sources = sorted(str(s[0]) for w in weights for s in w.sources)
            self._refuse(
                given,
                f"the parameters {', '.join(sources)}, which are those of no supported "
                f"layer, meet it in the operation {name!r}",
            )
        new = equation.outvars[0].aval
        for var, value in zip(equation.invars, given):
            if isinstance(value, Data) and var.aval.shape != new.shape:
                known = False
        if not known:
            self._refuse(given, f"the operation {name!r} has no kernel")
        name = "add" if name == "add_any" else name
        if len({value.node for value in data}) > 1:
            return self._several(name, data, given)
        steps = self.builder.steps[data[0].node]
        operands = tuple(self._operand(value, data[0]) for value in given)
        if name == _CONVERT:
            return self._convert(data[0], new.dtype, given)
        if name in ("and", "or", "not", "xor") and new.dtype != np.bool_:
            self._refuse(given, f"the operation {name!r} has no kernel")
        step = steps.add(name, operands, equation.params.get("y"))
        return Data(data[0].node, step)

    def _convert(self, data: Data, dtype: np.dtype, given: list[Value]) -> Data:
        steps = self.builder.steps[data.node]
        logical = steps.logical[data.step]
        if jnp.issubdtype(dtype, jnp.floating) and not logical:
            return data
        if jnp.issubdtype(dtype, jnp.floating):
            return Data(data.node, steps.add("number", (data.step,)))
        if dtype == np.bool_:
            made = steps.add("ne", (data.step, 0.0)) if not logical else data.step
            return Data(data.node, made)
        return self._refuse(given, f"it is converted to {dtype}")

    def _several(self, name: str, data: list[Data], given: list[Value]) -> Data:
        if name == "sub" and len(data) == 2:
            second = data[1]
            minus = self.builder.steps[second.node].add("neg", (second.step,))
            return self.builder.plus(data[0], Data(second.node, minus))
        if name == "add" and len(data) == 2:
            return self.builder.plus(*data)
        return self._refuse(
            given,
            f"the operation {name!r} joins values of different layers; only their sum "
            "has a kernel",
        )

    def _operand(self, value: Value, data: Data) -> Operand:
        if isinstance(value, Data):
            return value.step
        assert isinstance(value, Known)  # noqa: S101
        constants = np.unique(value.value)
        if len(constants) != 1:
            self._refuse(
                [data],
                "its entries meet different constants: do that to the data "
                "(scaling=Standardize())",
            )
        constant = constants[0]
        return bool(constant) if constants.dtype == np.bool_ else float(constant)

    def _refuse(self, given: list[Value], why: str) -> Any:
        node = next((v.node for v in given if isinstance(v, Data)), 0)
        raise self.builder.refusal(node, why)


def _without_data(equation: Any, given: list[Value]) -> list[Value]:
    sources = [value.sources for value in given if isinstance(value, Weight)]
    if sources:
        mixed = Weight(frozenset().union(*sources))
        return [mixed for _ in equation.outvars]
    found = equation.primitive.get_bind_params(equation.params)
    # JAX before 0.11 puts the functions among the operands
    functions, params = found if isinstance(found, tuple) else ((), found)
    operands = [value.value for value in given if isinstance(value, Known)]
    made = equation.primitive.bind(*functions, *operands, **params)
    several = made if equation.primitive.multiple_results else [made]
    return [Known(np.asarray(value)) for value in several]

"""Elementwise functions as data: read from a traced network, equal by their content.

A function that was traced is a new object each time. As a list of steps it can be
compared, kept between fits without compiling again, and written to a file.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array


# fmt: off
#: Operations by the names that JAX gives them when it traces.
OPERATIONS = {
    name: getattr(jax.lax, name)
    for name in (
        "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh",
        "cbrt", "ceil", "clamp", "cos", "cosh", "div", "eq", "erf", "erf_inv", "erfc",
        "exp", "exp2", "expm1", "floor", "ge", "gt", "is_finite", "le", "lgamma", "log",
        "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "pow", "rem",
        "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan",
        "tanh",
    )
} | {
    "and": jax.lax.bitwise_and,
    "not": jax.lax.bitwise_not,
    "or": jax.lax.bitwise_or,
    "xor": jax.lax.bitwise_xor,
}

#: Operations whose result is true or false.
LOGICAL = frozenset(
    {"and", "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "xor"}
)
# fmt: on

#: A value (0 is the argument, n the result of step n) or a constant.
Operand = int | float | bool

#: The operation, its operands, and its exponent ("integer_pow" only).
Step = tuple[str, tuple[Operand, ...], int | None]


def is_value(operand: Operand) -> bool:
    """Whether an operand is a value and not a constant."""
    return isinstance(operand, int) and not isinstance(operand, bool)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A function of each entry, by its steps; the last is the result.

    >>> cube = Elementwise((("integer_pow", (0,), 3), ("mul", (2.0, 1), None)))
    >>> print(cube(jnp.asarray([1.0, 2.0])))
    [ 2. 16.]
    """

    steps: tuple[Step, ...]

    def __call__(self, t: Array) -> Array:
        """The function of an array, in its dtype."""
        values = [t]

        def read(operand: Operand) -> Array:
            if is_value(operand):
                return values[int(operand)]
            dtype = bool if isinstance(operand, bool) else t.dtype
            return jnp.full(t.shape, operand, dtype)

        for name, operands, exponent in self.steps:
            given = [read(operand) for operand in operands]
            if exponent is not None:
                values.append(jax.lax.integer_pow(given[0], exponent))
            elif name == "number":
                values.append(given[0].astype(t.dtype))
            else:
                values.append(OPERATIONS[name](*given))
        return values[-1]

    @property
    def __name__(self) -> str:
        """The operations in a row, for messages."""
        return "-".join(name for name, _, _ in self.steps)


class Steps:
    """All that is computed elementwise from one value, each step once."""

    def __init__(self):
        self._steps: list[Step] = []
        self._known: dict[tuple, int] = {}
        #: value n is this multiple of the argument; `None` where it is none
        self.factors: list[float | None] = [1.0]
        self.logical: list[bool] = [False]

    def add(
        self, name: str, operands: tuple[Operand, ...], exponent: int | None = None
    ) -> int:
        """The value of one more step."""
        # 1.0 and True are equal, and so would be their steps
        step = (name, operands, exponent)
        key = (*step, tuple(map(type, operands)))
        if key not in self._known:
            self._steps.append(step)
            self._known[key] = len(self._steps)
            self.factors.append(self._factor(name, operands))
            self.logical.append(self._is_logical(name, operands))
        return self._known[key]

    def _factor(self, name: str, operands: tuple[Operand, ...]) -> float | None:
        found = [self.factors[int(o)] if is_value(o) else None for o in operands]
        first = found[0]
        if name == "neg" and first is not None:
            return -first
        if len(found) != 2:
            return None
        second = found[1]
        if name in ("add", "sub") and first is not None and second is not None:
            return first + second if name == "add" else first - second
        if name == "mul" and first is not None and not is_value(operands[1]):
            return first * operands[1]
        if name == "mul" and second is not None and not is_value(operands[0]):
            return second * operands[0]
        if name == "div" and first is not None and not is_value(operands[1]):
            return first / operands[1] if operands[1] else None
        return None

    def _is_logical(self, name: str, operands: tuple[Operand, ...]) -> bool:
        if name == "select_n":
            branch = operands[1]
            return (
                self.logical[int(branch)]
                if is_value(branch)
                else isinstance(branch, bool)
            )
        return name in LOGICAL

    def function(self, value: int) -> Elementwise:
        """The function from the argument to this value, without other steps."""
        needed: set[int] = set()
        pending = [value]
        while pending:
            place = pending.pop()
            if place and place not in needed:
                needed.add(place)
                operands = self._steps[place - 1][1]
                pending += [int(o) for o in operands if is_value(o)]
        order = {place: n for n, place in enumerate(sorted(needed), start=1)} | {0: 0}
        steps: list[Step] = []
        for place in sorted(needed):
            name, operands, exponent = self._steps[place - 1]
            moved = tuple(order[int(o)] if is_value(o) else o for o in operands)
            steps.append((name, moved, exponent))
        return Elementwise(tuple(steps))

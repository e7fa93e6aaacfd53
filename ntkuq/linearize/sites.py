"""Sites: the places where a parameter leaf meets data.

The forward pass of one example is traced once with each parameter leaf wrapped in a
`quax` array value. Where a weight matrix is contracted with data, the Jacobian of the
output with respect to it is an outer product of the data `a` and the output gradient
`g`; where a vector is added, it is `g` itself. Any other use of a leaf materializes it,
which sends the whole leaf on the generic route (its dense Jacobian).

In which order parameters meet data, sites or not, is read off the jaxpr of the forward
pass: a weight may be materialized long before the product it serves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import quax
from jax.extend import core
from jax.extend.core import primitives
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from ntkuq.models import forward, parameters


class Site(NamedTuple):
    """One place where a leaf meets data.

    leaf: position of the leaf in `jax.tree.leaves(parameters(model))`.
    kind: "dense" (a matrix contracted with data) or "bias" (a vector added).
    output_first: dense only: is the leaf (out, in), Equinox's layout?
    shape: shape of the operation's output.
    permutation: brings the output's axes to (*positions, out).
    """

    leaf: int
    kind: str
    output_first: bool
    shape: tuple[int, ...]
    permutation: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How often one example meets the leaf here (1 for a plain dense layer)."""
        return math.prod(self.shape[axis] for axis in self.permutation[:-1])


class Use(NamedTuple):
    """One place where parameters meet data, on whatever route.

    leaves: positions of the leaves in `jax.tree.leaves(parameters(model))`; several
        where they were combined before they met data.
    added: were they added to data (or subtracted), not multiplied or anything else?
    """

    leaves: tuple[int, ...]
    added: bool


class Recorder:
    """What one trace saw; lives only while a trace runs.

    Args:
        arrays: the leaves as `trace` was given them.
        generic: positions of the leaves whose sites are not recorded.
        deltas: one zero array a site, to which `jax.vjp` differentiates; `None` while
            sites are searched.
    """

    def __init__(
        self,
        arrays: list[Array],
        generic: frozenset[int],
        deltas: list[Array] | None = None,
    ):
        self.arrays = arrays
        self.generic = set(generic)
        self.deltas = deltas
        self.sites: list[Site] = []
        self.inputs: list[Array | None] = []

    def record(self, site: Site, data: Array | None, out: Array) -> Array:
        """Note a site; add its delta."""
        if site.leaf in self.generic:
            return out
        number = len(self.sites)
        self.sites.append(site)
        self.inputs.append(data)
        if self.deltas is None:
            return out
        return out + self.deltas[number].astype(out.dtype)


class Leaf(quax.ArrayValue):
    """A parameter leaf that reports how it is used."""

    array: Array
    index: int = eqx.field(static=True)
    recorder: Recorder = eqx.field(static=True)

    def aval(self):
        return jax.typeof(self.array)

    def materialise(self):
        self.recorder.generic.add(self.index)
        return self.array

    def outside(self) -> bool:
        """Is this use at the level of `trace`?

        Inside a custom derivative rule quax rebuilds the leaf around an inner tracer,
        which must not leave that rule: no site there.
        """
        return self.array is self.recorder.arrays[self.index]


@quax.register(primitives.dot_general_p)
def _dot_left(leaf: Leaf, data: ArrayLike, **options):
    return _dot(leaf, data, options, weight_left=True)


@quax.register(primitives.dot_general_p)
def _dot_right(data: ArrayLike, leaf: Leaf, **options):
    return _dot(leaf, data, options, weight_left=False)


def _dot(leaf: Leaf, data: ArrayLike, options: dict, *, weight_left: bool) -> Array:
    """Matrix times data, contracted over one axis: J = sum over positions of g a^T."""
    (left, right), batch = options["dimension_numbers"]
    weight_axes, data_axes = (left, right) if weight_left else (right, left)
    plain = leaf.array.ndim == 2 and len(weight_axes) == 1 and batch == ((), ())
    operands = (leaf.array, data) if weight_left else (data, leaf.array)
    out = primitives.dot_general_p.bind(*operands, **options)
    if not (plain and leaf.outside()):
        leaf.materialise()
        return out
    # the output's free axes are those of the left operand, then of the right
    axes = tuple(range(np.ndim(data)))
    permutation = (*axes[1:], 0) if weight_left else axes
    site = Site(
        leaf=leaf.index,
        kind="dense",
        output_first=weight_axes[0] == 1,
        shape=out.shape,
        permutation=permutation,
    )
    a = jnp.moveaxis(jnp.asarray(data), data_axes[0], -1)
    return leaf.recorder.record(site, a, out)


@quax.register(primitives.add_p)
def _add_left(leaf: Leaf, data: ArrayLike, **options):
    return _add(leaf, data, options)


@quax.register(primitives.add_p)
def _add_right(data: ArrayLike, leaf: Leaf, **options):
    return _add(leaf, data, options)


def _add(leaf: Leaf, data: ArrayLike, options: dict) -> Array:
    """Leaf plus data of the same shape: J = g."""
    out = primitives.add_p.bind(leaf.array, jnp.asarray(data), **options)
    if np.shape(data) != leaf.array.shape or not leaf.outside():
        leaf.materialise()
        return out
    site = Site(leaf.index, "bias", True, out.shape, tuple(range(out.ndim)))
    return leaf.recorder.record(site, None, out)


@quax.register(primitives.jit_p, precedence=1)
def _inline(*args: ArrayLike | Leaf, jaxpr, **options):
    # A jitted function inside the network: walk into it, so that its sites are seen
    # at the level of the outer trace.
    if not any(isinstance(a, Leaf) for a in args):
        return primitives.jit_p.bind(*args, jaxpr=jaxpr, **options)
    return quax.quaxify(core.jaxpr_as_fun(jaxpr))(*args)


def _materialize_in(primitive: core.Primitive) -> None:
    # A leaf used inside a loop or a branch meets data many times: generic route.
    @quax.register(primitive, precedence=1)
    def _(*args: ArrayLike | Leaf, **options):
        plain = [a.materialise() if isinstance(a, Leaf) else a for a in args]
        return primitive.bind(*plain, **options)


for _primitive in (primitives.scan_p, primitives.while_p, primitives.cond_p):
    _materialize_in(_primitive)


class Plan(eqx.Module):
    """Where each parameter leaf of a network meets data, found by `find_sites`.

    Args:
        sites: in the order of the forward pass.
        generic: the leaves without one.
        shapes: of all leaves.
        activations: numbers that the forward pass of one example makes.
        uses: where parameters meet data, generic leaves too, in the order of the
            forward pass.
    """

    sites: tuple[Site, ...] = eqx.field(static=True)
    generic: tuple[int, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    activations: int = eqx.field(static=True)
    uses: tuple[Use, ...] = eqx.field(static=True)

    @property
    def leaves(self) -> int:
        """The number of parameter leaves."""
        return len(self.shapes)

    def last(self) -> tuple[int, ...]:
        """The leaves of the last layer: the last matrix and what is added after it.

        Raises:
            ValueError: where the last use of parameters, additions aside, is no site
                with a matrix: a convolution, a weight computed from several arrays, a
                scale after the last matrix.
        """
        after: list[int] = []
        for use in reversed(self.uses):
            if use.added:
                after = [*use.leaves, *after]
                continue
            if all(self._is_matrix(leaf) for leaf in use.leaves):
                return tuple(dict.fromkeys((*use.leaves, *after)))
            shapes = ", ".join(str(self.shapes[leaf]) for leaf in use.leaves)
            raise ValueError(
                "LastLayer: expected the network to end with a matrix product between "
                "weights and data, got another use of the parameters of shape "
                f"{shapes} there; use Select(where) to name the parameters"
            )
        raise ValueError(
            "LastLayer: expected a matrix product between weights and data, found "
            "none in the network; use Select(where) to name the parameters"
        )

    def _is_matrix(self, leaf: int) -> bool:
        return any(site.leaf == leaf and site.kind == "dense" for site in self.sites)


def trace(model: PyTree, x: PyTree, recorder: Recorder) -> Array:
    """The outputs (C,) of one example, with each use of a leaf reported."""
    skeleton = parameters(model)
    tagged = [Leaf(array, n, recorder) for n, array in enumerate(recorder.arrays)]
    tree = jax.tree.unflatten(jax.tree.structure(skeleton), tagged)
    rest = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    def run(tree, x):
        return forward(eqx.combine(tree, rest), x)

    out = quax.quaxify(run)(tree, x)
    # an output that is a parameter, untouched by data
    return out.materialise() if isinstance(out, Leaf) else out


def find_sites(model: PyTree, x: PyTree) -> Plan:
    """Trace one example `x` (no leading axis) abstractly; nothing is computed.

    A network with a custom reverse-mode rule (`jax.custom_vjp`) has no sites: all of
    its leaves take the generic route.

    >>> layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    >>> [site.kind for site in find_sites(layer, jnp.zeros(3)).sites]
    ['dense', 'bias']
    """
    leaves = jax.tree.leaves(parameters(model))
    shapes = tuple(leaf.shape for leaf in leaves)
    everything = tuple(range(len(leaves)))
    program = _program(model, x)
    size, uses = _made(program), _uses(program, len(leaves))
    generic: frozenset[int] = frozenset()
    while True:
        seen: list[Recorder] = []

        def run(leaves, x, generic=generic, seen=seen):
            seen.append(Recorder(leaves, generic))
            return trace(model, x, seen[-1])

        try:
            jax.eval_shape(run, leaves, x)
        except NotImplementedError:  # quax has no rule for custom_vjp
            return Plan((), everything, shapes, size, uses)
        (recorder,) = seen
        # a leaf met at a site first and materialized later is generic as a whole
        if recorder.generic == set(generic):
            break
        generic = frozenset(recorder.generic)
    met = {site.leaf for site in recorder.sites}
    unmet = tuple(n for n in everything if n not in met)
    return Plan(tuple(recorder.sites), unmet, shapes, size, uses)


def _program(model: PyTree, x: PyTree) -> core.Jaxpr:
    """One forward pass; its first inputs are the parameter leaves."""
    tree, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(tree)

    def run(leaves, x):
        return forward(eqx.combine(jax.tree.unflatten(structure, leaves), rest), x)

    return jax.make_jaxpr(run)(leaves, x).jaxpr


def _uses(program: core.Jaxpr, leaves: int) -> tuple[Use, ...]:
    data = len(program.invars) - leaves
    inputs = [*(frozenset([n]) for n in range(leaves)), *[None] * data]
    return tuple(_meetings(program, inputs)[0])


def _meetings(
    program: core.Jaxpr, inputs: list[frozenset[int] | None]
) -> tuple[list[Use], list[frozenset[int] | None]]:
    """The uses in a program, and what its outputs are made of.

    A value is made of data (`None`), or else of the leaves in a set.
    """
    made = dict(zip(program.invars, inputs, strict=True))
    none = frozenset[int]()

    def look(atom) -> frozenset[int] | None:
        # literals and constants are made of no leaves
        return none if isinstance(atom, core.Literal) else made.get(atom, none)

    uses: list[Use] = []
    for equation in program.eqns:
        given = [look(atom) for atom in equation.invars]
        if equation.primitive is primitives.jit_p:
            inner, out = _meetings(equation.params["jaxpr"].jaxpr, given)
            uses += inner
        else:
            met = none.union(*(one for one in given if one is not None))
            data = any(one is None for one in given)
            if data and met:
                added = equation.primitive in (primitives.add_p, primitives.sub_p)
                uses.append(Use(tuple(sorted(met)), added))
            out = [None if data else met] * len(equation.outvars)
        made.update(zip(equation.outvars, out, strict=True))
    return uses, [look(atom) for atom in program.outvars]


def _made(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [_made(sub) for sub in _inner(equation.params)]
        own = sum(math.prod(var.aval.shape) for var in equation.outvars)
        repeats = equation.params.get("length", 1)
        total += max(own, repeats * sum(inner))
    return total


def _inner(params: dict) -> list:
    """The jaxprs inside an equation: of a jitted function, a loop, a branch."""
    values = jax.tree.leaves(list(params.values()))
    closed = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in closed if hasattr(value, "eqns")]

"""Sites: the places where a weight array meets data.

The forward pass of one example is traced once with each parameter leaf wrapped in a
`quax` array value. Where a leaf is contracted with data (a dense layer, a convolution)
or rows of it are looked up (an embedding), the Jacobian of the output with respect to
it is a sum of outer products of the data `a` and the output gradient `g`. Any other use
of a leaf materializes it, which sends the whole leaf on the generic route: its dense
Jacobian by reverse mode. For biases, norm scales and other vectors that route is as
cheap as any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

from ntkuq.linearize.convolve import convolve
from ntkuq.linearize.operations import Operations, operations
from ntkuq.linearize.patches import grouped, patches
from ntkuq.linearize.program import (
    Program,
    Use,
    has_while,
    hidden,
    program,
    readout,
    uses,
)
from ntkuq.models import forward, parameters, trainable
from ntkuq.models.memo import by_structure


class Site(NamedTuple):
    """One place where a leaf meets data.

    leaf: position of the leaf in `jax.tree.leaves(parameters(model))`.
    kind: "dense" (contracted with data), "conv" (convolved), or "rows" (looked up).
    output_first: does the leaf ravel to (out, in), as Equinox's layers do?
    into: how many numbers of data are contracted; for "rows" the number of rows.
    shape: shape of the operation's output.
    permutation: brings the output's axes to (*positions, *out).
    free: how many axes at the end of that are `out`.
    """

    leaf: int
    kind: str
    output_first: bool
    into: int
    shape: tuple[int, ...]
    permutation: tuple[int, ...]
    free: int

    @property
    def positions(self) -> int:
        """How often one example meets the leaf here (1 for a plain dense layer)."""
        cut = len(self.permutation) - self.free
        return math.prod(self.shape[axis] for axis in self.permutation[:cut])

    @property
    def out(self) -> int:
        """The number of outputs at one position."""
        return math.prod(self.shape) // self.positions


class Recorder:
    """What one trace saw; lives only while a trace runs.

    Args:
        arrays: the leaves as `trace` was given them.
        generic: positions of the leaves whose sites are not recorded.
        deltas: for each site a zero array, to which `jax.vjp` differentiates, or `None`
            where its gradient is known; `None` while sites are searched.
    """

    def __init__(
        self,
        arrays: list[Array],
        generic: frozenset[int],
        deltas: list[Array | None] | None = None,
    ):
        self.arrays = arrays
        #: the arrays that stand for leaves at the level of `trace`, transposes included
        self.views = list(arrays)
        self.generic = set(generic)
        self.deltas = deltas
        self.sites: list[Site] = []
        self.inputs: list[Array] = []

    def record(self, site: Site, data: Callable[[], Array], out: Array) -> Array:
        """Note a site and its data, (T, I) or (T,); add its delta."""
        if site.leaf in self.generic:
            return out
        number = len(self.sites)
        self.sites.append(site)
        self.inputs.append(data())
        delta = None if self.deltas is None else self.deltas[number]
        return out if delta is None else out + delta.astype(out.dtype)


class Leaf(quax.ArrayValue):
    """A parameter leaf that reports how it is used.

    Axis n of `array` is axis `order[n]` of the leaf.
    """

    array: Array
    index: int = eqx.field(static=True)
    order: tuple[int, ...] = eqx.field(static=True)
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
        return any(self.array is view for view in self.recorder.views)

    def plain(self) -> bool:
        """Are the axes those of the leaf?"""
        return self.order == tuple(range(self.array.ndim))


@quax.register(primitives.transpose_p)
def _transpose(leaf: Leaf, *, permutation: tuple[int, ...]):
    turned = primitives.transpose_p.bind(leaf.array, permutation=permutation)
    if not leaf.outside():
        leaf.materialise()
        return turned
    leaf.recorder.views.append(turned)
    order = tuple(leaf.order[axis] for axis in permutation)
    return Leaf(turned, leaf.index, order, leaf.recorder)


@quax.register(primitives.dot_general_p)
def _dot_left(leaf: Leaf, data: ArrayLike, **options):
    return _dot(leaf, data, options, weight_left=True)


@quax.register(primitives.dot_general_p)
def _dot_right(data: ArrayLike, leaf: Leaf, **options):
    return _dot(leaf, data, options, weight_left=False)


def _dot(leaf: Leaf, data: ArrayLike, options: dict, *, weight_left: bool) -> Array:
    """Weights times data: J = sum over positions of g a^T."""
    (left, right), batch = options["dimension_numbers"]
    weight_axes, data_axes = (left, right) if weight_left else (right, left)
    operands = (leaf.array, data) if weight_left else (data, leaf.array)
    out = primitives.dot_general_p.bind(*operands, **options)
    ndim = leaf.array.ndim
    pairs = sorted((leaf.order[w], d) for w, d in zip(weight_axes, data_axes))
    met = [axis for axis, _ in pairs]
    trailing = met == list(range(ndim - len(met), ndim))
    leading = met == list(range(len(met)))
    if batch != ((), ()) or not (trailing or leading) or not leaf.outside():
        leaf.materialise()
        return out
    # the output's free axes are those of the left operand, then of the right
    free = [leaf.order[axis] for axis in range(ndim) if axis not in weight_axes]
    others = np.ndim(data) - len(met)
    first = 0 if weight_left else others
    outs = [first + free.index(axis) for axis in sorted(free)]
    start = len(free) if weight_left else 0
    contracted = tuple(axis for _, axis in pairs)
    into = math.prod(np.shape(data)[axis] for axis in contracted)
    site = Site(
        leaf=leaf.index,
        kind="dense",
        output_first=trailing,
        into=into,
        shape=out.shape,
        permutation=(*range(start, start + others), *outs),
        free=len(outs),
    )

    def inputs() -> Array:
        last = tuple(range(others, np.ndim(data)))
        a = jnp.moveaxis(jnp.asarray(data), contracted, last)
        return a.reshape(-1, into)

    return leaf.recorder.record(site, inputs, out)


@quax.register(primitives.conv_general_dilated_p)
def _conv(data: ArrayLike, leaf: Leaf, **options):
    """A convolution is a matrix product with the patches of the data."""
    if options["feature_group_count"] > 1 and jax.default_backend() == "cpu":
        out = grouped(jnp.asarray(data), leaf.array, options)
    elif leaf.outside():
        out = convolve(data, leaf.array, options)
    else:
        out = primitives.conv_general_dilated_p.bind(data, leaf.array, **options)
    numbers = options["dimension_numbers"]
    rest = [axis for axis in range(leaf.array.ndim) if axis != numbers.rhs_spec[0]]
    groups = options["feature_group_count"] * options["batch_group_count"]
    middle = numbers.rhs_spec[0] not in (0, leaf.array.ndim - 1)
    if groups > 1 or middle or not leaf.plain() or not leaf.outside():
        leaf.materialise()
        return out
    batch, feature, *spatial = numbers.out_spec
    site = Site(
        leaf=leaf.index,
        kind="conv",
        output_first=numbers.rhs_spec[0] == 0,
        into=math.prod(leaf.array.shape[axis] for axis in rest),
        shape=out.shape,
        permutation=(batch, *spatial, feature),
        free=1,
    )

    def inputs() -> Array:
        kernel = [leaf.array.shape[axis] for axis in numbers.rhs_spec[2:]]
        found = patches(jnp.asarray(data), tuple(kernel), options)
        # (positions, in, *kernel) to the leaf's own order of these axes
        where = [numbers.rhs_spec[1:].index(axis) for axis in rest]
        return jnp.transpose(found, (0, *(1 + w for w in where))).reshape(-1, site.into)

    return leaf.recorder.record(site, inputs, out)


@quax.register(primitives.gather_p)
def _gather(leaf: Leaf, indices: ArrayLike, **options):
    """Rows looked up in a table, with indices within its bounds."""
    out = primitives.gather_p.bind(leaf.array, indices, **options)
    numbers, shape = options["dimension_numbers"], leaf.array.shape
    whole = len(shape) == 2 and tuple(options["slice_sizes"]) == (1, shape[1])
    plain = (
        numbers.start_index_map[:1] == (0,)
        and not numbers.operand_batching_dims
        and numbers.collapsed_slice_dims in ((), (0,))
    )
    if not (whole and plain and leaf.plain() and leaf.outside()):
        leaf.materialise()
        return out
    width = numbers.offset_dims[-1]
    clipped = options["mode"] == jax.lax.GatherScatterMode.CLIP

    def ids() -> Array:
        found = jnp.asarray(indices)[..., 0]
        # out of range only a clipped index has a gradient, at the row it is clipped to
        return jnp.clip(found, 0, shape[0] - 1) if clipped else found

    return _rows(leaf, ids, out, width)


@quax.register(primitives.dynamic_slice_p)
def _slice(leaf: Leaf, *starts: ArrayLike, slice_sizes: tuple[int, ...]):
    """One row of a table."""
    out = primitives.dynamic_slice_p.bind(leaf.array, *starts, slice_sizes=slice_sizes)
    shape = leaf.array.shape
    whole = len(shape) == 2 and tuple(slice_sizes) == (1, shape[1])
    if not (whole and leaf.plain() and leaf.outside()):
        leaf.materialise()
        return out
    return _rows(
        leaf, lambda: jnp.clip(jnp.asarray(starts[0]), 0, shape[0] - 1), out, 1
    )


def _rows(leaf: Leaf, indices: Callable[[], Array], out: Array, width: int) -> Array:
    size = leaf.array.shape[0]
    site = Site(
        leaf=leaf.index,
        kind="rows",
        output_first=False,
        into=size,
        shape=out.shape,
        permutation=(*(n for n in range(out.ndim) if n != width), width),
        free=1,
    )

    return leaf.recorder.record(site, lambda: indices().reshape(-1), out)


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
        readout: the leaves of a linear last layer, whose Jacobian is known without a
            backward pass: the outputs are matrix @ data + biases + anything else.
        hidden: the leaves of the layer before it, where that data are its outputs, each
            changed by itself.
        reversible: is there a reverse-mode derivative? Not where parameters are inside
            a `while` loop.
        operations: of the forward pass of one example.
    """

    sites: tuple[Site, ...] = eqx.field(static=True)
    generic: tuple[int, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    activations: int = eqx.field(static=True)
    uses: tuple[Use, ...] = eqx.field(static=True)
    readout: tuple[int, ...] = eqx.field(static=True, default=())
    hidden: tuple[int, ...] = eqx.field(static=True, default=())
    reversible: bool = eqx.field(static=True, default=True)
    operations: Operations = eqx.field(static=True, default=Operations())

    @property
    def leaves(self) -> int:
        """The number of parameter leaves."""
        return len(self.shapes)

    @property
    def flops(self) -> float:
        """Operations of one example's forward pass: its products, and the rest."""
        counted = self.operations
        return counted.products + counted.convolutions + self.activations

    def last(self) -> tuple[int, ...]:
        """The leaves of the last layer: the last matrix and what is added after it.

        Raises:
            ValueError: where the last use of parameters, additions aside, is no site
                with a matrix: a convolution, a weight computed from several arrays, a
                scale after the last matrix.
        """
        ends = [use for use in self.uses if use.last and not use.added]
        leaves = tuple(dict.fromkeys(leaf for use in ends for leaf in use.leaves))
        if not ends:
            raise ValueError(
                "LastLayer: expected a matrix product between weights and data, found "
                "none in the network; use Select(where) to name the parameters"
            )
        shapes = ", ".join(str(self.shapes[leaf]) for leaf in leaves)
        if not all(self._is_matrix(leaf) for leaf in leaves):
            raise ValueError(
                "LastLayer: expected the network to end with a matrix product between "
                "weights and data, got another use of the parameters of shape "
                f"{shapes} there; use Select(where) to name the parameters"
            )
        if len(leaves) > 1:
            raise ValueError(
                "LastLayer: expected one last matrix, got several that reach the "
                f"outputs side by side, of shapes {shapes}; use Select(where) to name "
                "all that are meant"
            )
        after = [
            leaf for use in self.uses if use.last and use.added for leaf in use.leaves
        ]
        return tuple(dict.fromkeys((*leaves, *after)))

    def _is_matrix(self, leaf: int) -> bool:
        return any(site.leaf == leaf and site.kind == "dense" for site in self.sites)


def trace(model: PyTree, x: PyTree, recorder: Recorder) -> Array:
    """The outputs (C,) of one example, with each use of a leaf reported."""
    skeleton = parameters(model)
    tagged = [
        Leaf(array, n, tuple(range(array.ndim)), recorder)
        for n, array in enumerate(recorder.arrays)
    ]
    tree = jax.tree.unflatten(jax.tree.structure(skeleton), tagged)
    rest = eqx.filter(model, trainable(model), inverse=True)

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
    ['dense']
    """
    return _find_sites(model, x)


def _program(model: PyTree, x: PyTree) -> Program:
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(parameters(model))):
        raise TypeError("expected real parameters, got complex ones: split them in two")
    try:
        return program(model, x)
    except NameError as error:  # JAX: an axis without a name that is bound
        raise ValueError(
            "expected a network of one example, got one that looks at a whole batch "
            f"({str(error).split('.', 1)[0]}), such as a batch norm in training: call "
            "equinox.nn.inference_mode on it first"
        ) from error


def _operations(model: PyTree, x: PyTree) -> Operations:
    tree, rest = eqx.partition(model, trainable(model))
    return operations(lambda tree, x: forward(eqx.combine(tree, rest), x), tree, x)


def _reversible(model: PyTree, x: PyTree) -> bool:
    tree, rest = eqx.partition(model, trainable(model))

    def pull(tree, x):
        out, back = jax.vjp(lambda tree: forward(eqx.combine(tree, rest), x), tree)
        return back(out)

    try:
        jax.eval_shape(pull, tree, x)
    except ValueError:  # JAX: a loop of unknown length cannot be run backwards
        return False
    return True


def _in_order(site: Site) -> bool:
    """Is it met once, with outputs in the order of the leaf's axes?"""
    return site.positions == 1 and site.permutation == tuple(range(len(site.shape)))


@by_structure
def _find_sites(model: PyTree, x: PyTree) -> Plan:
    leaves = jax.tree.leaves(parameters(model))
    shapes = tuple(leaf.shape for leaf in leaves)
    everything = tuple(range(len(leaves)))
    steps = _program(model, x)
    size, used, work = steps.activations, uses(steps), _operations(model, x)
    if has_while(steps) and not _reversible(model, x):
        return Plan(
            *((), everything, shapes, size, used), reversible=False, operations=work
        )
    generic: frozenset[int] = frozenset()
    while True:
        seen: list[Recorder] = []

        def run(leaves, x, generic=generic, seen=seen):
            seen.append(Recorder(leaves, generic))
            return trace(model, x, seen[-1])

        try:
            jax.eval_shape(run, leaves, x)
        except NotImplementedError:  # quax has no rule for custom_vjp
            return Plan((), everything, shapes, size, used, operations=work)
        (recorder,) = seen
        # a leaf met at a site first and materialized later is generic as a whole
        if recorder.generic == set(generic):
            break
        generic = frozenset(recorder.generic)
    sites = tuple(recorder.sites)
    met = {site.leaf for site in sites}
    unmet = tuple(n for n in everything if n not in met)

    def met_once(leaf: int) -> Site | None:
        """The site of a leaf met at one position, outputs in the order of its axes."""
        met = [site for site in sites if site.leaf == leaf]
        plain = len(met) == 1 and met[0].kind == "dense" and _in_order(met[0])
        return met[0] if plain else None

    ends: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    end = readout(steps)
    last = None if end is None else met_once(end.matrix)
    if end is not None and last is not None:
        ends = (end.matrix, *end.biases)
        layer = hidden(steps, end)
        first = None if layer is None else met_once(layer.matrix)
        # fewer units than inputs of the last layer: some were broadcast
        if layer is not None and first is not None and first.out == last.into:
            before = (layer.matrix, *layer.biases)
    return Plan(*(sites, unmet, shapes, size, used), ends, before, operations=work)

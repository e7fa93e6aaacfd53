"""The structured Jacobian: per-leaf factors of d outputs / d parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ntkuq.linearize.sites import Plan, Recorder, Site, find_sites, trace
from ntkuq.models import cast, forward, parameters
from ntkuq.models.memo import by_structure


class Outer(eqx.Module):
    """J of a matrix: J[n, k, o, i] = sum_t g[n, k, t, o] a[n, t, i].

    T runs over the positions at which the layer is applied (1 for a plain dense layer),
    K over the outputs, or over what they were weighed with. Inside `jax.vmap` there is
    no N.

    Args:
        a: data at the site, (N, T, I).
        g: output gradients there, (N, K, T, O).
        output_first: does the leaf ravel to (out, in), as Equinox's layers do?
        summed: where known, (N, O) with sum_k,o g g' = sum_o e e' for any two examples
            of one network and all of its outputs: in the layer before the last one all
            gradients are one vector, times fixed numbers.
    """

    a: Float[Array, "*N T I"]
    g: Float[Array, "*N K T O"]
    output_first: bool = eqx.field(static=True)
    summed: Float[Array, "*N O"] | None = None

    @property
    def once(self) -> bool:
        """Is the layer applied at one position, T = 1?"""
        return self.a.shape[-2] == 1

    def dense(self) -> Float[Array, "*N K P"]:
        """The Jacobian itself, raveled in the leaf's layout."""
        pattern = (
            "...ti,...kto->...koi" if self.output_first else "...ti,...kto->...kio"
        )
        j = jnp.einsum(pattern, self.a, self.g)
        return j.reshape(*j.shape[:-2], -1)


class Rows(eqx.Module):
    """J of a table whose rows are looked up: J[n, k, v, o] = sum_t [v = ids] g.

    An `Outer` factor in the layout (in, out), with unit vectors for data.

    Args:
        ids: the rows met, (N, T).
        g: output gradients there, (N, K, T, O).
        size: the number of rows V.
    """

    ids: Int[Array, "*N T"]
    g: Float[Array, "*N K T O"]
    size: int = eqx.field(static=True)

    def outer(self) -> Outer:
        """The same with the unit vectors written out."""
        return Outer(
            jax.nn.one_hot(self.ids, self.size, dtype=self.g.dtype), self.g, False
        )

    def merged(self) -> Rows:
        """The same with each row met once: the gradients of equal rows are summed.

        Positions left over have gradients of zero, so that products of two Jacobians
        are sums over positions.
        """
        if self.ids.shape[-1] == 1:
            return self
        ids, g = self._by_example(_merge)
        return Rows(ids, g, self.size)

    def dense(self) -> Float[Array, "*N K P"]:
        """The Jacobian itself, raveled in the leaf's layout."""
        j = self._by_example(lambda ids, g: _add_rows(ids, g, self.size))
        return j.reshape(*j.shape[:-2], -1)

    def _by_example(self, fn: Callable) -> Any:
        for _ in self.ids.shape[:-1]:
            fn = jax.vmap(fn)
        return fn(self.ids, self.g)


def _add_rows(
    ids: Int[Array, " T"], g: Float[Array, "K T O"], size: int
) -> Float[Array, "K V O"]:
    # unit vectors times gradients would take T V numbers
    return jnp.zeros((len(g), size, g.shape[-1]), g.dtype).at[:, ids].add(g)


def _merge(
    ids: Int[Array, " T"], g: Float[Array, "K T O"]
) -> tuple[Int[Array, " T"], Float[Array, "K T O"]]:
    order = jnp.argsort(ids)
    ids, g = ids[order], g[:, order]
    # the number of different rows before each position
    slot = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(ids[1:] != ids[:-1])])
    return jnp.zeros_like(ids).at[slot].set(ids), jnp.zeros_like(g).at[:, slot].add(g)


class Readout(eqx.Module):
    """J of the last layer, outputs = W a + b: J[n, c, o, i] = [c = o] a[n, i].

    Args:
        a: data that the matrix meets, (N, I); ones, (N, 1), for the bias.
        outputs: their number C.
        output_first: does the leaf ravel to (out, in), as Equinox's layers do?
    """

    a: Float[Array, "*N I"]
    outputs: int = eqx.field(static=True)
    output_first: bool = eqx.field(static=True)

    def outer(self) -> Outer:
        """The same with the unit gradients written out."""
        eye = jnp.eye(self.outputs, dtype=self.a.dtype)[:, None, :]
        g = jnp.broadcast_to(eye, (*self.a.shape[:-1], *eye.shape))
        return Outer(self.a[..., None, :], g, self.output_first)

    def dense(self) -> Float[Array, "*N C P"]:
        """The Jacobian itself, raveled in the leaf's layout."""
        return self.outer().dense()


class Dense(eqx.Module):
    """J of any other leaf, raveled: (N, K, P).

    Args:
        j: the Jacobian.
        summed: of a bias, as in `Outer`.
    """

    j: Float[Array, "*N K P"]
    summed: Float[Array, "*N P"] | None = None

    def dense(self) -> Float[Array, "*N K P"]:
        """The Jacobian itself."""
        return self.j


#: What a leaf of `Factors` can be.
Factor = Outer | Rows | Readout | Dense


class Factors(eqx.Module):
    """Outputs and per-leaf Jacobian factors of N examples.

    Args:
        outputs: (N, C).
        leaves: one factor for each leaf of the subset.
        weighed: the number of rows K of an example's Jacobian: C, unless the gradients
            were weighed.
    """

    outputs: Float[Array, "*N C"]
    leaves: tuple[Factor, ...]
    weighed: int = eqx.field(static=True)


class Jacobian(eqx.Module):
    """d outputs / d parameters at the trained parameters, for a subset of the leaves.

    Args:
        model: the network, one example in.
        plan: where its leaves meet data (`find_sites`).
        subset: positions of the leaves that vary, in increasing order.
        shift: raveled leaves; where given, the outputs reported with the factors are
            those of the linearized network, f + J shift.

    Build one with `Jacobian.at(model, example)`.
    """

    model: PyTree
    plan: Plan = eqx.field(static=True)
    subset: tuple[int, ...] = eqx.field(static=True)
    shift: list[Array] | None = None

    @staticmethod
    def at(model: PyTree, example: PyTree, subset: Callable | None = None) -> Jacobian:
        """The Jacobian of `model`; `example` is one input, used for shapes only.

        `subset(model, plan)` gives leaf positions; `None` takes all leaves.
        """
        plan = find_sites(model, example)
        leaves = range(plan.leaves) if subset is None else subset(model, plan)
        return Jacobian(model, plan, tuple(sorted(leaves)))

    @property
    def leaves(self) -> list[Array]:
        """The parameter leaves of the subset."""
        every = jax.tree.leaves(parameters(self.model))
        return [every[n] for n in self.subset]

    @property
    def size(self) -> int:
        """The number of parameters P in the subset."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of parameters of each leaf in the subset."""
        return tuple(math.prod(self.plan.shapes[n]) for n in self.subset)

    @property
    def is_readout(self) -> bool:
        """Are the outputs linear in the subset, its leaves those of a last layer?"""
        return set(self.subset) <= set(self.plan.readout)

    def site(self, leaf: int) -> Site | None:
        """The one site of a leaf with a factor of its own; else `None`."""
        met = [site for site in self.plan.sites if site.leaf == leaf]
        return met[0] if len(met) == 1 else None

    def cast(self, dtype) -> Jacobian:
        """The same Jacobian with all floating-point leaves of the model in `dtype`."""
        return Jacobian(
            cast(self.model, dtype), self.plan, self.subset, cast(self.shift, dtype)
        )

    def unravel(self, vector: Float[Array, " P"]) -> list[Float[Array, "..."]]:
        """A vector of the subset's parameters as a list of leaves."""
        out, start = [], 0
        for n, size in zip(self.subset, self.sizes, strict=True):
            out.append(vector[start : start + size].reshape(self.plan.shapes[n]))
            start += size
        return out

    def replace(self, leaves: list[Array]) -> PyTree:
        """The model with the subset's leaves replaced."""
        every = jax.tree.leaves(parameters(self.model))
        for n, leaf in zip(self.subset, leaves, strict=True):
            every[n] = leaf
        tree = jax.tree.unflatten(jax.tree.structure(parameters(self.model)), every)
        return eqx.combine(tree, self.model)

    def factors(
        self, x: PyTree, seed: Callable | None = None, *extra: PyTree
    ) -> Factors:
        """Outputs and factors of a batch x (N, …): one forward, K backward passes.

        Args:
            x: inputs (N, …).
            seed: weights of the output gradients, (f (C,), *extra of one example) ->
                (C, K): the factors are then those of `seed^T J`. With a square root S
                of the output Hessian, H = S S^T, their Gram matrix is the Gauss-Newton
                matrix. `None`: J itself, K = C.
            extra: (N, …) each, given to `seed`.
        """
        (found,) = self.weighed(x, (seed,), *extra)
        return found

    def weighed(
        self, x: PyTree, seeds: tuple[Callable | None, ...], *extra: PyTree
    ) -> tuple[Factors, ...]:
        """`factors` for each of several weights, from one forward pass."""
        if self.shift is None:
            return jax.vmap(lambda one, *more: self._example(one, seeds, more))(
                x, *extra
            )
        moved = self.linear(x, self.shift)

        # the weights are taken at the outputs of the linearized network
        def at_moved(seed: Callable) -> Callable:
            return lambda _, at, *more: seed(at, *more)

        known = tuple(seed if seed is None else at_moved(seed) for seed in seeds)
        found = jax.vmap(lambda one, *more: self._example(one, known, more))(
            x, moved, *extra
        )
        return tuple(Factors(moved, each.leaves, each.weighed) for each in found)

    def linear(self, x: PyTree, shift: list[Array]) -> Float[Array, "N C"]:
        """f(x) + J(x) shift at x (N, …), by one forward-mode pass.

        shift: raveled leaves of the subset.
        """
        value, tangent = self.push(x, shift)
        return value + tangent

    def output(self, x: PyTree) -> jax.ShapeDtypeStruct:
        """Shape (C,) and type of the outputs of one of the examples x (N, …).

        The network is traced once for each shape, and not run.
        """
        example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
        return _output(self.model, example)

    def push(self, x: PyTree, tangent: list[Array]) -> tuple[Array, Array]:
        """f(x) and J(x) tangent, (N, C) each, by one forward-mode pass.

        tangent: raveled leaves of the subset.
        """
        shaped = [s.reshape(a.shape) for s, a in zip(tangent, self.leaves, strict=True)]

        def outputs(leaves: list[Array]) -> Array:
            model = self.replace(leaves)
            return jax.vmap(lambda a: forward(model, a))(x)

        return jax.jvp(outputs, (self.leaves,), (shaped,))

    def _forward(
        self, x: PyTree, seeds: tuple[Callable | None, ...], extra: tuple
    ) -> tuple[Factors, ...]:
        """One example's factors by forward mode, one pass for each parameter."""

        def outputs(leaves: list[Array]) -> Array:
            return forward(self.replace(leaves), x)

        out = outputs(self.leaves)
        size = out.shape[0]
        rows = [
            j.reshape(size, -1).astype(out.dtype)
            for j in jax.jacfwd(outputs)(self.leaves)
        ]

        def factors(seed: Callable | None) -> Factors:
            if seed is None:
                return Factors(out, tuple(map(Dense, rows)), size)
            weights = seed(out, *extra).T.astype(out.dtype)
            leaves = tuple(Dense(weights @ j) for j in rows)
            return Factors(out, leaves, weights.shape[0])

        return tuple(map(factors, seeds))

    def _example(
        self, x: PyTree, seeds: tuple[Callable | None, ...], extra: tuple
    ) -> tuple[Factors, ...]:
        if not self.plan.reversible:
            return self._forward(x, seeds, extra)
        every = jax.tree.leaves(parameters(self.model))
        chosen, ends = set(self.subset), set(self.plan.readout)
        sites = [site for site in self.plan.sites if site.leaf in chosen]
        generic = [n for n in self.plan.generic if n in chosen - ends]
        # leaves outside the subset are recorded nowhere and differentiated nowhere
        skip = frozenset(self.plan.generic) | (set(range(len(every))) - chosen)
        inner = [n for n, site in enumerate(sites) if site.leaf not in ends]
        last = [n for n, site in enumerate(sites) if site.leaf in ends]

        def run(deltas, varied):
            leaves = list(every)
            for n, leaf in zip(generic, varied, strict=True):
                leaves[n] = leaf
            if not self.plan.sites:  # it may not be traced: an ordinary forward pass
                out = forward(self.replace([leaves[n] for n in self.subset]), x)
                return (out, []), []
            given: list[Array | None] = [None] * len(sites)
            for n, delta in zip(inner, deltas, strict=True):
                given[n] = delta
            recorder = Recorder(leaves, skip, given)
            out = trace(self.model, x, recorder)
            return (out, [recorder.inputs[n] for n in last]), recorder.inputs

        dtype = jnp.result_type(*(leaf.dtype for leaf in every))
        deltas = [jnp.zeros(sites[n].shape, dtype) for n in inner]
        (out, met), back, data = jax.vjp(
            run, deltas, [every[n] for n in generic], has_aux=True
        )

        def pull(row):
            return back((row, [jnp.zeros_like(a) for a in met]))

        summed = None
        before = [n for n in inner if sites[n].leaf in self.plan.hidden]
        if None in seeds and before and last and out.size > 1:
            # what becomes of each unit, differentiated, is the same for all outputs
            end = sites[last[0]]
            norms = _norms(end, every[end.leaf])
            seed = [norms.reshape(a.shape).astype(a.dtype) for a in met]
            slopes, _ = back((jnp.zeros_like(out), seed))
            summed = slopes[inner.index(before[0])].reshape(-1)

        def factors(seed: Callable | None) -> Factors:
            eye = jnp.eye(out.shape[0], dtype=out.dtype)
            rows = eye if seed is None else seed(out, *extra).T.astype(out.dtype)
            at_inner, at_leaves = jax.vmap(pull)(rows)
            gradients = dict(zip(inner, at_inner, strict=True))
            found: dict[int, list[Factor]] = {n: [] for n in self.subset}
            for number, (site, a) in enumerate(zip(sites, data, strict=True)):
                one = summed if seed is None and site.leaf in self.plan.hidden else None
                if number in gradients:
                    factor = _factor(site, a, gradients[number], one)
                elif seed is None:
                    a = a[0].astype(out.dtype)
                    factor = Readout(a, out.shape[0], site.output_first)
                else:
                    a = a.astype(out.dtype)
                    factor = Outer(a, rows[:, None], site.output_first)
                found[site.leaf].append(factor)
            for n, j in zip(generic, at_leaves, strict=True):
                one = summed if seed is None and n in self.plan.hidden else None
                found[n].append(Dense(j.reshape(j.shape[0], -1), one))
            for n in self.plan.readout[1:]:
                if n in chosen:
                    one = Readout(jnp.ones(1, out.dtype), out.shape[0], True)
                    found[n].append(one if seed is None else Dense(rows))
            leaves = tuple(_sum(found[n]) for n in self.subset)
            return Factors(out, leaves, rows.shape[0])

        return tuple(factors(seed) for seed in seeds)


def _norms(end: Site, matrix: Array) -> Float[Array, " I"]:
    """How much of each input of a last layer all outputs take together."""
    sides = (end.out, end.into) if end.output_first else (end.into, end.out)
    squares = jnp.sum(matrix.reshape(sides) ** 2, axis=0 if end.output_first else 1)
    # a root with a derivative where an input is not used
    used = squares > 0
    return jnp.where(used, jnp.sqrt(jnp.where(used, squares, 1.0)), 0.0)


def _factor(
    site: Site, a: Array, g: Float[Array, "K ..."], summed: Array | None
) -> Factor:
    """One site's factor for one example (no leading N)."""
    g = jnp.transpose(g, (0, *(1 + p for p in site.permutation)))
    g = g.reshape(g.shape[0], site.positions, site.out)
    if site.kind == "rows":
        # an index out of range has no gradient
        inside = (a >= 0) & (a < site.into)
        g = g * inside[:, None].astype(g.dtype)
        return Rows(jnp.clip(a, 0, site.into - 1), g, site.into)
    return Outer(a.astype(g.dtype), g, site.output_first, summed)


def _sum(parts: list[Factor]) -> Factor:
    """A leaf met at several sites (tied weights): the Jacobians add."""
    if len(parts) == 1:
        return parts[0]
    outer = [part for part in parts if isinstance(part, Outer)]
    kinds = {(part.output_first, part.a.shape[-1]) for part in outer}
    if len(outer) == len(parts) and len(kinds) == 1:
        # the same matrix met at further positions
        a = jnp.concatenate([part.a for part in outer], axis=-2)
        g = jnp.concatenate([part.g for part in outer], axis=-2)
        return Outer(a, g, outer[0].output_first)
    return Dense(functools.reduce(jnp.add, [part.dense() for part in parts]))


@by_structure
def _output(model: PyTree, example: PyTree) -> jax.ShapeDtypeStruct:
    return eqx.filter_eval_shape(forward, model, example)

"""The structured Jacobian: per-leaf factors of d outputs / d parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ntkuq.linearize.sites import Plan, Recorder, Site, find_sites, trace
from ntkuq.models import cast, forward, parameters


class Outer(eqx.Module):
    """J of a matrix: J[n, c, o, i] = sum_t g[n, c, t, o] a[n, t, i].

    T runs over the positions at which the layer is applied (1 for a plain dense layer).
    Inside `jax.vmap` there is no N.

    Args:
        a: data at the site, (N, T, I).
        g: output gradients there, (N, C, T, O).
        output_first: is the leaf (out, in), Equinox's layout?
    """

    a: Float[Array, "*N T I"]
    g: Float[Array, "*N C T O"]
    output_first: bool = eqx.field(static=True)

    @property
    def once(self) -> bool:
        """Is the layer applied at one position, T = 1?"""
        return self.a.shape[-2] == 1

    def dense(self) -> Float[Array, "N C P"]:
        """The Jacobian itself, raveled in the leaf's layout."""
        pattern = "nti,ncto->ncoi" if self.output_first else "nti,ncto->ncio"
        j = jnp.einsum(pattern, self.a, self.g)
        return j.reshape(*j.shape[:2], -1)


class Dense(eqx.Module):
    """J of any other leaf, raveled: (N, C, P)."""

    j: Float[Array, "*N C P"]

    def dense(self) -> Float[Array, "N C P"]:
        """The Jacobian itself."""
        return self.j


class Factors(eqx.Module):
    """Outputs and per-leaf Jacobian factors of N examples.

    Args:
        outputs: (N, C).
        leaves: one `Outer` or `Dense` for each leaf of the subset.
    """

    outputs: Float[Array, "*N C"]
    leaves: tuple[Outer | Dense, ...]


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
        return sum(math.prod(self.plan.shapes[n]) for n in self.subset)

    def site(self, leaf: int) -> Site | None:
        """The one matrix product of a leaf with an `Outer` factor; else `None`."""
        met = [site for site in self.plan.sites if site.leaf == leaf]
        return met[0] if len(met) == 1 and met[0].kind == "dense" else None

    def cast(self, dtype) -> Jacobian:
        """The same Jacobian with all floating-point leaves of the model in `dtype`."""
        return Jacobian(
            cast(self.model, dtype), self.plan, self.subset, cast(self.shift, dtype)
        )

    def unravel(self, vector: Float[Array, " P"]) -> list[Float[Array, "..."]]:
        """A vector of the subset's parameters as a list of leaves."""
        out, start = [], 0
        for n in self.subset:
            shape = self.plan.shapes[n]
            out.append(vector[start : start + math.prod(shape)].reshape(shape))
            start += math.prod(shape)
        return out

    def replace(self, leaves: list[Array]) -> PyTree:
        """The model with the subset's leaves replaced."""
        every = jax.tree.leaves(parameters(self.model))
        for n, leaf in zip(self.subset, leaves, strict=True):
            every[n] = leaf
        tree = jax.tree.unflatten(jax.tree.structure(parameters(self.model)), every)
        return eqx.combine(tree, self.model)

    def factors(self, x: PyTree) -> Factors:
        """Outputs and factors of a batch x (N, …): one forward, C backward passes."""
        factors = jax.vmap(self._example)(x)
        if self.shift is None:
            return factors
        return Factors(self.linear(x, self.shift), factors.leaves)

    def linear(self, x: PyTree, shift: list[Array]) -> Float[Array, "N C"]:
        """f(x) + J(x) shift at x (N, …), by one forward-mode pass.

        shift: raveled leaves of the subset.
        """
        shaped = [s.reshape(a.shape) for s, a in zip(shift, self.leaves, strict=True)]

        def outputs(leaves: list[Array]) -> Array:
            model = self.replace(leaves)
            return jax.vmap(lambda a: forward(model, a))(x)

        value, tangent = jax.jvp(outputs, (self.leaves,), (shaped,))
        return value + tangent

    def _example(self, x: PyTree) -> Factors:
        every = jax.tree.leaves(parameters(self.model))
        chosen = set(self.subset)
        sites = [site for site in self.plan.sites if site.leaf in chosen]
        generic = [n for n in self.plan.generic if n in chosen]
        # leaves outside the subset are recorded nowhere and differentiated nowhere
        skip = frozenset(self.plan.generic) | (set(range(len(every))) - chosen)
        dtype = every[0].dtype

        def run(deltas, varied):
            leaves = list(every)
            for n, leaf in zip(generic, varied, strict=True):
                leaves[n] = leaf
            if not sites:  # nothing to record: an ordinary forward pass
                return forward(self.replace([leaves[n] for n in self.subset]), x), []
            recorder = Recorder(leaves, skip, deltas)
            return trace(self.model, x, recorder), recorder.inputs

        deltas = [jnp.zeros(site.shape, dtype) for site in sites]
        out, pull, data = jax.vjp(
            run, deltas, [every[n] for n in generic], has_aux=True
        )
        basis = jnp.eye(out.shape[0], dtype=out.dtype)
        at_sites, at_leaves = jax.vmap(pull)(basis)
        found: dict[int, list[Outer | Dense]] = {n: [] for n in self.subset}
        for site, a, g in zip(sites, data, at_sites, strict=True):
            found[site.leaf].append(_factor(site, a, g))
        for n, j in zip(generic, at_leaves, strict=True):
            found[n].append(Dense(j.reshape(j.shape[0], -1)))
        return Factors(out, tuple(_sum(found[n]) for n in self.subset))


def _factor(site: Site, a: Array | None, g: Float[Array, "C ..."]) -> Outer | Dense:
    """One site's factor for one example (no leading N)."""
    if a is None:
        return Dense(g.reshape(g.shape[0], -1))
    g = jnp.transpose(g, (0, *(1 + p for p in site.permutation)))
    return Outer(
        a.reshape(-1, a.shape[-1]).astype(g.dtype),
        g.reshape(g.shape[0], -1, g.shape[-1]),
        site.output_first,
    )


def _sum(parts: list[Outer | Dense]) -> Outer | Dense:
    """A leaf met at several sites (tied weights): the Jacobians add."""
    if len(parts) == 1:
        return parts[0]
    dense = [_one_dense(part) for part in parts]
    return Dense(functools.reduce(jnp.add, dense))


def _one_dense(part: Outer | Dense) -> Float[Array, "C P"]:
    if isinstance(part, Dense):
        return part.j
    pattern = "ti,cto->coi" if part.output_first else "ti,cto->cio"
    j = jnp.einsum(pattern, part.a, part.g)
    return j.reshape(j.shape[0], -1)

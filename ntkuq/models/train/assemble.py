"""From jobs to what the programs take: numbers as arrays, one static part, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ntkuq.models.network import parameters, trainable
from ntkuq.models.text import identity
from ntkuq.models.train.jobs import Job
from ntkuq.models.train.lazy import made
from ntkuq.models.train.problem import (
    Carry,
    Examples,
    Problem,
    as_arrays,
    as_center,
    problem_dtype,
    reach,
)
from ntkuq.models.train.programs import State, Work
from ntkuq.models.train.rows import Rows
from ntkuq.models.train.stop import Best, EarlyStopping


class Recipe(NamedTuple):
    """The settings of `Train` that become part of a problem."""

    rate: float | None
    optimizer: object
    clip: float | None
    adversarial: float | None
    stop: EarlyStopping | None
    products: bool = False


class Ready(NamedTuple):
    """A job as the programs take it."""

    work: Work
    static: PyTree
    state: State
    counts: np.ndarray


def ready(
    job: Job,
    recipe: Recipe,
    *,
    steps: int,
    size: int,
    weighted: bool,
    held: Examples | None,
) -> Ready:
    """The job with all numbers as arrays, padded to `size` examples.

    Args:
        job: one training.
        recipe: how.
        steps: updates, over which the learning rate decays.
        size: rows of the padded arrays.
        weighted: whether the loss weighs examples, in all jobs that share a program.
        held: validation examples, for early stopping without a held-out part.
    """
    dtype = problem_dtype(job.model)
    rows = jax.tree.leaves(job.x)[0].shape[0]
    counts = np.ones(rows, int) if job.counts is None else np.asarray(job.counts)
    if counts.shape != (rows,) or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise ValueError(
            f"Job.counts: expected {rows} whole numbers >= 0, got shape {counts.shape} "
            f"of {counts.dtype}"
        )
    x, y = job.x, job.y
    if rows < size:
        pad = size - rows
        counts = np.concatenate([counts, np.zeros(pad, int)])
        x, y = (
            jax.tree.map(lambda a: jnp.concatenate([a, a[:1].repeat(pad, 0)]), tree)
            for tree in (x, y)
        )
    if recipe.stop is not None and held is None:
        apart = recipe.stop.hold_out(counts, key=jax.random.fold_in(job.key, 1))
        held = _apart(x, y, apart, recipe.stop.most(size), dtype)
        counts = np.where(apart > 0, 0, counts)
    examples = Examples(x, y, jnp.asarray(counts, dtype) if weighted else None)
    likelihood = as_arrays(job.bnn.likelihood, dtype)
    problem = Problem(
        likelihood=likelihood,
        prior=as_arrays(job.bnn.prior, dtype),
        size=jnp.asarray(counts.sum(), dtype),
        center=None if job.center is None else as_center(job.center, job.model),
        rate=None if recipe.rate is None else jnp.asarray(recipe.rate, dtype),
        steps=jnp.asarray(steps, dtype),
        clip=None if recipe.clip is None else jnp.asarray(recipe.clip, dtype),
        reach=None if recipe.adversarial is None else reach(job.x, recipe.adversarial),
        optimizer=recipe.optimizer,  # pyright: ignore[reportArgumentType]
        penalty=job.penalty,
        wrapper=job.wrapper,
        call=job.call,
        products=recipe.products,
    )
    params = parameters(job.model)
    _, static = eqx.partition(job.model, trainable(job.model))
    begin = problem.transformation().init(params)

    def after(state: PyTree) -> PyTree:
        carry = Carry(params, state)
        return problem.update(carry, static, examples, job.key)[0].optimizer

    start = Carry(params, made(begin, after))
    state = State(
        start,
        jnp.zeros((), jnp.int32),
        jnp.zeros((), dtype),
        jnp.full((), -1, jnp.int32),
        None if recipe.stop is None else Best.of(params, dtype),
    )
    patience = 0 if recipe.stop is None else recipe.stop.patience
    patience = jnp.asarray(patience, jnp.int32)
    return Ready(
        Work(problem, examples, held, patience, job.key), static, state, counts
    )


def _apart(
    x: PyTree, y: PyTree, counts: np.ndarray, most: int, dtype: np.dtype
) -> Examples:
    """The examples that count, filled up to `most` rows that may count nothing."""
    chosen = np.flatnonzero(counts)
    rows = np.concatenate([chosen, np.full(most - len(chosen), chosen[0])])
    weight = np.concatenate([counts[chosen], np.zeros(most - len(chosen))])
    x, y = jax.tree.map(lambda a: a[rows], (x, y))
    return Examples(x, y, jnp.asarray(weight, dtype))


def one_static(statics: Sequence[PyTree]) -> list[PyTree]:
    """The same objects where the parts say the same: else each would compile anew.

    A builder may make its functions at each call; they are compared by their code.
    """
    found = [statics[0]]
    rest = eqx.filter(statics[0], eqx.is_array, inverse=True)
    text = identity(jax.tree.leaves(rest))
    for static in statics[1:]:
        arrays, other = eqx.partition(static, eqx.is_array)
        alike = jax.tree.structure(other) == jax.tree.structure(rest)
        if alike and identity(jax.tree.leaves(other)) == text:
            other = rest
        found.append(eqx.combine(arrays, other))
    return found


def rows_of(job: Job, counts: np.ndarray, batch: int) -> Rows:
    """Which rows each update of a job sees."""
    return Rows(jax.random.fold_in(job.key, 0), counts, batch)


def divide(trees: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """Trees of one structure as one: what differs stacked, what all share once."""
    leaves = [jax.tree.leaves(tree) for tree in trees]
    structure = jax.tree.structure(trees[0])
    mapped, shared = [], []
    for each in zip(*leaves, strict=True):
        same = all(leaf is each[0] for leaf in each[1:])
        same = same or not eqx.is_array(each[0])
        mapped.append(None if same else jnp.stack(each))
        shared.append(each[0] if same else None)
    return jax.tree.unflatten(structure, mapped), jax.tree.unflatten(structure, shared)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Trees of arrays as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def row(tree: PyTree, number: int) -> PyTree:
    """One entry of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[number], tree)


def fitting(job: Job, batch: int, memory: float, *, count: int) -> int:
    """How many networks fit into `memory` bytes at a time."""
    itemsize = problem_dtype(job.model).itemsize
    numbers = sum(leaf.size for leaf in jax.tree.leaves(parameters(job.model)))
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), job.x)

    def call(model: PyTree, x: PyTree, key: Array) -> Array:
        return job.call(model, x, key)

    program, *_ = eqx.filter_make_jaxpr(call)(job.model, example, job.key)
    values = sum(
        math.prod(getattr(variable.aval, "shape", ()))
        for equation in program.eqns
        for variable in equation.outvars
    )
    # parameters, gradient, two moments, the best so far; activations and their slopes
    one = itemsize * (6.0 * numbers + 2.0 * batch * values)
    return int(np.clip(memory // one, 1, count))

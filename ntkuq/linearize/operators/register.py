"""What lineax may know and do about the operators of this room.

Its questions are functions that dispatch on the type of an operator.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ntkuq.linearize.operators.base import AbstractPSD, Diagonal
from ntkuq.linearize.operators.ggn import GGNOperator, KeptGGN
from ntkuq.linearize.operators.hessian import HessianOperator, kept_hessian
from ntkuq.linearize.operators.jacobian import (
    JacobianOperator,
    TransposedJacobian,
    kept,
    ravel,
    unravel,
)
from ntkuq.linearize.operators.ntk import (
    NTKOperator,
    TraceNTKOperator,
    trace_product,
)


_RECTANGULAR = (JacobianOperator, TransposedJacobian)
_POSITIVE = (AbstractPSD, GGNOperator, KeptGGN, NTKOperator, TraceNTKOperator)
_SYMMETRIC = (*_POSITIVE, HessianOperator)
_DIAGONAL = (lx.is_diagonal, lx.is_tridiagonal)
_TRIANGULAR = (lx.is_lower_triangular, lx.is_upper_triangular)


def _always(answer: bool) -> Callable:
    return lambda _: answer


def _same(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return operator


def _materialise(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    if len(operator.in_structure().shape) == len(operator.out_structure().shape) == 1:
        tags = [
            tag
            for check, tag in (
                (lx.is_symmetric, lx.symmetric_tag),
                (lx.is_positive_semidefinite, lx.positive_semidefinite_tag),
                (lx.is_diagonal, lx.diagonal_tag),
            )
            if check(operator)
        ]
        return lx.MatrixLinearOperator(operator.as_matrix(), tags)
    # a matrix from and to arrays that are no vectors
    out, into = operator.out_structure(), operator.in_structure()
    matrix = operator.as_matrix().reshape(*out.shape, *into.shape)
    positive = lx.is_positive_semidefinite(operator)
    return lx.PyTreeLinearOperator(
        matrix, out, lx.positive_semidefinite_tag if positive else ()
    )


def _tridiagonal(operator: lx.AbstractLinearOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    below, above = jnp.diagonal(matrix, offset=-1), jnp.diagonal(matrix, offset=1)
    return jnp.diagonal(matrix), below, above


for kind in (*_SYMMETRIC, *_RECTANGULAR):
    lx.materialise.register(kind)(_materialise)
    lx.conj.register(kind)(_same)
    lx.tridiagonal.register(kind)(_tridiagonal)
    lx.diagonal.register(kind)(lambda operator: jnp.diagonal(operator.as_matrix()))
    lx.is_symmetric.register(kind)(_always(kind in _SYMMETRIC))
    lx.is_positive_semidefinite.register(kind)(_always(kind in _POSITIVE))
    for check in (
        *_DIAGONAL,
        *_TRIANGULAR,
        lx.has_unit_diagonal,
        lx.is_negative_semidefinite,
    ):
        check.register(kind)(_always(False))

for check in (*_DIAGONAL, *_TRIANGULAR):
    check.register(Diagonal)(_always(True))

lx.linearise.register(AbstractPSD)(_same)
lx.diagonal.register(Diagonal)(lambda operator: operator.values.reshape(-1))
lx.linearise.register(KeptGGN)(_same)
for kind in (GGNOperator, NTKOperator, TraceNTKOperator):
    lx.diagonal.register(kind)(lambda operator: operator.diagonal())


@lx.linearise.register(JacobianOperator)
def _(operator):
    if not operator.whole:
        return operator
    local = kept(operator)
    return lx.FunctionLinearOperator(local.push, operator.in_structure())


@lx.linearise.register(TransposedJacobian)
def _(operator):
    return lx.linearise(operator.operator).T


@lx.linearise.register(GGNOperator)
def _(operator):
    return KeptGGN(kept(operator.root)) if operator.root.whole else operator


@lx.linearise.register(NTKOperator)
def _(operator):
    if not operator.jacobian.whole:
        return operator
    local = kept(operator.jacobian)
    return lx.FunctionLinearOperator(
        lambda u: local.push(operator.covariance.mv(local.pull(u))),
        operator.in_structure(),
        lx.positive_semidefinite_tag,
    )


@lx.linearise.register(TraceNTKOperator)
def _(operator):
    if not operator.jacobian.whole:
        return operator
    local = kept(operator.jacobian)
    return lx.FunctionLinearOperator(
        lambda u: trace_product(local.push, local.pull, operator, u),
        operator.in_structure(),
        lx.positive_semidefinite_tag,
    )


@lx.linearise.register(HessianOperator)
def _(operator):
    if not operator.whole:
        return operator
    tangent = kept_hessian(operator)

    def product(v: Array) -> Array:
        out = ravel(tangent(unravel(v, operator.jacobian.leaves)))
        return out if operator.precision is None else out + operator.precision.mv(v)

    return lx.FunctionLinearOperator(product, operator.in_structure(), lx.symmetric_tag)

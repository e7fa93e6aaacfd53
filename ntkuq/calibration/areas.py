"""Areas under risk-coverage curves and how one point changes them."""

from typing import NamedTuple

import numpy as np


class Ordered(NamedTuple):
    """Losses in the order of an uncertainty, smallest first.

    Args:
        order: the row of each place, (n,).
        losses: the loss at each place, (n,).
        start: the first place of the block of ties that a place belongs to, (n,).
        expected: the mean loss of that block: the expected loss at the place over all
            orders of its ties, (n,).
    """

    order: np.ndarray
    losses: np.ndarray
    start: np.ndarray
    expected: np.ndarray


def ordered(values: np.ndarray, losses: np.ndarray) -> Ordered:
    """Sort losses by values, both (n,), and find the ties."""
    order = np.argsort(values, kind="stable")
    sorted_values, sorted_losses = values[order], losses[order]
    new = np.r_[True, sorted_values[1:] != sorted_values[:-1]]
    first = np.flatnonzero(new)
    block = np.cumsum(new) - 1
    size = np.diff(np.r_[first, values.size])
    mean = np.add.reduceat(sorted_losses, first) / size
    return Ordered(order, sorted_losses, first[block], mean[block])


def area_under_risk(kept: Ordered) -> tuple[float, float]:
    r"""AURC and AUGRC, each the mean over the orders of the ties.

    With $C_i$ the expected sum of the first i losses: $\frac1n \sum_i C_i / i$, and by
    the trapezoidal rule $\frac{1}{n^2} (\sum_i C_i - C_n / 2)$.
    """
    n = kept.losses.size
    total = np.cumsum(kept.expected)
    aurc = float(np.mean(total / np.arange(1, n + 1)))
    return aurc, float((total.sum() - total[-1] / 2) / n**2)


def influence_of_risk(kept: Ordered) -> np.ndarray:
    r"""The derivative of AURC in the weight of each point, by row, (n,); mean 0.

    In the limit of many points $T = \int_0^1 M(g) / g \, \mathrm dg$ with $M(g)$ the
    loss mass below coverage g. Over blocks b of ties with mass $W_b$, loss mass
    $L_b$, and G, M the masses up to the end of a block, $T = \sum_b L_b + \sum_b A_b
    \lambda_b$, $A_b = M_{b-1} - G_{b-1} L_b / W_b$, $\lambda_b = \log(G_b / G_{b-1})$
    (0 for the first). A point adds its weight to $W_b$ and its loss to $L_b$; since T
    grows in proportion to all weights, the derivative is that less T.
    """
    n, block, weight, loss = _blocks(kept)
    g1, m1 = np.cumsum(weight), np.cumsum(loss)
    g0, m0 = np.r_[0.0, g1[:-1]], np.r_[0.0, m1[:-1]]
    rate = loss / weight
    log = np.r_[0.0, np.log(g1[1:] / g0[1:])]
    a = m0 - g0 * rate
    # What a change of G before block b does to its term.
    shift = -rate * log + np.r_[0.0, a[1:] * (1 / g1[1:] - 1 / g0[1:])]
    area = float(loss.sum() + a @ log)
    by_loss = 1 + _after(log) - g0 / weight * log
    by_weight = rate * g0 / weight * log + a / g1 + _after(shift)
    change = kept.losses * by_loss[block] + by_weight[block] - area
    out = np.empty(n)
    out[kept.order] = change
    return out


def influence_of_generalized(kept: Ordered) -> np.ndarray:
    r"""The derivative of AUGRC in the weight of each point, by row, (n,); mean 0.

    $T = \sum_b W_b (M_{b-1} + L_b / 2)$ in the terms of `influence_of_risk`; it grows
    with the square of all weights, so 2 T is taken off.
    """
    n, block, weight, loss = _blocks(kept)
    m0 = np.r_[0.0, np.cumsum(loss)[:-1]]
    area = float(weight @ (m0 + loss / 2))
    by_loss = weight / 2 + _after(weight)
    by_weight = m0 + loss / 2
    change = kept.losses * by_loss[block] + by_weight[block] - 2 * area
    out = np.empty(n)
    out[kept.order] = change
    return out


def _blocks(kept: Ordered) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """n, the block of each place, and the mass and loss mass of each block."""
    n = kept.losses.size
    block = np.cumsum(kept.start == np.arange(n)) - 1
    return (
        n,
        block,
        np.bincount(block) / n,
        np.bincount(block, kept.losses) / n,
    )


def _after(values: np.ndarray) -> np.ndarray:
    """The sum of all later entries."""
    return values.sum() - np.cumsum(values)

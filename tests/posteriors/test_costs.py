"""What the structures of a Laplace posterior say they cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Dataset
from ntkuq.linearize import Reduce
from ntkuq.models import BNN, Gaussian
from ntkuq.posteriors import EKFAC, KFAC, Diagonal, Full, Laplace, LowRank


KEY = jax.random.key(0)


class Table(eqx.Module):
    table: eqx.nn.Embedding
    outer: eqx.nn.Linear

    def __call__(self, x):
        return self.outer(jax.vmap(self.table)(x).mean(0))


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    outer: eqx.nn.Linear

    def __call__(self, x):
        return self.outer(jnp.tanh(self.conv(x)).mean((1, 2)))


def table(size):
    return Table(eqx.nn.Embedding(size, 4, key=KEY), eqx.nn.Linear(4, 1, key=KEY))


def cost(structure, model, x):
    data = Dataset(x, np.zeros(len(x)))
    return Laplace(structure).cost(BNN(model, Gaussian()), data)


def test_a_diagonal_input_factor_is_not_decomposed():
    x = np.zeros((3, 2), int)
    small, large = (cost(KFAC(), table(size), x).flops for size in (10, 5000))
    assert small == large
    # with means of unit vectors there is a matrix of all rows
    assert cost(KFAC(Reduce()), table(5000), x).flops > 5000**3


def test_a_kernel_is_one_matrix():
    model = Net(eqx.nn.Conv2d(50, 4, 3, key=KEY), eqx.nn.Linear(4, 1, key=KEY))
    x = np.zeros((1, 50, 4, 4), np.float32)
    extra = cost(KFAC(), model, x).flops - cost(Diagonal(), model, x).flops
    # 50 channels of 3 x 3 pixels; biases and the last layer are small
    assert extra == pytest.approx(5 * 450**3, rel=0.01)


def test_low_rank_makes_no_more_products_than_there_are_directions():
    model, x = eqx.nn.MLP(2, 1, 3, 1, key=KEY), np.zeros((6, 2), np.float32)
    few, many = (cost(LowRank(rank), model, x).flops for rank in (6, 600))
    assert few == many


@pytest.mark.parametrize(
    ("structure", "programs"),
    [(Full(), 5), (KFAC(), 3), (EKFAC(), 3), (Diagonal(), 3), (LowRank(5), 4)],
)
def test_a_larger_network_takes_longer_to_compile(structure, programs):
    x = np.zeros((3, 2), np.float32)
    small, deep = (
        cost(structure, eqx.nn.MLP(2, 1, 3, depth, key=KEY), x).compiles
        for depth in (2, 40)
    )
    assert small == programs
    assert programs + 2 < deep < 4 * programs + 4

"""Monte-Carlo kernels: dense formulas, and the width at which theory takes over."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkuq as nq
from ntkuq.kernels import Analytic, MonteCarlo
from ntkuq.models import parameters


RNG = np.random.default_rng(0)
WEIGHT, BIAS = 1.3, 0.2


def builder(width, outputs=1):
    """A network whose weights are drawn from `FanInPrior(WEIGHT, BIAS)`."""

    def build(key):
        net = eqx.nn.MLP(3, outputs, width, 1, jax.nn.relu, key=key)
        leaves, tree = jax.tree.flatten(parameters(net))
        drawn = [
            jax.random.normal(k, leaf.shape, leaf.dtype)
            * (WEIGHT / np.sqrt(leaf.shape[1]) if leaf.ndim == 2 else BIAS)
            for k, leaf in zip(jax.random.split(key, len(leaves)), leaves)
        ]
        return eqx.combine(jax.tree.unflatten(tree, drawn), net)

    return build


def problem(width, outputs=1):
    prior = nq.FanInPrior(WEIGHT, BIAS)
    return nq.BNN(nq.Network(builder(width, outputs)), nq.Gaussian(), prior)


@eqx.filter_jit
def matrix(covariance, params, x, new):
    return covariance.gram(params, x, new)


def gram(covariance, x, new=None):
    return matrix(covariance, {"output std": jnp.zeros(())}, x, new)


def test_equals_dense_formulas():
    """Means over draws and outputs of f f^T and of J S J^T, J by reverse mode."""
    bnn, kernel = problem(4, outputs=2), MonteCarlo(draws=3, seed=5)
    with jax.enable_x64(True):
        x, new = (jnp.asarray(RNG.standard_normal((n, 3))) for n in (6, 4))
        k = np.zeros((6, 4))
        ntk = np.zeros((6, 4))
        for key in jax.random.split(jax.random.key(5), 3):
            model = builder(4, 2)(key)
            weights, rest = eqx.partition(model, eqx.is_inexact_array)
            precisions = jax.tree.leaves(bnn.prior.precisions(weights))

            def outputs(weights, x, rest=rest):
                return jax.vmap(eqx.combine(weights, rest))(x)

            k += np.einsum("nc,mc->nm", outputs(weights, x), outputs(weights, new))
            one, two = (jax.jit(jax.jacrev(outputs))(weights, z) for z in (x, new))
            for a, b, precision in zip(
                jax.tree.leaves(one), jax.tree.leaves(two), precisions
            ):
                flat = (np.reshape(z, (*z.shape[:2], -1)) for z in (a, b))
                ntk += np.einsum("ncp,mcp->nm", *flat) / float(precision)
        for covariance, expected in (
            (kernel.nngp(bnn, x, 1.0), k / 6),
            (kernel.ntk(bnn, x, 1.0), ntk / 6),
        ):
            np.testing.assert_allclose(gram(covariance, x, new), expected, rtol=1e-12)
            whole = np.asarray(gram(covariance, x))
            np.testing.assert_array_equal(whole, whole.T)
            # the start: a mean variance of scale^2 = 1, and `at` agrees with `gram`
            start = {n: p.initial for n, p in covariance.parameters.items()}
            start = jax.tree.map(jnp.asarray, start)
            assert np.trace(covariance.at(x)(start)) == pytest.approx(6.0)


def test_goes_to_the_analytic_kernel_at_the_known_rate():
    """The root mean square error of one draw falls with the square root of the width.

    40 draws a width: each log10 error has a standard error of 0.434 / sqrt(2 * 40),
    about 0.05 (more or less degrees of freedom in 10 entries), and the slope over a
    factor of 16, 1.2 decades, one of 0.06: 0.2 is more than three of them.
    """
    widths = (16, 64, 256)
    errors = {"nngp": [], "ntk": []}
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.standard_normal((4, 3)))
        params = {
            "weight std": jnp.log(jnp.asarray(WEIGHT)),
            "bias std": jnp.log(jnp.asarray(BIAS)),
            "input scale": jnp.zeros(()),
        }
        for width in widths:
            bnn = problem(width)
            for name, found in errors.items():
                limit = getattr(Analytic(ard=False), name)(bnn, x, 1.0)
                limit = np.asarray(matrix(limit, params, x, None))
                one = getattr(MonteCarlo(draws=1), name)(bnn, x, 1.0)
                squares = []
                for seed in range(40):
                    keys = np.asarray(jax.random.key_data(jax.random.key(seed))[None])
                    drawn = eqx.tree_at(lambda c: c.keys, one, keys)
                    squares.append(np.mean((np.asarray(gram(drawn, x)) - limit) ** 2))
                found.append(np.sqrt(np.mean(squares)) / np.sqrt(np.mean(limit**2)))
    slope = np.polyfit(np.log(widths), np.log(errors["ntk"]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.2)
    assert errors["ntk"][-1] < 0.15
    # f f^T of one network has an error of order 1 at any width: it needs draws
    assert min(errors["nngp"]) > 0.5


def test_fits_and_comes_back_from_a_file(tmp_path):
    x = RNG.standard_normal((12, 3)).astype(np.float32)
    data = nq.Dataset(x, x[:, 0] ** 2)
    bnn = problem(8)
    posterior = nq.NTKGP(MonteCarlo(draws=2)).fit(bnn, data, key=jax.random.key(0))
    assert [h.name for h in posterior.hyperparameters][-1] == "output std"
    nq.save(tmp_path / "p", posterior)
    again = nq.load(tmp_path / "p", bnn)
    np.testing.assert_array_equal(again.predict(x).mean, posterior.predict(x).mean)


def test_needs_a_builder_and_a_covariance():
    trained = nq.BNN(builder(4)(jax.random.key(0)), nq.Gaussian())
    with pytest.raises(ValueError, match="with a builder"):
        MonteCarlo().nngp(trained, jnp.ones((2, 3)), 1.0)
    with pytest.raises(TypeError, match=r"NNGP\(MonteCarlo"):
        MonteCarlo().covariance(trained, jnp.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="draws >= 1"):
        MonteCarlo(draws=0)

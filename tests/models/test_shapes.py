"""Targets of any shape, and noise that is known for each datum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.linalg

from ntkuq.data import DataError, Dataset
from ntkuq.models import (
    BNN,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    KnownNoise,
    LogDensity,
    NoisyTargets,
    Poisson,
    Positions,
    Standardize,
    mlp,
)


RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
POSITIONS = {
    "labels": (Categorical(), 3, (2,)),
    "pixels": (Bernoulli(), 1, (2, 2)),
    "counts": (Poisson(), 1, (3,)),
}


class Shaped(eqx.Module):
    """A linear network with outputs of this shape."""

    linear: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, inputs, shape, key=KEY):
        self.linear = eqx.nn.Linear(inputs, int(np.prod(shape)), key=key)
        self.shape = shape

    def __call__(self, x):
        return self.linear(jnp.ravel(x)).reshape(self.shape)


@eqx.filter_jit
def derivatives(likelihood, f, y):
    """log p with its derivatives, and a factor of the Hessian."""
    return (
        likelihood.log_prob(f, y),
        likelihood.residual(f, y),
        likelihood.hessian(f, y),
        likelihood.hessian_sqrt(f, y),
    )


@eqx.filter_jit
def marginal(likelihood, mean, covariance):
    """What the likelihood makes of Gaussian outputs, in one compilation."""
    return likelihood.marginalize(mean, covariance)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_independent_copies(name, double):
    one, size, shape = POSITIONS[name]
    every = Positions(one, shape)
    count = every.count
    assert every.classes == one.classes
    assert not every.continuous
    f = jnp.asarray(RNG.standard_normal(count * size))
    y = jnp.asarray(RNG.integers(0, 2, shape))
    apart = list(zip(f.reshape(count, size), y.ravel(), strict=True))
    parts = [derivatives(one, a, b) for a, b in apart]
    value, slope, bend, root = derivatives(every, f, y)
    np.testing.assert_allclose(value, sum(part[0] for part in parts), rtol=1e-12)
    residual = np.concatenate([part[1] for part in parts])
    np.testing.assert_allclose(slope, residual, rtol=1e-12)
    h = scipy.linalg.block_diag(*[part[2] for part in parts])
    np.testing.assert_allclose(bend, h, atol=1e-14)
    np.testing.assert_allclose(root @ root.T, h, atol=1e-14)
    # what was observed makes no difference to the built-in ones
    np.testing.assert_allclose(jax.jit(every.hessian)(f), h, atol=1e-14)
    drawn = every.distribution(f).sample(KEY, (5,))
    assert drawn.shape == (5, *shape)
    codes = RNG.integers(0, 2, (6, *shape))
    codes.flat[0], codes.flat[1] = 0, 1
    assert every.outputs(codes) == count * one.outputs(codes.ravel())
    with pytest.raises(ValueError, match="Positions: expected targets of shape"):
        every.outputs(codes[:, :1])


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_use_their_own_block_of_the_covariance(name, double):
    one, size, shape = POSITIONS[name]
    every = Positions(one, shape)
    count = every.count
    mean = jnp.asarray(RNG.standard_normal((3, count * size)))
    root = RNG.standard_normal((3, count * size, count * size)) / np.sqrt(count)
    cov = jnp.asarray(root @ np.swapaxes(root, 1, 2))
    whole = marginal(every, mean, cov)
    y = jnp.ones((3, *shape), int)
    logs = np.asarray(whole.observed.log_prob(y)).reshape(3, count)
    for t in range(count):
        block = slice(t * size, (t + 1) * size)
        single = marginal(one, mean[:, block], cov[:, block, block])
        np.testing.assert_allclose(
            logs[:, t], single.observed.log_prob(y.reshape(3, -1)[:, t]), rtol=1e-10
        )
        for part in ("epistemic", "aleatoric"):
            np.testing.assert_allclose(
                getattr(whole, part).reshape(3, count)[:, t],
                getattr(single, part),
                rtol=1e-9,
                atol=1e-12,
            )
    members = jnp.asarray(RNG.standard_normal((5, 3, count * size)))
    mixed = jax.eval_shape(every.mixture, members)
    assert mixed.observed.batch_shape == (3, *shape)
    variance = jnp.diagonal(cov, axis1=1, axis2=2)
    assert marginal(every, mean, variance).epistemic.shape == (3, *shape)


def test_problems_take_the_shape_of_the_targets():
    x = RNG.standard_normal((6, 3))
    codes = RNG.integers(0, 3, (6, 2, 4))
    codes[0, 0, :3] = [0, 1, 2]
    images = RNG.standard_normal((6, 2, 4))
    fits = [
        (Categorical(), codes, (2, 4, 3), Positions, None),
        (Categorical(), codes, (2, 4, 5), Positions, None),
        (Categorical(), codes, (24,), Positions, None),
        (Bernoulli(), codes % 2, (2, 4), Positions, None),
        (Poisson(), codes, (2, 4, 1), Positions, None),
        (Poisson(), codes[:, 0], (4,), Positions, None),
        (Gaussian(), images, (2, 4), Gaussian, (2, 4)),
        (Gaussian(), images, (1, 2, 4), Gaussian, (2, 4)),
        (Gaussian(), images[:, 0], (4,), Gaussian, None),
        (HeteroscedasticGaussian(), images, (2, 2, 4), None, (2, 4)),
        (LogDensity(lambda f, y: -((y - f[0]) ** 2)), images, (8,), LogDensity, (2, 4)),
    ]
    for likelihood, y, shape, kind, target_shape in fits:
        bnn = BNN(Shaped(3, shape), likelihood).prepare(Dataset(x, y))
        assert isinstance(bnn.likelihood, kind or type(likelihood))
        assert bnn.target_shape == target_shape
        expected = y.reshape(6, -1) if likelihood.continuous else y
        np.testing.assert_allclose(bnn.targets(Dataset(x, y)), expected, rtol=1e-6)
        assert bnn.outputs(Dataset(x, y)) == np.prod(shape)
        # the same problem again
        assert bnn.prepare(Dataset(x, y)).likelihood == bnn.likelihood
    clashes = [
        (Categorical(), codes, (3, 2, 4), r"shape \(2, 4, 3\), .*classes last, got"),
        (Categorical(), codes, (2, 4, 2), "asks for 24 .* or more .* has 16"),
        (Categorical(), codes, (25,), "asks for 24 .* or more .* has 25"),
        (Gaussian(), images, (4, 2), r"of shape \(2, 4\), .*got \(4, 2\): move"),
        (Bernoulli(), codes, (2, 4), "labels 0 and 1"),
    ]
    for likelihood, y, shape, message in clashes:
        with pytest.raises(ValueError, match=message):
            BNN(Shaped(3, shape), likelihood).prepare(Dataset(x, y))
    plain = BNN(Shaped(3, (24,)), Categorical()).prepare(Dataset(x, codes))
    assert isinstance(plain.prepare(Dataset(x, codes[:, 0, 0])).likelihood, Categorical)


def test_targets_of_several_axes_share_one_scale():
    x, y = RNG.standard_normal((6, 3)), 5 + 2 * RNG.standard_normal((6, 2, 4))
    y[:, 0, 0] = 7.0  # a constant pixel is no constant target
    bnn = BNN(Shaped(3, (2, 4)), Gaussian(), scaling=Standardize())
    bnn = bnn.prepare(Dataset(x, y))
    assert bnn.scaling.scale().shape == (1,)
    z = np.asarray(bnn.targets(Dataset(x, y)), float)
    np.testing.assert_allclose(z.std(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(z.reshape(y.shape), (y - y.mean()) / y.std(), atol=1e-5)


def test_data_sets_keep_the_axes_of_their_targets():
    x = np.ones((4, 2))
    images = Dataset(x, np.ones((4, 3, 2)), noise_scale=np.full((4, 3, 2), 0.1))
    assert images.take([0, 2]).y.shape == (2, 3, 2)
    codes = np.arange(12).reshape(4, 3)
    assert Dataset(x, codes).y.shape == (4, 3)
    with pytest.raises(DataError, match=r"below 11, .* came 11 in row 3"):
        Dataset(x, codes, classes=[str(k) for k in range(11)])
    with pytest.raises(DataError, match="came -1 in row 1"):
        Dataset(x, codes - 5 * (codes == 4))
    tags = np.tile(np.eye(4, dtype=int), (5, 1))
    with pytest.raises(DataError, match=r"give shape \(N, T, 1\)"):
        Dataset(np.ones(20), tags)
    assert Dataset(np.ones(20), tags[:, :, None]).y.shape == (20, 4, 1)


def test_known_noise_stands_for_the_scale(double):
    f, y = jnp.asarray(RNG.standard_normal((2, 3)))
    s = jnp.asarray([0.5, 1.0, 2.0])
    known, pair = KnownNoise(Gaussian(0.3)), NoisyTargets(y, s)
    exact = Gaussian(s)
    np.testing.assert_allclose(known.log_prob(f, pair), exact.log_prob(f, y))
    np.testing.assert_allclose(known.residual(f, pair), exact.residual(f, y))
    np.testing.assert_allclose(known.hessian(f, pair), exact.hessian(f))
    np.testing.assert_allclose(known.hessian_sqrt(f, pair), exact.hessian_sqrt(f))
    # of a new observation no noise is known: that of the Gaussian
    found = known.marginalize(f[None], jnp.ones((1, 3)))
    np.testing.assert_allclose(found.aleatoric, 0.09)
    for call in (known.hessian, known.hessian_sqrt):
        with pytest.raises(ValueError, match="does not honor known noise"):
            call(f)
        with pytest.raises(ValueError, match="does not honor known noise"):
            call(f, y)
    with pytest.raises(ValueError, match="does not honor known noise"):
        known.log_prob(f, y)


def test_problems_read_the_noise_of_the_data():
    x, y = RNG.standard_normal((6, 3)), 10 * RNG.standard_normal((6, 2))
    s = RNG.uniform(0.5, 2.0, 6)
    bnn = BNN(mlp(3, 2), Gaussian(0.3), scaling=Standardize())
    noisy = Dataset(x, y, noise_scale=s)
    ready = bnn.prepare(noisy)
    assert isinstance(ready.likelihood, KnownNoise)
    assert ready.likelihood.new == Gaussian(0.3)
    targets = ready.targets(noisy)
    assert targets.value.dtype == targets.scale.dtype == jnp.float32
    expected = s[:, None] / bnn.prepare(Dataset(x, y)).scaling.scale()
    np.testing.assert_allclose(targets.scale, expected, rtol=1e-6)
    each = Dataset(x, y, noise_scale=np.stack([s, 2 * s], axis=1))
    scale = ready.targets(each).scale
    np.testing.assert_allclose(scale, expected * [1, 2], rtol=1e-6)
    # data without it: the Gaussian again
    again = ready.prepare(Dataset(x, y))
    assert again.likelihood == Gaussian(0.3)
    again.need_common_noise("GP")
    with pytest.raises(ValueError, match="noise_scale is not used by GP"):
        ready.need_common_noise("GP")
    for problem, data in ((ready, Dataset(x, y)), (again, noisy)):
        with pytest.raises(ValueError, match=r"bnn.prepare\(data\) fits"):
            problem.targets(data)
    with pytest.raises(ValueError, match="expected a Gaussian likelihood, got Hetero"):
        BNN(mlp(3, 4), HeteroscedasticGaussian()).prepare(noisy)
    weighted = Dataset(x, y, weight=np.ones(6))
    with pytest.raises(ValueError, match="leave weight out"):
        bnn.prepare(weighted)


def test_training_weighs_data_by_their_noise():
    """A constant fitted to known noise is the mean weighted by precisions."""
    from ntkuq.models import NormalPrior, Train

    class Constant(eqx.Module):
        value: jax.Array

        def __call__(self, x):
            return self.value

    x, y = np.zeros((8, 1)), RNG.standard_normal(8)
    s = RNG.uniform(0.2, 2.0, 8)
    data = Dataset(x, y, noise_scale=s)
    prior = NormalPrior(1e-6)
    bnn = BNN(lambda key: Constant(jnp.zeros(1)), Gaussian(), prior).prepare(data)
    for batch in (None, 4):
        train = Train(0.1, steps=300, batch=batch)
        result = train.run(
            bnn,
            bnn.network.init(KEY),
            bnn.inputs(data.x),
            bnn.targets(data),
            key=KEY,
        )
        if batch is None:
            exact = np.sum(y / s**2) / np.sum(1 / s**2)
            np.testing.assert_allclose(result.model.value, exact, atol=1e-4)
        assert np.isfinite(result.losses).all()


def test_a_distribution_of_positions_has_their_shape(double):
    every = Positions(Poisson(), (2, 3))
    f = jnp.asarray(RNG.standard_normal((5, 6)))
    d = every.distribution(f)
    assert isinstance(d, dist.Poisson)
    assert d.batch_shape == (5, 2, 3)
    np.testing.assert_allclose(d.mean.reshape(5, 6), np.exp(f), rtol=1e-12)

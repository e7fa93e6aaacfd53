"""Laplace's structures, and what tunes them, against dense and closed forms."""

import dataclasses
import functools
import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkuq.data import Batches, DataError, Dataset
from ntkuq.linearize import Reduce, SampledFisher
from ntkuq.models import BNN, Categorical, Gaussian, NormalPrior, Poisson
from ntkuq.models.hyperparameters import Fixed, MarginalLikelihood
from ntkuq.posteriors import CrossValidation, GridSearch, NotAtMAP
from ntkuq.posteriors.laplace import (
    EKFAC,
    KFAC,
    Diagonal,
    Full,
    FunctionSpace,
    Laplace,
    LowRank,
    WeightSpace,
)
from tests.oracle import dense as oracle
from tests.posteriors.problems import (
    blocks_of,
    fitness,
    precision,
    problem,
    reference,
)


KEY = jax.random.key(0)
RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def fitted(name, structure, tune=None, **options):
    bnn, data, _ = problem(name)
    method = Laplace(structure=structure, tune=tune or Fixed(), **options)
    return method.fit(bnn, data, key=KEY)


def factors_of(name):
    bnn, data, _ = problem(name)
    return oracle.mlp_factors(bnn.model, jnp.asarray(data.x), bnn.likelihood)


def corrected(name):
    """EKFAC: exact second moments of a weight's block along KFAC's eigenvectors."""
    g, start, out = reference(name)[2], 0, np.zeros_like(reference(name)[2])
    for a, grads in factors_of(name):
        left = np.linalg.eigh(np.einsum("nco,ncp->op", grads, grads))[1]
        right = np.linalg.eigh(np.einsum("ni,nj->ij", a, a))[1]
        basis = np.kron(left, right)
        here = slice(start, start + len(basis))
        moments = np.diag(basis.T @ g[here, here] @ basis)
        out[here, here] = (basis * moments) @ basis.T
        bias = slice(here.stop, here.stop + len(left))
        out[bias, bias] = g[bias, bias]
        start = bias.stop
    return out


def leading(name, rank):
    """The leading eigenpairs of L0^-1/2 G L0^-1/2."""
    root = np.sqrt(precision(problem(name)[0]))
    values, vectors = np.linalg.eigh(reference(name)[2] / np.outer(root, root))
    kept = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    return kept * np.outer(root, root)


#: name -> (structure, its dense G, accuracy: that of Lanczos' eigenpairs for low rank)
STRUCTURES = {
    "weight": (Full(WeightSpace()), lambda name: reference(name)[2], 1e-8),
    "function": (Full(FunctionSpace()), lambda name: reference(name)[2], 1e-8),
    "kfac": (KFAC(), lambda name: oracle.kfac(factors_of(name)), 1e-8),
    "reduce": (KFAC(Reduce()), lambda name: oracle.kfac(factors_of(name)), 1e-8),
    "ekfac": (EKFAC(), corrected, 1e-8),
    "diagonal": (Diagonal(), lambda name: np.diag(np.diag(reference(name)[2])), 1e-8),
    "low rank": (LowRank(99), lambda name: reference(name)[2], 1e-6),
    "rank 3": (LowRank(3), lambda name: leading(name, 3), 1e-5),
}


@pytest.mark.parametrize("kind", ["reduce", "ekfac", "low rank", "rank 3"])
def test_further_structures_are_their_dense_definition(kind):
    name = "categorical"
    structure, dense, rtol = STRUCTURES[kind]
    bnn, data, new = problem(name)
    posterior = fitted(name, structure)
    g, p, star = dense(name), precision(bnn), reference(name)[3]
    cov = oracle.covariance(g, p)
    joint = star @ cov @ star.T
    close = {"rtol": rtol, "atol": rtol * np.abs(joint).max()}
    np.testing.assert_allclose(posterior.joint(new).covariance, joint, **close)
    marginal = blocks_of(joint, len(new))
    np.testing.assert_allclose(posterior.latent(new).covariance, marginal, **close)
    value = oracle.evidence(fitness(bnn, data), oracle.ravel(bnn.model), p, g)
    assert posterior.log_marginal_likelihood == pytest.approx(value, rel=rtol)
    found = posterior.diagnostics
    assert found["effective parameters"] == pytest.approx(np.trace(cov @ g), rel=rtol)
    probs = posterior.predict(new).mean
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-12)
    if kind == "rank 3":
        assert found["rank"] == 3
        assert 0 < found["residual"] < 1e-5
        exact = np.diagonal(fitted(name, Full()).joint(new).covariance)
        assert (np.diagonal(joint) >= exact * (1 - 1e-9)).all()


class Averaged(eqx.Module):
    """A linear layer at each of T positions, averaged, and a head."""

    inner: eqx.nn.Linear
    outer: eqx.nn.Linear

    def __call__(self, x):
        return self.outer(jax.vmap(self.inner)(x).mean(0))


def test_reduce_is_exact_where_positions_are_averaged():
    options = {"use_bias": False, "dtype": jnp.float64}
    model = Averaged(
        eqx.nn.Linear(3, 4, key=KEY, **options), eqx.nn.Linear(4, 2, key=KEY, **options)
    )
    x, y = RNG.standard_normal((8, 5, 3)), RNG.standard_normal((8, 2))
    bnn, data = BNN(model, Gaussian(0.6), NormalPrior(1.3)), Dataset(x, y)
    got, other = (
        Laplace(KFAC(sharing), tune=Fixed()).fit(bnn, data).joint(x[:3]).covariance
        for sharing in (Reduce(), KFAC().sharing)
    )
    expected = 0.0
    for j in oracle.jacobians(model, jnp.asarray(x)):
        flat = np.asarray(j).reshape(-1, j.shape[-1])
        sigma = oracle.covariance(flat.T @ flat / 0.6**2, np.full(len(flat.T), 1.3))
        expected = expected + flat[:6] @ sigma @ flat[:6].T
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(other - expected).max() > 0.01 * np.abs(expected).max()


def test_a_sampled_fisher_is_that_of_its_key():
    _, _, new = problem("categorical")
    keys = [jax.random.key(n) for n in (5, 5, 6)]
    one, again, other = (
        fitted("categorical", KFAC(fisher=SampledFisher(key))) for key in keys
    )
    covariance, same, different = (
        p.latent(new).covariance for p in (one, again, other)
    )
    np.testing.assert_array_equal(covariance, same)
    assert float(jnp.abs(covariance - different).max()) > 1e-3
    assert one.log_marginal_likelihood == again.log_marginal_likelihood
    assert np.isfinite(one.predict(new).mean).all()


# One prior precision a leaf -----------------------------------------------------------


@functools.cache
def fixed(name):
    """theta*, the size of each leaf, the noise scales, and the residuals."""
    bnn, data, _ = problem(name)
    f = np.asarray(oracle.outputs(bnn.model, jnp.asarray(data.x)))
    sizes = [leaf.size for leaf in jax.tree.leaves(bnn.parameters)]
    scale = np.asarray(bnn.likelihood.scale)
    return oracle.ravel(bnn.model), sizes, scale, np.asarray(bnn.targets(data)) - f


def dense_evidence(name, g, log_precisions, log_noise):
    """The oracle's evidence; theta* and G (at the given noise) held fixed."""
    theta, sizes, scale, residuals = fixed(name)
    scale = scale * math.exp(log_noise)
    terms = (
        -0.5 * (residuals / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)
    )
    p = np.repeat(np.exp(log_precisions), sizes)
    return oracle.evidence(terms.sum(), theta, p, g * math.exp(-2 * log_noise))


def derivatives(f, point, step=1e-3):
    """Gradient and Hessian by central differences, with errors of order step^2."""
    size = len(point)
    eye = step * np.eye(size)
    gradient = [(f(point + e) - f(point - e)) / (2 * step) for e in eye]
    hessian = [
        [
            (f(point + a + b) - f(point + a - b) - f(point - a + b) + f(point - a - b))
            / (4 * step**2)
            for b in eye
        ]
        for a in eye
    ]
    return np.array(gradient), np.array(hessian)


KINDS = ["weight", "function", "kfac", "ekfac", "diagonal", "low rank"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_precision_a_leaf_maximizes_the_dense_evidence(kind):
    name = "two outputs"
    structure, dense, rtol = STRUCTURES[kind]
    bnn, _, new = problem(name)
    posterior = fitted(name, structure, MarginalLikelihood(per_layer=True))
    g = dense(name)

    def value(point):
        return dense_evidence(name, g, point[:-1], point[-1])

    # anywhere: the function that users may call, and its gradient
    at = np.array([0.3, -0.5, 1.1, 0.2, -0.3])
    call = jax.jit(jax.value_and_grad(posterior.log_evidence, argnums=(0, 1)))
    found, slopes = call(jnp.asarray(at[:-1]), jnp.asarray(at[-1]))
    assert float(found) == pytest.approx(value(at), rel=rtol)
    gradient, _ = derivatives(value, at)
    got = np.append(slopes[0], slopes[1])
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-5)
    shared = float(posterior.log_evidence(0.7, 0.1))
    assert shared == pytest.approx(value(np.array([0.7] * 4 + [0.1])), rel=rtol)
    # at the optimum: what is left to gain by a Newton step is far below one nat
    prior = jax.tree.leaves(posterior.bnn.prior.precisions(bnn.parameters))
    noise = np.asarray(posterior.bnn.likelihood.scale) / bnn.likelihood.scale
    np.testing.assert_allclose(noise, noise[0], rtol=1e-12)
    best = np.log([*map(float, prior), noise[0]])
    gradient, hessian = derivatives(value, best)
    covariance = np.linalg.inv(-hessian)
    assert gradient @ covariance @ gradient / 2 < 1e-4
    assert posterior.log_marginal_likelihood == pytest.approx(value(best), rel=rtol)
    reported = {h.name: h for h in posterior.hyperparameters}
    names = [
        f"prior precision [layers[{n}].{k}]" for n in "01" for k in ("weight", "bias")
    ]
    assert list(reported) == [*names, "noise scale [0]", "noise scale [1]"]
    np.testing.assert_allclose([reported[n].value for n in names], np.exp(best[:-1]))
    errors = np.sqrt(np.diagonal(covariance))
    for error, position, n in zip(errors, best, [*names, None]):
        one = reported[n] if n else reported["noise scale [0]"]
        assert not one.at_bound
        # forward differences of step 1e-4 there
        assert one.se / one.value == pytest.approx(error, rel=5e-3)
        if n:
            assert one.value == pytest.approx(math.exp(position))
    # the posterior is the one at these values
    sizes = [leaf.size for leaf in jax.tree.leaves(bnn.parameters)]
    p, star = np.repeat(np.exp(best[:-1]), sizes), reference(name)[3]
    cov = oracle.covariance(g * math.exp(-2 * best[-1]), p)
    joint = star @ cov @ star.T
    close = {"rtol": 10 * rtol, "atol": 10 * rtol * np.abs(joint).max()}
    np.testing.assert_allclose(posterior.joint(new).covariance, joint, **close)
    effective = posterior.diagnostics["effective parameters"]
    assert effective == pytest.approx(len(p) - p @ np.diagonal(cov), rel=10 * rtol)
    # a factor on the prior is one of these priors
    one = fitted(name, structure, MarginalLikelihood())
    assert posterior.log_marginal_likelihood >= one.log_marginal_likelihood - 1e-6


# The score of held-out data -----------------------------------------------------------


NOISE, TAU = 0.4, 1.5


@functools.cache
def regression():
    """Bayesian linear regression as a network, off its posterior mean."""
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((9, 3)), np.array([0.8, -1.2, 0.3])
    held = rng.standard_normal((40, 3))
    data, validation = (
        Dataset(a, a @ w + NOISE * rng.standard_normal(len(a))) for a in (x, held)
    )
    layer = eqx.nn.Linear(3, 1, use_bias=False, dtype=jnp.float64, key=KEY)
    theta = w + np.array([0.2, 0.15, -0.3])
    layer = eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(theta[None]))
    return BNN(layer, Gaussian(NOISE), NormalPrior(TAU)), data, validation


def loss(log_factor, x, held):
    """Minus the log density of each held-out datum, from the inputs x."""
    theta = regression()[0].model.weight[0]
    x, new = jnp.asarray(x), jnp.asarray(held.x)
    h = TAU * jnp.exp(log_factor) * jnp.eye(3) + x.T @ x / NOISE**2
    variance = jnp.sum(new * jnp.linalg.solve(h, new.T).T, axis=1) + NOISE**2
    square = (jnp.asarray(held.y) - new @ theta) ** 2
    return 0.5 * (square / variance + jnp.log(2 * jnp.pi * variance))


def validated(log_factor):
    _, data, validation = regression()
    return loss(log_factor, data.x, validation)


def crossed(log_factor, folds=3, seed=2):
    _, data, _ = regression()
    parts = np.array_split(np.random.default_rng(seed).permutation(len(data)), folds)
    rest = [np.setdiff1d(np.arange(len(data)), part) for part in parts]
    pairs = [(data.x[keep], data.take(part)) for keep, part in zip(rest, parts)]
    return jnp.concatenate([loss(log_factor, x, held) for x, held in pairs])


#: uneven on purpose: neighbors of the best are at different distances
FACTORS = tuple(np.exp(np.sort(np.r_[np.arange(-9, 4, 0.5), np.arange(-8.9, 4, 1.0)])))


@pytest.mark.parametrize("kind", ["grid", "folds"])
def test_a_score_picks_the_factor_that_minimizes_it(kind):
    bnn, data, validation = regression()
    tune, losses = {
        "grid": (GridSearch(validation, factors=FACTORS), validated),
        "folds": (CrossValidation(folds=3, factors=FACTORS, seed=2), crossed),
    }[kind]
    posterior = Laplace(tune=tune).fit(bnn, data, key=KEY)
    hyper = posterior.hyperparameters[0]
    factor = hyper.value / TAU
    each = jax.jit(jax.vmap(losses))
    grid = np.log(FACTORS)
    means = np.asarray(each(jnp.asarray(grid)).mean(1))
    best = int(means.argmin())
    # the vertex of the parabola through the best three points
    a, b, _ = np.polyfit(grid[best - 1 : best + 2], means[best - 1 : best + 2], 2)
    assert math.log(factor) == pytest.approx(-b / (2 * a), abs=1e-6)
    fine = np.linspace(grid[best - 1], grid[best + 1], 401)
    optimum = fine[np.asarray(each(jnp.asarray(fine)).mean(1)).argmin()]
    # a parabola over an interval of width w misses by O(w^2)
    assert abs(math.log(factor) - optimum) < 0.25 * (fine[-1] - fine[0])
    assert not hyper.at_bound
    # the error of an M-estimator, from exact derivatives at the optimum
    slope = np.asarray(jax.jacfwd(losses)(jnp.asarray(optimum)))
    bend = float(
        jax.jacfwd(jax.jacfwd(lambda t: losses(t).mean()))(jnp.asarray(optimum))
    )
    error = slope.std(ddof=1) / (math.sqrt(len(slope)) * bend)
    assert hyper.se / hyper.value == pytest.approx(error, rel=0.15)
    # noise stays, and the posterior is that of the scaled prior
    assert posterior.bnn.likelihood.scale == NOISE
    scaled = Laplace(tune=Fixed()).fit(bnn.with_prior(NormalPrior(TAU * factor)), data)
    np.testing.assert_allclose(
        posterior.predict(validation.x).epistemic,
        scaled.predict(validation.x).epistemic,
        rtol=1e-9,
    )
    assert posterior.log_marginal_likelihood == pytest.approx(
        scaled.log_marginal_likelihood, rel=1e-10
    )


@pytest.mark.parametrize(
    ("factors", "end"), [((1e6, 1e7, 1e8), 0), ((1e-9, 1e-8, 1e-7), 2)]
)
def test_the_end_of_the_grid_is_flagged(factors, end):
    bnn, data, validation = regression()
    if end == 0:  # a network that is far off: the wider the better
        bnn = bnn.with_model(jax.tree.map(lambda w: w + 3.0, bnn.model))
    else:
        y = np.asarray(oracle.outputs(bnn.model, jnp.asarray(validation.x)))[:, 0]
        validation = Dataset(validation.x, y)
    found = Laplace(tune=GridSearch(validation, factors=factors)).fit(bnn, data)
    hyper = found.hyperparameters[0]
    assert hyper.at_bound
    assert hyper.se is None
    assert hyper.value == pytest.approx(TAU * factors[end])


def test_one_held_out_datum_has_no_standard_error():
    bnn, data, validation = regression()
    x = validation.x[:1]
    # as far off as a factor of one expects; the grid has steps of 0.6
    method = Laplace(tune=Fixed())
    variance = float(method.fit(bnn, data).predict(x).observed.variance[0])
    y = np.asarray(oracle.outputs(bnn.model, jnp.asarray(x)))[:, 0]
    one = Dataset(x, y + math.sqrt(variance))
    hyper = Laplace(tune=GridSearch(one)).fit(bnn, data).hyperparameters[0]
    assert math.log(hyper.value / TAU) == pytest.approx(0.0, abs=0.3)
    assert not hyper.at_bound
    assert hyper.se is None


def test_searches_refuse_bad_input():
    bnn, data, validation = regression()
    for factors, message in [
        ((1.0, 2.0), "at least three factors"),
        ((1.0, 0.0, 2.0), "factors > 0"),
        ((1.0, math.inf, 2.0), "factors > 0"),
        ((1.0, 3.0, 2.0), "increasing"),
    ]:
        with pytest.raises(ValueError, match=f"GridSearch.*{message}"):
            GridSearch(validation, factors=factors)
        with pytest.raises(ValueError, match=f"CrossValidation.*{message}"):
            CrossValidation(factors=factors)
    with pytest.raises(ValueError, match="folds >= 2, got 1"):
        CrossValidation(folds=1)
    with pytest.raises(ValueError, match="at least 10 examples for 5 folds, got 9"):
        Laplace(tune=CrossValidation(folds=5)).fit(bnn, data)
    few = (0.1, 1.0, 10.0)

    def nothing(predictive, y):
        return predictive.log_prob(y) * jnp.nan

    def total(predictive, y):
        return jnp.sum(predictive.log_prob(y))

    for score in (nothing, total):
        method = Laplace(tune=GridSearch(validation, score=score, factors=few))
        with pytest.raises(ValueError, match="check the score"):
            method.fit(bnn, data)


def test_a_factor_without_a_finite_score_is_passed_over():
    bnn, data, validation = regression()

    def score(predictive, y):
        value = -predictive.log_prob(y)
        return jnp.where(jnp.max(predictive.epistemic) > 0.3, jnp.nan, value)

    tune = GridSearch(validation, score=score, factors=FACTORS)
    posterior = Laplace(tune=tune).fit(bnn, data)
    assert np.max(posterior.predict(validation.x).epistemic) <= 0.3


# Not at the maximum a posteriori ------------------------------------------------------


def convex():
    """A linear softmax classifier, its data, and its log joint."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((15, 3))
    data = Dataset(x, (x[:, 0] + rng.standard_normal(15) > 0).astype(int))
    layer = eqx.nn.Linear(3, 2, dtype=jnp.float64, key=KEY)

    @eqx.filter_jit
    def gradient(model):
        def log_joint(model):
            f = jax.vmap(model)(jnp.asarray(x))
            fit = jax.vmap(Categorical().log_prob)(f, jnp.asarray(data.y))
            squares = jnp.sum(model.weight**2) + jnp.sum(model.bias**2)
            return jnp.sum(fit) - 0.5 * 0.2 * squares

        return jax.grad(log_joint)(model)

    return BNN(layer, Categorical(), NormalPrior(0.2)), data, gradient


STEPS = {"full": Full(), "kfac": KFAC(), "diagonal": Diagonal(), "ekfac": EKFAC()}


def test_a_network_that_is_not_trained_is_told_with_its_gradient():
    bnn, data, gradient = convex()
    far = bnn.with_model(jax.tree.map(lambda w: w + 4.0 * jnp.sign(w), bnn.model))
    slope = oracle.ravel(gradient(far.model))
    norm = float(np.linalg.norm(slope))
    trained = bnn.model
    for _ in range(200):  # Newton would do it in six
        trained = jax.tree.map(lambda w, g: w + 0.15 * g, trained, gradient(trained))
    assert np.linalg.norm(oracle.ravel(gradient(trained))) < 1e-3
    for structure in STEPS.values():
        method = Laplace(structure=structure, tune=Fixed())
        with pytest.warns(NotAtMAP, match=f"norm {norm:.3g}, and a Newton step"):
            found = method.fit(far, data)
        assert found.diagnostics["gradient norm"] == pytest.approx(norm)
        covariance = found.covariance
        parts = jnp.split(jnp.asarray(slope), [6])
        decrement = slope @ jnp.concatenate(covariance.apply(parts))
        assert found.diagnostics["newton decrement"] == pytest.approx(float(decrement))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.fit(bnn.with_model(trained), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Laplace(structure=LowRank(1), tune=Fixed()).fit(far, data)


# Batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weight", "kfac", "ekfac", "diagonal", "function"])
def test_batches_are_the_data(kind):
    structure = STRUCTURES[kind][0]
    bnn, data, new = problem("categorical")
    method = Laplace(structure=structure, tune=Fixed())
    whole = method.fit(bnn, data)
    parts = method.fit(bnn, Batches.of(data, size=5))
    assert parts.log_marginal_likelihood == pytest.approx(
        whole.log_marginal_likelihood, rel=1e-10
    )
    one, two = parts.joint(new), whole.joint(new)
    scale = float(jnp.abs(two.covariance).max())
    np.testing.assert_allclose(one.covariance, two.covariance, atol=1e-10 * scale)
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-12)
    np.testing.assert_array_equal(parts.problem.fit.count, whole.problem.fit.count)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STRUCTURES)
def test_outputs_beyond_the_range_of_numbers_are_refused(kind):
    bnn, data, _ = regression()
    huge = bnn.with_model(jax.tree.map(lambda w: w * 1e200, bnn.model))
    with pytest.raises(ValueError, match="finite log-likelihood"):
        Laplace(structure=STRUCTURES[kind][0]).fit(
            huge, Dataset(1e200 * data.x, data.y)
        )


def test_a_rate_beyond_the_range_of_numbers_is_refused():
    bnn, data, _ = problem("poisson")
    model = eqx.tree_at(lambda m: m.layers[-1].bias, bnn.model, jnp.asarray([800.0]))
    for structure in (Full(), KFAC(), LowRank(3)):
        with pytest.raises(ValueError, match="finite log-likelihood"):
            Laplace(structure=structure).fit(BNN(model, Poisson()), data)


def test_priors_and_data_are_checked_before():
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="precision > 0"):
            NormalPrior(value)
    _, data, _ = regression()
    with pytest.raises(DataError, match="finite"):
        Dataset(data.x, data.y * np.nan)
    with pytest.raises(ValueError, match="LowRank: expected rank >= 1"):
        LowRank(0)


class Noisy(eqx.Module):
    """Dropout as a user may write it: a key is always needed."""

    inner: eqx.nn.Linear

    def __call__(self, x, *, key):
        return self.inner(x) * jax.random.bernoulli(key, 0.5)


def test_randomness_is_switched_off_or_refused():
    _, data, validation = regression()
    layers = [
        eqx.nn.Linear(3, 4, key=KEY),
        eqx.nn.Dropout(0.5),
        eqx.nn.Linear(4, 1, key=KEY),
    ]
    on = oracle.double(eqx.nn.Sequential(layers))
    off = eqx.nn.inference_mode(on)
    one, two = (
        Laplace(tune=Fixed()).fit(BNN(model, Gaussian()), data).predict(validation.x)
        for model in (on, off)
    )
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.epistemic, two.epistemic)
    with pytest.raises(ValueError, match="switch randomness off"):
        Laplace().fit(BNN(Noisy(layers[0]), Gaussian()), data)


class Stateful(eqx.Module):
    """Batch norm with its running statistics."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    outer: eqx.nn.Linear
    state: eqx.nn.State

    def __call__(self, x):
        h, _ = self.norm(self.first(x), self.state)
        return self.outer(jax.nn.tanh(h))


def test_batch_norm_is_in_inference_mode_and_its_statistics_are_no_parameters():
    _, data, validation = regression()
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        4, axis_name="batch", mode="ema"
    )
    first, outer = eqx.nn.Linear(3, 4, key=KEY), eqx.nn.Linear(4, 1, key=KEY)
    model = oracle.double(Stateful(first, norm, outer, state))
    posterior = Laplace(tune=Fixed()).fit(BNN(model, Gaussian()), data)
    assert posterior.diagnostics["parameters"] == 12 + 4 + 4 + 4 + 4 + 1
    assert np.isfinite(posterior.predict(validation.x).epistemic).all()


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("start", [1e-8, 1e-3, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_noise_where_the_search_starts_does_not_matter(dtype, start, per_layer):
    """Residuals of a million start deviations leave the evidence all its digits."""
    bnn, data, _ = problem("gaussian")
    model = jax.tree.map(
        lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, bnn.model
    )
    method = Laplace(KFAC(), tune=MarginalLikelihood(per_layer=per_layer))
    with jax.enable_x64(dtype == np.float64):
        far, near = (
            method.fit(BNN(model, Gaussian(noise), NormalPrior(1.0)), data)
            for noise in (start, 1.0)
        )
    assert far.log_marginal_likelihood == pytest.approx(
        near.log_marginal_likelihood, abs=1e-3
    )
    for one, two in zip(far.hyperparameters, near.hyperparameters, strict=True):
        assert not one.at_bound
        # to a twentieth of what the data leave open
        assert abs(one.value - two.value) < 0.05 * two.se


def test_at_a_bound_there_is_no_standard_error():
    """Targets that are the network's outputs: the noise goes to zero."""
    bnn, data, _ = problem("gaussian")
    exact = Dataset(data.x, np.asarray(oracle.outputs(bnn.model, data.x))[:, 0])
    posterior = Laplace(Diagonal()).fit(bnn, exact)
    for hyper in posterior.hyperparameters:
        assert hyper.at_bound
        assert hyper.se is None


def test_a_singular_curvature_reports_its_jitter():
    x = np.repeat(RNG.standard_normal((4, 3)), 3, axis=0)
    bnn, _, _ = regression()
    for view in (WeightSpace(), FunctionSpace()):
        posterior = Laplace(Full(view), tune=Fixed()).fit(
            bnn.with_noise(1e-9), Dataset(x, x[:, 0])
        )
        assert 0 <= posterior.diagnostics["jitter"] < 1e-10 * 1e18 * np.sum(x**2)
        assert np.isfinite(posterior.predict(x).epistemic).all()
        # the evidence that users differentiate takes the same jitter
        at = jnp.asarray(math.log(TAU))
        value, slope = jax.value_and_grad(posterior.log_evidence)(at)
        assert float(value) == pytest.approx(posterior.log_marginal_likelihood)
        assert np.isfinite(slope)
        # rounding leaves no variance below zero
        assert np.min(posterior.predict(x).epistemic) >= 0.0
        assert np.min(np.diagonal(posterior.joint(x).covariance)) >= 0.0
        tune = MarginalLikelihood(per_layer=True)
        layers = Laplace(Full(view), tune=tune).fit(
            bnn.with_noise(1e-9), Dataset(x, x[:, 0])
        )
        assert np.isfinite(layers.log_marginal_likelihood)
    assert posterior.diagnostics["jitter"] > 0
    assert dataclasses.asdict(posterior.hyperparameters[0])["value"] == TAU

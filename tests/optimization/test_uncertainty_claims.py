"""Claims about uncertainty: exact on a linear network, refuted where they should be."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
import scipy.stats

from ntkuq.data import Dataset, Split
from ntkuq.kernels import PriorKernel
from ntkuq.models import (
    BNN,
    Categorical,
    FanInPrior,
    Fixed,
    Gaussian,
    MarginalLikelihood,
    NormalPrior,
    Train,
    Vectorized,
    mlp,
)
from ntkuq.optimization.kernel_regime import at_start, stand_in
from ntkuq.optimization.kernel_regime.normal_laws import (
    Normals,
    differing,
    exceeding,
    floor,
    rank_correlation,
    rejected,
    wasserstein,
)
from ntkuq.optimization.kernel_regime.study import Run, Setting
from ntkuq.optimization.kernel_regime.uncertainty import (
    Uncertainty,
    _attempt,
    _laplace,
    _problem,
)
from ntkuq.optimization.kernel_regime.wide_members import (
    AtFloor,
    against_ensembles,
    wide_posterior,
)
from ntkuq.posteriors import NTKGP, AbstractPosterior, Predictive


KEY = jax.random.key(4)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
TRAIN = Train(
    optax.adam(optax.cosine_decay_schedule(0.1, 300)), steps=300, plan=Vectorized()
)
NOISE, STD = 0.3, 1.5


def linear(key):
    return eqx.nn.Linear(3, 1, use_bias=False, key=key)


def split(y):
    # the training targets have mean zero, as `NTKGP` takes it to be
    y = np.where(np.arange(120) < 30, y - y[:30].mean(), y)
    data = Dataset(X, y)
    return Split(data.take(range(30)), None, data.take(range(30, 120)))


def setting(build, data, likelihood, prior, train=TRAIN, trained=True):
    bnn = BNN(build, likelihood, prior).prepare(data.train)
    initial = final = build(KEY)
    if trained:
        begun = bnn.with_model(initial)
        final = train.fit(begun, initial, data.train, key=KEY).model
    return Setting(bnn, data, train, (Run(initial, final),))


@pytest.fixture(scope="module")
def exact():
    """A linear network: all methods are Bayesian linear regression."""
    y = X @ [1.0, -0.5, 0.2] + NOISE * RNG.normal(size=120)
    return setting(linear, split(y), Gaussian(NOISE), FanInPrior(STD, 1.0))


def test_the_wide_posterior_is_bayesian_linear_regression(exact):
    joint = wide_posterior(exact.bnn, exact.data.train).joint(X[30:])
    x, y = exact.data.train.x, exact.data.train.y
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + 3 / STD**2 * np.eye(3))
    mean = X[30:] @ covariance @ x.T @ y / NOISE**2
    np.testing.assert_allclose(joint.mean[:, 0], mean, rtol=1e-8)
    expected = X[30:] @ covariance @ X[30:].T
    np.testing.assert_allclose(joint.covariance, expected, atol=1e-10)


def test_all_claims_are_confirmed_on_a_linear_network(exact):
    wide = NTKGP(PriorKernel(), tune=Fixed())
    study = Uncertainty(20, points=90, tune=Fixed(), wide=wide)
    found = study.claims(exact, key=KEY)
    assert [claim.number for claim in found] == [11, 12, 13, 13, 14, 14]
    assert [claim.word for claim in found] == ["confirmed"] * 6
    corrected, plain, nll, crps, ranks, apart = (c.statistic for c in found)
    assert corrected.value < 2
    assert plain.value == 0
    assert abs(nll.value) < 1e-3
    assert abs(crps.value) < 1e-3
    assert ranks.value == 1
    assert apart.value < 1e-3


def test_members_that_are_not_trained_are_found_out(exact):
    found = against_ensembles(
        exact.bnn,
        exact.data.train,
        exact.data.test,
        size=8,
        train=Train(1e-5, steps=2, plan=Vectorized()),
        key=KEY,
    )
    assert [claim.word for claim in found] == ["refuted"] * 2


def test_the_evidence_finds_the_noise(exact):
    """Whatever noise was given, all are compared with that of the evidence."""
    found = [
        _problem(
            exact._replace(bnn=exact.bnn.with_noise(noise)),
            MarginalLikelihood(),
            key=KEY,
        )
        for noise in (NOISE, 5.0)
    ]
    scales = [float(one.bnn.likelihood.scale) for one in found]
    np.testing.assert_allclose(*scales, rtol=0.02)
    assert 0.2 < scales[0] < 0.4


def test_a_narrow_network_leaves_its_start():
    y = np.sin(2 * X[:, 0]) * X[:, 1] + 0.05 * RNG.normal(size=120)
    build = mlp(3, 1, width=8, depth=1)
    state = setting(build, split(y), Gaussian(0.05), NormalPrior(1.0))
    (run,) = state.runs
    laplace = _laplace(state.bnn.with_model(run.final), state.data.train)
    found = at_start.against_laplace(
        state.bnn.with_model(run.initial), laplace, state.data.train, state.data.test
    )
    assert found[0].word != "confirmed"
    assert found[1].word == "refuted"
    assert "Laplace(" in found[1].note
    with pytest.raises(TypeError, match="expected a FanInPrior"):
        wide_posterior(state.bnn, state.data.train)


class Told(AbstractPosterior):
    """Predictions that were made elsewhere."""

    bnn: BNN
    hyperparameters: tuple
    log_marginal_likelihood: float | None
    diagnostics: dict
    p: Predictive

    def predict(self, x):
        return self.p


def test_classes_have_the_nll_alone():
    labels = RNG.integers(0, 2, 120)
    data = Dataset(X, labels)
    bnn = BNN(mlp(3, 2, width=4, depth=1), Categorical(), FanInPrior()).prepare(data)
    sharp, flat = (np.full(120, value) for value in (0.9, 0.5))
    probs = np.where(labels == 1, sharp, 1 - sharp)
    told = [
        Told(bnn, (), None, {}, Predictive.probabilities(np.stack([1 - p, p], 1)))
        for p in (probs, flat)
    ]
    nll, crps = stand_in.against_laplace(told[0], "it", told[1], data)
    np.testing.assert_allclose(nll.statistic.value, np.log(0.5 / 0.9), rtol=1e-6)
    assert nll.word == "confirmed"
    assert "no CRPS" in crps.reason
    worse = stand_in.against_laplace(told[1], "it", told[0], data)[0]
    assert worse.word == "refuted"
    with pytest.raises(TypeError, match="expected a Gaussian likelihood"):
        wide_posterior(bnn, data)


def test_what_cannot_be_done_says_why(exact):
    def fail():
        raise TypeError("out\nof luck")

    claims = _attempt(at_start.ASKED, fail)
    assert [claim.reason for claim in claims] == ["out of luck"] * 2


def test_the_floor_is_that_of_exact_draws():
    """Independent points in closed form: the distance of one has a known mean."""
    count, points = 6, 40
    found = floor(np.diag(RNG.uniform(0.5, 2.0, points)), 1, count)
    # E sqrt(m^2 + (s - 1)^2) with m ~ N(0, 1/M) and (M-1) s^2 ~ chi2(M-1)
    m = scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400) / np.sqrt(count)
    s = scipy.stats.chi2.ppf((np.arange(400) + 0.5) / 400, count - 1) / (count - 1)
    expected = np.mean(np.hypot(m[:, None], np.sqrt(s) - 1))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 5 * error + 1e-3
    # points that are all the same: no averaging over them
    together = floor(np.ones((points, points)), 1, count)
    assert abs(together.mean() - expected) < 5 * together.std() / np.sqrt(1000) + 1e-3
    assert together.std() > 3 * found.std()


def test_variance_tests_keep_their_level():
    count, sets = 5, 4000
    drawn = RNG.normal(size=(count, sets, 1))
    law = Normals.of_draws(drawn)
    unit = Normals(np.zeros((sets, 1)), np.ones((sets, 1)))
    for p in (exceeding(law, unit, count), differing(law, unit, count)):
        assert scipy.stats.kstest(p[:, 0], "uniform").pvalue > 1e-4
    ratio = count / (count - 1) * drawn.var(axis=0)
    expected = scipy.stats.chi2.sf((count - 1) * ratio, count - 1)
    np.testing.assert_allclose(exceeding(law, unit, count), expected, rtol=1e-9)


def test_holm_counts_points_with_any_output():
    p = np.array([[0.5, 0.001], [0.011, 0.9], [0.02, 0.6]])
    # six hypotheses: 0.001 < 0.05/6, then 0.011 > 0.05/5
    assert rejected(p) == 1
    assert rejected(np.full((4, 1), 0.01)) == 4


def test_rank_correlation_is_spearmans():
    a = RNG.normal(size=60)
    b = a + RNG.normal(size=60)
    found = rank_correlation(a, b)
    expected = scipy.stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    low, high = found.interval
    assert low < expected < high
    assert rank_correlation(a, np.ones(60)).interval is None


def test_the_distance_of_normal_laws():
    p, q = (Normals(RNG.normal(size=(4, 2)), RNG.uniform(1, 2, (4, 2))) for _ in "ab")
    apart = np.sqrt((p.mean - q.mean) ** 2 + (p.std - q.std) ** 2) / q.std
    np.testing.assert_allclose(wasserstein(p, q), apart.mean(axis=1))
    np.testing.assert_allclose(p.spread**2, (p.std**2).mean(axis=1))


def test_rules_and_bad_options():
    rule = AtFloor(2.0)
    ends = [(0.5, 1.9), (0.5, 2.1), (1.1, 1.9), (2.1, 3.0)]
    words = [rule.decide(*pair) for pair in ends]
    assert words == ["confirmed", "undecided", "undecided", "refuted"]
    for rule in (stand_in.ASKED[0].rule, at_start.ASKED[0].rule):
        assert rule.confirm
    assert stand_in.ASKED[0].rule.decide(0.02, 0.03) == "refuted"
    assert stand_in.ASKED[0].rule.decide(0.0, 0.0) == "confirmed"
    with pytest.raises(ValueError, match="members >= 2"):
        Uncertainty(members=1)
    found = stand_in._difference(np.array([1.0, 2.0]), np.array([3.0, 5.0]), None)
    assert found.value == -2.5
    assert found.interval[0] < -2.5 < found.interval[1]

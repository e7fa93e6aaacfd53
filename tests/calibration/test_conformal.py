"""Conformal regions: what they are, and that they cover what they promise.

Repetitions of an experiment are laid out as outputs (N, repetitions) where a method
treats each output by itself, so that thousands of them take one call. Scores without
ties cover with probability k / (n + 1) exactly, k = ceil((n + 1) level); a simulated
coverage over R repetitions may be off by 4 binomial standard errors (6e-5 two-sided).
"""

import math
import warnings
from fractions import Fraction

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats

from ntkuq.calibration.conformal import (
    APS,
    CQR,
    LAC,
    RAPS,
    AbsoluteResidual,
    AdaptiveConformal,
    Box,
    Boxes,
    ClassSets,
    CoverageLaw,
    CumulativeProbability,
    CVPlus,
    Ellipsoid,
    Ellipsoids,
    GroupConformal,
    Improbability,
    Interval,
    JackknifePlus,
    JointConformal,
    LargestResidual,
    NormalizedResidual,
    Quantiles,
    Region,
    SplitConformal,
    Tail,
    coverage_by,
    region_scores,
)
from ntkuq.calibration.conformal.assess import size_strata
from ntkuq.calibration.conformal.inputs import exact
from ntkuq.calibration.conformal.order import exact_rank, smallest_n, threshold
from ntkuq.calibration.coverage import exact_interval
from ntkuq.calibration.overlap import OverlapWarning
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(11)
SCORES = [AbsoluteResidual(), NormalizedResidual(), Quantiles(), Tail()]


def near(hits, expected):
    """Whether a share of independent hits is within 4 standard errors."""
    return abs(np.mean(hits) - expected) <= 4 * math.sqrt(
        expected * (1 - expected) / np.size(hits)
    )


def covered(score, level, n, p, y, new, y_new):
    """Whether new outcomes are inside, for each of many repetitions (…, R).

    `fit` and `region` do this and look for overlap, which takes long for so many
    outputs.
    """
    scores = score.scores(exact(p), y, level).reshape(n, -1)
    at = threshold(scores, level, "simulation")
    return score.region(exact(new), at, level).contains(y_new)


def normal(shape, *, dtype=np.float64):
    mean, std = RNG.normal(size=shape), RNG.uniform(0.5, 2, size=shape)
    return Predictive.normal(mean.astype(dtype), std.astype(dtype))


def mixture(shape):
    parts = dist.Normal(
        RNG.normal(size=(*shape, 3)), RNG.uniform(0.2, 2, size=(*shape, 3))
    )
    weights = RNG.dirichlet(np.ones(3), size=shape)
    d = dist.MixtureSameFamily(dist.Categorical(probs=weights), parts)
    return Predictive(latent=None, observed=d)


def table(shape):
    levels = np.array([0.02, 0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
    values = np.sort(2 * RNG.normal(size=(7, *shape)), axis=0)
    return Predictive.quantiles(levels, values)


KINDS = {
    "normal": normal,
    "float32": lambda shape: normal(shape, dtype=np.float32),
    "mixture": mixture,
    "samples": lambda shape: Predictive.samples(RNG.normal(size=(30, *shape))),
    "rounded samples": lambda shape: Predictive.samples(
        RNG.normal(size=(30, *shape)).round()
    ),
    "quantiles": table,
    # any other distribution, known by its distribution function
    "laplace": lambda shape: Predictive(
        latent=None,
        observed=dist.Laplace(RNG.normal(size=shape), RNG.uniform(0.5, 2, size=shape)),
    ),
    "poisson": lambda shape: Predictive(
        latent=None, observed=dist.Poisson(RNG.uniform(0.3, 30, size=shape))
    ),
}


# The order statistic


def test_rank_is_exact_for_every_decimal_level():
    for n in (*range(1, 25), 99, 199, 999):
        for percent in range(5, 100, 5):
            k = math.ceil((n + 1) * Fraction(percent, 100))
            assert exact_rank(n, percent / 100) == k
            assert (k <= n) == (n >= smallest_n(percent / 100))
    assert math.ceil(100 * 0.55) == 56  # what it guards against
    assert exact_rank(99, 0.55) == 55


def test_threshold_is_the_order_statistic():
    scores = RNG.normal(size=(37, 4))
    for level in (0.03, 0.5, 0.9, 0.97):
        k = math.ceil(Fraction(38) * Fraction(str(level)))
        expected = np.sort(scores, axis=0)[k - 1]
        np.testing.assert_array_equal(threshold(scores, level, "x"), expected)


def test_one_point_and_the_smallest_calibrate_part():
    p = Predictive.normal(np.zeros(1), np.ones(1))
    fitted = SplitConformal(level=0.5).fit(p, np.array([3.0]))
    assert (fitted.threshold, fitted.n) == (3.0, 1)
    with pytest.raises(ValueError, match=r"at least 9 points to calibrate on, got 8"):
        SplitConformal(level=0.9).fit(normal((8,)), np.zeros(8))
    assert SplitConformal(level=0.9).fit(normal((9,)), np.zeros(9)).n == 9


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_level_must_be_inside(level):
    makers = (
        *(SplitConformal, CQR, LAC, APS, CVPlus, JackknifePlus, JointConformal),
        lambda level: RAPS(level, penalty=0.1, offset=1),
        lambda level: AdaptiveConformal(level, rate=0.1),
        lambda level: CoverageLaw(level, 50),
    )
    for make in makers:
        with pytest.raises(ValueError, match="level strictly between 0 and 1"):
            make(level)


# Regions of one score


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
def test_region_holds_exactly_the_outcomes_below_the_threshold(kind, score):
    """With a threshold of its own for each point, as groups and streams need it."""
    p = exact(KINDS[kind]((4000,)))
    y = 2 * RNG.normal(size=4000)
    if kind == "poisson":
        y = RNG.poisson(10, size=4000).astype(float)
    if kind == "rounded samples":
        y = y.round()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at = RNG.permutation(score.scores(p, y, 0.8))
        region = score.region(p, at, 0.8)
        inside = region.contains(y)
        below = score.scores(p, y, 0.8) <= at
    assert isinstance(region, Interval)
    assert isinstance(region, Region)
    # ties to rounding are kept, and where a negative threshold turned the ends around
    # a point is left
    far = (np.abs(score.scores(p, y, 0.8) - at) > 1e-12) & (region.size > 0)
    np.testing.assert_array_equal(inside[far], below[far])
    assert far.mean() > 0.5
    assert 0.2 < below.mean() < 0.9
    assert not (below & ~inside).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
def test_infinite_thresholds_give_everything_and_nothing(kind, score):
    p = exact(KINDS[kind]((5,)))
    lower, upper = score.region(p, np.array(np.inf), 0.8)
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()
    nothing = score.region(p, np.array(-np.inf), 0.8)
    assert (nothing.size == 0).all()
    assert not nothing.contains(np.zeros(5)).any()


def test_intervals_by_hand():
    y = np.array([1.0, -2.0, 3.0, 4.0])
    p = Predictive.normal(np.zeros(4), np.array([1.0, 1.0, 2.0, 8.0]))
    new = Predictive.normal(np.array([10.0]), np.array([2.0]))
    lower, upper = SplitConformal(0.6, AbsoluteResidual()).fit(p, y).region(new)
    assert lower == pytest.approx(7, abs=1e-13)  # third smallest of 1, 2, 3, 4
    assert upper == pytest.approx(13, abs=1e-13)
    lower, upper = SplitConformal(level=0.6).fit(p, y).region(new)
    assert upper == pytest.approx(13, abs=1e-13)  # third smallest of 1, 2, 3/2, 1/2
    assert SplitConformal(0.6) == SplitConformal(0.6, NormalizedResidual())
    # CQR: z is the predicted half width in standard deviations
    z = stats.norm.ppf(0.8)
    third = np.sort([1 - z, 2 - z, 3 - 2 * z, 4 - 8 * z])[2]
    lower, upper = CQR(level=0.6).fit(p, y).region(new)
    assert upper == pytest.approx(10 + 2 * z + third, abs=1e-13)
    assert lower == pytest.approx(10 - 2 * z - third, abs=1e-13)


def test_tail_is_the_normalized_residual_for_normal_predictions():
    p, new, y = normal((200,)), normal((50,)), 3 * RNG.normal(size=200)
    one = SplitConformal(0.9, Tail()).fit(p, y).region(new)
    other = SplitConformal(0.9).fit(p, y).region(new)
    np.testing.assert_allclose(one.lower, other.lower, rtol=0, atol=1e-10)
    np.testing.assert_allclose(one.upper, other.upper, rtol=0, atol=1e-10)


def test_tail_far_out_does_not_round_to_infinity():
    p = Predictive.normal(np.zeros(20), np.full(20, 1e-2))
    y = np.linspace(0.1, 0.3, 20)  # up to 30 predicted standard deviations
    region = SplitConformal(0.9, Tail()).fit(p, y).region(normal((3,)))
    assert np.isfinite(region.lower).all()
    # beyond all samples there is nothing to order: only the whole line is honest
    s, new = (Predictive.samples(RNG.normal(size=(10, n))) for n in (20, 3))
    region = SplitConformal(0.9, Tail()).fit(s, y + 100).region(new)
    assert np.isinf(region.size).all()


def test_tail_of_a_mixture_has_equal_tails():
    p, new = mixture((300,)), mixture((200,))
    fitted = SplitConformal(0.9, Tail()).fit(p, 2 * RNG.normal(size=300))
    d = new.observed
    for end, side in zip(fitted.region(new), (1, -1)):
        parts = d.component_distribution
        tails = stats.norm.cdf(side * (end[:, None] - parts.loc) / parts.scale)
        tail = np.sum(d.mixing_distribution.probs * tails, axis=1)
        np.testing.assert_allclose(tail, -fitted.threshold, rtol=1e-9)


def test_quantiles_that_shrink_below_nothing_leave_the_middle():
    p = Predictive.normal(np.zeros(50), np.full(50, 100.0))
    fitted = CQR(level=0.9).fit(p, 0.01 * RNG.normal(size=50))
    new = Predictive.normal(np.array([5.0, 5.0]), np.array([1.0, 200.0]))
    lower, upper = fitted.region(new)
    assert lower[0] == upper[0] == 5.0
    assert lower[1] < 5 < upper[1]


def test_ties_are_kept_whatever_the_rounding():
    """Means and outcomes in tenths: scores tie and sums do not round trip."""
    mean, y = RNG.integers(0, 40, size=(2, 3000)) / 10
    mean[mean == y] += 0.1
    p = Predictive.normal(mean, np.full(3000, 0.3))
    for score in (AbsoluteResidual(), NormalizedResidual()):
        scores = score.scores(exact(p), y, 0.9)
        tied = np.abs(scores - np.median(scores)) < 1e-9
        at = np.array(scores[tied].max())
        assert tied.sum() > 20
        assert score.region(exact(p), at, 0.9).contains(y)[tied].all()


# Coverage by simulation


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("normal", 12),
        ("normal", 40),
        ("mixture", 12),
        ("quantiles", 12),
        ("samples", 12),
    ],
)
@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
def test_split_coverage_is_k_over_n_plus_one(score, kind, n):
    """Wrong predictions (skew outcomes, wrong scale); 2000 repetitions as outputs."""
    repetitions = 2000
    y = RNG.exponential(size=(n + 1, repetitions)) * 2 - 0.5
    fit = KINDS[kind]((n, repetitions))
    new = KINDS[kind]((1, repetitions))
    inside = covered(score, 0.9, n, fit, y[:n], new, y[n:])
    expected = exact_rank(n, 0.9) / (n + 1)
    assert 0.9 <= expected <= 0.9 + 1 / (n + 1)
    if isinstance(score, Tail) and kind in ("samples", "quantiles"):
        # counts of samples tie, and so do outcomes beyond a table
        assert inside.mean() >= expected - 4 * math.sqrt(0.09 / repetitions)
    else:
        assert near(inside, expected)


def test_coverage_of_whole_numbers_is_at_least_the_level():
    repetitions = 1000
    y = RNG.poisson(3, size=(11, repetitions)).astype(float)
    p = Predictive(latent=None, observed=dist.Poisson(np.full((10, repetitions), 3.0)))
    new = Predictive(latent=None, observed=dist.Poisson(np.full((1, repetitions), 3.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for score in (NormalizedResidual(), Tail()):
            share = covered(score, 0.9, 10, p, y[:10], new, y[10:]).mean()
            assert share >= 0.9 - 4 * math.sqrt(0.09 / repetitions)


def test_the_law_of_coverage_given_the_calibrate_part():
    n, m, repetitions = 29, 60, 4000
    law = CoverageLaw(0.9, n)
    fit, new = normal((n, repetitions)), normal((m, repetitions))
    y = RNG.standard_t(3, size=(n + m, repetitions))
    score = NormalizedResidual()
    hits = covered(score, 0.9, n, fit, y[:n], new, y[n:]).sum(axis=0)
    exact_law = stats.betabinom(m, *law.parameters)
    mean, var, _, kurtosis = exact_law.stats("mvsk")
    assert abs(hits.mean() - mean) <= 4 * math.sqrt(var / repetitions)
    # the standard error of a variance
    spread = var * math.sqrt((kurtosis + 2) / repetitions)
    assert abs(hits.var(ddof=1) - var) <= 4 * spread
    binomial = m * law.mean * (1 - law.mean)
    assert hits.var(ddof=1) > binomial + 4 * spread  # so binomial is not the law
    p = [law.p_value(hit, m) for hit in range(m + 1)]
    tails = np.minimum(exact_law.cdf(range(m + 1)), exact_law.sf(np.arange(-1, m)))
    np.testing.assert_allclose(p, np.minimum(1, 2 * tails), rtol=1e-9)
    rejected = np.array(p)[hits] <= 0.05
    assert rejected.mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)
    low, high = law.interval(0.95)
    beta = stats.beta(*law.parameters)
    assert beta.cdf(high) - beta.cdf(low) == pytest.approx(0.95)
    fitted = SplitConformal(0.9).fit(normal((n,)), np.zeros(n))
    assert fitted.law == law


def wrong_probabilities(n, classes=6):
    """Outcomes, and predicted probabilities that are too sure of themselves."""
    logits = 1.5 * RNG.normal(size=(n, classes))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (truth.cumsum(axis=1) < RNG.uniform(size=(n, 1))).sum(axis=1)
    guess = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    return Predictive.probabilities(guess), np.minimum(y, classes - 1)


CLASS_METHODS = [
    LAC(0.8),
    LAC(0.8, allow_empty=False),
    APS(0.8),
    APS(0.8, key=jax.random.key(5)),
    APS(0.8, allow_empty=False),
    APS(0.8, randomized=False),
    RAPS(0.8, penalty=0.1, offset=2),
    RAPS(0.8, penalty=0.1, offset=2, randomized=False),
]


@pytest.mark.parametrize("method", CLASS_METHODS, ids=repr)
def test_class_coverage_is_k_over_n_plus_one(method):
    """3000 repetitions with n = 17: k / (n + 1) = 15 / 18."""
    n, repetitions = 17, 3000
    p, y = wrong_probabilities((n + 1) * repetitions)
    cut = n * repetitions
    score = method.scoring
    probs = np.asarray(p.observed.probs)
    fit, new = (Predictive.probabilities(a) for a in (probs[:cut], probs[cut:]))
    inside = covered(score, 0.8, n, fit, y[:cut], new, y[cut:])
    expected = exact_rank(n, 0.8) / (n + 1)
    if method.allow_empty:
        assert near(inside, expected)
    else:
        assert inside.mean() >= expected - 4 * math.sqrt(0.16 / repetitions)


def test_fit_of_class_methods_uses_that_threshold():
    p, y = wrong_probabilities(200)
    for method in CLASS_METHODS:
        fitted = method.fit(p, y)
        scores = method.scoring.scores(exact(p), y, 0.8)
        assert fitted.threshold == np.sort(scores)[math.ceil(201 * 0.8) - 1]
        new, _ = wrong_probabilities(50)
        member = method.scoring.table(exact(new)) <= fitted.threshold
        if method.allow_empty:
            np.testing.assert_array_equal(fitted.region(new).member, member)


def test_cumulative_scores_against_a_loop():
    p, _ = wrong_probabilities(40)
    probs = np.asarray(p.observed.probs)
    score = CumulativeProbability(penalty=0.2, offset=2)
    u, got = score.draw(exact(p)), score.table(exact(p))
    for i in range(40):
        for c in range(6):
            above = probs[i][probs[i] > probs[i, c]].sum()
            rank = (probs[i] >= probs[i, c]).sum()
            expected = above + u[i] * probs[i, c] + 0.2 * max(rank - 2, 0)
            assert got[i, c] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(
        Improbability().table(exact(p)), 1 - probs, rtol=0, atol=1e-15
    )


def test_the_draw_is_uniform_and_belongs_to_the_point():
    p, _ = wrong_probabilities(5000)
    probs = np.asarray(p.observed.probs)
    draws = {}
    for seed in (None, 1, 2):
        key = None if seed is None else jax.random.key(seed)
        score = CumulativeProbability(key=key)
        u = draws[seed] = score.draw(exact(p))
        assert stats.kstest(u, "uniform").pvalue > 1e-4
        assert (u < 1).all()
        # independent of what it is to be independent of
        assert abs(np.corrcoef(u, probs.max(axis=1))[0, 1]) < 4 / math.sqrt(5000)
        part = Predictive.probabilities(probs[17:18])
        assert score.draw(exact(part))[0] == u[17]
    for one, other in ((None, 1), (1, 2)):
        assert abs(np.corrcoef(draws[one], draws[other])[0, 1]) < 4 / math.sqrt(5000)


def test_probability_exactly_one_and_ties_of_classes():
    sure = np.zeros((30, 3))
    sure[:, 0] = 1.0
    p, y = Predictive.probabilities(sure), np.zeros(30, int)
    equal = Predictive.probabilities(np.full((2, 3), 1 / 3))
    # right with certainty: no score is above 0 and less certain points get no class
    assert LAC(0.9).fit(p, y).region(equal).size.tolist() == [0, 0]
    assert LAC(0.9, allow_empty=False).fit(p, y).region(equal).size.tolist() == [1, 1]
    # wrong with certainty: everything belongs to the set
    for method in CLASS_METHODS:
        assert method.fit(p, y + 2).region(equal).size.tolist() == [3, 3]
        assert method.fit(p, y).region(p).contains(y).all()


# Groups


def test_each_group_is_covered():
    """Groups of 9, 20 and 60 points, of very different noise, 300 repetitions."""
    repetitions, new, sizes = 300, 20, (9, 20, 60)
    group = np.repeat(["a", "b", "c"], sizes)
    noise = np.repeat([0.1, 1.0, 10.0], sizes)[:, None]
    order = RNG.permutation(89)
    y = (noise * RNG.standard_t(4, size=(89, repetitions)))[order]
    method = GroupConformal(SplitConformal(level=0.9))
    fitted = method.fit(normal((89, repetitions)), y, group[order])
    assert fitted.n.tolist() == list(sizes)
    later = np.array(["c", "a", "b"] * new)
    noise = np.array([10.0, 0.1, 1.0] * new)[:, None]
    y_new = noise * RNG.standard_t(4, size=(3 * new, repetitions))
    inside = fitted.region(normal(y_new.shape), later).contains(y_new)
    for name, n in zip("abc", sizes):
        law = stats.betabinom(new, *CoverageLaw(0.9, n).parameters)
        hits = inside[later == name].sum(axis=0)
        assert abs(hits.mean() - law.mean()) <= 4 * law.std() / repetitions**0.5


def test_groups_equal_a_fit_of_each():
    p, y = wrong_probabilities(120)
    probs = np.asarray(p.observed.probs)
    group = RNG.integers(0, 3, size=120)
    new = np.asarray(wrong_probabilities(40)[0].observed.probs)
    at = RNG.integers(0, 3, size=40)
    for base in CLASS_METHODS:
        fitted = GroupConformal(base).fit(p, y, group)
        member = fitted.region(Predictive.probabilities(new), at).member
        for g in range(3):
            alone = base.fit(Predictive.probabilities(probs[group == g]), y[group == g])
            expected = alone.region(Predictive.probabilities(new[at == g])).member
            np.testing.assert_array_equal(member[at == g], expected)


def test_groups_that_are_too_small_or_unknown_are_named():
    p, y = normal((30,)), np.zeros(30)
    group = np.array(["large"] * 25 + ["small"] * 5)
    method = GroupConformal(SplitConformal(level=0.9))
    with pytest.raises(ValueError, match=r"group small: .* at least 9 .* got 5"):
        method.fit(p, y, group)
    with pytest.raises(ValueError, match=r"groups of shape \(30,\), got \(29,\)"):
        method.fit(p, y, group[:29])
    fitted = method.fit(p, y, np.repeat(["a", "b"], 15))
    with pytest.raises(ValueError, match=r"calibrate part \(a, b\), got c at row 1"):
        fitted.region(normal((2,)), np.array(["a", "c"]))
    nan = np.where(np.arange(30) == 7, np.nan, 0.0)
    with pytest.raises(ValueError, match="NaN at row 7"):
        method.fit(p, y, nan)


# CV+ and jackknife+


def plus_by_hand(level, score, fold, models):
    """Lower and upper ends as the definition has them, in loops."""
    n = len(fold)
    k = math.ceil(Fraction(n + 1) * Fraction(str(level)))
    low, high = [], []
    for j in range(len(models[0][0])):
        ends = [
            (
                models[f][0][j] - s * models[f][1][j],
                models[f][0][j] + s * models[f][1][j],
            )
            for s, f in zip(score, fold)
        ]
        # floor(alpha (n + 1)) = n + 1 - ceil((1 - alpha)(n + 1))
        low.append(sorted(end[0] for end in ends)[n - k])
        high.append(sorted(end[1] for end in ends)[k - 1])
    return np.array(low), np.array(high)


@pytest.mark.parametrize("level", [0.5, 0.83, 0.9])
def test_plus_against_a_loop(level):
    n, new = 23, 7
    p, y = normal((n,)), RNG.normal(size=n)
    mean, std = (np.asarray(a) for a in (p.observed.loc, p.observed.scale))
    for folds in (4, n):
        fold = np.arange(n) % folds
        models = [(RNG.normal(size=new), RNG.uniform(1, 2, new)) for _ in range(folds)]
        later = [Predictive.normal(*model) for model in models]
        if folds == n:
            fitted = JackknifePlus(level).fit(p, y)
            assert fitted.guarantee == pytest.approx(max(0, 1 - 2 * (1 - level)))
        else:
            fitted = CVPlus(level).fit(p, y, fold)
        score = np.abs(y - mean) / std
        low, high = plus_by_hand(level, score, fold, models)
        got = fitted.region(later)
        np.testing.assert_allclose(got.lower, np.minimum(low, high), atol=1e-12)
        np.testing.assert_allclose(got.upper, np.maximum(low, high), atol=1e-12)


def test_plus_covers_more_than_its_guarantee():
    """Least squares with 15 features on 40 points, where split would waste data."""
    n, d, folds, new, repetitions = 40, 15, 8, 20, 80
    fold = np.arange(n) % folds
    shares = []
    for _ in range(repetitions):
        x = RNG.normal(size=(n + new, d))
        y = x.sum(axis=1) + RNG.normal(size=n + new)
        out, models = np.empty(n), []
        for k in range(folds):
            kept = fold != k
            beta = np.linalg.lstsq(x[:n][kept], y[:n][kept])[0]
            out[~kept] = x[:n][~kept] @ beta
            models.append(Predictive.normal(x[n:] @ beta, np.ones(new)))
        method = CVPlus(0.9, AbsoluteResidual())
        fitted = method.fit(Predictive.normal(out, np.ones(n)), y[:n], fold)
        shares.append(fitted.region(models).contains(y[n:]).mean())
    error = np.std(shares, ddof=1) / math.sqrt(repetitions)
    assert 1 - 2 * 0.1 - math.sqrt(2 / n) <= fitted.guarantee < 0.8
    assert np.mean(shares) >= 0.8 - 4 * error
    # what is seen in practice, and the reason to use it
    assert 0.88 <= np.mean(shares) <= 0.97


def test_plus_refuses_what_does_not_fit():
    p, y = normal((30,)), np.zeros(30)
    with pytest.raises(ValueError, match="at least two folds"):
        CVPlus(0.9).fit(p, y, np.zeros(30))
    fitted = CVPlus(0.9).fit(p, y, np.arange(30) % 3)
    with pytest.raises(ValueError, match="expected 3 predictions"):
        fitted.region([normal((4,))] * 2)
    with pytest.raises(ValueError, match="one shape"):
        fitted.region([normal((4,)), normal((4,)), normal((5,))])
    with pytest.raises(ValueError, match=r"JackknifePlus: .* at least 9"):
        JackknifePlus(0.9).fit(normal((5,)), np.zeros(5))


# Streams


def hostile(p, length):
    """Outcomes whose law jumps and drifts, then always miss, then always hit."""
    t = np.arange(length)
    y = RNG.normal(size=length) * np.where(t // 500 % 2, 5.0, 0.3) + t / length
    y[length // 2 : length // 2 + 200] = 1e6
    y[length // 2 + 200 : length // 2 + 600] = 0.0
    return y


@pytest.mark.parametrize("window", [None, 50, 10**6])
@pytest.mark.parametrize("rate", [0.003, 0.05, 0.7])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_adaptive_coverage_keeps_its_bound_on_any_stream(level, rate, window):
    length = 4000
    p = Predictive.normal(np.zeros(length), np.ones(length))
    y = hostile(p, length)
    method = AdaptiveConformal(level, rate, window=window)
    path = method.run(method.init(p, RNG.normal(size=length)), p, y)
    for steps in (1, 10, 2100, 2500, length):
        gap = abs(path.coverage[steps - 1] - level)
        assert gap <= method.bound(steps) + 1e-12
    assert path.alpha.min() >= -rate
    assert path.alpha.max() <= 1 + rate
    np.testing.assert_array_equal(path.region.contains(y), path.covered)
    # the identity behind the bound, Proposition 4.1
    gain = path.state.alpha - path.alpha[0]
    miss = 1 - path.covered.mean()
    assert miss - (1 - level) == pytest.approx(-gain / (rate * length), abs=1e-9)
    # a plain conformal interval does not hold its level here
    plain = SplitConformal(level).fit(normal((500,)), RNG.normal(size=500)).region(p)
    assert abs(plain.contains(y).mean() - level) > 0.02


def test_adaptive_regions_beyond_both_ends():
    p = Predictive.normal(np.zeros(400), np.ones(400))
    method = AdaptiveConformal(0.9, 0.3)
    start = method.init(p, RNG.normal(size=400))
    lost = method.run(start, p, np.full(400, 1e9))
    assert (lost.alpha[1:] <= 0).any()
    assert np.isinf(lost.region.size[lost.alpha <= 0]).all()
    assert lost.covered[lost.alpha <= 0].all()
    easy = method.run(start, p, np.zeros(400))
    assert (easy.alpha >= 1).any()
    assert (easy.region.size[easy.alpha >= 1] == 0).all()
    assert not easy.covered[easy.alpha >= 1].any()


@pytest.mark.parametrize("window", [None, 7])
def test_steps_equal_a_run(window):
    method = AdaptiveConformal(0.8, 0.1, Quantiles(), window=window)
    mean, y = RNG.normal(size=(2, 60))
    p = Predictive.normal(mean, np.ones(60))
    state = start = method.init(normal((30,)), RNG.normal(size=30))
    path = method.run(start, p, y)
    history = list(start.scores)
    for t in range(60):
        one = Predictive.normal(mean[t : t + 1], np.ones(1))
        region = method.region(state, one)
        assert region.lower[0] == path.region.lower[t]
        # the order statistic of what is in the window, found anew
        k = math.ceil((len(history) + 1) * (1 - state.alpha) - 1e-9)
        if 0 < state.alpha < 1 and k <= len(history):
            at = sorted(history)[k - 1]
            expected = Quantiles().region(exact(one), np.array(at), 0.8)
            assert region.upper[0] == expected.upper[0]
        state = method.step(state, one, y[t : t + 1])
        if window is not None:
            history.append(state.scores[-1])
            history = history[-window:]
    assert state == path.state
    assert (state.steps, len(state.scores)) == (60, window or 30)
    assert start.steps == 0  # nothing was changed in place
    two = method.run(method.run(start, p, y).state, p, y)
    assert two.state.steps == 120
    with pytest.raises(ValueError, match="one point, got 2"):
        method.step(state, normal((2,)), np.zeros(2))


def test_adaptive_sets_of_classes_and_bad_options():
    p, y = wrong_probabilities(3000)
    method = AdaptiveConformal(0.9, 0.02, Improbability())
    path = method.run(method.init(*wrong_probabilities(100)), p, y)
    assert isinstance(path.region, ClassSets)
    assert abs(path.coverage[-1] - 0.9) <= method.bound(3000)
    np.testing.assert_array_equal(path.region.contains(y), path.covered)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rate"):
            AdaptiveConformal(0.9, rate)
    with pytest.raises(ValueError, match="window"):
        AdaptiveConformal(0.9, 0.1, window=0)
    with pytest.raises(ValueError, match="one score a point"):
        AdaptiveConformal(0.9, 0.1).init(normal((9, 2)), np.zeros((9, 2)))


# Several outputs at once


def correlated(n, outputs=3):
    root = np.array([[1.0, 0, 0], [0.9, 0.3, 0], [0.8, 0.3, 0.2]])[:outputs, :outputs]
    p = normal((n, outputs))
    error = RNG.standard_t(5, size=(n, outputs)) @ root.T
    return p, np.asarray(p.observed.loc) + np.asarray(p.observed.scale) * error


@pytest.mark.parametrize("shape", [Box(), Ellipsoid(), Ellipsoid(share=0.3)])
def test_joint_coverage_is_k_over_n_plus_one(shape):
    n, new, repetitions = 30, 30, 100
    method, shares, alone = JointConformal(0.8, shape), [], []
    for _ in range(repetitions):
        fitted = method.fit(*correlated(n))
        p, y = correlated(new)
        shares.append(fitted.region(p).contains(y).mean())
        alone.append(fitted.n)
    used = {Box(): 30, Ellipsoid(): 15, Ellipsoid(share=0.3): 21}[shape]
    assert set(alone) == {used}
    # repetitions are independent, points of one repetition are not: beta-binomial
    law = stats.betabinom(new, *CoverageLaw(0.8, used).parameters)
    error = law.std() / new / math.sqrt(repetitions)
    assert abs(np.mean(shares) - law.mean() / new) <= 4 * error


def test_shapes_of_joint_regions():
    p, y = correlated(4000)
    new, _ = correlated(1)
    box = JointConformal(0.9).fit(p, y).region(new)
    ellipsoid = JointConformal(0.9, Ellipsoid()).fit(p, y).region(new)
    assert isinstance(box, Boxes)
    assert isinstance(ellipsoid, Ellipsoids)
    assert ellipsoid.size[0] < box.size[0] / 3  # correlated residuals
    # the volume against counting: 200 000 points in a box around the ellipsoid
    reach = ellipsoid.radius[0] * np.linalg.norm(ellipsoid.factor, axis=1)
    half = reach * ellipsoid.std[0]
    points = ellipsoid.center[0] + half * RNG.uniform(-1, 1, size=(200_000, 3))
    many = Ellipsoids(
        np.repeat(ellipsoid.center, 200_000, axis=0),
        np.repeat(ellipsoid.std, 200_000, axis=0),
        ellipsoid.factor,
        np.repeat(ellipsoid.radius, 200_000),
    )
    share = ellipsoid.size[0] / np.prod(2 * half)
    assert near(many.contains(points), share)
    # sides of a box follow the predicted standard deviations
    sides = (box.upper - box.lower) / np.asarray(new.observed.scale)
    assert np.ptp(sides) < 1e-10
    as_score = SplitConformal(0.9, LargestResidual()).fit(p, y).region(new)
    np.testing.assert_array_equal(as_score.lower, box.lower)


def test_joint_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="use SplitConformal for one"):
        JointConformal(0.9).fit(normal((30,)), np.zeros(30))
    p, y = correlated(40, 2)
    same = Predictive.normal(np.zeros((40, 2)), np.ones((40, 2)))
    with pytest.raises(ValueError, match="linearly dependent"):
        JointConformal(0.5, Ellipsoid()).fit(same, np.repeat(y[:, :1], 2, axis=1))
    with pytest.raises(ValueError, match="more than 2 points for the shape"):
        JointConformal(0.5, Ellipsoid(share=0.05)).fit(p, y)
    with pytest.raises(ValueError, match="share"):
        Ellipsoid(share=1.0)


# Scores of regions


def test_region_scores_of_intervals():
    p, y = normal((1000,)), 2 * RNG.normal(size=1000)
    fitted = SplitConformal(0.9).fit(normal((199,)), 2 * RNG.normal(size=199))
    region = fitted.region(p)
    s = region_scores(region, y, level=0.9, calibrated=fitted.n)
    inside = (region.lower <= y) & (y <= region.upper)
    assert s["coverage"].hits == inside.sum()
    assert s["coverage"].interval == exact_interval(int(inside.sum()), 1000)
    assert s["coverage"].p == CoverageLaw(0.9, 199).p_value(int(inside.sum()), 1000)
    assert s["width"].value == pytest.approx((region.upper - region.lower).mean())
    assert s["width"].se > 0
    assert (s["empty"].value, s["infinite"].value) == (0, 0)
    # ten strata of a hundred widths each, each with its coverage
    order = np.argsort(region.size)
    worst = min(inside[order[i : i + 100]].sum() for i in range(0, 1000, 100))
    assert s["size_stratified"].hits == worst
    assert s["size_stratified"].n == 100
    assert s["size_stratified"].interval == exact_interval(int(worst), 100, 0.995)


def test_region_scores_of_sets_and_of_several_outputs():
    p, y = wrong_probabilities(2000)
    fitted = APS(0.9).fit(*wrong_probabilities(500))
    region = fitted.region(p)
    s = region_scores(region, y, level=0.9, calibrated=500)
    assert s["size"].value == region.member.sum() / 2000
    assert s["empty"].hits == (~region.member.any(axis=1)).sum()
    by_class = coverage_by(region, y, y)
    inside = region.member[np.arange(2000), y]
    assert sorted(by_class) == list(range(6))
    for c, one in by_class.items():
        assert (one.hits, one.n) == (inside[y == c].sum(), (y == c).sum())
    assert s["class_conditional"].value == min(one.value for one in by_class.values())
    strata = size_strata(region.size.astype(float))
    assert s["size_stratified"].value == min(
        inside[strata == k].mean() for k in np.unique(strata)
    )
    assert np.bincount(strata).min() >= 200
    two, both = correlated(300)
    s = region_scores(SplitConformal(0.9).fit(*correlated(50)).region(two), both)
    assert set(s) == {"coverage", "width", "empty", "infinite"}
    s = region_scores(JointConformal(0.9).fit(*correlated(50)).region(two), both)
    assert s["coverage"].n == 300
    assert s["volume"].value > 0
    ellipsoid = JointConformal(0.9, Ellipsoid()).fit(*correlated(60)).region(two)
    assert region_scores(ellipsoid, both)["infinite"].value == 0


def test_region_scores_of_odd_regions():
    whole = Interval(np.full(40, -np.inf), np.full(40, np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = region_scores(whole, np.zeros(40), level=0.9)
    assert (s["width"].value, s["width"].se) == (np.inf, None)
    assert (s["infinite"].value, s["coverage"].value) == (1, 1)
    empty = Interval(np.full(40, np.inf), np.full(40, -np.inf))
    s = region_scores(empty, np.zeros(40), level=0.9)
    assert (s["width"].value, s["empty"].value, s["coverage"].value) == (0, 1, 0)
    one = region_scores(Interval(np.zeros(1), np.ones(1)), np.array([0.5]))
    assert one["coverage"].n == 1
    with pytest.raises(ValueError, match="at least one region"):
        region_scores(Interval(np.zeros(0), np.zeros(0)), np.zeros(0))
    with pytest.raises(ValueError, match=r"y of shape \(40,\), got \(39,\)"):
        region_scores(whole, np.zeros(39))
    with pytest.raises(ValueError, match="finite y, got nan at row 3"):
        region_scores(whole, np.where(np.arange(40) == 3, np.nan, 0.0))
    with pytest.raises(ValueError, match="needs the level"):
        region_scores(whole, np.zeros(40), calibrated=100)
    sets = ClassSets(np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="codes 0 to 1, got 2 at row 1"):
        sets.contains(np.array([0, 2, 1]))
    with pytest.raises(ValueError, match="integer class codes"):
        sets.contains(np.zeros(3))


# Bad input


def test_bad_predictions_and_outcomes_are_named():
    y = np.zeros(20)
    p = normal((20,))
    with pytest.raises(ValueError, match="finite y, got nan at row 4"):
        SplitConformal(0.9).fit(p, np.where(np.arange(20) == 4, np.nan, y))
    with pytest.raises(ValueError, match="finite y, got inf at row 4"):
        SplitConformal(0.9).fit(p, np.where(np.arange(20) == 4, np.inf, y))
    with pytest.raises(ValueError, match=r"y of shape \(20,\), got \(19,\)"):
        SplitConformal(0.9).fit(p, y[:19])
    bad = np.where(np.arange(20) == 4, np.nan, 1.0)

    def made(mean, std):
        # a posterior may make these; `Predictive.normal` would refuse them
        return Predictive(
            latent=None, observed=dist.Normal(mean, std, validate_args=False)
        )

    fitted = SplitConformal(0.9).fit(p, y)
    for score in SCORES:
        with pytest.raises(ValueError, match="predicted means, got nan at row 4"):
            SplitConformal(0.9, score).fit(made(bad, np.ones(20)), y)
    with pytest.raises(ValueError, match="nan at row 4"):
        fitted.region(made(bad, np.ones(20)))
    for std in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"positive, got .* at row 4; Absolute"):
            SplitConformal(0.9).fit(made(y, np.where(bad == bad, 1.0, std)), y)
    delta = Predictive(latent=None, observed=dist.Delta(np.zeros(20)))
    assert SplitConformal(0.9, AbsoluteResidual()).fit(delta, y + 1).threshold == 1


def test_kinds_of_predictions_must_fit():
    p, codes = wrong_probabilities(30)
    for method in (SplitConformal(0.9), CQR(0.9), SplitConformal(0.9, Tail())):
        with pytest.raises(TypeError, match="use LAC, APS or RAPS"):
            method.fit(p, codes)
    with pytest.raises(TypeError, match="use SplitConformal"):
        LAC(0.9).fit(normal((30,)), np.zeros(30))
    with pytest.raises(ValueError, match="class codes 0 to 5, got 6 at row 0"):
        APS(0.9).fit(p, codes * 0 + 6)
    bad = np.full((30, 3), 1 / 3)
    bad[11, 0] = np.nan
    made = Predictive(
        latent=None, observed=dist.CategoricalProbs(bad, validate_args=False)
    )
    with pytest.raises(ValueError, match="at row 11"):
        APS(0.9).fit(made, np.zeros(30, int))
    positions = Predictive(
        latent=None, observed=dist.CategoricalProbs(np.full((30, 4, 3), 1 / 3))
    )
    with pytest.raises(ValueError, match=r"\(N, C\), got \(30, 4, 3\)"):
        LAC(0.9).fit(positions, np.zeros((30, 4), int))
    with pytest.raises(ValueError, match="penalty"):
        RAPS(0.9, penalty=-1.0, offset=1)
    with pytest.raises(ValueError, match="offset"):
        RAPS(0.9, penalty=0.1, offset=-1)
    with pytest.raises(ValueError, match="level strictly between"):
        Quantiles(level=1.0)
    narrow = Predictive.quantiles(np.array([0.2, 0.8]), np.zeros((2, 30)))
    with pytest.raises(ValueError, match="within the levels of the quantile table"):
        CQR(0.9).fit(narrow, np.zeros(30))
    # a table that knows another level serves all the same
    assert SplitConformal(0.9, Quantiles(level=0.6)).fit(narrow, np.ones(30)).n == 30


def test_logits_and_a_column_of_outcomes_are_accepted():
    p, y = wrong_probabilities(60)
    probs = np.asarray(p.observed.probs)
    logits = Predictive(latent=None, observed=dist.CategoricalLogits(np.log(probs)))
    one, other = LAC(0.9).fit(p, y), LAC(0.9).fit(logits, y[:, None])
    assert one.threshold == pytest.approx(float(other.threshold), abs=1e-14)
    q = normal((60,))
    one = SplitConformal(0.9).fit(q, np.zeros(60))
    assert one.threshold == SplitConformal(0.9).fit(q, np.zeros((60, 1))).threshold


def test_overlap_with_the_calibrate_part_is_said():
    p, y = normal((100,)), np.zeros(100)
    fitted = SplitConformal(0.9).fit(p, y)
    with pytest.warns(OverlapWarning, match="SplitConformal: 100 of these 100 points"):
        fitted.region(p)
    group = np.zeros(100, int)
    grouped = GroupConformal(SplitConformal(0.9)).fit(p, y, group)
    with pytest.warns(OverlapWarning, match="GroupConformal"):
        grouped.region(p, group)
    fitted.region(normal((100,)))  # warnings are errors here


def test_a_million_points():
    p, y = normal((1_000_000,)), RNG.normal(size=1_000_000)
    fitted = SplitConformal(0.9).fit(p, y)
    inside = fitted.region(normal((1_000_000,))).contains(RNG.normal(size=1_000_000))
    law = stats.betabinom(1_000_000, *fitted.law.parameters)
    assert abs(inside.sum() - law.mean()) <= 4 * law.std()

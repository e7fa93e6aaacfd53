"""Scores of class probabilities: conventions, oracles, and claims by simulation."""

import itertools as it

import jax
import numpy as np
import pytest
from numpyro import distributions as dist
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from ntkuq.calibration import Scores, score
from ntkuq.calibration.bands import ConfidenceBand, ConsistencyBand
from ntkuq.calibration.binned import (
    chance_error,
    class_calibration_error,
    expected_calibration_error,
    mean_deviation,
)
from ntkuq.calibration.binning import EqualCount, EqualWidth
from ntkuq.calibration.blocks import blocks, means
from ntkuq.calibration.classification import classification
from ntkuq.calibration.decomposition import corp, decomposition
from ntkuq.calibration.isotonic import (
    ascending,
    gain_by_chance,
    isotonic,
    pooled,
)
from ntkuq.calibration.kernel_calibration import (
    AllPairs,
    Disjoint,
    kernel_calibration_error,
)
from ntkuq.calibration.norms import L1, L2, DebiasedL2, Largest
from ntkuq.calibration.reliability import reliability_curve
from ntkuq.calibration.smooth import chance_smooth_error, smooth_calibration_error
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(0)


def draw(probs):
    """Classes drawn with the given probabilities."""
    u = RNG.uniform(size=(len(probs), 1))
    return np.minimum((probs.cumsum(1) < u).sum(1), probs.shape[1] - 1)


def sharpened(probs, power):
    sharp = probs**power
    return sharp / sharp.sum(1, keepdims=True)


def events(n, power=1.0):
    """Probabilities, and outcomes whose true odds are theirs to a power."""
    p = RNG.beta(3, 1, size=n)
    true = p**power / (p**power + (1 - p) ** power)
    return p, RNG.uniform(size=n) < true


def by_hand(p, y, cells, norm):
    """Each bin in turn."""
    gaps, shares, noise = [], [], []
    for b in np.unique(cells):
        inside = cells == b
        a = y[inside].mean()
        gaps.append(abs(a - p[inside].mean()))
        shares.append(inside.mean())
        n = inside.sum()
        noise.append(a * (1 - a) / (n - 1) if n > 1 else gaps[-1] ** 2)
    gaps, shares, noise = map(np.array, (gaps, shares, noise))
    return {
        L1(): shares @ gaps,
        L2(): np.sqrt(shares @ gaps**2),
        DebiasedL2(): np.sqrt(max(shares @ (gaps**2 - noise), 0)),
        Largest(): gaps.max(),
    }[norm]


# --- bins and norms ---------------------------------------------------------------


@pytest.mark.parametrize("norm", [L1(), L2(), DebiasedL2(), Largest()])
@pytest.mark.parametrize("binning", [EqualWidth(15), EqualWidth(7), EqualCount(10)])
def test_binned_errors_bin_by_bin(norm, binning):
    p, y = events(157, 2.0)
    p = np.round(p, 2)  # ties and edges
    s = expected_calibration_error(p, y, binning, norm=norm)
    expected = by_hand(p, y, binning.index(p), norm)
    np.testing.assert_allclose(s.value, expected, rtol=1e-12)
    assert s.interval[0] <= s.value <= s.interval[1]


def test_equal_width_is_a_search_among_the_edges():
    edges = np.arange(16) / 15
    around = [np.nextafter(edges, 0), edges, np.nextafter(edges, 2)]
    p = np.concatenate([*around, RNG.uniform(size=1000), [0.0, 1.0, 1 - 1e-12]])
    for bins in (1, 3, 10, 15, 49):
        edges = np.arange(bins + 1) / bins
        expected = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
        np.testing.assert_array_equal(EqualWidth(bins).index(p), expected)


def test_equal_count_has_equal_counts_and_keeps_ties_together():
    p = RNG.permutation(np.linspace(0, 1, 60))
    index = EqualCount(15).index(p)
    assert np.bincount(index).tolist() == [4] * 15
    assert np.all(np.diff(index[np.argsort(p)]) >= 0)
    ties = RNG.integers(0, 7, size=100) / 7
    index = EqualCount(15).index(ties)
    for value in np.unique(ties):
        less, equal = np.sum(ties < value), np.sum(ties == value)
        middle = less + (equal - 1) / 2
        assert np.unique(index[ties == value]).tolist() == [int(15 * middle // 100)]
    assert EqualCount(15).index(np.full(9, 0.5)).tolist() == [6] * 9  # 15 * 4 / 9
    assert EqualCount(4).index(np.array([0.3])).tolist() == [0]
    with pytest.raises(ValueError, match="at least one bin"):
        EqualCount(0)


def test_debiased_square_is_unbiased():
    """Two bins with known errors; the mean of 4000 estimates within four of its SE."""
    p, true = np.repeat([0.3, 0.8], 10), np.repeat([0.35, 0.7], 10)
    cells = EqualWidth(15).index(p)
    estimates = []
    for _ in range(4000):
        y = RNG.uniform(size=20) < true
        gap = np.bincount(cells, y - p, minlength=15)
        count, right = np.bincount(cells, minlength=15), np.bincount(cells, y, 15)
        several = count > 1
        noise = right * (1 - right / np.maximum(count, 1)) / np.maximum(count - 1, 1)
        squares = np.where(several, gap**2 / np.maximum(count, 1) - noise, 0).sum() / 20
        estimates.append(squares)
        if len(estimates) < 20:
            found = expected_calibration_error(p, y, norm=DebiasedL2()).value
            np.testing.assert_allclose(found, np.sqrt(max(squares, 0)), atol=1e-12)
    truth = np.mean((true - p) ** 2)
    assert abs(np.mean(estimates) - truth) < 4 * stats.sem(estimates)


def test_mean_deviation_by_summing_the_binomial():
    for n, p in it.product([1, 2, 9, 100], [0.0, 0.03, 0.5, 0.6, 1.0]):
        k = np.arange(n + 1)
        exact = stats.binom.pmf(k, n, p) @ np.abs(k - n * p)
        found = mean_deviation(np.array(n), np.array(p))
        np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-13)


def test_chance_is_what_calibrated_models_show():
    p = RNG.beta(3, 1, size=400)
    for binning in (EqualWidth(15), EqualCount(15)):
        found = np.array(
            [
                expected_calibration_error(p, RNG.uniform(size=400) < p, binning).value
                for _ in range(100)
            ]
        )
        s = chance_error(p, RNG.uniform(size=400) < p, binning)
        # Draws bin by bin have a little more variance than points of unequal p.
        np.testing.assert_allclose(s.value, np.mean(found), rtol=0.08)
        assert 0.9 <= np.mean((s.interval[0] <= found) & (found <= s.interval[1])) <= 1


def test_p_values_are_those_of_a_calibrated_model():
    """At most 5 % (and 4 binomial standard errors of 60) below 0.05; power."""
    small = {"binned": 0, "smooth": 0}
    for _ in range(60):
        p, y = events(200)
        small["binned"] += expected_calibration_error(p, y).p < 0.05
        small["smooth"] += smooth_calibration_error(p, y).p < 0.05
    limit = 60 * 0.05 + 4 * np.sqrt(60 * 0.05 * 0.95)
    assert all(count < limit for count in small.values())
    p, y = events(2000, 0.5)
    assert expected_calibration_error(p, y).p == smooth_calibration_error(p, y).p == 0


def test_standard_errors_by_simulation():
    """Away from 0 a distance has a normal law; more than 500 points come in blocks.

    The deviation of 60 values is known within 1 / sqrt(120) = 9 %: three times that.
    """
    found = {"l1": [], "smooth": [], "class": [], "mcb": [], "dsc": []}
    for _ in range(60):
        p, y = events(1000, 0.4)
        found["l1"].append(expected_calibration_error(p, y))
        found["smooth"].append(smooth_calibration_error(p, y))
        pair = np.stack([1 - p, p], axis=1)
        found["class"].append(class_calibration_error(pair, y.astype(int)))
        x, y = isotonic(p, y * 1.0).fitted, y * 1.0
        parts = decomposition((p - y) ** 2, (x - y) ** 2, (y.mean() - y) ** 2)
        found["mcb"].append(parts.miscalibration)
        found["dsc"].append(parts.discrimination)
    for name, scores in found.items():
        spread = np.std([s.value for s in scores])
        told = np.sqrt(np.mean([s.se**2 for s in scores]))
        assert 1 / 1.3 < told / spread < 1.3, name


def test_class_wise_error_class_by_class():
    probs = RNG.dirichlet(np.ones(4), size=300)
    y = RNG.integers(0, 4, size=300)
    each = [expected_calibration_error(probs[:, k], y == k).value for k in range(4)]
    s = class_calibration_error(probs, y)
    np.testing.assert_allclose(s.value, np.mean(each), rtol=1e-12)


# --- smooth calibration error ------------------------------------------------------


def smooth_by_quadrature(p, y, sigma, points=4000):
    """Mirror images of each point instead of a cosine series."""
    t = (np.arange(points) + 0.5) / points
    g = np.zeros(points)
    for shift, sign in it.product(range(-6, 8, 2), (1, -1)):
        z = (t[:, None] - (sign * p + shift)) / sigma
        g += np.exp(-0.5 * z**2) @ (y - p)
    return np.abs(g).mean() / (sigma * np.sqrt(2 * np.pi) * p.size)


@pytest.mark.parametrize("power", [1.0, 0.5, 3.0])
def test_smooth_error_is_the_published_fixed_point(power):
    p, y = events(200, power)
    value = smooth_calibration_error(p, y).value
    # Midpoints with step h miss the area by about h^2 / sigma^2 < 1e-4 of it.
    np.testing.assert_allclose(smooth_by_quadrature(p, y, value), value, rtol=1e-5)


def test_smooth_error_of_residuals_of_one_sign_is_their_mean():
    p = np.array([0.0, 0.2, 0.9999, 1.0])
    y = np.array([False, False, True, True])
    s = smooth_calibration_error(p[1:2], y[1:2])
    np.testing.assert_allclose(s.value, 0.2, rtol=1e-6)
    assert s.se is None
    assert smooth_calibration_error(p[[0, 3]], y[[0, 3]]).value == 0.0
    np.testing.assert_allclose(
        smooth_calibration_error(np.full(50, 0.9999), np.ones(50, bool)).value,
        1e-4,
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        smooth_calibration_error(np.ones(50), np.zeros(50, bool)).value, 1.0, rtol=1e-6
    )


def test_resampled_smooth_errors_have_the_value_in_their_middle():
    p, y = events(1000, 3.0)
    s = smooth_calibration_error(p, y)
    assert s.interval[0] < s.value < s.interval[1]
    by_chance = chance_smooth_error(p, y)
    found = [smooth_calibration_error(*events(1000)).value for _ in range(20)]
    # 20 values with a deviation of a sixth of their mean: 4 % in the mean, thrice.
    np.testing.assert_allclose(by_chance.value, np.mean(found), rtol=0.12)


# --- isotonic reliability ----------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 2, 16])
def test_isotonic_is_scikit_learn(digits):
    p, y = events(300)
    p = np.round(p, digits)
    expected = IsotonicRegression().fit(p, y).predict(p)
    np.testing.assert_allclose(isotonic(p, y * 1.0).fitted, expected, atol=1e-12)


def test_rows_are_fitted_apart():
    y, w = RNG.uniform(size=(5, 40)), RNG.uniform(0.1, 1, size=(5, 40))
    x = np.arange(40)
    for row, weight, fit in zip(y, w, pooled(y, w), strict=True):
        expected = IsotonicRegression().fit(x, row, sample_weight=weight).predict(x)
        np.testing.assert_allclose(fit, expected, atol=1e-12)


def test_sorting_by_bits():
    close = 0.5 + np.arange(300)[::-1] * 2.0**-53  # neighbors differ in the last bits
    for p in (RNG.uniform(size=1000), close, np.r_[0.0, 1.0, 0.5], np.ones(1)):
        ordered = p[ascending(p)]
        np.testing.assert_array_equal(ordered, np.sort(p))


@pytest.mark.parametrize("digits", [1, 16])
def test_the_parts_add_up(digits):
    p, y = events(400, 2.0)
    p = np.clip(np.round(p, digits), 0.01, 0.99)
    c = corp(p, y)
    for parts, expected in (
        (c.brier, brier_score_loss(y, p)),
        (c.log, log_loss(y, np.stack([1 - p, p], 1))),
    ):
        np.testing.assert_allclose(parts.score.value, expected, rtol=1e-12)
        total = (
            parts.miscalibration.value
            - parts.discrimination.value
            + parts.uncertainty.value
        )
        np.testing.assert_allclose(total, expected, rtol=1e-12)
        assert parts.miscalibration.value >= 0
        assert parts.discrimination.value >= 0
    rate = y.mean()
    np.testing.assert_allclose(c.brier.uncertainty.value, rate * (1 - rate))
    assert len(c.curve["confidence"]) <= 200
    at = np.interp(p, c.curve["confidence"], c.curve["accuracy"])
    np.testing.assert_allclose(at, c.recalibrated, atol=1e-12)


def test_the_consistency_band_holds_the_curves_of_calibrated_models():
    """Point by point 95 %: seven points of 200 curves, together within 3 points.

    The points of a curve are dependent: at worst a standard error of sqrt(0.95 *
    0.05 / 200) = 1.5 %, and the ends of the band, quantiles of 200 draws, add 1.5 %.
    """
    for n in (60, 4000):
        p = RNG.beta(3, 1, size=n)
        c = corp(p, RNG.uniform(size=n) < p)
        at = np.searchsorted(np.sort(p), np.quantile(p, np.linspace(0.05, 0.95, 7)))
        grid = np.sort(p)[at]
        band = [
            np.interp(grid, c.curve["confidence"], c.curve[end])
            for end in ("lower", "upper")
        ]
        inside = []
        for _ in range(200):
            fit = isotonic(p, 1.0 * (RNG.uniform(size=n) < p))
            inside.append((band[0] <= fit.value[at]) & (fit.value[at] <= band[1]))
        assert 0.90 < np.mean(inside) < 0.99


def test_the_confidence_band_is_around_the_estimate():
    p, y = events(3000, 0.4)
    c = corp(p, y, band=ConfidenceBand(0.9)).curve
    inner = (c["confidence"] > 0.3) & (c["confidence"] < 0.95)
    inside = (c["lower"] <= c["accuracy"]) & (c["accuracy"] <= c["upper"])
    assert inside[inner].mean() > 0.8
    wide = corp(p, y, band=ConfidenceBand(0.99)).curve
    assert np.all(wide["lower"] <= c["lower"])
    assert np.all(wide["upper"] >= c["upper"])


def test_miscalibration_by_chance():
    p = RNG.beta(3, 1, size=500)
    found = [
        corp(p, RNG.uniform(size=500) < p, band=ConsistencyBand(0.5)) for _ in range(40)
    ]
    values = np.array([c.brier.miscalibration.value for c in found])
    error = 4 * stats.sem(values)
    assert abs(found[0].chance.value - values.mean()) < 2 * error
    fit = isotonic(p, 1.0 * (RNG.uniform(size=500) < p))
    assert abs(gain_by_chance(fit) - values.mean()) < 2 * error
    # 5 % of 40 and four standard errors
    assert sum(c.brier.miscalibration.p < 0.05 for c in found) < 2 + 4 * np.sqrt(1.9)
    rounded = isotonic(np.round(p, 1), 1.0 * (RNG.uniform(size=500) < p))
    assert 0 < gain_by_chance(rounded) < values.mean()


def test_logarithmic_parts_with_certain_predictions():
    c = corp(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0, 1, 0, 0]))
    assert c.log.score.value == c.log.miscalibration.value == np.inf
    assert np.isfinite(c.log.discrimination.value)
    assert c.recalibrated.tolist() == [0.0, 0.5, 0.5, 0.0]


# --- kernel calibration error ------------------------------------------------------


def test_kernel_error_pair_by_pair():
    probs, y = RNG.dirichlet(np.ones(3), size=30), RNG.integers(0, 3, size=30)
    width, total = 0.4, []
    residual = np.eye(3)[y] - probs
    for i, j in it.combinations(range(30), 2):
        apart = np.linalg.norm(probs[i] - probs[j])
        total.append(np.exp(-apart / width) * residual[i] @ residual[j])
    s = kernel_calibration_error(probs, y, width=width)
    np.testing.assert_allclose(s.value, np.mean(total), rtol=1e-10)


@pytest.mark.parametrize("estimator", [AllPairs(), Disjoint()])
def test_kernel_error_is_unbiased_and_its_test_holds_its_level(estimator):
    found = []
    for _ in range(200):
        probs = RNG.dirichlet(np.ones(3), size=80)
        found.append(kernel_calibration_error(probs, draw(probs), estimator=estimator))
    values = np.array([s.value for s in found])
    assert abs(values.mean()) < 4 * stats.sem(values)
    limit = 200 * 0.05 + 4 * np.sqrt(200 * 0.05 * 0.95)
    assert sum(s.p < 0.05 for s in found) < limit
    n = 1000 if estimator == AllPairs() else 10_000
    probs = RNG.dirichlet(np.ones(3), size=n)
    sure = sharpened(probs, 3)
    assert kernel_calibration_error(sure, draw(probs), estimator=estimator).p < 0.01


def test_kernel_error_of_many_points_is_linear():
    probs = RNG.dirichlet(np.ones(3), size=2001)
    y = draw(probs)
    a = kernel_calibration_error(probs, y)
    assert a == kernel_calibration_error(probs, y, estimator=Disjoint())
    same = kernel_calibration_error(np.full((9, 2), 0.5), np.arange(9) % 2)
    assert np.isfinite(same.value)
    with pytest.raises(ValueError, match="at least two points"):
        kernel_calibration_error(probs[:1], y[:1])
    with pytest.raises(ValueError, match="positive width"):
        kernel_calibration_error(probs, y, width=0.0)


# --- the whole set -----------------------------------------------------------------


def finite(s: Scores) -> None:
    for name, value in s.values.items():
        assert np.isfinite(value.value), name
        if value.interval is not None:
            slack = 1e-12
            assert value.interval[0] - slack <= value.value, name
            assert value.value <= value.interval[1] + slack, name
    for curve in s.curves.values():
        assert len({len(column) for column in curve.values()}) == 1
        assert all(len(column) <= 200 for column in curve.values())
        for name, column in curve.items():
            assert name == "count" or np.all((column >= 0) & (column <= 1)), name


def test_values_by_other_means():
    probs = RNG.dirichlet(np.ones(3), size=400)
    y = draw(probs)
    with jax.enable_x64(True):
        epistemic, aleatoric = RNG.uniform(size=(2, 400))
        p = Predictive(None, dist.CategoricalProbs(probs), epistemic, aleatoric)
        s = classification(p, y)
        logits = Predictive(None, dist.CategoricalLogits(np.log(probs) + 3.0))
        same = classification(logits, y)
    finite(s)
    np.testing.assert_allclose(s["nll"].value, log_loss(y, probs), rtol=1e-12)
    one_hot = np.eye(3)[y]
    brier = np.mean(np.sum((probs - one_hot) ** 2, 1))
    np.testing.assert_allclose(s["brier"].value, brier, rtol=1e-12)
    entropies = stats.entropy(probs, axis=1)
    np.testing.assert_allclose(s["entropy"].value, entropies.mean(), rtol=1e-12)
    np.testing.assert_allclose(s["entropy"].se, stats.sem(entropies), rtol=1e-9)
    gap = probs.max(1) - (probs.argmax(1) == y)
    np.testing.assert_allclose(s["overconfidence"].value, gap.mean(), atol=1e-12)
    np.testing.assert_allclose(s["overconfidence"].se, stats.sem(gap), rtol=1e-9)
    np.testing.assert_allclose(s["epistemic"].value, epistemic.mean(), rtol=1e-12)
    np.testing.assert_allclose(s["aleatoric"].value, aleatoric.mean(), rtol=1e-12)
    for name in same.values:
        np.testing.assert_allclose(same[name].value, s[name].value, rtol=1e-6)
    parts = [corp(probs[:, k], y == k).brier for k in range(3)]
    for name in ("miscalibration", "discrimination"):
        total = sum(getattr(part, name).value for part in parts)
        np.testing.assert_allclose(s[name].value, total, rtol=1e-9)
    uncertainty = sum(part.uncertainty.value for part in parts)
    total = s["miscalibration"].value - s["discrimination"].value + uncertainty
    np.testing.assert_allclose(total, brier, rtol=1e-12)


@pytest.mark.parametrize(
    "probs",
    [
        np.full((6, 2), 0.5),
        np.eye(2)[[0, 1, 1, 0, 0, 1]],
        np.eye(3)[[0, 1, 2, 0, 0, 1]] * 0.7 + 0.1,
        np.full((1, 2), 0.5),
        np.array([[1.0, 0.0]]),
        np.full((7, 1000), 1e-3),
    ],
)
def test_corners(probs):
    """Ties, confidence 0.5 and 1, one point, one class only, a thousand classes."""
    for y in (np.zeros(len(probs), int), np.arange(len(probs)) % 2):
        s = score(Predictive.probabilities(probs), y)
        s.to_dict()
        str(s)
        rest = {name: v for name, v in s.values.items() if name != "nll"}
        assert all(np.isfinite(v.value) for v in rest.values())
        assert (s["smooth_ece"].se is None) == (len(probs) == 1)
        assert s["accuracy"].hits == (probs.argmax(1) == y).sum()


def test_sure_and_right_is_perfect():
    s = score(Predictive.probabilities(np.eye(3)[[0, 1, 2, 2]]), np.array([0, 1, 2, 2]))
    for name in ("nll", "brier", "ece", "class_ece", "smooth_ece", "miscalibration"):
        assert s[name].value == 0.0, name
        assert s[name].se == 0.0, name
    assert s["accuracy"].value == 1.0


def test_a_sharper_model_is_overconfident():
    probs = RNG.dirichlet(np.ones(4), size=2000)
    y = draw(probs)
    honest = score(Predictive.probabilities(probs), y)
    assert abs(honest["overconfidence"].value) < 4 * honest["overconfidence"].se
    sure = score(Predictive.probabilities(sharpened(probs, 3)), y)
    assert sure["overconfidence"].interval[0] > 0.1
    assert sure["miscalibration"].interval[0] > 0
    for name in ("ece", "ece_equal_count", "smooth_ece", "class_ece"):
        by_chance = sure[f"{name}_chance"]
        assert sure[name].interval[0] > 2 * by_chance.value, name
        assert honest[name].value < 2 * honest[f"{name}_chance"].value, name
    pav = sure.curves["pav"]
    assert np.any(pav["accuracy"] < pav["lower"])
    assert not np.any(pav["accuracy"] > pav["upper"])


# --- groups ------------------------------------------------------------------------


def test_a_group_of_copies_counts_once():
    """Every point repeated five times: errors are those of the points alone."""
    probs = RNG.dirichlet(np.ones(3) / 2, size=300)
    y = draw(sharpened(probs, 0.5))
    five = np.repeat(np.arange(300), 5)
    with jax.enable_x64(True):
        alone = classification(Predictive.probabilities(probs), y)
        own = classification(Predictive.probabilities(probs), y, np.arange(300))
        many = classification(Predictive.probabilities(probs[five]), y[five], five)
        wrong = classification(Predictive.probabilities(probs[five]), y[five])
    finite(many)
    for name, value in many.values.items():
        assert value.n == 1500
        if "_chance" in name:
            continue
        # A curve of ranks has other bins only where ties of five cross an edge.
        tolerance = 0.1 if name == "ece_equal_count" else 1e-6
        np.testing.assert_allclose(value.value, alone[name].value, rtol=tolerance)
        np.testing.assert_allclose(value.se, own[name].se, rtol=max(tolerance, 1e-6))
        np.testing.assert_allclose(value.se, alone[name].se, rtol=0.1)
        assert value.se > 1.8 * wrong[name].se  # sqrt(5) = 2.2
    for name in ("lower", "upper"):
        gap = [
            np.abs(
                s.curves["reliability"][name] - s.curves["reliability"]["confidence"]
            ).mean()
            for s in (many, alone)
        ]
        np.testing.assert_allclose(gap[0], gap[1], rtol=0.35)
    for name in ("ece_chance", "smooth_ece_chance", "miscalibration_chance"):
        np.testing.assert_allclose(many[name].value, alone[name].value, rtol=0.35)


def test_more_groups_than_blocks_and_labels_of_any_kind():
    labels = np.array([f"site {i}" for i in RNG.integers(0, 2000, size=5000)])
    dealt = blocks(5000, labels)
    assert dealt.count == 500
    for label in labels[:20]:
        assert len(np.unique(dealt.code[labels == label])) == 1
    one = means({"a": np.arange(4.0)}, np.zeros(4, int))["a"]
    assert one.se is None
    assert one.value == 1.5
    p, y = events(40)
    s = expected_calibration_error(p, y, group=np.zeros(40, int))
    assert s.se is None
    assert smooth_calibration_error(p, y, group=np.zeros(40, int)).interval is None
    with pytest.raises(ValueError, match=r"group of shape \(40,\)"):
        expected_calibration_error(p, y, group=np.zeros(39, int))
    assert len(reliability_curve(p, y, group=np.arange(40) // 2)["lower"]) > 1


# --- refusals ----------------------------------------------------------------------


def test_bad_input():
    y = np.array([0, 1])
    for bad, match in (
        (np.array([0.5, np.nan]), "between 0 and 1, got nan at row 1"),
        (np.array([-0.1, 0.5]), "between 0 and 1, got -0.1 at row 0"),
        (np.array([0.5]), r"same shape \(n,\)"),
    ):
        for verb in (expected_calibration_error, smooth_calibration_error, corp):
            with pytest.raises(ValueError, match=match):
                verb(bad, y)
    with pytest.raises(ValueError, match="outcomes 0 or 1, got 2 at row 1"):
        corp(np.array([0.5, 0.5]), np.array([0, 2]))
    with pytest.raises(ValueError, match="same shape"):
        corp(np.zeros(0), np.zeros(0))
    good = np.full((2, 2), 0.5)
    for probs, codes, match in (
        (good * 2, y, "sum to 1"),
        (good * np.nan, y, "sum to 1"),
        (np.array([[1.5, -0.5]] * 2), y, "at least 0"),
        (good, np.array([0, 2]), "got 2 at row 1"),
        (good, np.array([0.0, 1.0]), "integer"),
        (good[:, :1], y, "K >= 2"),
    ):
        with pytest.raises(ValueError, match=match):
            class_calibration_error(probs, codes)
        with pytest.raises(ValueError, match=match):
            kernel_calibration_error(probs, codes)

"""Conformal regions against MAPIE."""

import math

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import APSConformityScore, StdConformityScore
from mapie.metrics.classification import (
    classification_coverage_score,
    classification_mean_width_score,
)
from mapie.metrics.regression import (
    regression_coverage_score,
    regression_mean_width_score,
)
from mapie.regression import (
    ConformalizedQuantileRegressor,
    CrossConformalRegressor,
    SplitConformalRegressor,
)
from numpyro import distributions as dist
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from ntkuq.calibration.conformal import (
    CQR,
    LAC,
    AbsoluteResidual,
    CumulativeProbability,
    CVPlus,
    JackknifePlus,
    SplitConformal,
    region_scores,
)
from ntkuq.posteriors.predictive import Predictive


RNG = np.random.default_rng(7)
LEVELS = [0.5, 0.8, 0.9, 0.95]


class Column(RegressorMixin, BaseEstimator):
    """Predictions made elsewhere: a column of x is the mean, the last one the std."""

    def __init__(self, column=0):
        self.column = column
        self.fitted_ = True

    def fit(self, x, y):
        return self

    def predict(self, x, return_std=False):
        mean = x[:, self.column]
        return (mean, x[:, -1]) if return_std else mean


class Given(ClassifierMixin, BaseEstimator):
    """Class probabilities made elsewhere."""

    def __init__(self, classes=4):
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return np.argmax(x, axis=1)


def regression(n):
    mean, std = RNG.normal(size=n), RNG.uniform(0.5, 2, size=n)
    y = mean + 2 * std * RNG.standard_t(4, size=n)
    return np.stack([mean, std], axis=1), Predictive.normal(mean, std), y


def check(region, ends):
    np.testing.assert_allclose(region.lower, ends[:, 0, 0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(region.upper, ends[:, 1, 0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [99, 240])
def test_split_intervals(level, n):
    x, p, y = regression(n)
    x_new, p_new, y_new = regression(50)
    theirs = SplitConformalRegressor(Column(), confidence_level=level)
    _, ends = theirs.conformalize(x, y).predict_interval(x_new)
    region = SplitConformal(level, AbsoluteResidual()).fit(p, y).region(p_new)
    check(region, ends)
    s = region_scores(region, y_new, level=level)
    coverage = regression_coverage_score(y_new, ends)[0]
    assert s["coverage"].value == pytest.approx(coverage, abs=1e-12)
    width = regression_mean_width_score(ends)[0]
    assert s["width"].value == pytest.approx(width, abs=1e-10)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [99, 240])
def test_normalized_residuals(level, n):
    """MAPIE 1.6.0 takes a rank of about floor((n + 1) L) for the lower end.

    It is n + 1 - ceil((n + 1)(1 - L)) in binary arithmetic. Such a rank has not the
    level, so both ends are ceil((n + 1) L) here, as the upper one is there.
    """
    x, p, y = regression(n)
    x_new, p_new, _ = regression(50)
    theirs = SplitConformalRegressor(
        Column(), confidence_level=level, conformity_score=StdConformityScore()
    )
    _, ends = theirs.conformalize(x, y).predict_interval(x_new)
    region = SplitConformal(level).fit(p, y).region(p_new)
    upper = ends[:, 1, 0]
    np.testing.assert_allclose(region.upper, upper, rtol=0, atol=1e-10)
    rank = n + 1 - math.ceil((1 - level) * (n + 1))
    low = np.sort(np.abs(y - x[:, 0]) / x[:, 1])[rank - 1]
    lower = x_new[:, 0] - low * x_new[:, 1]
    np.testing.assert_allclose(lower, ends[:, 0, 0], rtol=0, atol=1e-10)
    assert (region.lower <= lower + 1e-12).all()


@pytest.mark.parametrize("level", LEVELS)
def test_conformalized_quantiles(level):
    def made(n):
        _, p, y = regression(n)
        lower, upper = (np.asarray(end, np.float64) for end in p.interval(level))
        middle = np.asarray(p.observed.loc)
        levels = np.array([(1 - level) / 2, 0.5, (1 + level) / 2])
        table = Predictive.quantiles(levels, np.stack([lower, middle, upper]))
        return np.stack([lower, upper, middle], axis=1), table, y

    x, p, y = made(150)
    x_new, p_new, _ = made(50)
    theirs = ConformalizedQuantileRegressor(
        [Column(0), Column(1), Column(2)], confidence_level=level, prefit=True
    )
    _, ends = theirs.conformalize(x, y).predict_interval(
        x_new, symmetric_correction=True
    )
    check(CQR(level).fit(p, y).region(p_new), ends)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("folds", [5, 60])
def test_cross_validation_plus(level, folds):
    x = RNG.normal(size=(60, 3))
    y = x.sum(axis=1) + RNG.normal(size=60)
    new = RNG.normal(size=(20, 3))
    theirs = CrossConformalRegressor(
        LinearRegression(), confidence_level=level, method="plus", cv=KFold(folds)
    )
    _, ends = theirs.fit_conformalize(x, y).predict_interval(new)
    out, fold, models = np.empty(60), np.empty(60, int), []
    for k, (kept, left) in enumerate(KFold(folds).split(x)):
        model = LinearRegression().fit(x[kept], y[kept])
        out[left], fold[left] = model.predict(x[left]), k
        models.append(Predictive.normal(model.predict(new), np.ones(20)))
    p = Predictive.normal(out, np.ones(60))
    score = AbsoluteResidual()
    check(CVPlus(level, score).fit(p, y, fold).region(models), ends)
    if folds == 60:
        check(JackknifePlus(level, score).fit(p, y).region(models), ends)


@pytest.mark.parametrize("level", LEVELS)
def test_least_ambiguous_sets(level):
    def made(n):
        probs = RNG.dirichlet(np.ones(4), size=n)
        y = (probs.cumsum(axis=1) < RNG.uniform(size=(n, 1))).sum(axis=1)
        return probs, np.minimum(y, 3)

    (probs, y), (new, y_new) = made(200), made(80)
    theirs = SplitConformalClassifier(
        Given(), confidence_level=level, conformity_score="lac"
    )
    _, sets = theirs.conformalize(probs, y).predict_set(new)
    region = LAC(level).fit(Predictive.probabilities(probs), y)
    region = region.region(Predictive.probabilities(new))
    np.testing.assert_array_equal(region.member, sets[:, :, 0])
    s = region_scores(region, y_new, level=level)
    coverage = classification_coverage_score(y_new, sets)[0]
    assert s["coverage"].value == pytest.approx(coverage, abs=1e-12)
    assert s["size"].value == pytest.approx(classification_mean_width_score(sets)[0])


def test_cumulative_scores():
    """Without the draw, which is not the same on either side."""
    probs = RNG.dirichlet(np.ones(4), size=100)
    y = RNG.integers(0, 4, size=100)
    theirs, _ = APSConformityScore.get_true_label_cumsum_proba(y, probs, np.arange(4))
    p = Predictive(latent=None, observed=dist.CategoricalProbs(probs))
    ours = CumulativeProbability(randomized=False).scores(p, y, 0.9)
    np.testing.assert_allclose(ours, theirs[:, 0], rtol=0, atol=1e-12)

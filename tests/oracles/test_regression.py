"""Regression scores against uncertainty-toolbox and scoringrules, to 1e-10."""

import numpy as np
import pytest
import scoringrules
import uncertainty_toolbox as toolbox
from numpyro import distributions as dist
from scipy import stats
from uncertainty_toolbox import metrics_calibration, metrics_scoring_rule

from ntkuq.calibration import score
from ntkuq.calibration.interval_score import QUANTILES
from ntkuq.calibration.miscalibration import calibration_error
from ntkuq.calibration.resampled import HUNDRED
from ntkuq.posteriors.predictive import Predictive


N = 500
RNG = np.random.default_rng(0)
MEAN, STD = RNG.normal(size=N), RNG.uniform(0.3, 2, size=N)
Y = MEAN + 0.2 + 1.3 * STD * RNG.normal(size=N)
ARGS = MEAN, STD, Y
S = score(Predictive.normal(MEAN, STD), Y, levels=tuple(QUANTILES))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_calibration_distances_of_intervals():
    found = metrics_calibration.root_mean_squared_calibration_error(*ARGS)
    close(S["rms_calibration_error"].value, found)
    close(
        S["miscalibration_area"].value, metrics_calibration.miscalibration_area(*ARGS)
    )
    found = metrics_calibration.mean_absolute_calibration_error(*ARGS)
    close(calibration_error(S.pointwise["pit"], HUNDRED).value, found)


def test_calibration_distance_of_quantiles():
    found = metrics_calibration.root_mean_squared_calibration_error(
        *ARGS, prop_type="quantile"
    )
    close(S["quantile_calibration_error"].value, found)


def test_sharpness_and_errors():
    close(S["sharpness"].value, metrics_calibration.sharpness(STD))
    accuracy = toolbox.get_all_accuracy_metrics(MEAN, Y, verbose=False)
    close(S["rmse"].value, accuracy["rmse"])
    close(S["mae"].value, accuracy["mae"])


def test_proper_scores():
    close(S["nll"].value, metrics_scoring_rule.nll_gaussian(*ARGS))
    close(S["crps"].value, metrics_scoring_rule.crps_gaussian(*ARGS))
    close(S["pinball"].value, metrics_scoring_rule.check_score(*ARGS))
    # That one is the mean over the 99 levels.
    found = [S[f"interval_score_{100 * level:g}"].value for level in QUANTILES]
    close(np.mean(found), metrics_scoring_rule.interval_score(*ARGS))


def test_scores_of_every_point():
    close(S.pointwise["crps"], scoringrules.crps_normal(Y, MEAN, STD))
    close(S.pointwise["nll"], scoringrules.logs_normal(Y, MEAN, STD))
    for level in (0.5, 0.9):
        low, high = stats.norm(MEAN, STD).interval(level)
        found = scoringrules.interval_score(Y, low, high, 1 - level)
        close(S.pointwise[f"interval_score_{100 * level:g}"], found)
    found = [
        scoringrules.quantile_score(Y, stats.norm(MEAN, STD).ppf(q), q)
        for q in QUANTILES
    ]
    close(S.pointwise["pinball"], np.mean(found, axis=0))


@pytest.mark.parametrize("parts", [1, 4])
def test_mixtures(parts):
    weights = RNG.dirichlet(np.ones(parts), size=N)
    loc, scale = RNG.normal(size=(N, parts)), RNG.uniform(0.1, 1, size=(N, parts))
    law = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, scale)
    )
    s = score(Predictive(None, law), Y)
    close(s.pointwise["crps"], scoringrules.crps_mixnorm(Y, loc, scale, weights))


def test_samples():
    draws = np.round(RNG.normal(size=(N, 30)), 1)
    s = score(Predictive.samples(draws.T), Y)
    found = scoringrules.crps_ensemble(Y, draws, estimator="fair")
    close(s.pointwise["crps"], found)


def test_joint_samples():
    draws, y = RNG.normal(size=(N, 12, 3)), RNG.normal(size=(N, 3))
    s = score(Predictive.samples(np.moveaxis(draws, 1, 0)), y)
    apart = np.linalg.norm(draws[:, :, None] - draws[:, None], axis=-1).sum((1, 2))
    # It divides the double sum by 12 * 12; the fair estimator by 12 * 11.
    found = scoringrules.es_ensemble(y, draws) + apart / 2 * (1 / 144 - 1 / 132)
    close(s.pointwise["energy_score"], found)

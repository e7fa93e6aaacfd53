"""Groups, selective prediction and detection against the packages of others."""

import warnings

import jax
import numpy as np
import pytest
from scipy import stats

from ntkuq.calibration.groups import (
    adversarial_groups,
    coverage_by_group,
    worst_slab_of,
)
from ntkuq.calibration.ood import detection
from ntkuq.calibration.selective import selective
from ntkuq.posteriors.predictive import Predictive


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # escapes in their strings, pandas and the like
    from mapie.metrics.conditional import coverage_gap, worst_slab_coverage
    from mapie.metrics.uncertainty import auarc, auroc
    from uncertainty_toolbox.metrics_calibration import (
        adversarial_group_calibration,
        mean_absolute_calibration_error,
    )


def normal(n, seed):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.5, 2, n)
    return mean, std, mean + 1.3 * std * rng.normal(size=n)


def test_coverage_gap_is_mapies():
    mean, std, y = normal(300, 0)
    group = np.random.default_rng(1).integers(0, 4, 300)
    p = Predictive.normal(mean, std)
    rows = coverage_by_group(p, y, group, level=0.9).rows
    half = stats.norm.ppf(0.95) * std
    ends = np.stack([mean - half, mean + half], axis=1)
    plain = coverage_gap(y, group, 0.9, y_intervals=ends)
    assert np.mean([abs(row.gap) for row in rows]) == pytest.approx(plain, abs=1e-12)
    weighted = sum(row.n * abs(row.gap) for row in rows) / 300
    assert weighted == pytest.approx(
        coverage_gap(y, group, 0.9, y_intervals=ends, weighted=True), abs=1e-12
    )


@pytest.mark.parametrize("share", [0.1, 0.35])
def test_the_worst_slab_of_one_feature_is_mapies(share):
    """One feature has one direction, so that both searches are complete."""
    rng = np.random.default_rng(2)
    x, covered = rng.normal(size=200), rng.uniform(size=200) < 0.8
    key = jax.random.key(0)
    slab = worst_slab_of(covered, x, level=0.8, share=share, key=key)
    seed = np.ravel(jax.random.key_data(key)).tolist()
    fit = np.random.default_rng(seed).permutation(200)[:100]
    y = np.where(covered, 0.5, 2.0)
    ends = np.tile([0.0, 1.0], (200, 1))
    expected = worst_slab_coverage(
        x[fit, None], y[fit], y_intervals=ends[fit], delta=share, n_directions=2
    )
    assert slab.fit_coverage == pytest.approx(expected, abs=1e-12)


def test_aurc_is_one_less_mapies_accuracy_area():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(3), 200)
    y = np.array([rng.choice(3, p=p) for p in probs])
    s = selective(Predictive.probabilities(probs), y)
    right, sure = probs.argmax(axis=1) == y, probs.max(axis=1)
    assert s.aurc.value == pytest.approx(1 - auarc(right, sure), abs=1e-12)
    d = detection(1 - sure[right], 1 - sure[~right])
    assert d.auroc.value == pytest.approx(auroc(right, sure), abs=1e-12)


def test_adversarial_groups_are_the_toolboxs():
    mean, std, y = normal(300, 4)
    p = Predictive.normal(mean, std)
    ours = adversarial_groups(
        p, y, share=[2 / 3, 1.0], draws=10, trials=60, key=jax.random.key(0)
    ).columns
    whole = mean_absolute_calibration_error(mean, std, y, vectorized=True)
    assert ours["error"][1] == pytest.approx(whole, abs=1e-10)
    np.random.seed(0)
    theirs = adversarial_group_calibration(
        mean, std, y, "mean_abs", num_group_bins=4, num_trials=60, num_group_draws=10
    )
    # Their "standard error" is the standard deviation over the trials.
    se = np.hypot(ours["se"][0], theirs.score_stderr[2] / np.sqrt(60))
    assert ours["error"][0] == pytest.approx(theirs.score_mean[2], abs=4 * se)

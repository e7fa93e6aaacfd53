"""Calibration of classes against other packages, each under its own convention."""

import warnings

import numpy as np
import pytest
import relplot
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from ntkuq.calibration import score
from ntkuq.calibration.binned import expected_calibration_error
from ntkuq.calibration.binning import EqualCount, EqualWidth
from ntkuq.calibration.norms import L1, L2, Largest
from ntkuq.calibration.reliability import reliability_curve
from ntkuq.calibration.smooth import cosines, smooth_calibration_error, smoothed
from ntkuq.posteriors.predictive import Predictive


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings have invalid escapes
    from netcal.metrics import ACE, ECE, MCE


RNG = np.random.default_rng(0)


def predictions(n=1000, classes=5):
    """Probabilities that are too sure, and classes."""
    probs = RNG.dirichlet(np.ones(classes) / 2, size=n)
    y = (probs.cumsum(1) < RNG.uniform(size=(n, 1))).sum(1)
    sharp = probs**2
    return sharp / sharp.sum(1, keepdims=True), np.minimum(y, classes - 1)


def top(probs, y):
    return probs.max(1), probs.argmax(1) == y


NORMS = {"l1": L1(), "l2": L2(), "max": Largest()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bins", [10, 15])
def test_torchmetrics(norm, bins):
    probs, y = predictions()
    theirs = multiclass_calibration_error(
        torch.as_tensor(probs), torch.as_tensor(y), 5, n_bins=bins, norm=norm
    )
    # It computes in single precision whatever comes in, and adds up a thousand points.
    assert theirs.dtype == torch.float32
    ours = expected_calibration_error(
        *top(probs, y), EqualWidth(bins), norm=NORMS[norm]
    )
    np.testing.assert_allclose(ours.value, theirs.item(), rtol=3e-6)
    if norm == "l1" and bins == 15:
        same = score(Predictive.probabilities(probs), y)["ece"].value
        np.testing.assert_allclose(same, theirs.item(), rtol=3e-6)


def test_torchmetrics_gives_confidence_one_a_bin_of_its_own():
    confidence, correct = np.array([1.0, 0.94]), np.array([False, True])
    theirs = binary_calibration_error(
        torch.as_tensor(confidence), torch.as_tensor(correct.astype(int)), n_bins=15
    ).item()
    np.testing.assert_allclose(theirs, (1.0 + 0.06) / 2, rtol=1e-6)
    ours = expected_calibration_error(confidence, correct).value
    np.testing.assert_allclose(ours, abs(0.5 - 0.97), rtol=1e-12)


@pytest.mark.parametrize("bins", [10, 15])
def test_netcal(bins):
    probs, y = predictions()
    confidence, correct = top(probs, y)
    ours = expected_calibration_error(confidence, correct, EqualWidth(bins)).value
    np.testing.assert_allclose(ours, ECE(bins).measure(probs, y), rtol=1e-10)
    largest = expected_calibration_error(
        confidence, correct, EqualWidth(bins), norm=Largest()
    ).value
    np.testing.assert_allclose(largest, MCE(bins).measure(probs, y), rtol=1e-10)
    # Its "ACE" is not adaptive: it is the average over bins, whatever they hold.
    curve = reliability_curve(confidence, correct, EqualWidth(bins))
    average = np.mean(np.abs(curve["accuracy"] - curve["confidence"]))
    np.testing.assert_allclose(average, ACE(bins).measure(probs, y), rtol=1e-10)


def test_netcal_with_equal_counts():
    probs, y = predictions(900)
    ours = expected_calibration_error(*top(probs, y), EqualCount(15)).value
    theirs = ECE(15, equal_intervals=False).measure(probs, y)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_scikit_learn():
    probs, y = predictions()
    s = score(Predictive.probabilities(probs), y)
    np.testing.assert_allclose(s["nll"].value, log_loss(y, probs), rtol=1e-10)
    np.testing.assert_allclose(
        s["brier"].value, brier_score_loss(y, probs, scale_by_half=False), rtol=1e-10
    )


def test_relplot_at_a_bandwidth():
    confidence, correct = top(*predictions())
    outcome = correct.astype(float)
    series = cosines(confidence, outcome - confidence) / confidence.size
    for sigma in (0.03, 0.1, 0.3):
        theirs = relplot.smECE_sigma(confidence, outcome, sigma)
        # It sums over a mesh of max(200, 10 / sigma) points, both ends in full.
        np.testing.assert_allclose(smoothed(series, sigma), theirs, rtol=0.02)


def test_relplot_at_its_own_bandwidth():
    confidence, correct = top(*predictions())
    theirs, width = relplot.smECE(confidence, correct.astype(float), return_width=True)
    ours = smooth_calibration_error(confidence, correct).value
    # It halves the bandwidth's interval [0, 1] ten times, and stops within 1 / 1024.
    assert abs(width - ours) < 2 / 1024
    np.testing.assert_allclose(ours, theirs, rtol=0.02)

"""A page stays small, whatever the number of points, and the same when repeated."""

import copy

import numpy as np

from ntkuq.report import html
from tests.report.conftest import REGRESSION, regression_document


def test_five_methods_of_a_hundred_thousand_points():
    """Curves of 200 points, the most that a run document is meant to hold."""
    document = copy.deepcopy(regression_document(n=100_000, methods=REGRESSION[:5]))
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 1.0, 200)
    for method in document["methods"]:
        for name, (across, along) in {
            "coverage": ("level", "observed"),
            "pit": ("grid", "ecdf"),
        }.items():
            if method["curves"] is not None:
                moved = np.clip(x + 0.02 * rng.standard_normal(200), 0, 1)
                method["curves"][name] = {
                    across: x.tolist(),
                    along: np.sort(moved).tolist(),
                    "lower": np.clip(x - 0.01, 0, 1).tolist(),
                    "upper": np.clip(x + 0.01, 0, 1).tolist(),
                }
    first = html.page(document).encode()
    assert len(first) < 1_000_000
    assert html.page(copy.deepcopy(document)).encode() == first

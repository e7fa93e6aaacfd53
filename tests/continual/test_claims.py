"""Claims 18 to 23: decided by intervals over seeds, with no sign assumed."""

import numpy as np
import pytest

from ntkuq.continual import Arm, Drift, drift_claim, forgetting_claims, overlap_claim


WIDTHS = (32, 128, 512, 2048)


def arm(exponent: float, noise: float = 0.01, seed: int = 0, lazy: float = -0.4) -> Arm:
    rng = np.random.default_rng(seed)
    widths = np.asarray(WIDTHS, float)

    def law(power, size):
        return size * widths**power * np.exp(noise * rng.normal(size=(6, 4)))

    distance = law(lazy, 4.0)
    return Arm(WIDTHS, law(exponent, 0.5), distance, np.full((6, 4), 0.9))


def words(claims):
    return {(c.number, c.statement.split(" (")[0]): c.word for c in claims}


@pytest.mark.parametrize(
    ("exponent", "word"), [(-0.1, "confirmed"), (0.1, "refuted"), (0.0, "refuted")]
)
def test_the_sign_of_the_width_is_found(exponent, word):
    found = words(forgetting_claims({"SGD": arm(exponent)}))
    assert found[18, "width reduces forgetting"] == word
    assert found[18, "width reduces relative forgetting"] == word
    assert found[23, "wider networks move less from initialization"] == "confirmed"


def test_a_wide_interval_decides_nothing():
    found = words(forgetting_claims({"SGD": arm(-0.02, noise=0.3)}))
    assert found[18, "width reduces forgetting"] == "undecided"


def test_early_stopping_is_compared_in_pairs():
    arms = {"early": arm(-0.2), "long": arm(0.0)}
    (claim, *_) = forgetting_claims(arms, early="early", converged="long")
    assert claim.number == 19
    assert claim.word == "confirmed"
    (other, *_) = forgetting_claims(arms, early="long", converged="early")
    assert other.word == "refuted"


def test_what_laziness_explains_is_taken_out():
    rng = np.random.default_rng(1)
    widths = np.asarray(WIDTHS, float)
    bumps = np.exp(0.5 * rng.normal(size=(8, 4)))
    distance = 4.0 * widths**-0.4 * bumps
    noise = 1e-3 * rng.normal(size=(8, 4))
    lost = 1.0 + 0.1 * np.log(distance) + noise
    through = Arm(WIDTHS, lost, distance, np.ones((8, 4)))
    beside = Arm(
        WIDTHS, 0.9 - 0.1 * np.log(widths) * np.ones((8, 4)), distance, np.ones((8, 4))
    )
    partial = {
        name: next(c for c in forgetting_claims({"a": one}) if c.number == 20)
        for name, one in (("through", through), ("beside", beside))
    }
    assert partial["beside"].word == "refuted"
    assert partial["beside"].statistic.value == pytest.approx(-1.0, abs=1e-6)
    assert partial["through"].word != "refuted"
    assert abs(partial["through"].statistic.value) < 0.7


def test_what_has_no_logarithm_is_not_tested():
    one = arm(-0.1)
    flat = Arm(
        WIDTHS,
        np.where(one.forgetting > 0.3, one.forgetting, 0.0),
        one.distance,
        one.learned,
    )
    claim = forgetting_claims({"SGD": flat})[0]
    assert claim.word == "not tested"
    assert "no logarithm" in claim.reason
    short = Arm(
        (32, 64), one.forgetting[:, :2], one.distance[:, :2], one.learned[:, :2]
    )
    assert "widths" in forgetting_claims({"SGD": short})[0].reason


def test_drift_and_overlap_are_decided():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4):
        predicted = rng.normal(size=(50, 1))
        found.append(Drift(predicted, predicted + 0.1 * rng.normal(size=(50, 1))))
    claim = drift_claim(found)
    assert claim.word == "confirmed"
    assert claim.values["slope"] == pytest.approx(1.0, abs=0.05)
    # half as far as predicted: R² = 1 - (1/2)² / (1/2)² = 0
    half = [Drift(d.predicted, 0.5 * d.predicted) for d in found]
    assert half[0].r2 == pytest.approx(0.0, abs=1e-9)
    assert drift_claim(half).word == "refuted"
    x = np.arange(20.0)
    assert overlap_claim(x, x**3).word == "confirmed"
    assert overlap_claim(x, -x).word == "refuted"
    assert overlap_claim(x[:5], x[:5]).word == "not tested"

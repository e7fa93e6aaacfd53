"""`regime` with its studies where the answers are known."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkuq.calibration import Score
from ntkuq.calibration.claims import Below, Claim, Within
from ntkuq.data import Dataset, Split
from ntkuq.models import BNN, Categorical, Gaussian, NormalPrior, Train, mlp
from ntkuq.optimization.kernel_regime import (
    AbstractStudy,
    Conditions,
    LayerFisher,
    NaturalGradientRate,
    Outcome,
    Run,
    Setting,
    Settling,
    link,
    regime,
    scaled,
)
from ntkuq.optimization.kernel_regime.conditions import STABLE
from ntkuq.optimization.kernel_regime.consequences import consequences
from ntkuq.optimization.kernel_regime.descent import natural_path, natural_steps
from ntkuq.optimization.kernel_regime.link import concordance
from ntkuq.optimization.kernel_regime.points import sample, squared_targets
from ntkuq.optimization.kernel_regime.rates import (
    FASTER,
    LINKED,
    Measured,
    lazy_rate,
)
from ntkuq.optimization.kernel_regime.study import FAILURES, decide, decided


KEY = jax.random.key(7)


def split(features: int = 30, train: int = 16, test: int = 32) -> Split:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(train + test, features)).astype(np.float32)
    y = x @ rng.normal(size=features) / np.sqrt(features) + rng.normal(size=len(x))
    whole = Dataset(x, y)
    rows = np.arange(len(x))
    return Split(whole.take(rows[:train]), None, whole.take(rows[train:]))


@pytest.fixture(scope="module")
def linear():
    """More parameters than training rows, so that every condition can hold."""

    def build(key):
        return eqx.nn.Linear(30, 1, key=key)

    # λ_max of X Xᵀ / 16 is about (√30 + √16)² / 16
    train = Train(optax.sgd(0.1), steps=50)
    return regime(
        BNN(build, Gaussian(), NormalPrior()), split(), train=train, seeds=3, key=KEY
    )


def words(found, number):
    return [claim.word for claim in found.claims if claim.number == number]


def test_linear_network_is_confirmed_on_every_claim_that_applies(linear):
    found = {claim.number: words(linear, claim.number) for claim in linear.claims}
    assert found == {
        1: ["confirmed"],
        2: ["confirmed"] * 2,
        # no hidden layer: any width is the limit
        4: ["confirmed"],
        5: ["confirmed"],
        6: ["confirmed"],
        7: ["confirmed"] * 3,
        8: ["confirmed"],
        9: ["not tested"],
        10: ["confirmed"],
        24: ["not tested"],
        25: ["confirmed"] * 2,
    }
    reasons = {claim.number: claim.reason for claim in linear.claims}
    assert "several networks" in reasons[9]
    assert "does not move" in reasons[24]
    stable = next(claim for claim in linear.claims if claim.number == 6)
    assert stable.statistic.value < 1e-12
    assert stable.worst < 1e-12


def test_setting_and_consequences_of_the_linear_network(linear):
    assert linear.setting == {
        "parametrization": "standard (layers and initialization of Equinox's "
        "constructors)",
        "output scale": "1",
        "widths": "no hidden layer",
        "parameters": "31",
        "training examples": "16",
        "optimizer": linear.setting["optimizer"],
        "step size": "0.1 at its largest",
        "stopping": "after 50 updates of 16 examples",
    }
    assert linear.setting["optimizer"].endswith("in proportion to the gradient")
    uncertainty, optimization, forgetting = linear.consequences
    assert "may be compared" in uncertainty
    assert "worth trying" in optimization
    assert "the kernel stays" in forgetting
    assert all(line in str(linear) for line in linear.consequences)


def test_everything_about_it_is_json(linear):
    import json

    for claim in linear.claims:
        assert json.loads(json.dumps(claim.to_dict(), allow_nan=False))["number"]


def test_laziness_comes_at_one_over_alpha():
    data, start = split(4), mlp(4, 1, width=8, depth=1)
    alphas = (30.0, 1000.0)
    found = [
        regime(
            BNN(scaled(start, alpha), Gaussian(), NormalPrior(1e-6)),
            data,
            # the same movement of the outputs
            train=Train(optax.sgd(0.1 / alpha**2), steps=100),
            seeds=2,
            studies=(),
            key=KEY,
        )
        for alpha in alphas
    ]
    assert [one.setting["output scale"] for one in found] == ["30", "1000"]
    assert found[0].setting["parametrization"].startswith("standard")
    for name in ("relative_error", "kernel_change"):
        first, last = (getattr(one, name).value for one in found)
        slope = np.log(last / first) / np.log(alphas[1] / alphas[0])
        # corrections of the next order are about 1/30
        assert slope == pytest.approx(-1.0, abs=0.05), name
        assert last < 1e-2
    assert words(found[1], 1) == ["confirmed"]


def test_scaled_networks_need_a_builder():
    with pytest.raises(ValueError, match="alpha > 0, got 0"):
        scaled(mlp(2, 1), 0)
    with pytest.raises(ValueError, match="expected a builder"):
        scaled(mlp(2, 1)(KEY), 2.0)


def setting(data=None, likelihood=None, model=None, seeds=2) -> Setting:
    """Networks that were not trained."""
    data = data or split(3, 24)
    models = [model or mlp(3, 1, width=30, depth=1)(key) for key in keys(seeds)]
    bnn = BNN(models[0], likelihood or Gaussian(), NormalPrior()).prepare(data.train)
    return Setting(bnn, data, Train(), tuple(Run(m, m) for m in models))


def keys(n):
    return jax.random.split(KEY, n)


def test_repeated_inputs_refute_a_positive_definite_kernel():
    data = split(3, 24)
    twice = data.train.take(np.r_[np.arange(24), 3, 3, 5])
    made = setting(Split(twice, None, data.test))
    definite, stable = Conditions(points=6).claims(made, key=KEY)
    assert definite.word == "refuted"
    assert definite.worst == 0.0
    assert "3 of 27 training inputs repeat" in definite.note
    # the rest is of different inputs
    assert definite.statistic.value > 1e3
    assert stable.word == "refuted"
    assert stable.worst >= stable.statistic.value > 0.5


def test_more_rows_than_parameters_are_said():
    line = eqx.nn.Linear(3, 1, key=KEY)
    made = setting(model=line)
    definite, stable = Conditions().claims(made, key=KEY)
    assert definite.word == "refuted"
    assert "4 parameters, fewer than rows" in definite.note
    assert "rank at most 4" in stable.reason
    rates = decide(NaturalGradientRate(), made, key=KEY)
    assert {claim.word for claim in rates} == {"not tested"}
    assert "rank at most 4" in rates[0].reason
    assert "several networks" in rates[-1].reason
    # a kernel of rank 4 is the projector on its range, of 24 dimensions
    (layers,) = LayerFisher().claims(made, key=KEY)
    assert layers.statistic.value == pytest.approx(np.sqrt(24 / 4 - 1), rel=1e-6)


def test_classes_are_fitted_by_one_hot_codes():
    data = split(3, 24)
    coded = Dataset(data.train.x, (data.train.y > 0).astype(int))
    model = mlp(3, 2, width=30, depth=1)(KEY)
    made = setting(Split(coded, None, coded), Categorical(), model)
    claims = NaturalGradientRate(points=6, cap=20).claims(made, key=KEY)
    assert [claim.number for claim in claims] == [7, 7, 7, 8, 9]
    assert "one-hot codes" in claims[0].note
    assert "6 training inputs × 2 outputs" in claims[0].note
    assert "2 of 2 had not arrived after 20" in claims[3].note


def test_natural_gradient_that_does_not_arrive_is_counted_against_it():
    def found(natural, descent):
        rows = [
            Measured([0.9], n, d, 40.0, 9.0)
            for n, d in zip(natural, descent, strict=True)
        ]
        return NaturalGradientRate(cap=500)._ratio(rows, "here")

    # ten times twelve steps count: a ratio of 1 at most
    claim = found([np.inf] * 3, [110.0, 120.0, 1440.0 / 11.0])
    assert claim.statistic.value == pytest.approx(1.0)
    assert claim.word == "refuted"
    assert "not arrived after 120 steps" in claim.note
    assert "ratio" not in claim.values
    # what may be anything below a bound confirms nothing
    assert found([4.0, 4.0, 4.0], [400.0, 400.0, 400.0]).word == "confirmed"
    mixed = found([4.0, 4.0, np.inf], [9e4, 9e4, 490.0])
    assert mixed.word == "undecided"
    assert mixed.statistic.interval[0] == 0.0
    # lower bounds refute nothing
    cut = found([400.0, 410.0, 390.0], [np.inf, np.inf, np.inf])
    assert cut.word == "not tested"
    assert "larger cap" in cut.reason
    # neither arrived: nothing is known
    assert "in 1 of 2 neither" in found([4.0, np.inf], [400.0, np.inf]).reason


def test_steps_of_natural_gradient_are_those_of_its_path():
    made = setting()
    found = sample(made, 6, key=KEY).units[0]
    with jax.enable_x64(True):
        y = squared_targets(made.bnn.with_model(found.run.initial), found.part)
        for rate in (0.25, 0.5):
            arguments = (found.jacobian, found.x, y, jnp.asarray(rate))
            squares = np.asarray(natural_path(*arguments, 40)[0])
            expected = int(np.argmax(squares <= 1e-6 * squares[0]))
            assert expected > 0
            goal = jnp.asarray(1e-3)
            assert float(natural_steps(*arguments, goal, 40)) == expected
            assert np.isinf(natural_steps(*arguments, goal, expected - 1))


def test_share_of_early_drift():
    made = setting()
    first, last = (run.initial for run in made.runs)
    for early, word in ((last, "confirmed"), (first, "refuted")):
        run = Run(first, last, early)
        (claim,) = Settling().claims(made._replace(runs=(run, run)), key=KEY)
        assert claim.word == word
    (claim,) = Settling().claims(made, key=KEY)
    assert "not known" in claim.reason


class Broken(AbstractStudy):
    """Fails as it is told."""

    name: ClassVar[str] = "broken"
    error: type[Exception]

    def claims(self, setting, *, key):
        raise self.error("why")


@pytest.mark.parametrize("error", FAILURES)
def test_a_study_that_fails_says_why(error):
    (claim,) = decide(Broken(error), setting(), key=KEY)
    assert (claim.word, claim.reason) == ("not tested", "why")
    assert "broken" in str(claim)


def test_an_error_of_another_kind_is_raised():
    with pytest.raises(KeyError):
        decide(Broken(KeyError), setting(), key=KEY)


def test_link_needs_both_groups():
    claim, order = link([Outcome(9.0, True), Outcome(0.1, True), Outcome(2.0, True)])
    assert claim.word == "undecided"
    assert "all of them keep the rate, 1 have C′ < 1/2" in claim.note
    assert "at least 4 networks" in order.reason
    claim, _ = link([])
    assert claim.word == "not tested"


def test_link_is_the_area_of_the_condition():
    rows = [Outcome(0.1, True)] * 12 + [Outcome(3.0, False)] * 12
    claim, _ = link(rows)
    assert claim.statistic.value == 1.0
    assert claim.word == "confirmed"
    # the pilot: the condition fails everywhere, and says nothing
    rows = [Outcome(5.0 + n, n % 2 == 0) for n in range(12)]
    claim, _ = link(rows)
    assert claim.statistic.value == 0.5
    assert claim.word == "undecided"
    claim, _ = link(20 * rows)
    assert claim.word == "refuted"
    # half of the pairs in order: sensitivity 3/4, specificity 2/4
    rows = [Outcome(c, True) for c in (0.1, 0.2, 0.3, 2.0)]
    rows += [Outcome(c, False) for c in (0.1, 0.2, 2.0, 2.0)]
    claim, _ = link(rows)
    assert claim.statistic.value == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_link_reads_regimes(linear):
    one = Outcome.of(linear)
    assert one.kept
    assert one.constant < 1e-12
    assert one.ratio > 10
    assert one.condition > 1
    bare = dataclasses.replace(linear, more=())
    claim, _ = link([linear, bare])
    assert "1 networks; 1 more have no C′ or no rate" in claim.note


def test_concordance_is_kendalls_where_nothing_is_cut_off():
    from scipy import stats

    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = concordance(x, y, np.zeros(30, bool))
    assert found.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert concordance(x, y, np.ones(30, bool)).interval is None


def test_concordance_covers_through_bounds():
    rng = np.random.default_rng(1)
    # D of independent normal noise of the same variance: 2/pi arcsin(1/sqrt 2) = 1/2
    truth, inside, naive = 0.5, 0, []
    for _ in range(200):
        x = rng.normal(size=60)
        y = x + rng.normal(size=60)
        cut = rng.uniform(size=60) < 0.3
        seen = np.where(cut, y - rng.exponential(2.0, 60), y)
        found = concordance(x, seen, cut)
        inside += found.interval[0] <= truth <= found.interval[1]
        naive.append(concordance(x, seen, np.zeros(60, bool)).value)
    # 0.95 of 200, five standard errors of 0.015: pairs far apart are compared a little
    # more often than others
    assert inside / 200 > 0.95 - 5 * 0.0154
    # bounds taken for values lose a tenth and more
    assert np.mean(naive) < 0.45


def test_concordance_of_perfect_order_is_no_certainty():
    x = np.arange(4.0)
    # four networks by chance: 1 of 24 in order; two disjoint pairs: 0.025^(1/2)
    found = concordance(x, x, np.zeros(4, bool))
    assert found.interval == pytest.approx((2 * 0.025**0.5 - 1, 1.0))
    turned = concordance(x, -x, np.zeros(4, bool))
    assert turned.interval == pytest.approx((-1.0, 1 - 2 * 0.025**0.5))
    # ties in x are one half
    assert concordance(np.array([1.0, 1.0]), x[:2], np.zeros(2, bool)).value == 0.0


def test_link_says_how_many_ratios_are_bounds():
    rows = [Outcome(1.0, True, 10.0**n, 2.0**n, n == 3) for n in range(5)]
    _, order = link(rows)
    assert order.statistic.value == 1.0
    assert order.word == "undecided"
    # the bound of 8 may be above the 16 of the fifth
    assert "5 have κ and a ratio, 4 of these are exact" in order.note
    assert "9 pairs can be compared" in order.note


def score(value):
    return Score(value, 0.0, 5, (value, value))


def test_speed_is_never_read_off_the_condition():
    unstable = decided(STABLE, score(50.0), worst=50.0)
    assert unstable.word == "refuted"
    _, alone, _ = consequences([unstable])
    assert "nothing is known" in alone
    rate = decided(lazy_rate(0.5), score(0.25))
    _, both, _ = consequences([unstable, rate, decided(FASTER, score(40.0))])
    assert "kept the rate" in both
    assert "worth trying" in both
    assert "not needed" in both
    _, none, _ = consequences([rate, decided(FASTER, score(1.0)), LINKED])
    assert "nothing to gain" in none


def test_consequences_follow_every_word():
    def kernel(value):
        return Claim("", score(value), Below(0.1, 0.5), 2)

    for value, phrase in ((0.01, "stays,"), (0.3, "open"), (0.9, "moves")):
        _, _, text = consequences([kernel(value)])
        assert phrase in text
    assert "nothing was measured" in consequences([])[2]


def test_rate_is_refuted_beyond_its_bound():
    half, whole = lazy_rate(0.5), lazy_rate(1.0)
    assert decided(half, score(0.27)).word == "confirmed"
    assert decided(half, score(0.4)).word == "undecided"
    assert decided(half, score(0.51)).word == "refuted"
    assert decided(whole, score(0.0)).word == "confirmed"
    assert decided(whole, score(0.06)).word == "refuted"
    # one that diverged is enough
    assert decided(half, score(0.25), worst=1e6).word == "refuted"


def test_within_says_its_ends():
    rule = Within((0.9, 1.1), (0.7, np.inf))
    assert (rule.confirm, rule.refute) == ("from 0.9 to 1.1", "below 0.7")
    assert rule.decide(0.5, 0.6) == "refuted"
    assert rule.decide(2.0, 3.0) == "undecided"
    assert Within((0.0, 1.0), (-1.0, 2.0)).refute == "below -1 or above 2"

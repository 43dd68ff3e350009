"""Statistics against closed forms, slow loops, scipy and rliable."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from reelrl.zoo.benchmark.report.statistics import (
    Interval,
    holm,
    iqm,
    mean_interval,
    median_iqr,
    paired_difference,
    paired_p_value,
    performance_profile,
    probability_of_improvement,
    rank_intervals,
    stratified_bootstrap,
    verdict,
    wilson,
)

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False)
RUNS = arrays(float, st.integers(1, 12), elements=FINITE)
SCORES = np.random.default_rng(7).normal([0.2, 0.4, 0.5, 0.9], 0.1, size=(5, 4))
OTHERS = np.random.default_rng(8).normal([0.3, 0.4, 0.4, 0.9], 0.1, size=(5, 4))


def rng():
    return np.random.default_rng(0)


@given(RUNS)
def test_iqm_is_scipys_trimmed_mean(values):
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


@given(RUNS, FINITE, st.floats(0.1, 10))
def test_intervals_move_and_stretch_with_the_values(values, shift, scale):
    before = stratified_bootstrap([values], rng=rng(), reps=50)
    after = stratified_bootstrap([scale * values + shift], rng=rng(), reps=50)
    for name in ("estimate", "low", "high"):
        expected = scale * getattr(before, name) + shift
        assert getattr(after, name) == pytest.approx(expected, abs=1e-6)


@given(RUNS)
def test_bootstrap_interval_lies_within_the_values(values):
    found = stratified_bootstrap([values, values], rng=rng(), reps=50)
    assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9


def test_runs_are_redrawn_within_their_stratum_only():
    # Two constant strata: nothing can vary, unless runs cross over.
    found = stratified_bootstrap([[0.0] * 4, [1.0] * 4], lambda x: x.mean(-1), rng=rng())
    assert found == Interval(0.5, 0.5, 0.5)


def test_bootstrap_of_a_mean_has_the_closed_form_of_its_normal_limit():
    values = np.random.default_rng(1).normal(size=400)
    found = stratified_bootstrap([values], lambda x: x.mean(-1), rng=rng(), reps=20_000)
    half = 1.96 * values.std() / 20
    assert found.high - found.estimate == pytest.approx(half, rel=0.03)
    assert found.estimate - found.low == pytest.approx(half, rel=0.03)


def test_the_global_generator_is_neither_read_nor_moved():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first = stratified_bootstrap(list(SCORES.T), rng=rng())
    np.random.seed(4)
    assert stratified_bootstrap(list(SCORES.T), rng=rng()) == first
    np.random.seed(3)
    assert (np.random.get_state()[1] == before).all()


def test_bootstrap_and_improvement_are_rliables():
    rly = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    np.random.seed(0)  # rliable draws from the global generator, whatever it is given
    estimates, bounds = rly.get_interval_estimates(
        {"x": SCORES}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=3000
    )
    found = stratified_bootstrap(list(SCORES.T), rng=rng(), reps=3000)
    assert found.estimate == pytest.approx(estimates["x"][0])
    # 5 standard errors of the difference of two 2.5 % quantiles from 3,000 draws of this spread.
    assert [found.low, found.high] == pytest.approx(bounds["x"][:, 0], abs=6e-3)
    estimates, bounds = rly.get_interval_estimates(
        {"xy": (SCORES, OTHERS)}, metrics.probability_of_improvement, reps=300
    )
    found = probability_of_improvement(list(SCORES.T), list(OTHERS.T), rng=rng(), reps=2000)
    assert found.estimate == pytest.approx(float(estimates["xy"]))
    assert [found.low, found.high] == pytest.approx(bounds["xy"].ravel(), abs=0.05)


def test_profile_is_rliables():
    rly = pytest.importorskip("rliable.library")
    tau = np.linspace(0, 1, 11)
    np.random.seed(0)
    estimates, bounds = rly.create_performance_profile({"x": SCORES}, tau, reps=2000)
    share, low, high = performance_profile(list(SCORES.T), tau, rng=rng(), reps=2000)
    assert share == pytest.approx(estimates["x"])
    assert np.abs(np.stack([low, high]) - bounds["x"]).max() <= 0.05 + 1e-9  # one run of twenty


@given(RUNS, RUNS)
def test_improvement_counts_pairs(x, y):
    slow = np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y])
    found = probability_of_improvement([x], [y], rng=rng(), reps=20)
    assert found.estimate == pytest.approx(slow)
    back = probability_of_improvement([y], [x], rng=rng(), reps=20)
    assert found.estimate + back.estimate == pytest.approx(1)
    assert 0 <= found.low <= found.high <= 1


def test_pairing_removes_what_the_seeds_share():
    seeds = np.arange(5.0)
    x, y = seeds + np.array([0.11, 0.09, 0.1, 0.12, 0.08]), seeds
    assert paired_difference(x, y).low > 0.08
    unpaired = mean_interval(x).high - mean_interval(x).low
    assert unpaired > 3


@given(arrays(float, st.integers(2, 12), elements=FINITE, unique=True))
def test_student_interval_and_test_are_scipys_and_agree(values):
    found = mean_interval(values)
    mean, spread = values.mean(), stats.sem(values)
    assume(spread > 0)  # the square of 1e-169 is 0, and scipy gives nan for a width of 0
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=spread)
    assert [found.low, found.high] == pytest.approx([low, high], rel=1e-6, abs=1e-6)
    p = paired_p_value(values, np.zeros_like(values))
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)
    if abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (found.low > 0 or found.high < 0)


def test_every_run_of_a_longer_stratum_is_drawn():
    strata = [[0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    found = stratified_bootstrap(
        strata, lambda x: x.max(-1), rng=np.random.default_rng(0), level=0.999
    )
    assert (found.estimate, found.high) == (6, 6)
    # Six draws of one to six: the highest is 2 or less with probability (1/3)^6 = .0014.
    assert found.low <= 3


def test_ranks_are_of_means_over_as_many_seeds_as_there_are():
    """One seed in five tells against the first method; five draws of it alone are 1 in 3125."""
    values = np.array([[10.0, 10.0, 10.0, 10.0, -1.0], [0.0] * 5])
    first, second = rank_intervals(values, rng=np.random.default_rng(0))
    assert (first.estimate, first.low, first.high) == (1, 1, 1)
    assert (second.estimate, second.low, second.high) == (2, 2, 2)
    # Of two methods that are one the rank is shared, and with a seed in two it is open.
    same = rank_intervals(np.zeros((2, 5)), rng=np.random.default_rng(0))
    assert [(r.estimate, r.low, r.high) for r in same] == [(1, 1, 1)] * 2
    even = rank_intervals(np.array([[1.0, -1.1], [0.0, 0.0]]), rng=np.random.default_rng(0))
    assert [(r.low, r.high) for r in even] == [(1, 2)] * 2


def coverage(covers, count, trials=1500):
    draws = np.random.default_rng(5).normal(size=(trials, count))
    return np.mean([covers(x) for x in draws])


def test_student_covers_as_promised_and_the_bootstrap_of_few_seeds_does_not():
    """The reason why no verdict rests on a bootstrap of one scenario."""

    def student(x):
        found = mean_interval(x)
        return found.low < 0 < found.high

    def bootstrap(x):
        found = stratified_bootstrap([x], lambda v: v.mean(-1), rng=rng(), reps=400)
        return found.low < 0 < found.high

    assert coverage(student, 2) == pytest.approx(0.95, abs=0.02)
    assert coverage(student, 5) == pytest.approx(0.95, abs=0.02)
    assert coverage(bootstrap, 5) == pytest.approx(0.83, abs=0.03)
    assert coverage(bootstrap, 2) == pytest.approx(0.51, abs=0.04)


def test_one_run_has_no_interval_and_no_run_no_mean():
    assert mean_interval([0.3]) == Interval(0.3, -np.inf, np.inf)
    assert mean_interval([0.3, np.nan]) == mean_interval([0.3])
    assert np.isnan(mean_interval([]).estimate)
    assert paired_p_value([1.0], [0.0]) == 1.0
    assert verdict(mean_interval([0.9]), 0.05) == "cannot tell"
    assert verdict(mean_interval([]), 0.05) == "cannot tell"


def test_equal_differences_are_no_division_by_zero():
    assert paired_p_value([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_p_value([2.0, 3.0], [1.0, 2.0]) == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


@given(arrays(float, st.integers(1, 8), elements=st.floats(0, 1)))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p):
    adjusted = holm(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= np.minimum(1, p * len(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.04, 0.04, "no difference"),
        (0.01, 0.04, "no difference"),  # certainly above 0, and too small to matter
        (0.06, 0.20, "better"),
        (-0.20, -0.06, "worse"),
        (0.01, 0.09, "cannot tell"),
        (-0.30, 0.30, "cannot tell"),
        (-0.09, -0.01, "cannot tell"),
    ],
)
def test_verdicts(low, high, word):
    assert verdict(Interval((low + high) / 2, low, high), 0.05) == word


def test_median_and_quartiles():
    assert median_iqr([4, 1, 3, 2, 5]) == Interval(3, 2, 4)


def test_ranks_and_their_range():
    clear = np.array([[3.0, 3.1, 2.9], [1.0, 1.1, 0.9], [2.0, 2.1, 1.9]])
    assert [r.estimate for r in rank_intervals(clear, rng=rng())] == [1, 3, 2]
    assert all(r.low == r.high == r.estimate for r in rank_intervals(clear, rng=rng()))
    mixed = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.9]])
    first, second = rank_intervals(mixed, rng=rng())
    assert (first.low, first.high) == (second.low, second.high) == (1, 2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one run"):
        stratified_bootstrap([[1.0], []], rng=rng())


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilsons_bounds_are_where_the_score_test_is_at_its_level(successes, more):
    count = successes + more
    share, low, high = wilson(successes, count)
    z = stats.norm.ppf(0.975)
    for bound in {low, high} - {0.0, 1.0}:
        score = (share - bound) / np.sqrt(bound * (1 - bound) / count)
        assert abs(score) == pytest.approx(z, abs=1e-6) or share in (0, 1)
    assert 0 <= low <= share <= high <= 1
    assert np.isnan(wilson(0, 0)).all()

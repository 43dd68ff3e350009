"""Curve metrics against planted curves, slow references and closed forms."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reelrl.zoo.benchmark.report.curves import (
    area_under_curve,
    at_common_level,
    at_level,
    early_stopped,
    ema,
    gao_fit,
    goodhart_onset,
    hacking_gap,
    steps_to_threshold,
    volume,
)

CURVE = arrays(float, st.integers(1, 30), elements=st.floats(-10, 10, allow_subnormal=False))
POINTS = arrays(float, st.tuples(st.integers(1, 7), st.just(3)), elements=st.floats(0, 1))


def test_gap_is_zero_together_and_signed_apart():
    gold = np.array([0.4, 0.5, 0.2])
    assert hacking_gap(3 + 2 * gold, gold, 0.2, 0.1) == pytest.approx([0, 0, 0])
    gap = hacking_gap([1.0, 1.2, 1.4], gold, 0.2, 0.1)
    assert gap == pytest.approx([0, 1 - 1, 2 + 2])
    assert np.isnan(hacking_gap([1.0, 2.0], [1.0, 2.0], 0.0, 0.1)).all()


@given(CURVE, st.integers(1, 20))
def test_ema_is_pandas(values, window):
    expected = pd.Series(values).ewm(span=window).mean().to_numpy()
    assert ema(values, window) == pytest.approx(expected, abs=1e-9)


def test_onset_of_a_planted_peak():
    t = np.arange(101.0)
    gold = np.where(t <= 40, 0.3 + 0.01 * t, 0.7 - 0.005 * (t - 40))
    onset = goodhart_onset(t, gold, t, window=1)
    assert (onset.iteration, onset.proxy) == (40, 40)
    assert (onset.gold, onset.final) == pytest.approx((0.7, 0.4))
    assert onset.drop == pytest.approx(0.3)
    smooth = goodhart_onset(t, gold, t)
    assert 40 <= smooth.iteration <= 50 and 0.2 < smooth.drop < 0.3


def test_onset_of_a_curve_that_only_rises_is_its_end():
    onset = goodhart_onset([0, 1, 2, 3], [0.1, 0.2, np.nan, 0.4], [1, 2, 3, 4])
    assert onset.iteration == 3 and onset.drop == 0
    with pytest.raises(ValueError, match="got none"):
        goodhart_onset([0.0], [np.nan], [1.0])


@pytest.mark.parametrize("form", ["rl", "bon"])
@given(alpha=st.floats(-2, 2), beta=st.floats(-2, 2))
def test_fits_recover_planted_coefficients(form, alpha, beta):
    kl = np.linspace(0, 9, 20)
    d = np.sqrt(kl)
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = np.where(d > 0, np.log(d), 0) if form == "rl" else d
    fit = gao_fit(kl, d * (alpha - beta * bend), form)
    assert (fit.alpha, fit.beta) == pytest.approx((alpha, beta), abs=1e-8)
    assert fit.points == 19
    if abs(alpha) + abs(beta) > 0.1:
        assert fit.r2 == pytest.approx(1, abs=1e-9)
    assert fit(d) == pytest.approx(d * (alpha - beta * bend), abs=1e-7)


def test_fit_of_noise_explains_little_and_of_two_points_nothing():
    kl = np.linspace(0.1, 9, 50)
    fit = gao_fit(kl, np.random.default_rng(0).normal(size=50))
    assert fit.r2 < 0.3
    assert gao_fit([0, 1, 2], [0, 1, 2]) is None
    assert gao_fit([0, 1, 2, np.nan], [0, 1, 2, 3]) is None


def test_area_is_the_mean_height():
    assert area_under_curve([0, 1, 4], [0.5, 0.5, 0.5]) == pytest.approx(0.5)
    assert area_under_curve([0, 10], [0, 1]) == pytest.approx(0.5)
    assert area_under_curve([0, 10], [0, 1], upto=5) == pytest.approx(0.25)
    # A gap in the measurement is bridged, not counted as zero.
    assert area_under_curve([0, 5, 10], [0, np.nan, 1]) == pytest.approx(0.5)
    assert np.isnan(area_under_curve([0, 10], [0, 1], upto=11))
    assert np.isnan(area_under_curve([], []))


def test_threshold_and_censoring():
    assert steps_to_threshold([0, 5, 10], [0.1, 0.4, 0.6], 0.4) == 5
    assert steps_to_threshold([0, 5, 10], [0.1, 0.4, 0.6], 0.7) == np.inf
    assert steps_to_threshold([0, 5, 10], [0.1, np.nan, 0.6], 0.3) == 10


def test_a_slow_twin_is_no_different_at_equal_level():
    """The same path walked at half speed: equal iterations tell them apart, equal terms do not."""
    t = np.linspace(0, 1, 11)
    proxy, gold = 2 * t, 0.4 - 0.3 * t**2
    slow_proxy, slow_gold = 2 * (t / 2), 0.4 - 0.3 * (t / 2) ** 2
    assert slow_gold[-1] - gold[-1] > 0.2
    a, b, level = at_common_level(proxy, gold, slow_proxy, slow_gold)
    assert level == pytest.approx(1) and a == pytest.approx(b, abs=1e-9)


def test_level_is_interpolated_and_its_first_crossing_counts():
    assert at_level([0, 2, 1, 3], [0.0, 1.0, 5.0, 9.0], 1.0) == pytest.approx(0.5)
    assert at_level([0, 2], [7.0, 8.0], 0.0) == 7.0
    assert np.isnan(at_level([0, 1], [0, 1], 2.0))


def test_early_stopping_reads_the_other_split():
    index, value = early_stopped([0.1, 0.5, 0.5, 0.2], [0.1, 0.3, 0.9, 0.8])
    assert (index, value) == (1, 0.3)
    assert early_stopped([np.nan, 0.1], [0.5, 0.2]) == (1, 0.2)
    with pytest.raises(ValueError, match="got none"):
        early_stopped([np.nan], [1.0])


def slow_volume(points):
    """Sum of the cells of the grid of all coordinates that some point dominates."""
    axes = [np.unique(np.append(points[:, k], 0.0)) for k in range(3)]
    total = 0.0
    for x0, x1 in zip(axes[0][:-1], axes[0][1:], strict=True):
        for y0, y1 in zip(axes[1][:-1], axes[1][1:], strict=True):
            for z0, z1 in zip(axes[2][:-1], axes[2][1:], strict=True):
                if (points >= [x1, y1, z1]).all(1).any():
                    total += (x1 - x0) * (y1 - y0) * (z1 - z0)
    return total


@given(POINTS)
def test_hypervolume_is_the_volume_of_the_dominated_cells(points):
    assert volume(points) == pytest.approx(slow_volume(points), abs=1e-12)


def test_hypervolume_by_hand():
    assert volume([[0.5, 0.4, 0.3]]) == pytest.approx(0.06)
    assert volume([[1, 1, 0.5], [0.5, 0.5, 1]]) == pytest.approx(0.5 + 0.125)
    assert volume([[0.5, 0.4, 0.3], [0.4, 0.3, 0.2]]) == pytest.approx(0.06)
    assert volume([[-1, 1, 1]]) == 0
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        volume([1.0, 2.0])

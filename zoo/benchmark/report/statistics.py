"""Statistics of a benchmark with few seeds: intervals, comparisons and verdicts.

Three kinds of interval, each where it is fit:

* one scenario, a handful of paired seeds: Student's interval of the mean (:func:`mean_interval`).
  A percentile bootstrap over five normal values covers the mean in 83 % of cases instead of 95 %,
  and over two in 51 % (``tests/zoo/benchmark/report/test_statistics.py`` measures both): no verdict
  rests on it.
* many scenarios together: the stratified percentile bootstrap of the interquartile mean, as in
  Agarwal et al. 2021 (arXiv 2108.13264) and their library ``rliable``.
* a chance, such as the probability of improvement: the same bootstrap.

Values of one method are "strata": one array of runs per task (scenario), of any lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Reduces the last axis."""

BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no difference", "cannot tell"
HOLDS, FAILS = "holds", "does not hold"


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float

    def within(self, region: tuple[float, float]) -> bool | None:
        """True if the interval lies in an open region, False if outside, None if it does both."""
        low, high = region
        if np.isnan([self.low, self.high]).any():
            return None
        if low < self.low and self.high < high:
            return True
        return False if self.high <= low or high <= self.low else None


def iqm(values: Floats) -> Floats:
    """Interquartile mean over the last axis: the mean without the lowest and highest quarter.

    ``floor(n / 4)`` values go at each end, as ``scipy.stats.trim_mean(x, 0.25)`` does.
    """
    count = values.shape[-1]
    cut = count // 4
    middle: Floats = np.sort(values, axis=-1)[..., cut : count - cut].mean(-1)
    return middle


def median_iqr(values: ArrayLike) -> Interval:
    """Median, and the first and third quartile as its bounds (linear interpolation)."""
    low, median, high = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
    return Interval(float(median), float(low), float(high))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean with Student's interval, ``mean ± t s / sqrt(n)``; unbounded for fewer than two values.

    Exact for normal values at any ``n``, hence the choice for five seeds. Missing values (nan) are
    left out.
    """
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    if len(x) == 0:
        return Interval(np.nan, -np.inf, np.inf)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(_t_quantile((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


@cache
def _t_quantile(chance: float, freedom: int) -> float:
    # A band asks for the same quantile at every point, and scipy takes its time.
    return float(stats.t.ppf(chance, freedom))


def _redraw(strata: Sequence[ArrayLike], reps: int, rng: np.random.Generator) -> list[Floats]:
    """(reps, n_t) runs per stratum, drawn with replacement within it."""
    arrays = [np.asarray(stratum, float) for stratum in strata]
    if not arrays or any(a.ndim != 1 or len(a) == 0 for a in arrays):
        raise ValueError(
            f"every stratum needs at least one run, got lengths {[a.shape for a in arrays]}"
        )
    return [a[rng.integers(len(a), size=(reps, len(a)))] for a in arrays]


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of all runs; runs are redrawn within each stratum.

    Agarwal et al. 2021, section 4.1. Equal to ``rliable``'s up to Monte-Carlo error.

    Args:
        strata: one array of runs per task.
        statistic: of the pooled runs; reduces the last axis.
        rng: draws the runs; the global state is never touched.
        reps: number of redraws.
        level: of confidence.

    Raises:
        ValueError: for an empty stratum.
    """
    drawn = statistic(np.concatenate(_redraw(strata, reps, rng), axis=-1))
    pooled = np.concatenate([np.asarray(s, float) for s in strata])
    return Interval(float(statistic(pooled)), *_percentiles(drawn, level))


def _difference(x: ArrayLike, y: ArrayLike) -> Floats:
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape:
        raise ValueError(f"paired runs must have equal shapes, got {x.shape} and {y.shape}")
    gaps: Floats = x - y
    return gaps


def _win_rate(x: Floats, y: Floats) -> Floats:
    """P(x > y) + P(x = y) / 2 over all pairs of the last axes: Mann and Whitney's U / (n m)."""
    gap = x[..., :, None] - y[..., None, :]
    rate: Floats = ((gap > 0) + 0.5 * (gap == 0)).mean((-2, -1))
    return rate


def probability_of_improvement(
    strata_x: Sequence[ArrayLike],
    strata_y: Sequence[ArrayLike],
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Chance that a run of X beats a run of Y on the same task, averaged over tasks; ties are half.

    Agarwal et al. 2021, section 4.3. X and Y are redrawn apart, pairs are not used.
    """
    tasks = list(zip(strata_x, strata_y, strict=True))
    estimate = np.mean([_win_rate(np.asarray(x, float), np.asarray(y, float)) for x, y in tasks])
    xs, ys = _redraw(strata_x, reps, rng), _redraw(strata_y, reps, rng)
    drawn = np.mean([_win_rate(x, y) for x, y in zip(xs, ys, strict=True)], axis=0)
    return Interval(float(estimate), *_percentiles(drawn, level))


def performance_profile(
    strata: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> tuple[Floats, Floats, Floats]:
    """Share of runs above each threshold, averaged over tasks, and its pointwise interval.

    Agarwal et al. 2021, section 4.2 (run-score distributions).

    Returns:
        estimate, low and high, one value per threshold each.
    """
    tau = np.asarray(thresholds, float)
    share = np.mean([(np.asarray(s, float)[:, None] > tau).mean(0) for s in strata], axis=0)
    drawn = np.mean([(s[:, :, None] > tau).mean(1) for s in _redraw(strata, reps, rng)], axis=0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return share, low, high


def wilson(successes: int, count: int, level: float = 0.95) -> tuple[float, float, float]:
    """Share of successes with its score interval (Wilson 1927): estimate, low, high.

    All ``nan`` for no trials.
    """
    if not count:
        return (np.nan, np.nan, np.nan)
    found = stats.binomtest(successes, count).proportion_ci(level, "wilson")
    return successes / count, float(found.low), float(found.high)


def paired_difference(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of ``x - y`` over paired seeds with Student's interval.

    Raises:
        ValueError: if the two do not pair up.
    """
    return mean_interval(_difference(x, y), level)


def paired_p_value(x: ArrayLike, y: ArrayLike) -> float:
    """Two-sided p of the paired t-test of equal means; 1 for fewer than two pairs.

    The test that goes with :func:`paired_difference`, after Colas et al. 2019 (arXiv 1904.06979),
    who find t-tests the most reliable for few seeds of RL. A rank or sign-flip test cannot reject
    at five pairs: its smallest two-sided p is 2 / 2^5 = 0.0625.
    """
    difference = _difference(x, y)
    difference = difference[~np.isnan(difference)]
    if len(difference) < 2:
        return 1.0
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """P values adjusted so that rejecting those below a bound errs at all with at most that chance.

    Holm 1979: the i-th smallest of m becomes ``max_{j <= i} min(1, (m - j + 1) p_j)``.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def verdict(difference: Interval, margin: float) -> str:
    """Verdict on a difference, given the margin that was registered before the runs.

    Inside the margin with its whole interval: "no difference". Beyond it with its whole interval:
    "better" or "worse". An interval that crosses the margin: "cannot tell".
    """
    if difference.within((-margin, margin)):
        return SAME
    if difference.within((margin, np.inf)):
        return BETTER
    if difference.within((-np.inf, -margin)):
        return WORSE
    return UNKNOWN


def rank_intervals(
    values: Floats, *, rng: np.random.Generator, reps: int = 2000, level: float = 0.95
) -> list[Interval]:
    """Rank of each method's mean (1 is the highest), and the range of ranks when seeds are redrawn.

    Args:
        values: (methods, seeds), paired.
        rng: draws the seeds, the same for all methods.
        reps: number of redraws.
        level: of confidence.
    """
    draws = rng.integers(values.shape[1], size=(reps, values.shape[1]))
    ranks = stats.rankdata(-values[:, draws].mean(-1), axis=0, method="min")
    low, high = np.quantile(ranks, [(1 - level) / 2, (1 + level) / 2], axis=1, method="nearest")
    found = stats.rankdata(-values.mean(-1), method="min")
    return [Interval(*map(float, row)) for row in zip(found, low, high, strict=True)]

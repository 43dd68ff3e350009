"""Methods against each other: differences, ranks, predictions, and the null control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reelrl.zoo.benchmark.report.numbers import Results
from reelrl.zoo.benchmark.report.reading import RecordedScenario
from reelrl.zoo.benchmark.report.statistics import (
    BETTER,
    FAILS,
    HOLDS,
    SAME,
    UNKNOWN,
    WORSE,
    Interval,
    holm,
    iqm,
    mean_interval,
    median_iqr,
    paired_difference,
    paired_p_value,
    probability_of_improvement,
    rank_intervals,
    stratified_bootstrap,
    verdict,
)
from reelrl.zoo.benchmark.report.table import COLLAPSED, side

SEED = 0
"""Of every bootstrap, so that a report regenerates to the byte."""
FEWEST = 5
"""Runs per scenario below which nothing is bootstrapped: even five values of one scenario give an
interval that covers their mean in 83 % of cases instead of 95 %
(:mod:`reelrl.zoo.benchmark.report.statistics`)."""
FEWEST_SCENARIOS = 3
"""Scenarios below which there is no "over all scenarios"."""
PASSED, BROKEN = "passed", "BROKEN"
EQUAL_TERMS = {
    "equal iterations": "gold_gain",
    "equal proxy gain": "gold_at_equal_proxy",
    "equal KL": "gold_at_equal_kl",
}
"""On what terms a method is compared with the baseline -> measure."""


@dataclass(frozen=True)
class Pair:
    """Two methods on one scenario.

    Attributes:
        first: name.
        second: name.
        difference: of the gold gain, first minus second, over paired seeds.
        p: of the paired t-test, adjusted by Holm over the pairs of the scenario.
        verdict: of the first against the second.
    """

    first: str
    second: str
    difference: Interval
    p: float
    verdict: str


@dataclass(frozen=True)
class Prediction:
    """One line that was written before the runs, and its outcome.

    Attributes:
        scenario: name.
        text: "a > b" by more than the margin, "a = b" within it; "a rises", "a falls" by more than
            the margin from the base model.
        measured: difference of the two gold gains, or the gain of the one; None if it was not run.
        found: "holds", "does not hold", "cannot tell" or "not run".
        collapsed: both methods of the pair lost all GOLD.
    """

    scenario: str
    text: str
    measured: Interval | None
    found: str
    collapsed: bool = False

    @property
    def remark(self) -> str:
        """A note in brackets: both lost all GOLD, or the side of 0 of a failure."""
        if self.collapsed:
            return f" {COLLAPSED}"
        return "" if self.found == HOLDS else side(self.measured)


@dataclass(frozen=True)
class Overall:
    """A method over all scenarios it shares with the baseline.

    Attributes:
        method: name.
        scenarios: how many.
        mean: of the scenarios' mean gold gains. Unlike the interquartile mean below, it drops when
            one scenario collapses.
        mean_baseline: the baseline's over the same scenarios.
        gain: interquartile mean of the gold gain, stratified bootstrap.
        quartiles: median and quartiles of the same runs.
        improvement: chance to beat the baseline; None for the baseline.
    """

    method: str
    scenarios: int
    mean: float
    mean_baseline: float
    gain: Interval
    quartiles: Interval
    improvement: Interval | None


def methods_of(results: Results, scenario: str) -> list[str]:
    """Methods with a finished run on a scenario, in the suite's order."""
    return [m for m in results.suite.methods if results.has(scenario, m)]


def gold_difference(results: Results, scenario: str, first: str, second: str) -> Interval:
    """Gold gain of ``first`` minus the gain of ``second`` over the seeds both finished."""
    mine, other = (results.get(scenario, m, "gold_gain") for m in (first, second))
    return paired_difference(mine, other)


def both_collapsed(results: Results, scenario: str, first: str, second: str) -> bool:
    """Whether both end with GOLD below the margin, so that they cannot differ."""
    finals = [mean_interval(results.get(scenario, m, "gold_final")) for m in (first, second)]
    return all(final.estimate < results.suite.margin for final in finals)


def against_baseline(results: Results, scenario: str, method: str, terms: str) -> Interval | None:
    """Difference of GOLD to the baseline on the named terms; None for the baseline itself."""
    baseline = results.suite.baseline
    if method == baseline or not results.has(scenario, baseline):
        return None
    if terms == "equal iterations":
        return gold_difference(results, scenario, method, baseline)
    return mean_interval(results.get(scenario, method, EQUAL_TERMS[terms]))


def pairs(results: Results, scenario: str) -> list[Pair]:
    """All pairs of methods of a scenario, with adjusted p values."""
    couples = list(combinations(methods_of(results, scenario), 2))
    gains = {m: results.get(scenario, m, "gold_gain") for m in results.suite.methods}
    adjusted = holm([paired_p_value(gains[a], gains[b]) for a, b in couples])
    found = []
    for (a, b), p in zip(couples, adjusted, strict=True):
        difference = gold_difference(results, scenario, a, b)
        found.append(Pair(a, b, difference, float(p), verdict(difference, results.suite.margin)))
    return found


def ranks(results: Results, scenario: str) -> dict[str, Interval]:
    """Rank by mean gold gain over the seeds that all methods of the scenario finished."""
    names = methods_of(results, scenario)
    gains = np.array([results.get(scenario, m, "gold_gain") for m in names])
    shared = gains[:, np.isfinite(gains).all(0)]
    if not shared.shape[1]:
        return {}
    found = rank_intervals(shared, rng=np.random.default_rng(SEED))
    if shared.shape[1] < FEWEST:
        found = [Interval(rank.estimate, -np.inf, np.inf) for rank in found]
    return dict(zip(names, found, strict=True))


PREDICTED = {
    "better": ("{} > {}", BETTER),
    "same": ("{} = {}", SAME),
    "rises": ("{} rises", BETTER),
    "falls": ("{} falls", WORSE),
}
"""Kind of a prediction -> its text, and the verdict under which it holds."""


def predictions(results: Results, scenario: RecordedScenario) -> list[Prediction]:
    """The predicted gold gains, of pairs of methods and of single ones, with the findings.

    Predictions of methods that nobody asked for are left out.
    """
    expected = scenario.meta.get("expect") or {}
    asked = {*scenario.meta.get("methods", results.suite.methods), *scenario.methods()}
    pairs = [
        (kind, [entry] if isinstance(entry, str) else entry)
        for kind in PREDICTED
        for entry in expected.get(kind) or []
    ]
    return [
        _examined(results, scenario.name, kind, pair) for kind, pair in pairs if asked >= set(pair)
    ]


def _examined(results: Results, scenario: str, kind: str, methods: Sequence[str]) -> Prediction:
    pattern, right = PREDICTED[kind]
    text = pattern.format(*methods)
    if not all(results.has(scenario, method) for method in methods):
        return Prediction(scenario, text, None, "not run")
    if len(methods) == 1:
        measured, floor = mean_interval(results.get(scenario, methods[0], "gold_gain")), False
    else:
        first, second = methods
        measured = gold_difference(results, scenario, first, second)
        floor = both_collapsed(results, scenario, first, second)
    said = verdict(measured, results.suite.margin)
    word = HOLDS if said == right else UNKNOWN if said == UNKNOWN else FAILS
    return Prediction(scenario, text, measured, word, floor)


def overall(results: Results) -> list[Overall]:
    """Every method over the scenarios it shares with the baseline (all of its own without one).

    Empty for fewer than :data:`FEWEST_SCENARIOS` scenarios; without intervals for fewer than
    :data:`FEWEST` runs in one of them.
    """
    rows: list[Overall] = []
    if len(results.suite.scenarios) < FEWEST_SCENARIOS:
        return rows
    baseline = results.suite.baseline
    for method in results.suite.methods:
        own = [s.name for s in results.suite.scenarios if results.has(s.name, method)]
        shared = [s for s in own if results.has(s, baseline)] or own
        strata = [_finite(results.get(s, method, "gold_gain")) for s in shared]
        rng = np.random.default_rng(SEED)
        improvement = None
        if method != baseline and any(results.has(s, baseline) for s in own):
            others = [_finite(results.get(s, baseline, "gold_gain")) for s in shared]
            improvement = probability_of_improvement(strata, others, rng=rng)
        gain = stratified_bootstrap(strata, iqm, rng=np.random.default_rng(SEED))
        if min(map(len, strata)) < FEWEST:
            gain = Interval(gain.estimate, -np.inf, np.inf)
            if improvement is not None:
                improvement = Interval(improvement.estimate, -np.inf, np.inf)
        quartiles = median_iqr(np.concatenate(strata))
        mine, other = (_mean_of_means(results, shared, m) for m in (method, baseline))
        rows.append(Overall(method, len(shared), mine, other, gain, quartiles, improvement))
    return rows


def _mean_of_means(results: Results, scenarios: Sequence[str], method: str) -> float:
    gains = [mean_interval(results.get(s, method, "gold_gain")).estimate for s in scenarios]
    return float(np.mean(gains))


def _finite(values: np.ndarray) -> np.ndarray:
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def control_state(results: Results, scenario: str) -> tuple[str, Interval] | None:
    """Whether the method that cannot learn gained nothing; None where it was not run.

    "BROKEN" if its mean gain is beyond the margin with an interval above 0; "passed" if the
    interval stays below the margin (a loss is no gain: random updates may well harm); else "cannot
    tell".
    """
    suite = results.suite
    if not results.has(scenario, suite.control):
        return None
    gain = mean_interval(results.get(scenario, suite.control, "gold_gain"))
    if gain.low > 0 and gain.estimate > suite.margin:
        return BROKEN, gain
    return (PASSED if gain.high < suite.margin else UNKNOWN), gain

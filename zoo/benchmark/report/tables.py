"""The tables of a report."""

from __future__ import annotations

from functools import partial

import numpy as np

from reelrl.zoo.benchmark.report.compare import (
    EQUAL_TERMS,
    against_baseline,
    both_collapsed,
    control_state,
    methods_of,
    overall,
    pairs,
    predictions,
    ranks,
)
from reelrl.zoo.benchmark.report.numbers import BUDGETS, Results
from reelrl.zoo.benchmark.report.reading import RecordedScenario, RecordedSuite
from reelrl.zoo.benchmark.report.statistics import Interval, mean_interval
from reelrl.zoo.benchmark.report.table import NONE, Table, interval, number, said

ALL = "all"
MANY = 8
"""Methods above which a table of all pairs is no reading any more."""


def _middle(values: np.ndarray, digits: int = 2, *, sign: bool = False) -> str:
    """Median over seeds; censored runs count as infinite."""
    values = values[~np.isnan(values)]
    if not len(values):
        return NONE
    return number(float(np.quantile(values, 0.5, method="lower")), digits, sign=sign)


def _mean(values: np.ndarray, digits: int = 2, *, sign: bool = False) -> str:
    values = values[np.isfinite(values)]
    return number(float(values.mean()), digits, sign=sign) if len(values) else NONE


def matrix(results: Results) -> Table:
    """Scenario by method: mean gold gain with Student's interval."""
    suite = results.suite
    rows = [
        [s.name]
        + [
            interval(mean_interval(results.get(s.name, m, "gold_gain")), 2)
            if results.has(s.name, m)
            else NONE
            for m in suite.methods
        ]
        for s in suite.scenarios
    ]
    return Table(["scenario", *suite.methods], rows)


def predicted_table(results: Results) -> Table:
    """Predictions about methods and pairs of methods, and the findings."""
    rows = [
        [
            p.scenario,
            p.text,
            NONE if p.measured is None else interval(p.measured),
            p.found + p.remark,
        ]
        for s in results.suite.scenarios
        for p in predictions(results, s)
    ]
    note = (
        f"a > b: a gains more than b by more than the margin of {results.suite.margin:g}. a = b: "
        "they differ by less than the margin. a rises, a falls: a ends above or below the base "
        "model by more than the margin. A prediction whose difference is positive but too small "
        'reads "does not hold (above 0)".'
    )
    header = ["scenario", "predicted gold gain", "difference or gain found", "prediction"]
    return Table(header, rows, note if rows else "")


def overall_table(results: Results) -> Table:
    """Methods over all scenarios."""
    suite = results.suite
    rows = [
        [
            o.method,
            str(o.scenarios),
            number(o.mean, sign=True),
            number(o.mean_baseline, sign=True),
            interval(o.gain),
            f"{number(o.quartiles.estimate, sign=True)} "
            f"({number(o.quartiles.low, sign=True)} to {number(o.quartiles.high, sign=True)})",
            NONE if o.improvement is None else interval(o.improvement, 2, sign=False),
        ]
        for o in overall(results)
    ]
    header = [
        "method",
        "scenarios",
        "gold gain, mean of scenarios",
        f"{suite.baseline} on the same",
        "gold gain, IQM [95 %]",
        "median (quartiles)",
        f"P(beats {suite.baseline}) [95 %]",
    ]
    return Table(header, rows)


def scenario_table(results: Results, scenario: RecordedScenario) -> Table:
    """One row per method of a scenario."""
    suite, name = results.suite, scenario.name
    placed = ranks(results, name)
    rows = []
    for method in methods_of(results, name):
        get = partial(results.get, name, method)
        drops = [mean_interval(get(name)).estimate for name in ("drop", "eval_drop")]
        place = placed.get(method)
        compared = against_baseline(results, name, method, "equal iterations")
        # An onset without a fall is where the noise was largest; the largest of many noisy values
        # falls by itself, so the fixed examination must agree.
        falls = min(drops) > suite.margin
        rows.append([
            method,
            str(int(np.isfinite(get("gold_gain")).sum())),
            interval(mean_interval(get("gold_gain"))),
            _mean(get("gold_gain_seen"), 3, sign=True),
            NONE if place is None else _rank(place),
            "baseline" if method == suite.baseline else said(
                compared, suite.margin, both_collapsed(results, name, method, suite.baseline)
            ),
            _mean(get("gold_final")),
            _mean(get("proxy_gain_z"), sign=True),
            _mean(get("gap"), sign=True),
            _middle(get("onset"), 0) if falls else "none",
            number(drops[0], 2),
            _mean(get("kl"), 1),
            _mean(get("coverage_kept")),
            _mean(get("vendi_kept")),
            _mean(get("corr_gold")),
        ])  # fmt: skip
    header = [
        "method", "seeds", "gold gain [95 %]", "on seen prompts", "rank",
        f"against {suite.baseline}", "gold", "proxy gain (std)", "gap (std)",
        "onset", "drop", "KL (nats)", "coverage kept", "Vendi kept", "corr(A, gold)",
    ]  # fmt: skip
    return Table(header, rows)


def _rank(place: Interval) -> str:
    if np.isinf(place.low):
        return f"{int(place.estimate)} (?)"
    low, high = int(place.low), int(place.high)
    return f"{int(place.estimate)} ({low}-{high})" if low != high else str(int(place.estimate))


def mechanism_table(results: Results, scenario: RecordedScenario) -> Table:
    """Gold axes, components and the learning signal, means over seeds."""
    name, rewards = scenario.name, scenario.rewards
    score, *axes = results.suite.axes
    columns = {
        **{axis.removeprefix(f"{score}_"): f"gain/{axis}" for axis in axes},
        **{f"reward {r}": f"gain/{r}" for r in rewards},
        **{f"late influence {r}": f"late_influence/{r}" for r in rewards},
        "late std of proxy": "late_std", "late zero advantage": "late_zero_advantage",
        "late collisions": "late_collisions",
    }  # fmt: skip
    rows = [
        [method]
        + [
            _mean(results.get(name, method, measure), 3, sign=measure.startswith("gain/"))
            for measure in columns.values()
        ]
        for method in methods_of(results, name)
    ]
    return Table(["method", *columns], rows)


def speed_table(results: Results, scenario: RecordedScenario) -> Table:
    """How fast gold came: pace, areas, half-way times, hypervolume, early stopping."""
    name = scenario.name
    rows = []
    for method in methods_of(results, name):
        steps = results.get(name, method, "steps_to_threshold")
        steps = steps[~np.isnan(steps)]
        reached = f"{_middle(steps, 0)} ({int(np.isfinite(steps).sum())} of {len(steps)})"
        rows.append([
            method,
            _middle(results.get(name, method, "seconds"), 1),
            *(_mean(results.get(name, method, f"auc_{b}"), 3, sign=True) for b in BUDGETS),
            reached,
            *(
                _mean(results.get(name, method, f"hypervolume{w}_gain"), 3, sign=True)
                for w in ("", "_end")
            ),
            _mean(results.get(name, method, "early_gain"), 3, sign=True),
            _middle(results.get(name, method, "early_iteration"), 0),
        ])  # fmt: skip
    header = [
        "method", "s per iteration", "area by iteration", "area by seconds",
        "area by reward calls", "half way at (reached)", "hypervolume, best", "at the end",
        "gain if stopped early", "stopped at",
    ]  # fmt: skip
    return Table(header, rows)


def pairs_table(results: Results, scenario: RecordedScenario) -> Table:
    """All pairs of methods of a scenario; only pairs with the baseline where methods are many."""
    suite, name = results.suite, scenario.name
    tested = pairs(results, name)
    listed, note = tested, ""
    if len(methods_of(results, name)) > MANY:
        listed = [p for p in tested if suite.baseline in (p.first, p.second)]
        note = f"All {len(tested)} pairs were tested and adjusted for; {len(listed)} are listed."
    rows = []
    for p in listed:
        collapsed = both_collapsed(results, name, p.first, p.second)
        rows.append([
            f"{p.first} - {p.second}",
            interval(p.difference),
            number(p.p) if p.p >= 0.001 else "< 0.001",
            said(p.difference, suite.margin, collapsed),
        ])  # fmt: skip
    return Table(["pair", "gold gain, difference [95 %]", "p (Holm)", "first is"], rows, note)


def equal_terms_table(results: Results) -> Table:
    """Every method against the baseline at equal iterations, proxy gain and KL."""
    margin = results.suite.margin
    rows = []
    for scenario in results.suite.scenarios:
        for method in methods_of(results, scenario.name):
            found = [against_baseline(results, scenario.name, method, t) for t in EQUAL_TERMS]
            if any(found):
                floor = both_collapsed(results, scenario.name, method, results.suite.baseline)
                counts = [
                    _seeds_of(results, scenario.name, method, m) for m in EQUAL_TERMS.values()
                ]
                cells = [
                    _with_verdict(f, margin, floor and t == "equal iterations")
                    + (f", {n} of {counts[0]} seeds" if 0 < n < counts[0] else "")
                    for (t, f), n in zip(zip(EQUAL_TERMS, found, strict=True), counts, strict=True)
                ]
                levels = [
                    _mean(results.get(scenario.name, method, f"level_{x}"), 2)
                    for x in ("proxy", "kl")
                ]
                rows.append([scenario.name, method, *cells, *levels])
    header = ["scenario", "method", *EQUAL_TERMS, "at proxy gain", "at KL"]
    return Table(header, rows)


def _with_verdict(found: Interval | None, margin: float, collapsed: bool = False) -> str:
    if found is None or np.isnan(found.estimate):
        return NONE
    return f"{interval(found, 2)}: {said(found, margin, collapsed)}"


def _seeds_of(results: Results, scenario: str, method: str, measure: str) -> int:
    """Seeds behind a comparison with the baseline."""
    values = results.get(scenario, method, measure)
    paired = results.get(scenario, results.suite.baseline, "gold_gain")
    return int((np.isfinite(values) & np.isfinite(paired)).sum())


def best_of_n_table(suite: RecordedSuite, split: str) -> Table:
    """Gold and proxy of the best of n clips by the trained score, gains over n = 1."""
    rows = []
    for scenario in suite.scenarios:
        for n, kl, proxy, gold in best_of_n_curve(suite, scenario.name, split):
            if n > 1:
                cells = [number(kl, 2), number(proxy, 2, sign=True), number(gold, 3, sign=True)]
                rows.append([scenario.name, str(int(n)), *cells])
    return Table(["scenario", "n", "KL (nats)", "proxy gain", "gold gain"], rows)


def best_of_n_curve(suite: RecordedSuite, scenario: str, split: str) -> list[tuple[float, ...]]:
    """(n, KL, proxy gain, gold gain), means over seeds, gains over the mean clip (n = 1)."""
    rows = [r for r in suite.best_of_n if r["scenario"] == scenario and r["split"] == split]
    means = {}
    for n in sorted({int(r["n"]) for r in rows}):
        mine = [r for r in rows if int(r["n"]) == n]
        means[n] = [
            float(np.mean([float(r[c]) for r in mine])) for c in ("kl", "proxy", suite.axes[0])
        ]
    if 1 not in means:
        return []
    _, proxy, gold = means[1]
    return [(float(n), m[0], m[1] - proxy, m[2] - gold) for n, m in means.items()]


def control_table(results: Results) -> Table:
    """The null control on every scenario where it was run."""
    rows = []
    for scenario in results.suite.scenarios:
        state = control_state(results, scenario.name)
        if state is not None:
            rows.append([scenario.name, interval(state[1]), state[0]])
    return Table(["scenario", f"gold gain of {results.suite.control} [95 %]", "control"], rows)


def missing_table(suite: RecordedSuite) -> Table:
    """Runs of the suite that the numbers lack; "all" where a seed lacks a whole scenario."""
    asked = {s.name: set(s.meta.get("methods", [])) for s in suite.scenarios}
    cells: dict[tuple[int, str, str], list[str]] = {}
    for (scenario, method, seed), why in suite.missing().items():
        cells.setdefault((seed, why, scenario), []).append(method)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for seed, why in sorted({(seed, why) for seed, why, _ in cells}):
        mine = {s: m for (*key, s), m in cells.items() if key == [seed, why]}
        whole = {s for s, methods in mine.items() if set(methods) == asked[s]}
        if whole == set(asked):
            groups.setdefault((ALL, ALL, why), []).append(seed)
            continue
        for scenario, methods in mine.items():
            text = ALL if scenario in whole else ", ".join(methods)
            groups.setdefault((scenario, text, why), []).append(seed)
    rows = [
        [scenario, methods, ", ".join(map(str, sorted(seeds))), why]
        for (scenario, methods, why), seeds in groups.items()
    ]
    return Table(["scenario", "methods", "seeds", "why"], rows)

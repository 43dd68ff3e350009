"""From curves to one number per run, and the table of them that every comparison reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reelrl.zoo.benchmark.columns import DEFAULT_TRUTH, SPLITS, eval_column
from reelrl.zoo.benchmark.report.curves import (
    area_under_curve,
    at_common_level,
    early_stopped,
    goodhart_onset,
    hacking_gap,
    steps_to_threshold,
    volume,
    z_score,
)
from reelrl.zoo.benchmark.report.reading import JUDGED, RecordedRun, RecordedScenario, RecordedSuite
from reelrl.zoo.benchmark.report.statistics import Floats, mean_interval

BUDGETS = ("iteration", "wall", "calls")
"""Units that an area under the curve may be counted in."""


TRUTHFUL = ("honest", "gold")
"""Scenarios whose reward is gold itself."""
NOT_OF_THE_CLIP = ("gold", "coin")
"""Components that make equal proxy gains say nothing: the truth itself, and pure noise."""


@dataclass(frozen=True)
class Results:
    """Every measure of every finished run, lined up by seed so that methods pair.

    Attributes:
        suite: the results as read.
        split: prompts on which the measures were taken.
        values: (scenario, method) -> measure -> (seeds,), nan for a seed without the run.
    """

    suite: RecordedSuite
    split: str
    values: Mapping[tuple[str, str], Mapping[str, Floats]]

    def get(self, scenario: str, method: str, measure: str) -> Floats:
        """(seeds,) of a measure; all nan if it does not exist."""
        missing = np.full(len(self.suite.seeds), np.nan)
        return self.values.get((scenario, method), {}).get(measure, missing)

    def has(self, scenario: str, method: str) -> bool:
        """Whether any seed of it finished."""
        return (scenario, method) in self.values


def judged_split(suite: RecordedSuite) -> str:
    """The first split with a measurement: unseen prompts if there are any."""
    for split in JUDGED:
        if any(np.isfinite(r.gold(split)).any() for s in suite.scenarios for r in s.runs.values()):
            return split
    return JUDGED[0]


def _gain(curve: Floats) -> float:
    """Last minus first measured entry."""
    curve = curve[np.isfinite(curve)]
    return float(curve[-1] - curve[0]) if len(curve) > 1 else np.nan


def _last_over_first(curve: Floats) -> float:
    curve = curve[np.isfinite(curve)]
    return float(curve[-1] / curve[0]) if len(curve) > 1 and curve[0] > 0 else np.nan


def _late(run: RecordedRun, name: str) -> float:
    """Mean over the last quarter of the iterations."""
    values = run.column(name)
    values = values[np.isfinite(values)]
    return float(values[-max(1, len(values) // 4) :].mean()) if len(values) else np.nan


def _rise(run: RecordedRun, name: str) -> float:
    """Mean over the last quarter of the iterations minus that over the first."""
    values = run.column(name)
    values = values[np.isfinite(values)]
    quarter = max(1, len(values) // 4)
    return float(values[-quarter:].mean() - values[:quarter].mean()) if len(values) > 1 else np.nan


def gap_curve(run: RecordedRun, split: str) -> Floats:
    """Hacking gap over the evaluations."""
    stds = run.evaluated(eval_column(split, "std_proxy"))[0], run.gold_std(split)[0]
    return hacking_gap(run.evaluated(eval_column(split, "proxy")), run.gold(split), *stds)


def _evaluation_measures(run: RecordedRun, split: str, rewards: list[str]) -> dict[str, float]:
    at = f"eval_{split}/"
    gold, proxy = run.gold(split), run.evaluated(f"{at}proxy")
    measures = {
        "gold_gain": _gain(gold),
        "gold_base": float(gold[0]),
        "gold_final": float(gold[-1]),
        "peak_gain": float(np.nanmax(gold) - gold[0]),
        "eval_drop": float(np.nanmax(gold) - gold[-1]),
        "gold_gain_seen": _gain(run.gold("seen")),
        "proxy_gain": _gain(proxy),
        "proxy_gain_z": float(z_score(proxy, run.evaluated(f"{at}std_proxy")[0])[-1]),
        "gap": float(gap_curve(run, split)[-1]),
        "kl": float(run.kl()[-1]),
    }
    explaining = run.axes[1:]
    if explaining:
        axes = np.stack([run.evaluated(at + axis) for axis in explaining], axis=1)
        # The base model is one of the checkpoints, so the volume never falls below its own.
        measures["hypervolume_gain"] = volume(axes) - volume(axes[:1])
        measures["hypervolume_end_gain"] = volume(axes[-1:]) - volume(axes[:1])
    for name in (*explaining, *rewards):
        measures[f"gain/{name}"] = _gain(run.evaluated(at + name))
        measures[f"base/{name}"] = float(run.evaluated(at + name)[0])
    for name in ("vendi", "pairwise", "coverage"):
        measures[f"{name}_kept"] = _last_over_first(run.diversity(name))
    return measures


def _stopping_measures(run: RecordedRun, split: str) -> dict[str, float]:
    """Gold of the checkpoint that peaks on the other split."""
    other = next(s for s in SPLITS if s != split)
    watched, values = run.gold(other), run.gold(split)
    if not (np.isfinite(watched) & np.isfinite(values)).any():
        return {}
    row, gold = early_stopped(watched, values)
    return {
        "early_gain": gold - float(values[0]),
        "early_iteration": float(run.evaluated("iteration")[row]),
    }


def _training_measures(run: RecordedRun, rewards: list[str]) -> dict[str, float]:
    measures = {
        "corr_gold": mean_interval(run.column(f"corr_{run.axes[0]}")).estimate,
        "late_std": _late(run, "within_std/proxy"),
        "late_zero_advantage": _late(run, "zero_advantage"),
        "zero_std_rise": _rise(run, "zero_std_groups"),
        "late_collisions": _late(run, "collisions"),
        "wall_s": float(np.nanmax(run.column("wall_s"), initial=0)),
    }
    for name in rewards:
        measures[f"late_influence/{name}"] = _late(run, f"influence/{name}")
    iteration, gold, proxy = (run.column(c) for c in ("iteration", run.axes[0], "proxy"))
    if (np.isfinite(gold) & np.isfinite(proxy)).any():
        onset = goodhart_onset(iteration, gold, proxy)
        measures |= {
            "onset": onset.iteration,
            "onset_gold": onset.gold,
            "onset_proxy": onset.proxy,
            "onset_final": onset.final,
            "drop": onset.drop,
        }
    return measures


def run_measures(run: RecordedRun, split: str, rewards: list[str]) -> dict[str, float]:
    """Every measure of one run that needs no other run."""
    return {
        **_evaluation_measures(run, split, rewards),
        **_stopping_measures(run, split),
        **_training_measures(run, rewards),
    }


def half_way(suite: RecordedSuite, split: str) -> tuple[float, float]:
    """Threshold ``base + (ceiling - base) / 2`` of GOLD, and the ceiling.

    The ceiling is the level that the baseline's mean curve reaches when it is trained on gold
    itself (the first of :data:`TRUTHFUL`); 1, the bound of the score, where none was run. Other
    truths have no such scenario and perhaps no bound: there it is the highest score that any run
    reached.
    """
    runs = [r for s in suite.scenarios for r in s.runs.values()]
    base = float(np.nanmean([r.gold(split)[0] for r in runs]))
    if suite.truth != DEFAULT_TRUTH:
        ceiling = float(np.nanmax(np.concatenate([r.gold(split) for r in runs])))
        return base + (ceiling - base) / 2, ceiling
    honest = next((s for s in suite.scenarios if s.name in TRUTHFUL and s.runs), None)
    curves = [
        r.gold(split)
        for (method, _), r in (honest.runs if honest else {}).items()
        if method == suite.baseline
    ]
    ceiling = 1.0
    if curves and len({len(c) for c in curves}) == 1:
        ceiling = float(np.nanmax(np.mean(curves, axis=0)))
    return base + (ceiling - base) / 2, ceiling


def _pace(scenario: RecordedScenario, method: str) -> float:
    """Seconds an iteration takes by a method: the median over all of its runs.

    A run's own clock also counts other work of the machine at the time, which no method is to blame
    for.
    """
    took = [
        np.diff(run.column("wall_s")) / np.diff(run.column("iteration"))
        for (name, _), run in scenario.runs.items()
        if name == method
    ]
    known = np.concatenate(took)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else np.nan


def _spent(run: RecordedRun, label: str, pace: float) -> Floats:
    """Cost up to each evaluation: iterations, seconds, or scored clips."""
    if label == "calls":
        return run.evaluated("reward_calls")
    return run.evaluated("iteration") * (pace if label == "wall" else 1.0)


def _budget_measures(
    scenario: RecordedScenario, split: str, threshold: float
) -> dict[tuple[str, int], dict[str, float]]:
    """Area under the gold curve at the budget that all runs of a scenario reach, and speed."""
    paces = {method: _pace(scenario, method) for method in scenario.methods()}
    measures: dict[tuple[str, int], dict[str, float]] = {
        key: {"seconds": paces[key[0]]} for key in scenario.runs
    }
    for label in BUDGETS:
        spent = {key: _spent(run, label, paces[key[0]]) for key, run in scenario.runs.items()}
        upto = float(min(np.nanmax(x, initial=-np.inf) for x in spent.values()))
        for key, run in scenario.runs.items():
            gold = run.gold(split)
            measures[key][f"auc_{label}"] = area_under_curve(spent[key], gold, upto) - float(
                gold[0]
            )
    for key, run in scenario.runs.items():
        measures[key]["steps_to_threshold"] = steps_to_threshold(
            run.evaluated("iteration"), run.gold(split), threshold
        )
    return measures


def proxies_compare(suite: RecordedSuite, scenario: RecordedScenario, method: str) -> bool:
    """Whether a proxy gain means the same to a method and to the baseline.

    It does not if one of them is trained on rewards of its own, if the proxy is the truth, where
    equal proxy is equal gold, or if noise that knows nothing of the clip is part of it.
    """
    known = suite.meta.get("methods", {})
    own = any(
        "env_args.rewards" in known.get(m, {}).get("set", {}) for m in (method, suite.baseline)
    )
    return not own and not any(name in NOT_OF_THE_CLIP for name in scenario.rewards)


def _against_baseline(
    suite: RecordedSuite, scenario: RecordedScenario, split: str
) -> dict[tuple[str, int], dict[str, float]]:
    """Gold minus the baseline's of the same seed where both have gained as much proxy, or KL."""
    at, baseline = f"eval_{split}/", suite.baseline
    measures: dict[tuple[str, int], dict[str, float]] = {}
    for (method, seed), run in scenario.runs.items():
        other = scenario.runs.get((baseline, seed))
        if other is None:
            continue
        found = measures.setdefault((method, seed), {})
        proxies = [r.evaluated(f"{at}proxy") for r in (run, other)]
        # Where one of the two did not move, both are still the base model: nothing to compare.
        least = {"proxy": 0.1 * np.nan_to_num(run.evaluated(f"{at}std_proxy")[0]), "kl": 0.0}
        moved = {"proxy": [p - p[0] for p in proxies], "kl": [r.kl() for r in (run, other)]}
        gold, gold_other = (r.gold(split) for r in (run, other))
        if not proxies_compare(suite, scenario, method):
            del moved["proxy"]
        for label, (x, x_other) in moved.items():
            a, b, level = at_common_level(x, gold, x_other, gold_other)
            enough = np.isfinite(level) and level > least[label]
            found[f"gold_at_equal_{label}"] = a - b if enough else np.nan
            found[f"level_{label}"] = level if enough else np.nan
    return measures


def measure(suite: RecordedSuite) -> Results:
    """All measures of a suite."""
    split = judged_split(suite)
    threshold, _ = half_way(suite, split)
    values: dict[tuple[str, str], dict[str, Floats]] = {}
    for scenario in suite.scenarios:
        if not scenario.runs:
            continue
        shared = _budget_measures(scenario, split, threshold)
        paired = _against_baseline(suite, scenario, split)
        for key, run in scenario.runs.items():
            numbers = run_measures(run, split, scenario.rewards)
            numbers |= shared[key] | paired.get(key, {})
            table = values.setdefault((scenario.name, run.method), {})
            for name, number in numbers.items():
                column = table.setdefault(name, np.full(len(suite.seeds), np.nan))
                column[suite.seeds.index(run.seed)] = number
    return Results(suite, split, values)

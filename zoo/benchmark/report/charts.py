"""The plots of a report as data for the page's script, one chart per question.

A chart has one or more views (choices of the plotted numbers); a view has one series per method
with a mean curve, Student's 95 % band for three seeds or more, and every seed's own curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reelrl.zoo.benchmark.report.curves import GaoFit, ema, gao_fit
from reelrl.zoo.benchmark.report.numbers import Results, gap_curve
from reelrl.zoo.benchmark.report.reading import RecordedRun, RecordedScenario
from reelrl.zoo.benchmark.report.statistics import Floats, mean_interval, performance_profile
from reelrl.zoo.benchmark.report.tables import (
    best_of_n_curve,
)

Json = dict[str, Any]
Curve = Callable[[RecordedRun], tuple[Floats, Floats]]
"""A run -> x and y of its curve."""

LEAST_FOR_BAND = 3
SMOOTHING = 5
"""Window of the exponential mean over the measurements on every rollout."""


def _round(values: Floats) -> list[float | None]:
    """Four significant digits; a missing measurement is null."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


def _points(x: Floats, y: Floats) -> Json:
    kept = np.isfinite(x) & np.isfinite(y)
    return {"x": _round(x[kept]), "y": _round(y[kept])}


def _series(runs: Sequence[RecordedRun], curve: Curve, *, seeds: bool = True) -> Json | None:
    """Mean, band and runs of one method; None if nothing was measured."""
    curves = [curve(run) for run in runs]
    curves = [(x, y) for x, y in curves if (np.isfinite(x) & np.isfinite(y)).any()]
    if not curves:
        return None
    # Runs of one method are measured at the same iterations; an odd one out has no place in a mean.
    length = max(len(x) for x, _ in curves)
    xs, ys = (np.array([c[k] for c in curves if len(c[0]) == length]) for k in (0, 1))
    found: Json = {"mean": _points(xs.mean(0), ys.mean(0))}
    if len(ys) >= LEAST_FOR_BAND and np.ptp(xs, axis=0).max() == 0:
        bounds = [mean_interval(column) for column in ys.T]
        kept = np.isfinite(xs.mean(0)) & np.isfinite(ys.mean(0))
        found["band"] = {
            "x": _round(xs.mean(0)[kept]),
            "low": _round(np.array([b.low for b in bounds])[kept]),
            "high": _round(np.array([b.high for b in bounds])[kept]),
        }
    if seeds:
        found["runs"] = [_points(x, y) for x, y in curves]
    return found


def _view(
    results: Results,
    scenario: RecordedScenario,
    name: str,
    labels: tuple[str, str],
    curve: Curve,
    *,
    log: bool = False,
    seeds: bool = True,
) -> Json | None:
    """One choice of a chart; None if no method has a value."""
    series = []
    for place, method in enumerate(results.suite.methods):
        runs = [run for (m, _), run in scenario.runs.items() if m == method]
        found = _series(runs, curve, seeds=seeds)
        if found is not None:
            series.append({"method": place, **found})
    if not series:
        return None
    return {"name": name, "x": labels[0], "y": labels[1], "log": log, "series": series}


def _chart(key: str, title: str, note: str, views: Sequence[Json | None]) -> Json | None:
    kept = [view for view in views if view is not None]
    return {"id": key, "title": title, "note": note, "views": kept} if kept else None


def _evaluated(name: str, x: str = "iteration") -> Curve:
    return lambda run: (run.evaluated(x), run.evaluated(name))


def _trained(name: str) -> Curve:
    """A column of every rollout, smoothed."""

    def curve(run: RecordedRun) -> tuple[Floats, Floats]:
        x, y = run.column("iteration"), run.column(name)
        kept = np.isfinite(y)
        smooth = np.full(len(y), np.nan)
        if kept.any():
            smooth[kept] = ema(y[kept], SMOOTHING)
        return x, smooth

    return curve


def _gain(values: Floats) -> Floats:
    gain: Floats = values - values[0]
    return gain


def learning_chart(results: Results, scenario: RecordedScenario) -> Json | None:
    """Evaluated scores against iterations, seconds and reward calls."""
    at = f"eval_{results.split}/"
    other = "seen" if results.split == "unseen" else "unseen"
    score, *axes = results.suite.axes
    plain = [
        (f"GOLD, {results.split} prompts", at + score),
        (f"GOLD, {other} prompts", f"eval_{other}/{score}"),
        ("proxy", f"{at}proxy"),
        *((axis.replace(f"{score}_", f"{score}: ", 1), at + axis) for axis in axes),
        *((f"reward: {name}", at + name) for name in scenario.rewards),
    ]
    views = [_view(results, scenario, n, ("iteration", n), _evaluated(c)) for n, c in plain]
    views.insert(
        3,
        _view(
            results,
            scenario,
            "hacking gap",
            ("iteration", "z(proxy) - z(GOLD)"),
            lambda run: (run.evaluated("iteration"), gap_curve(run, results.split)),
        ),
    )
    for label, column in (("seconds of training", "wall_s"), ("reward calls", "reward_calls")):
        curve = _evaluated(at + score, column)
        views.append(_view(results, scenario, f"GOLD by {label}", (label, "GOLD"), curve))
    note = "Deterministic sampler, fixed prompts and noise."
    return _chart("learning", "Learning curves", note, views)


def _without_training(results: Results, scenario: RecordedScenario, column: int) -> list[Json]:
    """Best of n as an extra line; ``column`` 1 is sqrt(KL), 2 the proxy gain."""
    points = np.array(best_of_n_curve(results.suite, scenario.name, results.split))
    if not len(points):
        return []
    x = np.sqrt(points[:, 1]) if column == 1 else points[:, 2]
    line: Json = {"label": "best of n", "mean": _points(x, points[:, 3]), "dots": True}
    if column == 1 and (fit := gao_fit(points[:, 1], points[:, 3], "bon")):
        line["fit"] = _fitted(fit, float(x[-1]))
    return [line]


def _fitted(fit: GaoFit, end: float) -> Json:
    """The curve of a fit from 0 to ``end``, and its coefficients."""
    grid = np.linspace(0, end, 40)
    text = f"alpha {fit.alpha:.3f}, beta {fit.beta:.3f}, R2 {fit.r2:.2f}, {fit.points} points"
    return {**_points(grid, fit(grid)), "text": text}


def _stops(results: Results, scenario: RecordedScenario, view: Json, x_of: Curve) -> None:
    """Mark on every mean curve where early stopping would have ended it, on average."""
    for series in view["series"]:
        method = results.suite.methods[series["method"]]
        marks = []
        for (name, _), run in scenario.runs.items():
            place = results.suite.seeds.index(run.seed)
            stop = results.get(scenario.name, method, "early_iteration")[place]
            row = np.flatnonzero(run.evaluated("iteration") == stop)
            if name == method and len(row):
                marks.append([values[row[0]] for values in x_of(run)])
        if marks:
            series["stop"] = _round(np.mean(marks, axis=0))


def proxy_chart(results: Results, scenario: RecordedScenario) -> Json | None:
    """Gold gain against proxy gain."""
    at = f"eval_{results.split}/"

    def curve(run: RecordedRun) -> tuple[Floats, Floats]:
        return _gain(run.evaluated(f"{at}proxy")), _gain(run.gold(results.split))

    view = _view(results, scenario, "", ("proxy gain", "GOLD gain"), curve)
    if view is not None:
        _stops(results, scenario, view, curve)
        view["extra"] = _without_training(results, scenario, 2)
    note = (
        "From the base model at (0, 0). Squares: stopped early, where GOLD of the other split "
        "peaks. Dotted: best of n, no training."
    )
    return _chart("proxy", "GOLD against proxy", note, [view])


def kl_chart(results: Results, scenario: RecordedScenario) -> Json | None:
    """Gold gain against the square root of KL, with the laws of Gao et al. 2023."""

    def curve(run: RecordedRun) -> tuple[Floats, Floats]:
        return np.sqrt(np.maximum(run.kl(), 0)), _gain(run.gold(results.split))

    view = _view(results, scenario, "", ("sqrt(KL / nats)", "GOLD gain"), curve)
    if view is not None:
        for series in view["series"]:
            pooled = [curve(run) for (m, _), run in scenario.runs.items()
                      if m == results.suite.methods[series["method"]]]  # fmt: skip
            d, gain = (np.concatenate([c[k] for c in pooled]) for k in (0, 1))
            fit = gao_fit(np.square(d), gain, "rl")
            if fit:
                series["fit"] = _fitted(fit, float(np.nanmax(d)))
        _stops(results, scenario, view, curve)
        view["extra"] = _without_training(results, scenario, 1)
    note = (
        "Dashed: d (alpha - beta log d), d = sqrt(KL), over all seeds (Gao et al. 2023); for best "
        "of n d (alpha - beta d). KL of training is over the noisy steps, KL of best of n over the "
        "clips: compare shapes, not places."
    )
    return _chart("kl", "GOLD against distance from the base model", note, [view])


def spread_chart(results: Results, scenario: RecordedScenario) -> Json | None:
    """Within-group spread (TaRoS, figure 2) and the health of the learning signal."""
    columns = [
        ("spread of the proxy within groups", "within_std/proxy", True),
        *((f"spread of {n} within groups", f"within_std/{n}", True) for n in scenario.rewards),
        ("spread of the advantage", "within_std/advantage", False),
        ("correlation of advantage and GOLD", f"corr_{results.suite.axes[0]}", False),
        ("share of zero advantages", "zero_advantage", False),
        ("share of groups without spread", "zero_std_groups", False),
        ("advantage collisions", "collisions", False),
        ("clip fraction", "clip_fraction", False),
        ("gradient norm", "grad_norm", True),
    ]
    views = [
        _view(results, scenario, n, ("iteration", n), _trained(c), log=log, seeds=i == 0)
        for i, (n, c, log) in enumerate(columns)
    ]
    note = f"Training rollouts; exponential mean, window {SMOOTHING}."
    return _chart("spread", "Spread and learning signal", note, views)


def influence_chart(results: Results, scenario: RecordedScenario) -> Json | None:
    """Who drives the update: influence of and correlation with every component."""
    views = [
        _view(results, scenario, f"{label} {n}", ("iteration", label), _trained(f"{c}/{n}"),
              seeds=False)
        for label, c in (("influence of", "influence"), ("correlation with", "corr"))
        for n in scenario.rewards
    ]  # fmt: skip
    note = "Influence: share of a component's weighted spread in the sum."
    return _chart("influence", "Which component drives the update", note, views)


def profile_chart(results: Results) -> Json | None:
    """Performance profile over all runs, from ten runs per method on."""
    suite, series = results.suite, []
    tau = np.linspace(-0.5, 0.5, 101)
    for place, method in enumerate(suite.methods):
        gains = [results.get(s.name, method, "gold_gain") for s in suite.scenarios]
        strata = [g[np.isfinite(g)] for g in gains if np.isfinite(g).any()]
        if sum(map(len, strata)) < 10:
            continue
        share, low, high = performance_profile(strata, tau, rng=np.random.default_rng(0))
        band = {"x": _round(tau), "low": _round(low), "high": _round(high)}
        series.append({"method": place, "mean": _points(tau, share), "band": band})
    if not series:
        return None
    labels = {"x": "GOLD gain", "y": "share of runs above it"}
    view = {"name": "", "log": False, "series": series, **labels}
    note = "Over all scenarios a method was run on; methods with other scenarios do not compare."
    return _chart("profile", "Performance profile", note, [view])


CHARTS = (learning_chart, proxy_chart, kl_chart, spread_chart, influence_chart)


def charts(results: Results, scenario: RecordedScenario) -> list[Json]:
    """All charts of a scenario that have data."""
    found = [chart(results, scenario) for chart in CHARTS]
    return [
        {**chart, "id": f"{scenario.name}-{chart['id']}"} for chart in found if chart is not None
    ]

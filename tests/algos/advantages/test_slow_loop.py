"""Every estimator against plain Python loops over lists, written from the formulas alone.

Missing scores are ``None`` here; nothing below uses the library's array code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelrl.algos.advantages import RewardBatch, list_estimators, make_estimator

P, G, K, T = 3, 5, 3, 4
METHODS = Path(__file__).parent / "methods"
W = [1.0, 0.5, 2.0]


# --- statistics on lists with None -------------------------------------------------------------


def known(xs: list) -> list[float]:
    return [x for x in xs if x is not None]


def mean(xs: list) -> float:
    xs = known(xs)
    return math.fsum(xs) / len(xs)


def std(xs: list, ddof: int) -> float:
    xs = known(xs)
    if len(xs) <= ddof:
        return 0.0
    m = math.fsum(xs) / len(xs)
    return math.sqrt(math.fsum((x - m) ** 2 for x in xs) / (len(xs) - ddof))


def z(xs: list, ddof: int, eps: float, inside_root: bool = False) -> list:
    """z-score; None stays None, no spread or fewer than two gives zeros."""
    if len(known(xs)) < 2 or std(xs, ddof) < 1e-12:
        return [None if x is None else 0.0 for x in xs]
    m, s = mean(xs), std(xs, ddof)
    scale = math.sqrt(s * s + eps) if inside_root else s + eps
    return [None if x is None else (x - m) / scale for x in xs]


def dot(weights: list[float], row: list) -> float | None:
    terms = [w * r for w, r in zip(weights, row, strict=True) if r is not None]
    return math.fsum(terms) if terms else None


def summed(rewards: list, weights: list[float] = W) -> list[list]:
    return [[dot(weights, row) for row in group] for group in rewards]


def totals(rewards: list, weights: Any = W) -> list[list]:
    """Weighted sums of rewards; one that is missing counts as its group's mean, or the batch's."""
    out = []
    for group in rewards:
        own = weights[len(out)] if isinstance(weights, dict) else weights
        filled = []
        for row in group:
            values = []
            for k, x in enumerate(row):
                if x is None:
                    fellows = known([other[k] for other in group]) or known(column(rewards, k))
                    x = mean(fellows)
                values.append(x)
            some = any(x is not None for x in row)
            filled.append(dot(own, values) if some else None)
        out.append(filled)
    return out


def flat(table: list[list]) -> list:
    return [x for row in table for x in row]


def over_batch(table: list[list], function: Callable[[list], list]) -> list[list]:
    values = iter(function(flat(table)))
    return [[next(values) for _ in row] for row in table]


def components(rewards: list, ddof: int, eps: float) -> list:
    """[P][G][K] group z-scores."""
    out = []
    for group in rewards:
        columns = [z([row[k] for row in group], ddof, eps) for k in range(len(group[0]))]
        out.append([list(row) for row in zip(*columns, strict=True)])
    return out


def column(rewards: list, k: int) -> list:
    return [row[k] for group in rewards for row in group]


# --- one loop per estimator --------------------------------------------------------------------


def grpo(r: list, _: dict) -> list:
    return [z(group, 1, 1e-8) for group in totals(r)]


def dr_grpo(r: list, _: dict) -> list:
    return [
        [None if s is None else (s - mean(group) if len(known(group)) > 1 else 0.0) for s in group]
        for group in totals(r)
    ]


def rloo(r: list, _: dict) -> list:
    out = []
    for group in totals(r):
        row = []
        for i, s in enumerate(group):
            others = known(group[:i] + group[i + 1 :])
            row.append(None if s is None else s - mean(others) if others else 0.0)
        out.append(row)
    return out


def reinforce_pp(r: list, _: dict) -> list:
    return over_batch(totals(r), lambda xs: z(xs, 1, 1e-8, inside_root=True))


def reinforce_pp_baseline(r: list, e: dict) -> list:
    return over_batch(dr_grpo(r, e), lambda xs: z(xs, 1, 1e-8, inside_root=True))


def global_std(r: list, e: dict) -> list:
    scale = std(flat(totals(r)), 0) + 1e-4
    return [[None if a is None else a / scale for a in row] for row in dr_grpo(r, e)]


def advantage_sum(r: list, _: dict) -> list:
    return summed(components(r, 1, 1e-8))


def dancegrpo(r: list, e: dict) -> list:
    return advantage_sum(r, e)  # +-5 cannot bind for five members


def gdpo(r: list, _: dict) -> list:
    return over_batch(summed(components(r, 1, 0.0)), lambda xs: z(xs, 1, 1e-8))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def hoyer(xs: list) -> float:
    xs = known(xs)
    l1, l2 = sum(map(abs, xs)), math.sqrt(sum(x * x for x in xs))
    if len(xs) < 2 or l2 == 0:
        return 0.0
    return (math.sqrt(len(xs)) - l1 / l2) / (math.sqrt(len(xs)) - 1)


def taros(r: list, _: dict) -> list:
    per_group = {}
    for p, group in enumerate(r):
        columns = [[row[k] for row in group] for k in range(K)]
        sparsity = [hoyer(c) for c in columns] + [0.0]
        logits = []
        for k, c in enumerate(columns):
            # The static weights act as the prior of the softmax.
            utility = sigmoid(mean(c) - 0.75) + 0.3 * (sparsity[k] - sparsity[k + 1])
            logits.append(math.exp(utility) * W[k])
        weights = [x / sum(logits) for x in logits]
        per_group[p] = weights
    return [z(group, 1, 1e-8) for group in totals(r, per_group)]


def sa_mrpo(r: list, _: dict) -> list:
    saturation = [min(1.0, max(0.0, mean(column(r, k)))) for k in range(K)]
    weights = [w * (1 - s) ** 0.5 for w, s in zip(W, saturation, strict=True)]
    return over_batch(summed(components(r, 0, 0.0), weights), lambda xs: z(xs, 0, 0.0))


def saw(r: list, _: dict) -> list:
    cv = []
    for k in range(K):
        low = min(0.0, *known(column(r, k)))
        shifted = [x - low for x in known(column(r, k))]
        cv.append(std(shifted, 1) / (abs(mean(shifted)) + 1e-8))
    weights = [w * K * c / sum(cv) for w, c in zip(W, cv, strict=True)]
    return [z(group, 1, 1e-8) for group in totals(r, weights)]


def dvao(r: list, _: dict) -> list:
    out = []
    for group, parts in zip(r, components(r, 0, 0.0), strict=True):
        push = [w * std([row[k] for row in group], 0) for k, w in enumerate(W)]
        weights = [p / sum(push) for p in push]
        out.append([dot(weights, row) for row in parts])
    return out


def gd2po(r: list, _: dict) -> list:
    table = []
    for parts in components(r, 1, 1e-6):
        kept = []
        for row in parts:
            zs = known(row)
            mixed = any(x > 0 for x in zs) and any(x < 0 for x in zs)
            noisy = mixed and abs(sum(zs)) / sum(map(abs, zs)) < 0.8
            kept.append(None if noisy or not zs else dot(W, row))
        valid = sum(bool(known(row)) for row in parts)
        table.append([None if a is None else a * len(known(kept)) / valid for a in kept])
    return over_batch(table, lambda xs: z(xs, 1, 1e-8, inside_root=True))


def adv_min_norm(r: list, _: dict) -> list:
    """The weights by a fine grid on the simplex, then local refinement."""
    parts = components(r, 1, 1e-8)
    rows = [[w * (x or 0.0) for w, x in zip(W, row, strict=True)] for g in parts for row in g]

    def length(c: tuple[float, ...]) -> float:
        return sum(sum(ck * x for ck, x in zip(c, row, strict=True)) ** 2 for row in rows)

    best, step = (1 / 3, 1 / 3), 0.25
    while step > 1e-10:
        around = [
            (max(0.0, best[0] + i * step), max(0.0, best[1] + j * step))
            for i, j in itertools.product((-2, -1, 0, 1, 2), repeat=2)
        ]
        inside = [(a, b) for a, b in around if a + b <= 1]
        better = min(inside, key=lambda ab: length((*ab, 1 - sum(ab))))
        step, best = (step / 2 if better == best else step), better
    c = (*best, 1 - sum(best))
    return summed(parts, [w * ck for w, ck in zip(W, c, strict=True)])


def dynamic_weight(r: list, e: dict) -> list:
    return grpo(r, e)  # multiplier one before any feedback


def marble(r: list, _: dict) -> list:
    return summed(components(r, 0, 1e-4), [1 / K] * K)


def gardo(r: list, e: dict) -> list:
    out = []
    for group, features in zip(totals(r), e["features"], strict=True):
        row = z(group, 0, 0.0)
        for i, a in enumerate(row):
            if a is None or a <= 0:
                continue
            distances = []
            for j in range(G):
                if j != i and group[j] is not None:
                    u, v = features[i], features[j]
                    cosine = sum(a * b for a, b in zip(u, v, strict=True))
                    cosine /= math.sqrt(sum(a * a for a in u)) * math.sqrt(sum(b * b for b in v))
                    distances.append(1 - cosine)
            row[i] = a * min(distances)
        out.append(row)
    return out


def pref_grpo(r: list, e: dict) -> list:
    out = []
    for wins, group in zip(e["pairwise"], summed(r), strict=True):
        rates: list = [
            mean([wins[i][j] for j in range(G) if j != i and group[j] is not None])
            if group[i] is not None
            else None
            for i in range(G)
        ]
        out.append(z(rates, 1, 1e-8))
    return out


def arena(r: list, e: dict) -> list:
    """Five members: slots (0,7) (3,4) (1,6) (2,5) of eight, so only seeds 3 and 4 play at first."""
    out = []
    for wins in e["pairwise"]:
        points = [sum(wins[0][1:]) / (G - 1)] + [wins[i][0] for i in range(1, G)]
        seed = sorted(range(G), key=lambda i: -points[i])
        record: dict[int, list[float]] = {i: [] for i in range(G)}

        def play(a: int, b: int, wins: list = wins, record: dict = record) -> tuple[int, int]:
            record[a].append(wins[a][b])
            record[b].append(1 - wins[a][b])
            return (a, b) if wins[a][b] >= 0.5 else (b, a)

        first, out1 = play(seed[3], seed[4])
        final1, out2 = play(seed[0], first)
        final2, out3 = play(seed[1], seed[2])
        champion, second = play(final1, final2)
        semi = sorted([out2, out3], key=lambda i: (-mean(record[i]), i))
        order = [champion, second, *semi, out1]
        out.append(z([1 - order.index(i) / (G - 1) for i in range(G)], 1, 1e-6))
    return out


def branch_grpo(r: list, e: dict) -> list:
    """Root over nodes {0, 1, 4} and {2, 3}, each leaf its own child."""
    out = []
    for group in totals(r):
        upper = [[0, 1, 4], [2, 3]]
        value = [
            mean([group[i] for i in node]) if known([group[i] for i in node]) else None
            for node in upper
        ]
        top, leaf = z(value, 1, 1e-8), z(group, 1, 1e-8)
        out.append(
            [
                [None, None] if group[i] is None else [top[0 if i in upper[0] else 1], leaf[i]]
                for i in range(G)
            ]
        )
    return out


def per_step(table: list, ddof: int, eps: float) -> list:
    """z-score over members at every step of [P][G][T]."""
    out = []
    for group in table:
        steps = [z([row[t] for row in group], ddof, eps) for t in range(len(group[0]))]
        out.append([list(row) for row in zip(*steps, strict=True)])
    return out


def ode_sums(e: dict) -> list:
    return [[[dot(W, t) for t in row] for row in group] for group in e["ode_rewards"]]


def dense_grpo(r: list, e: dict) -> list:
    gains = [[[b - a for a, b in itertools.pairwise(row)] for row in g] for g in ode_sums(e)]
    alive = summed(r)
    table = [
        [row if alive[p][g] is not None else [None] * T for g, row in enumerate(group)]
        for p, group in enumerate(gains)
    ]
    return per_step(table, 0, 1e-4)


def tp_grpo(r: list, e: dict) -> list:
    alive, table = summed(r), []
    for p, group in enumerate(ode_sums(e)):
        rows = []
        for g, c in enumerate(group):
            d = [b - a for a, b in itertools.pairwise(c)]
            side = [math.copysign(1, x) * math.copysign(1, c[-1] - c[0]) for x in d]
            turn = [s > 0 and (i == 0 or side[i - 1] < 0) for i, s in enumerate(side)]
            row: list = [c[-1] - c[i] if turn[i] else d[i] for i in range(T)]
            rows.append(row if alive[p][g] is not None else [None] * T)
        table.append(rows)
    return per_step(table, 0, 1e-4)


def mapo_mica(r: list, _: dict) -> list:
    out = []
    steps = [totals([[row[t] for row in group] for group in r]) for t in range(T)]
    for p in range(P):
        s = [[steps[t][p][g] for t in range(T)] for g in range(G)]
        to_go = [
            [None if row[t] is None else math.fsum(known(row[t:])) for t in range(T)] for row in s
        ]
        turn = per_step([to_go], 0, 1e-8)[0]
        pooled = iter(z(flat(s), 0, 1e-8))
        rows = []
        for row in turn:
            pair = [(a, next(pooled)) for a in row]
            rows.append([None if a is None else 0.5 * a + 0.5 * b for a, b in pair])
        out.append(rows)
    return out


def fixed_weights(r: list, _: dict) -> list:
    return [z(group, 1, 1e-8) for group in totals(r, [1 / K] * K)]


LOOPS: dict[str, Callable[[list, dict], list]] = {
    function.__name__: function
    for function in (
        grpo,
        dr_grpo,
        rloo,
        reinforce_pp,
        reinforce_pp_baseline,
        global_std,
        advantage_sum,
        dancegrpo,
        gdpo,
        taros,
        sa_mrpo,
        saw,
        dvao,
        gd2po,
        adv_min_norm,
        dynamic_weight,
        marble,
        gardo,
        pref_grpo,
        arena,
        branch_grpo,
        dense_grpo,
        tp_grpo,
        mapo_mica,
        fixed_weights,
    )
}
NO_MISSING = {"arena"}  # the bracket above is for five members who are all there


def example(seed: int, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shape = (P, G, T, K) if name == "mapo_mica" else (P, G, K)
    rewards = rng.random(shape)
    if name not in NO_MISSING:
        rewards[rng.random(shape) < 0.12] = np.nan
        rewards[0, 3] = np.nan  # a clip without any score
    scores = rng.integers(0, 4, (P, G))
    wins = (np.sign(scores[:, :, None] - scores[:, None, :]) + 1) / 2
    extras = {
        "features": rng.normal(size=(P, G, 4)),
        "aux_rewards": rng.random((P, G, 2)),
        "pairwise": wins,
        "ode_rewards": rng.random((P, G, T + 1, K)),
        "tree_parent": np.tile([-1, 0, 0, 1, 1, 2, 2, 1], (P, 1)),
    }
    return rewards, extras


def as_lists(array: np.ndarray) -> list:
    return [as_lists(a) if a.ndim else (None if np.isnan(a) else float(a)) for a in array]


def filled(table: Any) -> np.ndarray:
    return np.nan_to_num(np.array(table, dtype=object).astype(np.float64))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_estimator_equals_the_slow_loop(name: str, seed: int) -> None:
    rewards, extras = example(seed, name)
    estimator = make_estimator(name)
    batch = RewardBatch(
        rewards,
        ("a", "b", "c"),
        weights=np.array(W),
        bounds=np.tile([0.0, 1.0], (K, 1)),
        extras={key: extras[key] for key in estimator.requires & extras.keys()},
    )
    got = estimator(batch)[0].advantages
    plain = {key: as_lists(np.asarray(value, dtype=float)) for key, value in extras.items()}
    expected = filled(LOOPS[name](as_lists(rewards), plain))
    np.testing.assert_allclose(got, expected, atol=1e-6 if name == "adv_min_norm" else 1e-9)


def test_no_estimator_is_without_a_loop() -> None:
    """A loop is here or in a test file of the estimator's own, ``methods/test_<name>.py``.

    The null has none: its magnitudes are its base's, see test_interface.
    """
    shipped = {n for n in list_estimators() if not n.startswith("user_")}
    own = {path.stem.removeprefix("test_") for path in METHODS.glob("test_*.py")}
    assert shipped - LOOPS.keys() - own <= {"random_sign"}

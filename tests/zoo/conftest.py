"""A results folder with planted effects, in the format that the benchmark writes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

ITERATIONS, EVERY, SEEDS = 30, 5, (0, 1, 2, 3, 4)
METHODS = ("grpo", "gdpo", "taros", "random_sign")
REWARDS = ("proxy_vq", "proxy_mq", "proxy_ta")
BASE, NOISE = 0.40, 0.008
AXES = ("gold_align", "gold_phys", "gold_fid")


def rise(t, top):
    return top * (1 - np.exp(-4 * t))


def hacked(t, fall):
    """Up by about 0.05, then down to ``-fall`` at the end."""
    return 0.05 * np.sin(np.pi * np.minimum(t / 0.4, 1)) - fall * np.clip((t - 0.2) / 0.8, 0, 1)


# (scenario, method) -> gold gain and proxy gain as functions of t in [0, 1].
# honest: gdpo is better, taros the same, random_sign null. goodhart_extreme: all but the null are
# hacked, and taros falls less far only because it moves half as fast.
EFFECTS = {
    ("honest", "grpo"): (lambda t: rise(t, 0.20), lambda t: rise(t, 0.2)),
    ("honest", "gdpo"): (lambda t: rise(t, 0.35), lambda t: rise(t, 0.35)),
    ("honest", "taros"): (lambda t: rise(t, 0.20), lambda t: rise(t, 0.2)),
    ("honest", "random_sign"): (lambda t: 0 * t, lambda t: 0 * t),
    ("goodhart_extreme", "grpo"): (lambda t: hacked(t, 0.3), lambda t: rise(t, 0.6)),
    ("goodhart_extreme", "gdpo"): (lambda t: hacked(t, 0.3), lambda t: rise(t, 0.6)),
    ("goodhart_extreme", "taros"): (lambda t: hacked(t / 2, 0.3), lambda t: rise(t / 2, 0.6)),
    ("goodhart_extreme", "random_sign"): (lambda t: 0 * t, lambda t: 0 * t),
}


def rows_of(scenario, method, seed, effects, rng):
    gold_of, proxy_of = effects[scenario, method]
    # What all methods of a seed share, which pairing removes.
    shared = np.random.default_rng(seed).normal(0, 0.03)
    own = rng.normal(0, NOISE)
    for i in range(ITERATIONS + 1):
        t = i / ITERATIONS
        gold = BASE + float(gold_of(t)) + (shared + own) * min(1, 3 * t)
        proxy = 1.2 + float(proxy_of(t))
        row = {
            "method": method, "seed": seed, "iteration": i,
            "wall_s": 2.0 * i, "reward_calls": 64 * i,
            "proxy": proxy + rng.normal(0, 0.01), "gold": gold + rng.normal(0, 0.01),
            "corr_gold": 0.3, "within_std/proxy": 0.2 * np.exp(-t), "zero_advantage": 0.01,
            "zero_std_groups": 0.0, "collisions": 0.0, "clip_fraction": 0.1, "grad_norm": 1.0,
        }  # fmt: skip
        for k, name in enumerate(REWARDS):
            row |= {
                f"reward/{name}": proxy / 3,
                f"influence/{name}": (1 + k) / 6,
                f"corr/{name}": 0.5,
                f"within_std/{name}": 0.1 * np.exp(-t * k),
            }
        for axis in AXES:
            row[axis] = max(gold, 0) ** (1 / 3)
        if i % EVERY == 0 or i == ITERATIONS:
            row["kl"] = 20 * t * (0.5 if method == "taros" else 1)
            for split, shift in (("seen", 0.02), ("unseen", 0.0)):
                at = f"eval_{split}/"
                row |= {at + "gold": gold + shift, at + "proxy": proxy, at + "std_gold": 0.3}
                row |= {at + "std_proxy": 0.2}
                row |= {at + axis: max(gold, 0) ** (1 / 3) for axis in AXES}
                row |= {at + name: proxy / 3 for name in REWARDS}
            row |= {"eval_open/coverage": 0.9 - 0.3 * t, "eval_open/vendi": 0.5 - 0.2 * t,
                    "eval_open/pairwise": 0.2}  # fmt: skip
        yield row


def write_csv(path, rows):
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def write_gif(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("RGB", (384, 96), (shade, 20 * i, 60)) for i in range(9)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, loop=0)


def best_of_n_rows(scenarios):
    for scenario in scenarios:
        for seed in SEEDS:
            for split in ("seen", "unseen"):
                for power in range(6):
                    kl = np.log(2**power) - (2**power - 1) / 2**power
                    yield {
                        "scenario": scenario, "seed": seed, "n": 2**power, "split": split,
                        "proxy": 1.2 + 0.1 * np.sqrt(kl), "gold": BASE + 0.04 * np.sqrt(kl),
                        "kl": float(kl),
                    }  # fmt: skip


def plant(folder, effects=EFFECTS, seeds=SEEDS):
    """Write the folder; ``effects`` may be changed by the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    scenarios = list(dict.fromkeys(scenario for scenario, _ in effects))
    for place, scenario in enumerate(scenarios):
        methods = [m for s, m in effects if s == scenario]
        rng = np.random.default_rng(place)
        write_csv(
            folder / f"{scenario}.csv",
            (
                row
                for m in methods
                for seed in seeds
                for row in rows_of(scenario, m, seed, effects, rng)
            ),
        )
        for place, method in enumerate(methods):
            write_gif(folder / "clips" / scenario / f"{method}.gif", 60 * place)
    write_gif(folder / "clips" / "base.gif", 250)
    write_csv(folder / "best_of_n.csv", best_of_n_rows(scenarios))
    meta = {
        "suite": "planted", "title": "Effects known in advance", "command": "reelrl bench planted",
        "commit": "0000000", "machine": "none: made by a test", "versions": {"reelrl": "0"},
        "margin": 0.05, "baseline": "grpo", "control": "random_sign", "iterations": ITERATIONS,
        "seeds": list(seeds),
        "scenarios": {
            name: {
                "title": name.title(), "about": "Planted.", "rewards": list(REWARDS),
                "prediction": "Written first.",
                "expect": {
                    "better": [["gdpo", "grpo"]], "same": [["taros", "grpo"]],
                    "rises": ["gdpo"], "falls": ["gdpo"],
                },
                "methods": [m for s, m in effects if s == name],
            }
            for name in scenarios
        },
        "methods": {m: {"estimator": m, "set": {}} for m in METHODS},
        "failed": [],
    }  # fmt: skip
    (folder / "suite.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """The planted folder; do not change it."""
    return plant(tmp_path_factory.mktemp("results") / "planted")


@pytest.fixture(scope="session")
def planter():
    """Writes a planted folder of one's own."""
    return plant


@pytest.fixture(scope="session")
def effects():
    """The planted effects, to be copied and changed."""
    return dict(EFFECTS)

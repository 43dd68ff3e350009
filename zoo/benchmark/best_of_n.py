r"""Best of n: the baseline that trains nothing.

For each prompt the clip of n that the trained reward likes best. From N clips per prompt the
expectation over all subsets of n is exact: the clip of rank i from the top is the best of a random
subset with probability :math:`\binom{N-i}{n-1} / \binom{N}{n}`. Its divergence from the base model
is :math:`\log n - (n - 1) / n` nats (Gao et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reelrl.envs.models import VideoModel
from reelrl.envs.scoring import RewardList
from reelrl.zoo.benchmark.columns import SPLITS, Row
from reelrl.zoo.benchmark.design import Suite
from reelrl.zoo.benchmark.truth import build_truth, repeated
from reelrl.zoo.benchmark.watch import proxy_of
from reelrl.zoo.generate import Sampler
from reelrl.zoo.train import make_env

PROMPTS = 8
SEED = 40_000_000


def rank_weights(count: int, n: int) -> Tensor:
    """(count,) probability that the clip of each rank, best first, is the best of a random n.

    Raises:
        ValueError: if n is not in [1, count].
    """
    if not 1 <= n <= count:
        raise ValueError(f"n must be in [1, {count}], got {n}")
    whole = math.comb(count, n)
    return torch.tensor([math.comb(count - i, n - 1) / whole for i in range(1, count + 1)]).double()


def divergence(n: int) -> float:
    """KL divergence in nats of the best of n from the base model."""
    return math.log(n) - (n - 1) / n


def expected_best(proxy: Tensor, gold: Tensor, n: int) -> tuple[float, float]:
    """Mean proxy and mean gold, over prompts, of the best of n by proxy.

    Args:
        proxy: (P, N) of N clips per prompt; ``nan`` ranks last.
        gold: (P, N).
        n: how many to choose from.
    """
    order = proxy.nan_to_num(nan=-math.inf).argsort(dim=1, descending=True, stable=True)
    weights = rank_weights(proxy.shape[1], n)
    best = [(values.gather(1, order).nan_to_num(0.0) * weights).sum(1) for values in (proxy, gold)]
    return float(best[0].mean()), float(best[1].mean())


def best_of_n(suite: Suite, seed: int) -> list[Row]:
    """Rows of one seed for all scenarios.

    Columns: scenario, seed, n, split, proxy, kl, and the truth's score by its name.
    """
    torch.set_num_threads(1)
    first = suite.run(next(iter(suite.scenarios)), next(iter(suite.methods)), seed)
    env = make_env(first.config)
    model, sampler = env.unwrapped.model, Sampler.of(env)
    truth = build_truth(suite.truth)
    score = truth.axes[0]
    rows: list[Row] = []
    for place, split in enumerate(SPLITS):
        if not truth.prompts(split):
            continue
        asked = repeated(truth.prompts(split), PROMPTS)
        videos, prompts = _clips(model, sampler, asked, suite.best_of, seed * 2 + place)
        gold = truth(videos, prompts)[score].double().view(PROMPTS, -1)
        for name, scenario in suite.scenarios.items():
            proxy = _proxy(RewardList(scenario.rewards), videos, prompts).view(PROMPTS, -1)
            for power in range(suite.best_of.bit_length()):
                mean_proxy, mean_gold = expected_best(proxy, gold, 2**power)
                rows.append({
                    "scenario": name, "seed": seed, "n": 2**power, "split": split,
                    "proxy": mean_proxy, score: mean_gold, "kl": divergence(2**power),
                })  # fmt: skip
    return rows


@torch.no_grad()
def _clips(
    model: VideoModel, sampler: Sampler, asked: Sequence[str], count: int, stream: int
) -> tuple[Tensor, list[str]]:
    """``count`` clips of each prompt with noise of a stream of its own, and their prompts."""
    prompts = [prompt for prompt in asked for _ in range(count)]
    start = SEED + stream * len(prompts)
    seeds = list(range(start, start + len(prompts)))
    return torch.cat(list(sampler(model, prompts, seeds))), prompts


def _proxy(rewards: RewardList, videos: Tensor, prompts: Sequence[str]) -> Tensor:
    values, _ = rewards(videos, prompts, [{}] * len(prompts))
    return proxy_of(values, rewards.facts().signs)

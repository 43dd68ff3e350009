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
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.zoo.benchmark.design import Suite
from reelrl.zoo.benchmark.examination import SPLITS, proxy_of
from reelrl.zoo.benchmark.store import Row
from reelrl.zoo.shipped.nano.measurement import evaluation_captions, generate
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
    """Rows (scenario, seed, n, split, proxy, gold, kl) of one seed for all scenarios."""
    torch.set_num_threads(1)
    first = suite.run(next(iter(suite.scenarios)), next(iter(suite.methods)), seed)
    env = make_env(first.config)
    model, steps = env.unwrapped.model, env.unwrapped.num_steps
    shift = first.config.env_args.get("shift", 3.0)
    rows: list[Row] = []
    for place, split in enumerate(SPLITS):
        videos, prompts = _clips(model, suite.best_of, split, seed * 2 + place, steps, shift)
        gold = gold_axes_of_prompts(videos, prompts).gold.double().view(PROMPTS, -1)
        for name, scenario in suite.scenarios.items():
            proxy = _proxy(RewardList(scenario.rewards), videos, prompts).view(PROMPTS, -1)
            for power in range(suite.best_of.bit_length()):
                mean_proxy, mean_gold = expected_best(proxy, gold, 2**power)
                rows.append({
                    "scenario": name, "seed": seed, "n": 2**power, "split": split,
                    "proxy": mean_proxy, "gold": mean_gold, "kl": divergence(2**power),
                })  # fmt: skip
    return rows


@torch.no_grad()
def _clips(
    model: VideoModel, count: int, split: str, stream: int, num_steps: int, shift: float
) -> tuple[Tensor, list[str]]:
    captions = evaluation_captions(SPLITS[split], PROMPTS)
    prompts = [caption for caption in captions for _ in range(count)]
    start = SEED + stream * len(prompts)
    seeds = list(range(start, start + len(prompts)))
    batches = generate(model, prompts, seeds, num_steps=num_steps, shift=shift)
    return torch.cat(list(batches)), prompts


def _proxy(rewards: RewardList, videos: Tensor, prompts: Sequence[str]) -> Tensor:
    values, _ = rewards(videos, prompts, [{}] * len(prompts))
    return proxy_of(values, rewards.facts().signs)

"""Docs: docs/concepts/goodhart.md. What choosing the best of N clips by a proxy does to the truth.

Run ``python examples/best_of_n.py --n 16``. No training: N clips per prompt, keep the one that the
proxies like best, and look at its gold score beside that of the best one by gold itself. The gap is
what a reward model costs before anyone has optimised against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro

from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.wrappers import VectorAddReward


@dataclass
class Args:
    """Settings."""

    env: str = "reelrl:reelrl/MovingShapesEarly-v0"
    """id of an environment whose rewards are the proxies"""
    n: int = 16
    """clips per prompt"""
    prompts: int = 8
    """how many prompts, each another one"""
    num_steps: int = 10
    """denoising steps"""
    seed: int = 0
    """of prompts and noise"""


def main(args: Args) -> dict[str, float]:
    """Print and return the mean proxy and gold of: any clip, the proxies' best, gold's best."""
    envs = gym.make_vec(
        args.env, num_envs=args.n, num_steps=args.num_steps, autoreset_mode="Disabled"
    )
    known = len(envs.unwrapped.prompts)
    if not 1 <= args.prompts <= known or args.seed < 0:
        raise ValueError(f"expected 1 to {known} prompts and a seed from 0, got {args}")
    envs = VectorAddReward(envs, "gold")
    policy = FlowPolicy(envs.unwrapped.model, kernel="ode").bind(envs)
    rng = np.random.default_rng(args.seed)
    ids = rng.choice(len(envs.unwrapped.prompts), args.prompts, replace=False)
    scores = np.zeros((args.prompts, args.n, envs.unwrapped.reward_dim))
    envs.reset(seed=args.seed)
    for row, prompt_id in enumerate(ids):
        seeds = (args.seed * args.prompts + row) * args.n + np.arange(args.n)
        obs, _ = envs.reset(options={"prompt_id": int(prompt_id), "noise_seed": seeds})
        for _ in range(args.num_steps):
            obs, rewards, _, _, _ = envs.step(policy.predict(obs, deterministic=True))
        scores[row] = rewards

    proxy, gold = scores[..., :-1].mean(axis=-1), scores[..., -1]
    rows = np.arange(args.prompts)
    found = {
        "any": (proxy.mean(), gold.mean()),
        "best by proxies": (proxy.max(axis=1).mean(), gold[rows, proxy.argmax(axis=1)].mean()),
        "best by gold": (proxy[rows, gold.argmax(axis=1)].mean(), gold.max(axis=1).mean()),
    }
    print(f"{'of ' + str(args.n) + ' clips':18}{'proxies':>9}{'gold':>9}")
    for name, (by_proxy, by_gold) in found.items():
        print(f"{name:18}{by_proxy:9.4f}{by_gold:9.4f}")
    envs.close()
    return {name: float(by_gold) for name, (_, by_gold) in found.items()}


if __name__ == "__main__":
    main(tyro.cli(Args))

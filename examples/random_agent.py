"""An agent that is no video model: two random numbers per step, guidance scale and noise level.

Run ``python examples/random_agent.py --episodes 16``. Replace ``envs.action_space.sample()`` by a
policy of your own and you have a training loop.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

from reelrl.envs.wrappers import VectorGuidanceAction


def main(arguments: list[str] | None = None) -> None:
    """Play batches of episodes and print the mean reward vector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="reelrl:reelrl/MovingShapes-v0")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    envs = gym.make_vec(args.env, num_envs=args.num_envs, autoreset_mode="Disabled")
    envs = VectorGuidanceAction(envs)
    envs.action_space.seed(args.seed)
    returns: list[np.ndarray] = []
    while len(returns) * args.num_envs < args.episodes:
        envs.reset(seed=args.seed if not returns else None)
        finished = np.zeros(args.num_envs, dtype=bool)
        while not finished.any():
            _, rewards, finished, _, _ = envs.step(envs.action_space.sample())
        returns.append(rewards)
    mean = np.nanmean(np.concatenate(returns), axis=0)
    for name, value in zip(envs.unwrapped.reward_names, mean, strict=True):
        print(f"{name:12} {value:+.4f}")
    envs.close()


if __name__ == "__main__":
    main()

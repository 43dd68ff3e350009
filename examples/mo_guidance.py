"""Docs: docs/interop.md. A multi-objective agent on MO-Gymnasium's wrappers: one policy per weight.

Run ``python examples/mo_guidance.py``. The outer loop of multi-objective policy search: for each
weighting of the rewards a small policy is improved by the cross-entropy method, and those policies
that no other one beats in every reward are the Pareto front. The agent chooses guidance and noise
of a frozen video model at every denoising step.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import mo_gymnasium as mo
import numpy as np
import tyro
from mo_gymnasium.wrappers import LinearReward, MORecordEpisodeStatistics

from reelrl.envs.wrappers import GuidanceAction


@dataclass
class Args:
    """Settings of the run."""

    env: str = "reelrl/MovingShapesFlat-v0"
    """id of an environment whose observation is one array"""
    num_steps: int = 4
    """denoising steps of a clip"""
    weights: tuple[tuple[float, ...], ...] = (
        (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.4, 0.3, 0.3),
    )  # fmt: skip
    """one policy is searched for each of these"""
    generations: int = 6
    """of the search"""
    population: int = 12
    """policies tried per generation"""
    elite: int = 4
    """of them, the next generation is drawn around"""
    episodes: int = 4
    """clips a policy is judged by"""
    seed: int = 0
    """of everything"""


def make_env(args: Args, weight: tuple[float, ...]) -> gym.Env:
    """MO-Gymnasium's chain; the innermost reward stays the vector."""
    import reelrl  # noqa: F401  (registers the ids)

    env = mo.make(args.env, num_steps=args.num_steps)
    env = GuidanceAction(env, guidance_range=(1.0, 4.0))
    env = MORecordEpisodeStatistics(env, gamma=1.0)
    return LinearReward(env, weight=np.array(weight))


def controls(policy: np.ndarray, sigma: float, space: gym.spaces.Box) -> np.ndarray:
    """Guidance and noise, linear in the noise level: ``policy`` is (2, 2) in units of the space."""
    share = np.clip(policy @ np.array([1.0, sigma]), 0.0, 1.0)
    return (space.low + share * (space.high - space.low)).astype(np.float32)


def judge(
    env: gym.Env, policy: np.ndarray, episodes: int, first: int = 0
) -> tuple[float, np.ndarray]:
    """Mean weighted return and mean return vector over the same episodes for every policy."""
    sigmas, totals, vectors = env.unwrapped.sigmas.tolist(), [], []
    for episode in range(episodes):
        env.reset(seed=first + episode)
        total, finished, step = 0.0, False, 0
        while not finished:
            action = controls(policy, sigmas[step], env.action_space)
            _, reward, finished, _, info = env.step(action)
            total, step = total + float(reward), step + 1
        totals.append(total)
        vectors.append(info["episode"]["r"])
    return float(np.mean(totals)), np.mean(vectors, axis=0)


def search(env: gym.Env, args: Args, rng: np.random.Generator) -> np.ndarray:
    """A policy for the environment's weighting, by the cross-entropy method."""
    mean, spread = np.array([[0.3, 0.0], [0.3, 0.0]]), 0.3
    for _ in range(args.generations):
        tried = mean + spread * rng.normal(size=(args.population, 2, 2))
        scores = [judge(env, policy, args.episodes)[0] for policy in tried]
        best = tried[np.argsort(scores)[-args.elite :]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.02
    return mean


def undominated(vectors: np.ndarray) -> np.ndarray:
    """(M,) True where no other row is as good everywhere and better somewhere."""
    others = (vectors[:, None] >= vectors).all(-1) & (vectors[:, None] > vectors).any(-1)
    return ~others.any(axis=0)


def main(args: Args) -> tuple[np.ndarray, np.ndarray]:
    """Print and return the return vectors (M, K) and which of them are the front."""
    rng = np.random.default_rng(args.seed)
    vectors = []
    for weight in args.weights:
        env = make_env(args, weight)
        policy = search(env, args, rng)
        # Other clips than those that the policy was chosen on.
        vectors.append(judge(env, policy, args.episodes, first=10_000)[1])
        low, high = (controls(policy, sigma, env.action_space) for sigma in (0.0, 1.0))
        print(f"weights {weight}: guidance {high[0]:.2f} to {low[0]:.2f}, ", end="")
        print(f"returns {np.round(vectors[-1], 3)}", flush=True)
        names = env.unwrapped.reward_names
        env.close()
    front = undominated(np.array(vectors))
    print(f"front over {', '.join(names)}: {[args.weights[i] for i in np.flatnonzero(front)]}")
    return np.array(vectors), front


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Docs: docs/interop.md. Unmodified Stable-Baselines3 PPO trains a video model by any estimator.

Run ``python examples/ppo_sb3_any_estimator.py --estimator taros``. Nothing of PPO is changed: the
policy class is a video model, the rollout buffer asks the estimator for the advantages.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from reelrl.algos.interop.sb3 import DenoisingPolicy, DenoisingTask, EstimatorRolloutBuffer
from reelrl.envs.interop.sb3 import SB3VecEnv
from reelrl.envs.wrappers import VectorPromptGroups


@dataclass
class Args:
    """Settings of the run."""

    env: str = "reelrl:reelrl/MovingShapesEarly-v0"
    """id of the environment"""
    estimator: str = "gdpo"
    """a name that ``reelrl list estimators`` prints and that needs nothing but rewards"""
    num_envs: int = 32
    """clips made side by side"""
    group_size: int = 8
    """clips of one prompt, which are compared with each other"""
    num_steps: int = 10
    """denoising steps of a clip"""
    updates: int = 20
    """rollouts, and passes over them"""
    batch_size: int = 32
    """transitions per optimizer step"""
    learning_rate: float = 5e-5
    """of AdamW"""
    clip_range: float = 0.025
    """in policy widths; what PPO gets is smaller, because log-probabilities are means"""
    seed: int = 0
    """of everything"""
    save: str | None = None
    """where to write the trained agent"""


def main(args: Args) -> PPO:
    """Train, print the mean reward of every rollout, and return the agent."""
    envs = gym.make_vec(
        args.env, num_envs=args.num_envs, num_steps=args.num_steps, autoreset_mode="Disabled"
    )
    venv = VecMonitor(SB3VecEnv(VectorPromptGroups(envs, args.group_size)))
    task = DenoisingTask.of(venv)
    model = PPO(
        DenoisingPolicy,
        venv,
        n_steps=args.num_steps,  # whole episodes
        batch_size=args.batch_size,
        n_epochs=1,
        learning_rate=args.learning_rate,
        clip_range=task.clip_range(args.clip_range),
        normalize_advantage=False,  # the estimator has done that
        vf_coef=0.0,  # there is no critic
        rollout_buffer_class=EstimatorRolloutBuffer,
        rollout_buffer_kwargs={"estimator": args.estimator},
        policy_kwargs={"task": task, "kernel": "flow_sde", "eta": 0.7},
        seed=args.seed,
        device=task.model.device,
        verbose=1,
    )
    model.learn(args.updates * args.num_envs * args.num_steps)
    if args.save:
        model.save(args.save)
    return model


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Docs: docs/interop.md. Tianshou 2 trains a video model by any estimator.

Run ``python examples/tianshou_estimator_pg.py --estimator gdpo``.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, InfoStats, VectorReplayBuffer
from tianshou.trainer import OnPolicyTrainerParams

from reelrl.algos.interop.tianshou import DenoisingPolicy, DenoisingTask, EstimatorPG
from reelrl.envs.interop.tianshou import TianshouVectorEnv
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
    """of Adam"""
    seed: int = 0
    """of everything"""


def main(args: Args) -> tuple[InfoStats, list[float]]:
    """Train, print the mean reward of every rollout, and return it with Tianshou's summary."""
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # the order of Tianshou's minibatches
    envs = gym.make_vec(
        args.env, num_envs=args.num_envs, num_steps=args.num_steps, autoreset_mode="Disabled"
    )
    venv = TianshouVectorEnv(VectorPromptGroups(envs, args.group_size), mask_failed=True)
    venv.seed(args.seed)
    policy = DenoisingPolicy(
        task=DenoisingTask.of(venv), action_space=venv.get_env_attr("action_space", 0)[0], eta=0.7
    )
    algorithm = EstimatorPG(
        policy=policy,
        optim=AdamOptimizerFactory(lr=args.learning_rate, betas=(0.9, 0.99)),
        estimator=args.estimator,
        facts=venv.facts,
    )
    size = args.num_envs * args.num_steps
    curve: list[float] = []

    class Collecting(Collector):
        """Tianshou's, printing."""

        def collect(self, *positional: object, **named: object) -> object:
            stats = super().collect(*positional, **named)
            curve.append(float(stats.returns.mean()))
            print(f"update {len(curve):4d}  mean reward {curve[-1]:.4f}")
            return stats

    # The default buffer would hold 10,000 transitions per sub-environment.
    buffer = VectorReplayBuffer(size, args.num_envs, ignore_obs_next=True)
    stats = algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collecting(algorithm, venv, buffer),
            collection_step_num_env_steps=None,
            collection_step_num_episodes=args.num_envs,  # whole batches
            batch_size=args.batch_size,
            max_epochs=args.updates,
            epoch_num_steps=size,
            verbose=False,
            show_progress=False,
        )
    )
    return stats, curve


if __name__ == "__main__":
    main(tyro.cli(Args))

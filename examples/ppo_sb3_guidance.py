"""Docs: docs/interop.md. A small MLP learns when to guide a frozen video model, with plain SB3 PPO.

Run ``python examples/ppo_sb3_guidance.py``. The agent sees the noise level and answers with
guidance scale and noise of the next denoising step. It is measured against every fixed setting of a
grid on the same held-out prompts and noise, and the fixed setting is chosen on those very clips, so
that luck is on its side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.wrappers.vector import FilterObservation, RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from reelrl.envs.interop.sb3 import SB3VecEnv
from reelrl.envs.wrappers import VectorGuidanceAction


@dataclass
class Args:
    """Settings of the run."""

    env: str = "reelrl:reelrl/MovingShapesGold-v0"
    """id of the environment; the reward is the mean of its components"""
    model: str = "nano-early"
    """the frozen generator"""
    num_steps: int = 4
    """denoising steps of a clip"""
    num_envs: int = 32
    """clips made side by side"""
    updates: int = 40
    """rollouts of one clip per sub-environment"""
    learning_rate: float = 5e-3
    """of Adam"""
    held_out: int = 128
    """clips of the comparison, a multiple of num_envs"""
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """fixed guidance scales to beat; the agent moves between the outer two"""
    noises: tuple[float, ...] = (0.0, 0.3)
    """fixed noise levels to beat"""
    seed: int = 0
    """of everything"""


@dataclass
class Result:
    """What came out: scores per held-out clip, and the mean reward of every rollout."""

    learned: np.ndarray
    fixed: dict[tuple[float, float], np.ndarray]
    schedule: np.ndarray
    curve: list[float] = field(default_factory=list)

    @property
    def best_fixed(self) -> tuple[float, float]:
        """Guidance and noise of the fixed setting with the highest mean."""
        return max(self.fixed, key=lambda setting: self.fixed[setting].mean())


class Curve(BaseCallback):
    """Keeps and prints the mean reward of every rollout."""

    def __init__(self, every: int = 5) -> None:
        super().__init__()
        self.every, self.means = every, []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean([info["r"] for info in self.model.ep_info_buffer])))
        if len(self.means) % self.every == 0:
            print(f"update {len(self.means):4d}  mean reward {self.means[-1]:.4f}", flush=True)


def make_venv(args: Args) -> SB3VecEnv:
    """Observations are the noise level, actions are guidance and noise in [-1, 1]."""
    envs = gym.make_vec(
        args.env,
        num_envs=args.num_envs,
        model=args.model,
        num_steps=args.num_steps,
        autoreset_mode="Disabled",
    )
    scales = (min(args.guidances), max(args.guidances))
    envs = FilterObservation(VectorGuidanceAction(envs, guidance_range=scales), ["sigma"])
    return SB3VecEnv(RescaleAction(envs, np.float32(-1), np.float32(1)))


def play(venv: SB3VecEnv, act, clips: int) -> np.ndarray:
    """Rewards of held-out clips, the same prompts and noise for every ``act``."""
    scores = []
    num_prompts = len(venv.get_attr("prompts")[0])
    for start in range(0, clips, venv.num_envs):
        rows = start + np.arange(venv.num_envs)
        venv.seed(1_000_000 + start)
        venv.set_options(
            [{"prompt_id": i * 7 % num_prompts, "noise_seed": 2_000_000 + i} for i in rows]
        )
        obs, dones = venv.reset(), np.zeros(venv.num_envs, dtype=bool)
        while not dones.all():
            obs, rewards, dones, _ = venv.step(act(obs))
        scores.append(np.array(rewards))
    return np.concatenate(scores)


def main(args: Args) -> Result:
    """Train, compare and print."""
    venv = make_venv(args)
    curve = Curve()
    agent = PPO(
        "MultiInputPolicy",
        VecMonitor(venv),
        n_steps=args.num_steps,
        batch_size=args.num_steps * args.num_envs,
        n_epochs=8,
        gamma=1.0,
        gae_lambda=1.0,  # the reward comes at the end of a short episode
        learning_rate=args.learning_rate,
        stats_window_size=args.num_envs,
        policy_kwargs={"net_arch": [32], "log_std_init": -0.7},
        seed=args.seed,
        device="cpu",
    )
    agent.learn(args.updates * args.num_envs * args.num_steps, callback=curve)

    fixed = {}
    low, high = min(args.guidances), max(args.guidances)
    for guidance, noise in product(args.guidances, args.noises):
        action = np.float32([2 * (guidance - low) / (high - low) - 1, 2 * noise - 1])
        actions = np.tile(action, (args.num_envs, 1))
        fixed[guidance, noise] = play(venv, lambda obs, actions=actions: actions, args.held_out)
        mean = fixed[guidance, noise].mean()
        print(f"fixed guidance {guidance:4.1f} noise {noise:3.1f}  {mean:.4f}", flush=True)
    learned = play(venv, lambda obs: agent.predict(obs, deterministic=True)[0], args.held_out)

    sigmas = venv.get_attr("sigmas")[0][:-1, None].float().numpy()
    actions = agent.predict({"sigma": sigmas}, deterministic=True)[0]
    schedule = np.c_[
        sigmas, low + (actions[:, :1] + 1) / 2 * (high - low), (actions[:, 1:] + 1) / 2
    ]
    result = Result(learned, fixed, schedule, curve.means)

    guidance, noise = result.best_fixed
    gain = learned - fixed[result.best_fixed]
    error = gain.std() / np.sqrt(len(gain))
    print("learned schedule: noise level, guidance, noise\n", np.round(schedule, 2))
    print(f"best fixed (guidance {guidance}, noise {noise})  {fixed[guidance, noise].mean():.4f}")
    print(f"learned  {learned.mean():.4f}  gain {gain.mean():+.4f} +- {error:.4f}")
    return result


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Docs: docs/interop.md. A small MLP learns when to guide a frozen video model, with plain SB3 PPO.

Run ``python examples/ppo_sb3_guidance.py``. The agent sees the noise level and answers with
guidance scale and noise of the next denoising step. It is measured against every fixed setting of a
grid on the same prompts and held-out noise, and the fixed setting is chosen on those very clips, so
that luck is on its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.wrappers.vector import FilterObservation, RescaleAction
from matplotlib.figure import Figure
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
    num_envs: int = 64
    """clips made side by side"""
    updates: int = 60
    """rollouts of one clip per sub-environment"""
    learning_rate: float = 5e-3
    """of Adam"""
    held_out: int = 512
    """clips of the comparison, a multiple of num_envs"""
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """fixed guidance scales to beat, two at least; the agent moves between the outer two"""
    noises: tuple[float, ...] = (0.0, 0.3)
    """fixed noise levels to beat"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one agent each; the held-out clips are the same for all"""
    picture: Path | None = Path("runs/ppo_sb3_guidance.png")
    """curves and learned schedules; None draws nothing"""


@dataclass
class Trained:
    """One agent: mean reward of every rollout, scores per held-out clip, and what it does."""

    curve: list[float]
    scores: np.ndarray
    schedule: np.ndarray
    """rows of noise level, guidance, noise"""


@dataclass
class Result:
    """What came out; ``fixed`` holds the scores per held-out clip of every fixed setting."""

    agents: list[Trained]
    fixed: dict[tuple[float, float], np.ndarray]

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


def play_fixed(venv: SB3VecEnv, args: Args) -> dict[tuple[float, float], np.ndarray]:
    """Scores of every setting of the grid."""
    fixed = {}
    low, high = min(args.guidances), max(args.guidances)
    for guidance, noise in product(args.guidances, args.noises):
        action = np.float32([2 * (guidance - low) / (high - low) - 1, 2 * noise - 1])
        actions = np.tile(action, (args.num_envs, 1))
        fixed[guidance, noise] = play(venv, lambda obs, actions=actions: actions, args.held_out)
        mean = fixed[guidance, noise].mean()
        print(f"fixed guidance {guidance:4.1f} noise {noise:3.1f}  {mean:.4f}", flush=True)
    return fixed


def train(venv: SB3VecEnv, args: Args, seed: int) -> Trained:
    """PPO as it comes, then the held-out clips without exploring."""
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
        seed=seed,
        device="cpu",
    )
    agent.learn(args.updates * args.num_envs * args.num_steps, callback=curve)
    scores = play(venv, lambda obs: agent.predict(obs, deterministic=True)[0], args.held_out)
    low, high = min(args.guidances), max(args.guidances)
    sigmas = venv.get_attr("sigmas")[0][:-1, None].float().numpy()
    actions = (agent.predict({"sigma": sigmas}, deterministic=True)[0] + 1) / 2
    schedule = np.c_[sigmas, low + actions[:, :1] * (high - low), actions[:, 1:]]
    return Trained(curve.means, scores, schedule)


def draw(result: Result, path: Path) -> None:
    """Rewards of the rollouts, and guidance by noise level, of every agent."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    guidance, noise = result.best_fixed
    for number, agent in enumerate(result.agents):
        colour = f"C{number}"
        updates = np.arange(1, len(agent.curve) + 1)
        left.plot(updates, agent.curve, color=colour, linewidth=0.9)
        left.plot(updates[-1] * 1.04, agent.scores.mean(), "o", color=colour, markersize=4)
        right.plot(*agent.schedule[:, :2].T, "o-", color=colour, markersize=4)
    label = f"best fixed: guidance {guidance}, noise {noise}"
    left.axhline(result.fixed[guidance, noise].mean(), color="grey", linestyle="--", label=label)
    right.axhline(guidance, color="grey", linestyle="--")
    left.set(xlabel="update", ylabel="mean reward", title="Exploring; dots: held-out clips")
    right.set(xlabel="noise level of the step", ylabel="guidance", title="What was learned")
    right.invert_xaxis()
    left.legend(frameon=False, fontsize="small", loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(args: Args) -> Result:
    """Train, compare, print and draw."""
    venv = make_venv(args)
    result = Result([], play_fixed(venv, args))
    best = result.fixed[result.best_fixed]
    for seed in args.seeds:
        agent = train(venv, args, seed)
        result.agents.append(agent)
        gain = agent.scores - best
        error = gain.std() / np.sqrt(len(gain))
        print("learned schedule: noise level, guidance, noise\n", np.round(agent.schedule, 2))
        print(f"seed {seed}  {agent.scores.mean():.4f}  gain {gain.mean():+.4f} +- {error:.4f}")
    guidance, noise = result.best_fixed
    mean = np.mean([agent.scores.mean() for agent in result.agents])
    print(f"best fixed (guidance {guidance}, noise {noise})  {best.mean():.4f}")
    print(f"learned, mean of {len(args.seeds)} agents  {mean:.4f}", flush=True)
    if args.picture:
        draw(result, args.picture)
    return result


if __name__ == "__main__":
    main(tyro.cli(Args))

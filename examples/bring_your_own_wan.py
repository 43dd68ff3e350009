"""Docs: docs/howto/wan.md. A local Wan 2.1 text-to-video folder as environment and as policy.

Run ``python examples/bring_your_own_wan.py --model FOLDER --device cuda --dtype bfloat16``. FOLDER
is what ``WanPipeline.from_pretrained`` loads, such as Wan2.1-T2V-1.3B-Diffusers; nothing is
downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import torch
import tyro

from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.envs.models import VideoModel
from reelrl.rewards import Reward


@dataclass
class Args:
    """Settings of the run; the sizes are a clip of two seconds at 480p, 16 frames a second."""

    model: str
    """folder of the pipeline"""
    prompts: tuple[str, ...] = ("a red ball rolls to the right", "a blue kite rises quickly")
    """what the clips are about"""
    height: int = 480
    """pixels, a multiple of 16"""
    width: int = 832
    """pixels, a multiple of 16"""
    num_frames: int = 33
    """4k + 1"""
    num_steps: int = 20
    """denoising steps"""
    window: int = 2
    """of them are stochastic and trained; the others cost one forward pass and no memory"""
    group_size: int = 4
    """clips per prompt"""
    num_envs: int = 2
    """clips made side by side; what the memory allows"""
    iterations: int = 10
    """updates"""
    guidance_scale: float = 5.0
    """of classifier-free guidance"""
    lora_rank: int = 32
    """of the adapters; 0 trains all weights"""
    learning_rate: float = 1e-4
    """of AdamW"""
    device: str = "cpu"
    """where the model is"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of transformer and text encoder"""
    out: str | None = None
    """folder for checkpoints and metrics"""


class Motion(Reward):
    """Mean change between neighbouring frames. A stand-in: give it a reward you believe in."""

    name, bounds = "motion", (0.0, 1.0)

    def score(self, videos, prompts, infos):
        """Score clips (N, F, H, W, 3) in [0, 1]; return (N,)."""
        return videos.diff(dim=1).abs().flatten(1).mean(dim=1)


def main(args: Args) -> list[dict[str, float]]:
    """Train adapters on the folder's transformer; return the metrics of every iteration."""
    model = VideoModel.from_pretrained(
        args.model, device=args.device, dtype=getattr(torch, args.dtype)
    )
    envs = gym.make_vec(
        "reelrl:reelrl/TextToVideo-v0",
        num_envs=args.num_envs,
        model=model,
        prompts=list(args.prompts),
        rewards=[Motion()],
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        num_steps=args.num_steps,
        output="torch",
        autoreset_mode="Disabled",
    )
    print(f"latents {envs.single_action_space.shape}, {len(args.prompts)} prompts")
    policy = FlowPolicy(
        model,
        guidance_scale=args.guidance_scale,
        lora_rank=args.lora_rank,
        gradient_checkpointing=True,
    )
    config = GRPOConfig(
        prompts_per_iteration=len(args.prompts),
        group_size=args.group_size,
        rollout=RolloutConfig(window="random", window_size=args.window),
        learning_rate=args.learning_rate,
        micro_batch=1,
    )
    learner = GRPO(envs, policy, "grpo", config, folder=args.out)
    history = learner.learn(args.iterations)
    for number, metrics in enumerate(history):
        print(f"iteration {number:3d}  motion {metrics['reward/motion']:.5f}")
    if args.out:
        policy.save_pretrained(learner.folder)
    return history


if __name__ == "__main__":
    main(tyro.cli(Args))

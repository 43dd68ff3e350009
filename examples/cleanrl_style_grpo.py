"""Docs: docs/interop.md. GRPO for a video model in one file, top to bottom, in the CleanRL way.

Run ``python examples/cleanrl_style_grpo.py``. From the library come the environment, the video
model and the step kernel; collecting, the advantage and the loss are all here, to be changed.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter

from reelrl.envs import steps
from reelrl.envs.kernels import make_kernel


@dataclass
class Args:
    """Settings of the run."""

    exp_name: str = "cleanrl_style_grpo"
    """name of the experiment"""
    env_id: str = "reelrl:reelrl/MovingShapesEarly-v0"
    """id of the environment"""
    seed: int = 0
    """of everything"""
    device: str = "cpu"
    """where model and latents are"""
    track: bool = True
    """write TensorBoard files to runs/"""
    iterations: int = 30
    """rollouts"""
    prompts: int = 4
    """P, prompts per rollout"""
    group_size: int = 8
    """G, clips per prompt"""
    num_steps: int = 10
    """T, denoising steps, 2 at least: the last one teaches nothing"""
    eta: float = 0.7
    """noise of a denoising step"""
    learning_rate: float = 5e-5
    """of AdamW"""
    epochs: int = 1
    """passes over a rollout"""
    minibatch_size: int = 64
    """transitions per optimizer step"""
    clip_coef: float = 5e-4
    """of the ratio of mean log-probabilities; PPO's 0.2 is for sums"""
    max_grad_norm: float = 1.0
    """gradients longer than this are shortened"""


def main(args: Args) -> list[float]:
    """Train; return the mean reward of every rollout."""
    if args.num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {args.num_steps}")
    run_name = f"{args.env_id.split('/')[-1]}__{args.exp_name}__{args.seed}__{int(time.time())}"
    writer = SummaryWriter(f"runs/{run_name}") if args.track else None
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)

    # env setup
    num_envs = args.prompts * args.group_size
    envs = gym.make_vec(
        args.env_id,
        num_envs=num_envs,
        num_steps=args.num_steps,
        output="torch",
        device=args.device,
        autoreset_mode="Disabled",
    )
    model, task = envs.unwrapped.model, envs.unwrapped
    optimizer = torch.optim.AdamW(model.transformer.parameters(), lr=args.learning_rate)
    model.transformer.eval()  # dropout would make a ratio that no training made
    table = make_kernel("flow_sde", eta=args.eta).table(task.sigmas).to(args.device)
    levels = task.sigmas[:-1].float().to(args.device)

    def step_from(latent: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> steps.Step:
        """The Gaussian of the next latent (M, ...) at steps ``t`` (M,) for prompts (M,)."""
        velocity = model.velocity(latent, levels[t], task.embeddings[prompt])
        return steps.advance(table.at(t), latent, velocity)

    # ALGO LOGIC: storage; the last step is deterministic and teaches nothing
    trained = args.num_steps - 1
    shape = envs.single_observation_space["latent"].shape
    latents = torch.zeros((trained, num_envs, *shape), device=args.device)
    actions = torch.zeros_like(latents)
    logprobs = torch.zeros((trained, num_envs), dtype=torch.float64, device=args.device)

    curve: list[float] = []
    envs.reset(seed=args.seed)
    for iteration in range(args.iterations):
        # one prompt per group
        prompts = np.random.choice(len(task.prompts), args.prompts, replace=False)
        prompts = prompts.repeat(args.group_size)
        obs, _ = envs.reset(options={"prompt_id": prompts})
        prompt_ids = torch.from_numpy(prompts).to(args.device)

        # rollout
        for t in range(args.num_steps):
            at = torch.full((num_envs,), t, device=args.device)
            with torch.no_grad():
                step = step_from(obs["latent"], at, prompt_ids)
                action = steps.sample(step, torch.randn_like(step.mean))
            if t < trained:
                latents[t], actions[t] = obs["latent"], action
                logprobs[t] = steps.log_prob(step, action, "mean")
            obs, rewards, _, _, _ = envs.step(action)

        # advantage: each component z-scored within its group, summed, a failed one left out
        groups = rewards.double().view(args.prompts, args.group_size, -1)
        centred = groups - groups.nanmean(dim=1, keepdim=True)
        spread = centred.square().nanmean(dim=1, keepdim=True).sqrt()
        advantages = (centred / (spread + 1e-4)).nan_to_num().sum(dim=-1).view(-1)

        # optimizing: minibatches over steps and clips
        b_latents, b_actions = latents.flatten(0, 1), actions.flatten(0, 1)
        b_logprobs, b_advantages = logprobs.flatten(), advantages.repeat(trained)
        b_steps = torch.arange(trained, device=args.device).repeat_interleave(num_envs)
        b_prompts = prompt_ids.repeat(trained)
        clipfracs = []
        for _ in range(args.epochs):
            order = torch.randperm(len(b_steps), device=args.device)
            for mb in order.split(args.minibatch_size):
                step = step_from(b_latents[mb], b_steps[mb], b_prompts[mb])
                ratio = (steps.log_prob(step, b_actions[mb], "mean") - b_logprobs[mb]).exp()
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                loss = -torch.min(b_advantages[mb] * ratio, b_advantages[mb] * clipped).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.transformer.parameters(), args.max_grad_norm)
                optimizer.step()
                clipfracs.append(((ratio - 1).abs() > args.clip_coef).double().mean().item())

        # logging
        means = rewards.double().nanmean(dim=0).tolist()
        curve.append(float(np.mean(means)))
        values = " ".join(f"{n} {m:.3f}" for n, m in zip(task.reward_names, means, strict=True))
        print(f"iteration {iteration:4d}  {values}  clipfrac {np.mean(clipfracs):.3f}")
        if writer:
            for name, mean in zip(task.reward_names, means, strict=True):
                writer.add_scalar(f"charts/{name}", mean, iteration)
            writer.add_scalar("losses/clipfrac", np.mean(clipfracs), iteration)
    envs.close()
    if writer:
        writer.close()
    return curve


if __name__ == "__main__":
    main(tyro.cli(Args))

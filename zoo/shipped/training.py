"""Shared parts of both training stages: settings, random streams, averages, a state file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reelrl.algos.policies.weights import EMA
from reelrl.envs.models.trained import load_into

LOG_EVERY = 50
"""Updates between two logged losses."""


@dataclass(frozen=True)
class NanoConfig:
    """Everything that decides the trained weights."""

    out: Path = Path("runs/nano")
    """Folder of the run: state files, TensorBoard log, sample grids, exported pipelines."""
    seed: int = 0
    """Seed of every generator in the run."""
    vae_steps: int = 3000
    """Updates of the VAE."""
    vae_batch: int = 16
    """Clips per VAE update."""
    vae_lr: float = 2e-3
    """Peak learning rate of the VAE; warm-up then cosine to zero."""
    decoder_steps: int = 2000
    """Further updates of the decoder alone, once the latents are fixed."""
    decoder_lr: float = 1e-3
    """Peak learning rate of those updates."""
    dataset_clips: int = 24_000
    """Train clips whose latents the generator is trained on."""
    steps: int = 7500
    """Updates of transformer and text encoder."""
    batch: int = 64
    """Clips per update of the generator."""
    lr: float = 1e-3
    """Peak learning rate of the generator; warm-up then cosine to zero."""
    caption_dropout: float = 0.1
    """Share of clips trained with the empty caption, for classifier-free guidance."""
    compile: bool = True
    """Compile the transformer (needs a C compiler); halves the time of an update."""
    ema: float = 0.999
    """Decay of the averaged weights that are evaluated and shipped."""
    early_gold: float = 0.26
    """``nano-early`` is the first evaluated snapshot whose GOLD reaches this."""
    eval_every: int = 300
    """Updates between evaluations, sample grids and state files."""
    eval_clips: int = 192
    """Clips per evaluation."""


class Seeded(Protocol):
    """Settings of a run with a seed."""

    @property
    def seed(self) -> int:
        """Of every generator in the run."""


def generator_for(config: Seeded, *stream: int) -> torch.Generator:
    """A CPU generator of its own for each named stream of random numbers of a run."""
    return torch.Generator().manual_seed(stream_seed(config.seed, *stream))


def stream_seed(seed: int, *stream: int) -> int:
    """The seed of a named stream of random numbers of a run."""
    for number in stream:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return seed


def learning_rate(step: int, total: int, peak: float, warmup: int = 200) -> float:
    """Linear warm-up over ``warmup`` steps, then a half cosine down to zero at ``total``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = torch.tensor((step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + torch.cos(torch.pi * progress).item())


class Training:
    """One module in training: optimiser, averaged weights, step count, and their state file.

    The file is replaced atomically, so a kill at any moment leaves the old or the new one, whole;
    reading it unpickles tensors and plain values only.

    Args:
        module: the module to train.
        path: state file; if it exists, training goes on from it.
        total: number of updates in all.
        lr: peak learning rate, warmed up and then lowered along a half cosine to zero.
        ema: decay of the averaged weights.
        betas: of AdamW.
        warmup: updates until the peak is reached.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        *,
        total: int,
        lr: float,
        ema: float,
        betas: tuple[float, float] = (0.9, 0.99),
        warmup: int = 200,
    ) -> None:
        self.module, self.path, self.total, self.lr = module, path, total, lr
        self.warmup = warmup
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=betas)
        self.average = EMA(dict(module.named_parameters()), ema)
        self.step = 0
        if path.exists():
            state = torch.load(path, weights_only=True)
            module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.average, self.average.updates = state["average"], state["updates"]
            self.step = state["step"]

    def progress(self, title: str) -> tqdm[int]:
        """A progress bar over the updates that are left."""
        steps = range(self.step, self.total)
        return tqdm(steps, initial=self.step, total=self.total, desc=title)

    def update(self, loss: Tensor) -> None:
        """One optimiser step on ``loss``."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.total, self.lr, self.warmup)
        self.optimizer.step()
        self.average.update()
        self.step += 1

    def save(self) -> None:
        """Write the state file."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.average,
            "updates": self.average.updates,
            "step": self.step,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def finished(self) -> nn.Module:
        """The module with its averaged weights, frozen and in evaluation mode."""
        load_into(self.average.parameters, self.average.average)
        return self.module.eval().requires_grad_(False)

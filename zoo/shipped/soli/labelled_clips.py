"""The clips a reward model is trained and tested on, made from seeds, shard by shard.

Trained on are clips of the shipped generators at several steps and guidance scales, so that quality
varies, and rendered ones, some of them mildly degraded or with another clip's caption. Out of
distribution are the attacks on the scores, none of which is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from reelrl.envs.models import VideoModel
from reelrl.envs.sampling import NOISE_SEEDS
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.world import captions, sample_clips
from reelrl.zoo.generate import generate
from reelrl.zoo.shipped.soli.config import DataConfig
from reelrl.zoo.shipped.training import stream_seed

SPLITS = ("train", "id", "ood")
"""Trained on; held out of the same sources; attacks."""
AXES = ("fid", "phys", "align")
NOISE = (3 * 10**9, NOISE_SEEDS)
"""Seeds of the generators' noise, away from the seeds of training and examinations."""


@dataclass(frozen=True)
class Source:
    """Where a shard's clips are from.

    Attributes:
        name: generator, attack, ``"rendered"`` or ``"other caption"``.
        steps: of the sampler; 0 for rendered clips.
        guidance: its scale.
    """

    name: str
    steps: int = 0
    guidance: float = 1.0


_EARLY, _NANO = "nano-early", "nano"
SOURCES = (
    Source(_EARLY, 4),
    Source("rendered"),
    Source(_EARLY, 8),
    Source(_NANO, 2),
    Source(_EARLY, 4, 2.0),
    Source("other caption"),
    Source(_EARLY, 2),
    Source(_EARLY, 4, 3.0),
    Source("+noise 30 dB"),
    Source(_NANO, 4),
    Source(_EARLY, 4),
    Source("rendered"),
    Source(_EARLY, 8),
    Source(_NANO, 2, 3.0),
    Source(_EARLY, 4, 2.0),
    Source("+smooth error 26 dB"),
)
"""Shards of the first two splits go through these in turn: eleven of sixteen are generated."""


@dataclass(frozen=True)
class Shard:
    """Some clips of one source.

    Attributes:
        split: one of :data:`SPLITS`.
        index: within the split.
        source: where they are from.
        count: of clips.
        seed: of everything random in them.
    """

    split: str
    index: int
    source: Source
    count: int
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.split}-{self.index:04d}"


@dataclass(frozen=True)
class Labelled:
    """Clips with the known facts about them.

    Attributes:
        videos: (N, 9, 32, 32, 3) uint8.
        prompts: N captions.
        gold: (N, 3) values of :data:`AXES`.
    """

    videos: Tensor
    prompts: list[str]
    gold: Tensor


def shards(config: DataConfig, split: str) -> list[Shard]:
    """The shards of a split."""
    sizes = {"train": config.train, "id": config.held_out}
    if split in sizes:
        starts = range(0, sizes[split], config.shard)
        plan = [
            (SOURCES[i % len(SOURCES)], min(config.shard, sizes[split] - start))
            for i, start in enumerate(starts)
        ]
    else:
        attacks = [name for name, a in ATTACKS.items() if a.kind in ("attack", "invented")]
        plan = [(Source(name), config.per_attack) for name in attacks]
    place = SPLITS.index(split)
    return [
        Shard(split, i, source, count, stream_seed(config.seed, place, i))
        for i, (source, count) in enumerate(plan)
    ]


def make_shard(shard: Shard) -> Labelled:
    """Make the clips of a shard; equal shards give equal clips."""
    generator = torch.Generator().manual_seed(shard.seed)
    if shard.source.steps:
        videos, prompts = _generated(shard, generator)
    else:
        clips = sample_clips(shard.count, generator)
        prompts = clips.captions
        if shard.source.name == "other caption":
            prompts = _draw(shard.count, generator)
        attack = ATTACKS.get(shard.source.name)
        videos = clips.videos if attack is None else attack.generate(clips, generator)
    # Clips are judged as they are stored and shown: 8 bits, as in a rollout.
    quantised = (videos.clamp(0, 1) * 255).round().to(torch.uint8)
    axes = gold_axes_of_prompts(quantised.float() / 255, prompts)
    gold = torch.stack([getattr(axes, axis) for axis in AXES], dim=1)
    return Labelled(quantised, prompts, gold)


def _generated(shard: Shard, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    prompts = _draw(shard.count, generator)
    seeds = torch.randint(*NOISE, (shard.count,), generator=generator)
    batches = generate(
        _open(shard.source.name),
        prompts,
        seeds.tolist(),
        num_steps=shard.source.steps,
        guidance_scale=shard.source.guidance,
    )
    return torch.cat(list(batches)), prompts


@cache
def _open(name: str) -> VideoModel:
    return VideoModel.from_pretrained(name)


def _draw(count: int, generator: torch.Generator) -> list[str]:
    known = captions("train")
    return [known[i] for i in torch.randint(len(known), (count,), generator=generator).tolist()]


def load_shard(folder: Path, shard: Shard) -> Labelled:
    """The clips of a shard from its file, which is made if it is missing."""
    path = folder / f"{shard.name}.safetensors"
    if not path.is_file():
        made = make_shard(shard)
        # Captions hold no line ends: they are the world's.
        facts = {"prompts": "\n".join(made.prompts)}
        write_tensors(path, {"videos": made.videos, "gold": made.gold}, facts)
    with safe_open(path, "pt") as file:
        prompts = file.metadata()["prompts"].split("\n")
        return Labelled(file.get_tensor("videos"), prompts, file.get_tensor("gold"))


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, facts)
    temporary.replace(path)


def load_split(folder: Path, config: DataConfig, split: str) -> Iterator[tuple[Shard, Labelled]]:
    """All shards of a split with their clips, made where they are missing."""
    for shard in shards(config, split):
        yield shard, load_shard(folder, shard)

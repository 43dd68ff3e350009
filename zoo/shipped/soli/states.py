"""Hidden states of a frozen model for all clips, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from reelrl.rewards.soli.backbone import queries_of
from reelrl.rewards.soli.folder import content_digest
from reelrl.rewards.soli.heads import Head
from reelrl.rewards.vlm.model import QwenVL, chunks
from reelrl.rewards.vlm.shared import open_backbone, read_dtype
from reelrl.zoo.shipped.soli.config import DataConfig, RewardModelConfig
from reelrl.zoo.shipped.soli.labelled_clips import AXES, Labelled, load_split, write_tensors

QUERIES = 16
"""Clips per forward."""
EVALUATED = 256
"""Clips that a head scores at a time."""
STORED = torch.float16

Report = Callable[[str], None]


@dataclass(frozen=True)
class States:
    """N clips as a head sees them, and the truth about them.

    Attributes:
        levels: n hidden states (N, L, D), half precision.
        mask: (N, L) bool.
        gold: (N,) gold values of the dimension.
        sources: N names.
    """

    levels: list[Tensor]
    mask: Tensor
    gold: Tensor
    sources: list[str]

    def __len__(self) -> int:
        return len(self.mask)

    def rows(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """Hidden states in full precision, and mask, of some clips."""
        return [level[index].float() for level in self.levels], self.mask[index]

    @torch.no_grad()
    def scores(self, head: Head) -> Tensor:
        """(N,) of a head."""
        parts = torch.split(torch.arange(len(self)), EVALUATED)
        return torch.cat([head(*self.rows(part)) for part in parts])


def taps_of(config: RewardModelConfig, vlm: QwenVL) -> tuple[int, ...]:
    """The layers that are read: the settings' choice, else all."""
    return config.taps or tuple(range(1, vlm.num_layers + 1))


def load_states(
    config: RewardModelConfig, split: str, cache: Path, report: Report = lambda text: None
) -> States:
    """The states of a split, computed where they are missing.

    Args:
        config: settings; the head, the loss and the seed do not matter.
        split: one of :data:`~reelrl.zoo.shipped.soli.labelled_clips.SPLITS`.
        cache: folder of clips and states, shared by all runs.
        report: gets a line of progress per shard that is computed.

    Raises:
        ValueError: for states that half precision cannot hold.
    """
    vlm = open_backbone(config.backbone, config.device, read_dtype(config.dtype))
    taps = taps_of(config, vlm)
    folder = cache / "states" / _key(config, taps)
    parts, golds, sources = [], [], []
    for shard, clips in load_split(cache / "clips" / _clips_key(config.data), config.data, split):
        path = folder / f"{shard.name}.safetensors"
        if not path.is_file():
            write_tensors(path, compute(vlm, taps, clips, config), {})
            report(f"states of {shard.name}: {shard.source.name}")
        parts.append(load_file(path))
        golds.append(clips.gold[:, AXES.index(config.dimension)])
        sources += [shard.source.name] * shard.count
    length = max(part["mask"].shape[1] for part in parts)
    levels = [
        torch.cat([_widen(part["states"][i], length, 2) for part in parts])
        for i in range(len(taps))
    ]
    mask = torch.cat([_widen(part["mask"], length, 1) for part in parts])
    return States(levels, mask, torch.cat(golds), sources)


def compute(
    vlm: QwenVL, taps: tuple[int, ...], clips: Labelled, config: RewardModelConfig
) -> dict[str, Tensor]:
    """``states`` (n, N, L, D) in half precision and ``mask`` (N, L) of clips."""
    queries = queries_of(clips.videos.float() / 255, clips.prompts, config.question)
    found = [vlm.tapped(part, taps) for part in chunks(queries, QUERIES)]
    length = max(mask.shape[1] for _, mask in found)
    states = torch.cat([_widen(torch.stack(s), length, 2) for s, _ in found], dim=1)
    stored = states.to(STORED).cpu()
    if not stored.isfinite().all():
        raise ValueError(
            f"hidden states up to {states.abs().max():.3g} do not fit {STORED}; tap layers "
            "without massive activations"
        )
    return {"states": stored, "mask": torch.cat([_widen(m, length, 1) for _, m in found]).cpu()}


def _widen(tensor: Tensor, length: int, from_end: int) -> Tensor:
    """Padding on the left of the token axis, which is the ``from_end``-th from the end."""
    missing = length - tensor.shape[-from_end]
    return pad(tensor, [0, 0] * (from_end - 1) + [missing, 0])


def _key(config: RewardModelConfig, taps: tuple[int, ...]) -> str:
    facts = [content_digest(config.backbone), asdict(config.question), taps, config.dtype]
    return _digest([*facts, asdict(config.data)])


def _clips_key(data: DataConfig) -> str:
    return _digest(asdict(data))


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

"""A trained SoliReward model as a reward component."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.soli.backbone import queries_of
from reelrl.rewards.soli.folder import FACTS, WEIGHTS, find_backbone, load_head, read_facts
from reelrl.rewards.soli.heads import Head
from reelrl.rewards.vlm.model import QwenVL, chunks
from reelrl.rewards.vlm.shared import open_backbone, read_dtype


@register_reward("soli_reward")
class SoliReward(Reward):
    """A reward model trained on single Pass/Fail labels; the raw score, comparable across prompts.

    Its name is followed by the dimension it judges, as in ``soli_reward_phys``.

    Args:
        model: folder made by ``reelrl train-reward``.
        backbone: folder of the model under the head, if it lies elsewhere than the facts say.
        batch_size: clips per forward.
        device: of model and head.
        dtype: of the model's weights, such as ``"bfloat16"``; the head computes in float32.

    Raises:
        ValueError: if the folder holds no reward model, or the backbone is missing or another one.
    """

    name = "soli_reward"
    bounds = (-float("inf"), float("inf"))
    formula = "r = wᵀ SiLU(A (q_n + MHA(q_res, H_n)) + b), q_i = MHA_i(q_{i-1}, H_i)"
    source = "SoliReward, arXiv 2512.22170; lian700/SoliReward, progressive_hierarchical_attention"
    weights = "made by `reelrl train-reward`; GB of a nano-sized one"
    memory_gb = 0.002
    fps_sensitive = True

    def __init__(
        self,
        model: str | Path,
        *,
        backbone: str | Path | None = None,
        batch_size: int = 16,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.folder = Path(model)
        self.facts = read_facts(model)
        self.backbone = find_backbone(model, self.facts, backbone)
        self.batch_size, self.device, self.dtype = batch_size, device, read_dtype(dtype)
        self.name = f"{type(self).name}_{self.facts.dimension}"

    @cached_property
    def vlm(self) -> QwenVL:
        """The model under the head, opened when first used."""
        return open_backbone(self.backbone, self.device, self.dtype)

    @cached_property
    def head(self) -> Head:
        """The head, opened when first used."""
        return load_head(self.folder, self.facts).to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything a score depends on besides clip and caption."""
        files = [(self.folder / name).read_bytes() for name in (FACTS, WEIGHTS)]
        digests = [hashlib.sha256(content).hexdigest() for content in files]
        return json.dumps([type(self).__name__, *digests, str(self.dtype)])

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`.

        Raises:
            ValueError: for clips of fewer than two frames.
        """
        parts = [videos.new_zeros(0)]
        for part in chunks(queries_of(videos, prompts, self.facts.question), self.batch_size):
            states, mask = self.vlm.tapped(part, self.facts.taps)
            with torch.no_grad():
                scores = self.head([state.float() for state in states], mask)
            parts.append(scores.to(videos.device))
        return torch.cat(parts)

"""VBench's dynamic degree on torchvision's RAFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import register_reward
from reelrl.rewards.image.frames import ModelReward
from reelrl.rewards.image.loading import read_state, the_file
from reelrl.rewards.movement import VBENCH_FPS, Dynamics, fastest_speed

SMALLEST, MULTIPLE = 128, 8
"""Short side below which RAFT's correlation pyramid is empty; divisor of the sides."""
UPDATES = 20
"""Refinements of the flow, VBench's number."""


@register_reward("raft_dynamic_degree")
class RaftDynamicDegree(Dynamics, ModelReward):
    """VBench's dynamic degree by RAFT, small or large as the weights are.

    Frames are stretched to a short side of at least 128 and padded to multiples of 8; speeds are
    in original pixels. Needs torchvision (extra ``raft``).

    Args:
        model: folder with a state dict of torchvision's ``raft_large`` or ``raft_small``; VBench's
            weights correspond to torchvision's ``Raft_Large_Weights.C_T_V2``.
        fps: frame rate of the clips.
        batch_size: pairs of frames per forward pass; each needs a correlation volume of
            (H W / 64)² numbers.
        **config: of :class:`~reelrl.rewards.image.frames.ModelReward`.
    """

    name = "raft_dynamic_degree"
    differentiable = False
    source = "VBench, vbench/dynamic_degree.py, flow by RAFT of Teed and Deng 2020"
    weights, license, memory_gb = "torchvision Raft_Large_Weights.C_T_V2", "BSD-3-Clause", 0.01

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        fps: float = VBENCH_FPS,
        batch_size: int = 4,
        **config: Any,
    ) -> None:
        Dynamics.__init__(self, fps)
        ModelReward.__init__(self, model, batch_size=batch_size, **config)

    def load(self, folder: Path) -> Any:
        """``raft_large`` or ``raft_small``, told apart by the width of their first layer."""
        from torchvision.models.optical_flow import raft_large, raft_small

        state = read_state(the_file(folder, "*.pth", "*.safetensors"))
        first = state["feature_encoder.convnormrelu.0.weight"]
        model = (raft_large if len(first) == 64 else raft_small)(weights=None, progress=False)
        model.load_state_dict(state)
        return model.to(self.dtype)

    def speeds(self, videos: Tensor) -> Tensor:
        """(N, F - 1) speeds of the fastest 5 % in pixels of the clips per frame."""
        self.module.to(videos.device)
        before, after = videos[:, :-1].flatten(0, 1), videos[:, 1:].flatten(0, 1)
        pairs = zip(
            torch.split(before, self.batch_size), torch.split(after, self.batch_size), strict=True
        )
        speeds = torch.cat([fastest_speed(self.flow(a, b)) for a, b in pairs])
        return speeds.reshape(len(videos), -1)

    def flow(self, before: Tensor, after: Tensor) -> Tensor:
        """Displacements (2, M, h, w) of frames (M, H, W, 3), x then y, in pixels of the frames.

        h and w are the size of the stretched frames.
        """
        height, width = before.shape[1:3]
        scale = max(1.0, SMALLEST / min(height, width))
        size = (round(height * scale), round(width * scale))
        a, b = (self._prepare(x, size) for x in (before, after))
        flow: Tensor = self.module(a, b, num_flow_updates=UPDATES)[-1].float()
        top, left = (flow.shape[-2] - size[0]) // 2, (flow.shape[-1] - size[1]) // 2
        flow = flow[:, :, top : top + size[0], left : left + size[1]]
        ratio = flow.new_tensor([width / size[1], height / size[0]])
        return flow.movedim(1, 0) * ratio[:, None, None, None]

    def _prepare(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Frames as RAFT takes them: (M, 3, h, w) in [-1, 1], padded on both sides."""
        planes = frames.movedim(-1, 1)
        if tuple(planes.shape[-2:]) != size:
            planes = functional.interpolate(planes, size=size, mode="bilinear")
        down, right = (-side % MULTIPLE for side in size)
        padding = (right // 2, right - right // 2, down // 2, down - down // 2)
        return functional.pad(planes * 2 - 1, padding, mode="replicate").to(self.dtype)

"""Adv-GRPO's reward: how real a clip looks to a head that is trained against the policy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.adaptive import VERSION, AdaptiveReward, check_state
from reelrl.rewards.base import register_reward
from reelrl.rewards.image.frames import FrameReward
from reelrl.rewards.image.loading import ImageTransform
from reelrl.rewards.image.reference import ReferenceClips, as_shown
from reelrl.rewards.vlm.model import folder_digest

Weights = Mapping[str, Tensor]

HIDDEN = 512
CLASS_SHARE = 0.7
"""Of the class token in a frame's score; its patches have the rest."""
PATCH_LOSS = 0.3
PATCHES = 64
"""Patches of a frame that the head is trained on in a round."""
BETAS = (0.5, 0.999)
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def initial_head(width: int, seed: int) -> dict[str, Tensor]:
    """Weights of a new head, uniform within the root of one over the fan-in as torch's layers are.

    Args:
        width: D of the features.
        seed: of the draw.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shapes = {
        "hidden.weight": (HIDDEN, width),
        "hidden.bias": (HIDDEN,),
        "out.weight": (1, HIDDEN),
        "out.bias": (1,),
    }
    reach = {"hidden": 1 / math.sqrt(width), "out": 1 / math.sqrt(HIDDEN)}
    return {
        name: (2 * torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 1)
        * reach[name.split(".")[0]]
        for name, shape in shapes.items()
    }


def realness(head: Weights, features: Tensor) -> Tensor:
    """D of features (..., D): two layers with a GELU between them, on unit vectors; (...)."""
    unit = functional.normalize(features.float(), dim=-1)
    hidden = functional.linear(unit, head["hidden.weight"], head["hidden.bias"])
    out = functional.linear(functional.gelu(hidden), head["out.weight"], head["out.bias"])
    return out.squeeze(-1)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss, a half of E[(1 - D(real))₊] + E[(1 + D(fake))₊]."""
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the class tokens plus 0.3 times the hinge loss of the patches.

    Args:
        real: (M, 1 + patches) scores of the tokens of real frames, class token first.
        fake: (M', 1 + patches) of generated ones.
    """
    return hinge(real[:, 0], fake[:, 0]) + PATCH_LOSS * hinge(real[:, 1:], fake[:, 1:])


@register_reward("adversarial")
class Adversarial(FrameReward, AdaptiveReward):
    r"""Adv-GRPO: how real frames look to a head that is trained along with the policy.

    The encoder is frozen. After each rollout a small head D on its tokens takes ``updates`` Adam
    steps down the hinge loss

    .. math:: \tfrac12 \left[(1 - D(\text{real}))_+ + (1 + D(\text{fake}))_+\right]

    of the class tokens plus 0.3 times the loss of 64 random patches a frame, against as many real
    clips; the reward is 0.7 D of the class token plus 0.3 D averaged over the patches. By default
    real clips are MovingShapes clips, drawn anew for the rollout's captions.

    Three things differ from the released code. It spends nine rollouts on the head, a step each,
    for one on the policy; here every rollout serves both. It normalises the tokens when scoring and
    not when training; here always. It scores 64 random patches; here all of them, whose mean that
    is in expectation, so that equal clips get equal scores. Both kinds of clips are seen rounded to
    bytes, lest the head learn the rounding.

    Args:
        model: folder of a ``Dinov2Model``; see :class:`~reelrl.rewards.image.frames.ModelReward`.
        real: reference clips to draw from, an array or tensor (M, F, H, W, 3) of bytes or in
            [0, 1], or a folder of such ``.npy`` files, one clip (F, H, W, 3) each; by default
            MovingShapes.
        updates: steps of the head per rollout.
        learning_rate: of the head.
        seed: of the head's first weights.
        segments: see :class:`~reelrl.rewards.image.frames.FrameReward`; of training too.
        **config: of :class:`~reelrl.rewards.image.frames.FrameReward`.

    Raises:
        ValueError: for an argument out of its range.
        FileNotFoundError: if the weights are not there.
    """

    name, bounds = "adversarial", (-math.inf, math.inf)
    formula = "mean_t 0.7 D(CLS(x_t)) + 0.3 mean_p D(patch_p(x_t))"
    source = "Adv-GRPO, The Image as Its Own Reward; showlab/Adv-GRPO, train_sd3_fast_dino_patch.py"
    weights, license, memory_gb = "facebook/dinov2-base", "Apache-2.0", 0.2
    differentiable = False

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        real: Any = None,
        updates: int = 10,
        learning_rate: float = 1e-4,
        seed: int = 0,
        segments: int | None = None,
        **config: Any,
    ) -> None:
        if updates < 1 or not learning_rate > 0:
            raise ValueError(
                f"updates and learning_rate must be positive, got {updates} and {learning_rate}"
            )
        super().__init__(model, segments=segments, **config)
        self.updates, self.learning_rate = updates, learning_rate
        self.references = ReferenceClips.of(real)
        self.head: Weights = initial_head(self.module.config.hidden_size, seed)
        self._moments: Weights = {}

    def load(self, folder: Path) -> Any:
        """A ``Dinov2Model``, and frames stretched to the size it was trained on."""
        from transformers import Dinov2Model

        model = self.pretrained(Dinov2Model, folder)
        side = model.config.image_size
        own = ImageTransform.from_pretrained(folder)
        self.transform = replace(own, size=(side, side), crop=None, mode="bicubic")
        return model

    @property
    def settings(self) -> str:
        """The encoder, the scored frames and their weights."""
        frames = (self.segments, self.lambda_per_frame, self.normalise)
        return json.dumps([folder_digest(self.folder), str(self.dtype), *frames])

    def tokens(self, frames: Tensor) -> Tensor:
        """Class token and patches (M, 1 + P, D) of frames (M, H, W, 3) in [0, 1]."""
        pixels = self.transform(frames).to(self.dtype)
        tokens: Tensor = self.module(pixel_values=pixels).last_hidden_state
        return tokens

    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Scores (M,) of frames (M, H, W, 3), rounded to bytes."""
        head = {name: weight.to(frames.device) for name, weight in self.head.items()}
        scores = realness(head, self.tokens(as_shown(frames)))
        return CLASS_SHARE * scores[:, 0] + (1 - CLASS_SHARE) * scores[:, 1:].mean(dim=1)

    def adapt(
        self, videos: Tensor, prompts: Sequence[str], generator: torch.Generator
    ) -> dict[str, float]:
        """Train the head on clips of the policy and as many real ones.

        Args:
            videos: (N, F, H, W, 3) uint8.
            prompts: N captions.
            generator: draws real clips and patches.

        Returns:
            ``loss``, ``accuracy``, ``real`` and ``fake`` of the head before it has seen the clips:
            hinge loss, share of class tokens on their side of zero (mean of both kinds), mean D.

        Raises:
            ValueError: if reference clips have another picture size.
        """
        real = self.references.draw(videos.shape, prompts, generator)
        seen = [self._some_tokens(clips, generator) for clips in (real, videos)]
        device = seen[0].device
        head = {k: v.to(device).clone().requires_grad_() for k, v in self.head.items()}
        optimizer = self._optimizer(head)
        metrics: dict[str, float] = {}
        with torch.enable_grad():
            for _ in range(self.updates):
                scores = [realness(head, tokens) for tokens in seen]
                loss = discriminator_loss(*scores)
                metrics = metrics or _measured(*scores)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        self.head = {name: weight.detach().cpu() for name, weight in head.items()}
        self._moments = {
            f"{name}.{key}": optimizer.state[weight][key].cpu()
            for name, weight in head.items()
            for key in MOMENTS
        }
        self.moved_on(self.version + 1)
        return metrics

    @torch.no_grad()
    def _some_tokens(self, videos: Tensor, generator: torch.Generator) -> Tensor:
        """Class token and random patches (M, 1 + 64, D) of the frames of clips (N, F, H, W, 3)."""
        device = next(self.module.parameters()).device
        frames = self.frames_of(videos)
        rows = torch.arange(len(videos), dtype=torch.int64, device="cpu")[:, None]
        chosen = videos[rows, frames].flatten(0, 1)
        parts = []
        for part in torch.split(chosen, self.batch_size):
            tokens = self.tokens(part.to(device).float() / 255)
            patches = tokens.shape[1] - 1
            rows = torch.randint(
                1,
                1 + patches,
                (len(part), min(PATCHES, patches)),
                generator=generator,
                dtype=torch.int64,
                device="cpu",
            )
            rows = torch.cat(
                [torch.zeros(len(part), 1, dtype=torch.int64, device="cpu"), rows], dim=1
            )
            chosen_rows = rows.to(device)[..., None].expand(-1, -1, tokens.shape[-1])
            parts.append(tokens.gather(1, chosen_rows))
        return torch.cat(parts)

    def _optimizer(self, head: Weights) -> torch.optim.Adam:
        """Adam where it left off, on a copy of the head."""
        optimizer = torch.optim.Adam(head.values(), lr=self.learning_rate, betas=BETAS)
        for name, weight in head.items() if self._moments else ():
            kept = {key: self._moments[f"{name}.{key}"].clone() for key in MOMENTS}
            # The count of steps stays on the host, as Adam itself has it.
            moved = {k: v if k == "step" else v.to(weight.device) for k, v in kept.items()}
            optimizer.state[weight] = moved
        return optimizer

    def state_dict(self) -> dict[str, Tensor]:
        """Head, Adam's moments, and version."""
        moments = self._moments or self._no_moments()
        return {
            VERSION: torch.tensor(self.version, dtype=torch.int64, device="cpu"),
            **self.head,
            **moments,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that :meth:`state_dict` made.

        Raises:
            ValueError: for the state of a head on other features.
        """
        check_state(self.name, state, self.state_dict())
        version = int(state[VERSION])
        self.head = {name: state[name].clone() for name in self.head}
        self._moments = {k: state[k].clone() for k in self._no_moments()} if version else {}
        self.moved_on(version)

    def _no_moments(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": torch.zeros((), dtype=torch.float32, device="cpu")
            if key == "step"
            else torch.zeros_like(weight)
            for name, weight in self.head.items()
            for key in MOMENTS
        }


@torch.no_grad()
def _measured(real: Tensor, fake: Tensor) -> dict[str, float]:
    right = (real[:, 0] > 0).float().mean() + (fake[:, 0] < 0).float().mean()
    return {
        "loss": float(discriminator_loss(real, fake)),
        "accuracy": float(right / 2),
        "real": float(real[:, 0].mean()),
        "fake": float(fake[:, 0].mean()),
    }

"""What the environment and the policy need of a text-to-video model, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class VideoModel(ABC):
    """A latent flow-matching text-to-video model.

    The environment calls :meth:`encode` and :meth:`decode`, a policy :meth:`velocity`; both share
    one instance. Components load when first used, so an environment never loads a transformer and a
    policy never loads a VAE.

    A model is shared and never copied: ``copy.deepcopy`` gives the model itself back, because
    Gymnasium deep-copies an environment's arguments into its spec.

    Attributes:
        name: what the model was asked for by.
        device: where latents live.
        max_prompt_tokens: L, the length every embedding is padded to with zeros.
    """

    name: str
    device: torch.device
    max_prompt_tokens: int

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> VideoModel:
        """Open a shipped model by name, or the local folder of a diffusers pipeline.

        Raises:
            ValueError: for an unknown name or an unsupported kind of pipeline.
            FileNotFoundError: for a folder without the files of a pipeline.
        """
        from reelrl.envs.models.wan import WanVideoModel

        return WanVideoModel.from_pretrained(name_or_path, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> VideoModel:
        return self

    # Not abstract: a model that reads any text has nothing to refuse.
    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Refuse prompts the model cannot read, without loading a text encoder; default: none.

        Raises:
            ValueError: names the prompt and what is wrong with it.
        """

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embed N prompts: (N, L, D) float32, zero beyond each prompt's length."""

    @abstractmethod
    def velocity(self, latent: Tensor, sigma: Tensor, embedding: Tensor) -> Tensor:
        """Predicted velocity ``noise - clip`` at noise level ``sigma``.

        Args:
            latent: (N, C, T', H', W').
            sigma: (N,) in [0, 1]; 1 is pure noise.
            embedding: (N, L, D) from :meth:`encode`.

        Returns:
            Same shape as ``latent``, float32. Carries gradients where they are enabled.
        """

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents to (N, F, H, W, 3) float32 in [0, 1], without gradients."""

    @abstractmethod
    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T', H', W') of a clip of that size.

        Raises:
            ValueError: if the model cannot make a clip of that size; names the constraint.
        """

r"""Image rewards of clips: which frames are scored, and how their scores make one.

By default every frame counts the same. InstructVideo (Yuan et al. 2023, section 4.2) scores one
frame in each of S segments and attenuates it towards the ends of the clip,

.. math:: R = \frac{1}{S} \sum_{i=1}^{S} e^{-\lambda |g(i) - F/2|}\, r(x^{g(i)}, c), \quad
   g(i) \sim U[(i-1) F/S,\; i F/S - 1],

with S = 4 and :math:`\lambda = 1`, which makes all but the middle frames nearly weightless in clips
of more than some ten frames. Both are arguments here, and so is a weighted mean instead of the sum.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelrl.rewards.base import Reward, RewardWarning
from reelrl.rewards.drawing import clip_words
from reelrl.rewards.image.loading import local_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelReward(Reward):
    """A reward of a learned model of pictures.

    Args:
        model: folder of the weights, or repository of the hub; by default :attr:`weights`, looked
            for in the hub's local cache.
        batch_size: frames per forward pass.
        dtype: of the model, "float32", "bfloat16" or "float16".
        download: fetch files that are not local.

    Raises:
        ValueError: for an argument out of its range.
        FileNotFoundError: if the weights are not there.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        batch_size: int = 64,
        dtype: str = "float32",
        download: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.batch_size = batch_size
        self.dtype = DTYPES[dtype]
        self.download = download
        self.folder = local_folder(self.weights if model is None else model, download)
        self.module = self.load(self.folder).requires_grad_(False).eval()

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """The module of a folder, of :attr:`dtype` and on the processor."""

    def pretrained(self, kind: Any, folder: Path) -> Any:
        """A model of one of transformers' classes from a folder, never from the network."""
        return kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=self.dtype
        )


class FrameReward(ModelReward):
    """Weighted mean over frames of an image reward by a learned model.

    Args:
        model: see :class:`ModelReward`.
        segments: S, frames per clip, one in each of as many segments; None scores every frame.
        lambda_per_frame: rate of the attenuation by the distance from the middle, per frame.
        normalise: divide by the sum of the weights instead of S; without, the bounds reach 0.
        seed: draw the frame of each segment at random, by this and the clip's own pixels, so that
            equal clips get equal scores in any batch; None takes its middle.
        **config: of :class:`ModelReward`.

    Raises:
        ValueError: for an argument out of its range.
        FileNotFoundError: if the weights are not there.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        segments: int | None = None,
        lambda_per_frame: float = 0.0,
        normalise: bool = True,
        seed: int | None = None,
        **config: Any,
    ) -> None:
        if segments is not None and segments < 1:
            raise ValueError(f"segments must be positive or None, got {segments}")
        if not lambda_per_frame >= 0:
            raise ValueError(f"lambda_per_frame must be at least 0, got {lambda_per_frame}")
        self.segments = segments
        self.lambda_per_frame = float(lambda_per_frame)
        self.normalise = normalise
        if seed is not None and (isinstance(seed, bool) or seed < 0):
            raise ValueError(f"seed must be a whole number of at least 0 or None, got {seed}")
        self.seed = seed
        self._told_cut = False
        super().__init__(model, **config)
        if hasattr(self, "bounds"):  # a class without them is refused where rewards are listed
            self.bounds = self.bounds_of(self.bounds)

    def bounds_of(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """Bounds of a clip's score, if the scores of its frames lie in ``bounds``."""
        low, high = bounds
        # Weights that sum to less than 1 pull towards 0.
        return bounds if self.normalise else (min(0.0, low), max(0.0, high))

    def tell_cut(self, tokenizer: Any, captions: Sequence[str], limit: int) -> None:
        """Warn, the first time, if captions have more tokens than are read.

        Args:
            tokenizer: of the model.
            captions: as they are tokenised.
            limit: tokens of a caption that the model reads.
        """
        if self._told_cut or not captions:
            return
        rows = tokenizer(list(captions), verbose=False)["input_ids"]
        cut = sum(len(row) > limit for row in rows)
        if cut:
            self._told_cut = True
            warnings.warn(
                f"reward {self.name!r} reads {limit} tokens of a caption, got {cut} of "
                f"{len(captions)} captions that are longer: the rest is not scored",
                RewardWarning,
                stacklevel=2,
            )

    @abstractmethod
    def score_frames(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Scores (M,) of frames (M, H, W, 3) with the rows of :meth:`embed_prompts` for each."""

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Features of N prompts for :meth:`score_frames`, (N, D); by default none, D = 0."""
        return torch.zeros(len(prompts), 0, dtype=torch.float32, device="cpu")

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`."""
        self.module.to(videos.device)
        count, length = videos.shape[:2]
        frames = self.frames_of(videos)
        distinct = list(dict.fromkeys(prompts))
        known = self.embed_prompts(distinct).to(videos.device)
        texts = known[[distinct.index(prompt) for prompt in prompts]]
        clip = (
            torch.arange(count, dtype=torch.int64, device="cpu")[:, None]
            .expand_as(frames)
            .flatten()
        )
        pieces = zip(
            torch.split(clip, self.batch_size),
            torch.split(frames.flatten(), self.batch_size),
            strict=True,
        )
        scores = [self.score_frames(videos[n, t], texts[n]).to(torch.float32) for n, t in pieces]
        values = torch.cat(scores).reshape(frames.shape)
        weights = self.weights_of(frames, length).to(values)
        return (weights * values).sum(dim=1)

    def weights_of(self, frames: Tensor, length: int) -> Tensor:
        """(N, S) weights of frames (N, S) of clips of F frames, by their distance from F/2."""
        rates = -self.lambda_per_frame * (frames - length / 2).abs()
        # Far from the middle the weights of all frames may underflow: no sum to divide by.
        return rates.softmax(dim=1) if self.normalise else rates.exp() / frames.shape[1]

    def frames_of(self, videos: Tensor) -> Tensor:
        """(N, S) indices of the frames that are scored in clips (N, F, H, W, 3)."""
        count, length = videos.shape[:2]
        if self.segments is None or self.segments >= length:
            return torch.arange(length, dtype=torch.int64, device="cpu").expand(count, -1)
        places = torch.arange(self.segments + 1, dtype=torch.int64, device="cpu")
        edges = places * length // self.segments
        first, sizes = edges[:-1], edges.diff()
        if self.seed is None:
            return (first + (sizes - 1) // 2).expand(count, -1)
        words = clip_words(videos, self.seed)
        drawn = [np.random.default_rng(pair).integers(sizes.numpy()) for pair in words]
        return first + torch.from_numpy(np.array(drawn, dtype=np.int64)).reshape(count, -1)

"""One model and one forward pass for all the components that read it."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from reelrl.rewards.answers import fill
from reelrl.rewards.base import Reward
from reelrl.rewards.vlm.model import Query, QwenVL, chunks, folder_digest, model_folder
from reelrl.rewards.vlm.patches import frames_by_count, frames_by_rate

TEMPLATE_FILE = "prompt_template.txt"


class VLMScorer(ABC):
    """All axes of one reward model, computed once per batch of clips.

    Components made with equal arguments share one instance, see :func:`open_scorer`; it is gone
    with the last of them.

    Args:
        model: local folder.
        clip_fps: frames a second the clips are meant to be shown at; clips carry no rate.
        template: instruction with ``{prompt}`` where the caption goes. Default: the file
            ``prompt_template.txt`` in the folder, else wording of our own with a warning.
        batch_size: clips per forward.
        device: of the model.
        dtype: of its weights, such as ``"bfloat16"``.

    Raises:
        ValueError: for a missing folder, a rate that is not positive, a template without
            ``{prompt}``.
    """

    axes: ClassVar[tuple[str, ...]]
    """Name of each column."""
    own_template: ClassVar[str]
    published_template: ClassVar[str]
    """Where the wording that the published weights were trained with is to be found."""
    sample_fps: float = 2.0
    num_frames: int | None = None

    def __init__(
        self,
        model: str | Path,
        *,
        clip_fps: float = 16.0,
        template: str | None = None,
        batch_size: int = 4,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.folder = model_folder(model)
        if not clip_fps > 0:
            raise ValueError(f"clip_fps must be positive frames a second, got {clip_fps}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.clip_fps, self.batch_size = float(clip_fps), batch_size
        self.device, self.dtype = device, read_dtype(dtype)
        self.template = self._read_template(template)
        self._lock = Lock()
        self._last: tuple[Tensor, tuple[str, ...], Tensor] | None = None

    def _read_template(self, template: str | None) -> str:
        file = self.folder / TEMPLATE_FILE
        if template is None and file.is_file():
            template = file.read_text(encoding="utf-8")
        if template is None:
            warnings.warn(
                f"no {TEMPLATE_FILE} in {self.folder}: using wording of our own. Published weights "
                f"score as published only with the text they were trained with, "
                f"{self.published_template}; put it there with {{prompt}} where the caption goes",
                stacklevel=5,
            )
            template = self.own_template
        if "{prompt}" not in template:
            raise ValueError(f"the template must hold {{prompt}}, got {template[:80]!r}...")
        return template

    @cached_property
    def vlm(self) -> QwenVL:
        """The model, opened when first used."""
        return QwenVL.from_pretrained(self.folder, device=self.device, dtype=self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything a score depends on besides clip and caption."""
        template = hashlib.sha256(self.template.encode()).hexdigest()
        facts = [type(self).__name__, *map(folder_digest, self.folders), template]
        return json.dumps(
            [*facts, self.clip_fps, self.sample_fps, self.num_frames, str(self.dtype)]
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that the model is read from."""
        return (self.folder,)

    def frames(self, videos: Tensor) -> Tensor:
        """The frames the model is shown, (N, n, H, W, 3).

        Raises:
            ValueError: for clips of fewer than two frames.
        """
        total = videos.shape[1]
        if total < 2:
            raise ValueError(f"a video model needs clips of at least 2 frames, got {total}")
        if self.num_frames is not None:
            return videos[:, frames_by_count(total, self.num_frames)]
        return videos[:, frames_by_rate(total, self.clip_fps, self.sample_fps)]

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N, K) scores of clips (N, F, H, W, 3); the last batch is remembered."""
        frames = self.frames(videos)
        # Held while computing: components called from several threads wait for the same pass.
        with self._lock:
            if self._last is None or not same_batch(self._last, frames, prompts):
                rate = frames.shape[1] / videos.shape[1] * self.clip_fps
                queries = [
                    Query((clip,), fill(self.template, prompt), rates=(rate,))
                    for clip, prompt in zip(frames, prompts, strict=True)
                ]
                parts = [self.score_queries(part) for part in chunks(queries, self.batch_size)]
                scores = torch.cat(parts).float() if parts else frames.new_zeros(0, len(self.axes))
                self._last = (frames, tuple(prompts), scores.to(frames.device))
            return self._last[2]

    @abstractmethod
    def score_queries(self, queries: Sequence[Query]) -> Tensor:
        """(n, K) scores of one forward's worth of questions; ``nan`` where there is none."""


def same_batch(
    last: tuple[Tensor, tuple[str, ...], Tensor], frames: Tensor, prompts: Sequence[str]
) -> bool:
    """Whether frames and captions equal the remembered batch, value for value."""
    return (
        last[1] == tuple(prompts)
        and last[0].device == frames.device
        and last[0].shape == frames.shape
        and torch.equal(last[0], frames)
    )


def read_dtype(name: str) -> torch.dtype:
    """The floating point dtype of that name.

    Raises:
        ValueError: for anything else.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, got {name!r}")
    return known[name]


_BACKBONES: WeakValueDictionary[tuple[Any, ...], QwenVL] = WeakValueDictionary()
_OPENING = Lock()


def open_backbone(
    model: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> QwenVL:
    """The frozen model of a folder or name: the one in use already, or a new one.

    Judges of several axes and reward models of several dimensions ask one model; its weights are
    held once, and gone with the last who uses them.
    """
    folder = model_folder(model)
    # The digest, because a folder may be written anew while its old weights are in use.
    key = (str(folder.resolve()), folder_digest(folder), device, dtype)
    with _OPENING:
        found = _BACKBONES.get(key)
        if found is None:
            found = _BACKBONES[key] = QwenVL.from_pretrained(folder, device=device, dtype=dtype)
        return found


_OPEN: WeakValueDictionary[tuple[Any, ...], VLMScorer] = WeakValueDictionary()


def open_scorer(kind: type[VLMScorer], model: str | Path, settings: Mapping[str, Any]) -> VLMScorer:
    """The scorer of that kind, folder and settings: the one in use already, or a new one."""
    key = (kind, str(Path(model).resolve()), tuple(sorted(settings.items())))
    scorer = _OPEN.get(key)
    if scorer is None:
        scorer = _OPEN[key] = kind(model, **settings)
    return scorer


class VLMReward(Reward):
    """One axis of a :class:`VLMScorer`, or a total of all.

    Args:
        model: local folder with the weights.
        **settings: ``clip_fps``, ``template``, ``batch_size``, ``device``, ``dtype`` of the scorer.
    """

    scorer_type: type[VLMScorer]
    passes_settings_to: tuple[type[VLMScorer], ...] = ()
    axis: str | None = None
    """Name of the axis that this component returns; None means the total."""
    fps_sensitive = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.passes_settings_to = (cls.scorer_type,)

    def __init__(self, model: str | Path, **settings: Any) -> None:
        self.scorer = open_scorer(self.scorer_type, model, settings)

    @property
    def fingerprint(self) -> str:
        """Changes with anything a score depends on besides clip and caption."""
        return f"{self.name} {self.scorer.fingerprint}"

    def total(self, scores: Tensor) -> Tensor:
        """(N,) from all axes (N, K): their mean."""
        return scores.mean(dim=1)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`."""
        scores = self.scorer(videos, prompts)
        if self.axis is None:
            return self.total(scores)
        return scores[:, self.scorer.axes.index(self.axis)]

"""Scores on disk: one small JSON file each, written whole or not at all, failures never."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.base import Reward, RewardWarning

LEFT, LEFT_SECONDS = ".tmp", 3600.0
"""Ending of a file that is being written, and the age at which nobody is writing it any more."""


def clip_key(clips: Sequence[Tensor], *facts: str) -> str:
    """SHA-256 of clips, value for value with shape and dtype, and of all else a score hangs on.

    Args:
        clips: of any shapes.
        *facts: caption, wording, model, settings, each with its version.
    """
    digest = hashlib.sha256()
    for clip in clips:
        array = clip.detach().cpu().contiguous()
        digest.update(f"{array.dtype} {tuple(array.shape)}\0".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    for fact in facts:
        # Lengths keep ("ab", "c") apart from ("a", "bc").
        digest.update(f"{len(fact)}\0{fact}".encode())
    return digest.hexdigest()


class DiskCache:
    """A folder of scores that several processes may share.

    After the first failed write, the cache warns once and writes nothing any
    more. Scores are worth more than their copies on disk.

    Args:
        folder: made if missing; files that a killed process left half written are removed from it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writable = True
        self._sweep()

    def get(self, key: str) -> float | None:
        """The score of a key; None if there is none or its file is damaged."""
        try:
            value = json.loads(self._path(key).read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        known = isinstance(value, float | int) and not isinstance(value, bool)
        return float(value) if known and math.isfinite(value) else None

    def put(self, key: str, value: float) -> None:
        """Keep a score; one that is not finite is a failure and is not kept."""
        if not math.isfinite(value) or not self.writable:
            return
        try:
            self._write(self._path(key), json.dumps({"value": value}))
        except OSError as error:
            self.writable = False
            warnings.warn(
                f"cannot write to the cache {self.folder}: {error}; scores are kept, and nothing "
                "is written to it from now on",
                RewardWarning,
                stacklevel=2,
            )

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        with NamedTemporaryFile(
            "w", dir=path.parent, suffix=LEFT, delete=False, encoding="utf-8"
        ) as file:
            name = Path(file.name)
        try:
            name.write_text(text, encoding="utf-8")
            os.replace(name, path)
        except OSError:
            name.unlink(missing_ok=True)
            raise

    def _sweep(self) -> None:
        """Remove half-written files, but none that another process may be writing now."""
        old = time.time() - LEFT_SECONDS
        for path in self.folder.glob(f"??/*{LEFT}"):
            # It may be gone by now, or another user's.
            with suppress(OSError):
                if path.stat().st_mtime < old:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class CachedReward(Reward):
    """A component whose scores are looked up on disk first.

    The key is of the clip, its caption and the component's ``fingerprint``: a text that changes
    with weights, wording and settings.

    Args:
        reward: a deterministic component with a ``fingerprint``; its infos must not matter.
        folder: of the scores.

    Raises:
        ValueError: for a component that is not deterministic or has no fingerprint.
    """

    def __init__(self, reward: Reward, folder: str | Path) -> None:
        if not reward.deterministic or fingerprint_of(reward) is None:
            raise ValueError(
                f"only a deterministic reward with a fingerprint can be cached, got {reward!r}"
            )
        self.reward, self.cache = reward, DiskCache(folder)
        adopt(self, reward)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The component whose scores are kept."""
        return (self.reward,)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`."""
        version = fingerprint_of(self.reward)
        assert version is not None  # the constructor has seen to it
        keys = [
            clip_key([clip], prompt, version) for clip, prompt in zip(videos, prompts, strict=True)
        ]
        known = [self.cache.get(key) for key in keys]
        found = [math.nan if value is None else value for value in known]
        values = torch.tensor(found, dtype=torch.float32, device="cpu")
        new = [row for row, value in enumerate(known) if value is None]
        if new:
            output = self.reward(videos[new], [prompts[i] for i in new], [infos[i] for i in new])
            values[new] = output.values.cpu()
            for row, value in zip(new, output.values.tolist(), strict=True):
                self.cache.put(keys[row], value)
        return values.to(videos.device)


def fingerprint_of(reward: Reward) -> str | None:
    """Text that changes when a score of one clip and caption could change; None if unknown."""
    found = getattr(reward, "fingerprint", None)
    return found if isinstance(found, str) else None


def adopt(wrapper: Reward, reward: Reward) -> None:
    """Describe a wrapper by the component in it, which it calls: no gradient comes through."""
    for name in Reward.__annotations__:
        setattr(wrapper, name, getattr(reward, name))
    wrapper.differentiable = False

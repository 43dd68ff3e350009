"""The judge: the questions that a batch of clips leads to, and the scores of the answers.

Where the answers come from, a model in the process or a server, is the subclass's business.
"""

from __future__ import annotations

import json
import math
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reelrl.rewards.base import Reward
from reelrl.rewards.cache import DiskCache, clip_key
from reelrl.rewards.group import group_rows
from reelrl.rewards.judges.rubric import RUBRICS, SYSTEM, Rubric, pairwise_text, pointwise_text
from reelrl.rewards.judges.telemetry import Call, Telemetry, reasons
from reelrl.rewards.vlm.patches import frames_by_count

Form = Literal["yes", "score"]
Compare = Literal["none", "reference", "group"]
Shown = tuple[Tensor, float]
"""Frames (n, H, W, 3) of a clip, and how many of them a second there are."""


class JudgeWarning(UserWarning):
    """Some clips are masked: questions about them went unanswered or could not be asked."""


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        clips: one or two, each (n, H, W, 3) in [0, 1], the frames the judge sees.
        rates: frames a second of each clip, as shown.
        text: the question.
        strict: its second wording, for a judge that did not answer the first.
    """

    clips: tuple[Tensor, ...]
    rates: tuple[float, ...]
    text: str
    strict: str


@dataclass(frozen=True)
class Answer:
    """Outcome of a question: a value in [0, 1], or ``nan`` and the reason in ``call``."""

    value: float
    call: Call


class Judge(Reward):
    r"""A video-language model asked about clips.

    ``form="yes"`` is P("yes") renormalised over yes and no; ``form="score"`` a written score s from
    1 to 5 as (s - 1) / 4. ``compare="none"`` asks about each clip alone. ``"reference"`` asks
    whether it is better than the reference of its caption, ``"group"`` whether it is better than
    each other clip of its group in the batch (see :func:`~reelrl.rewards.group.group_rows`), and
    gives the mean over them (the win rate of Pref-GRPO, with probabilities). Both compare in either
    order: :math:`p_{AB} = \frac12 (p(A, B) + 1 - p(B, A))`.

    Args:
        rubric: one of ``RUBRICS``, or a :class:`Rubric`; a name other than ``"overall"`` becomes
            part of the component's.
        form: see above.
        compare: see above; needs ``form="yes"``.
        references: caption -> clip (F, H, W, 3) in [0, 1], or a safetensors file of these, for
            ``compare="reference"``.
        num_frames: frames of a clip that are shown, spread evenly with both ends in it.
        clip_fps: frames a second the clips are meant to be shown at.
        cache: folder that answers are kept in.
        max_failure_rate: share of unanswered questions that stops the run; None never does.
        failure_window: questions that the share is taken over.

    Attributes:
        telemetry: the last calls.
        pairs: comparisons made in both orders.
        inconsistent: pairs among them where the position decided.

    Raises:
        ValueError: for an unknown rubric, form or comparison, or settings that do not fit.
    """

    bounds = (0.0, 1.0)
    formula = "p(yes) / (p(yes) + p(no)), or a written score brought to [0, 1]"
    source = "RewardDance, arXiv 2509.08826; written scores as in TaRoS, arXiv 2511.19356"
    fps_sensitive = True

    def __init__(
        self,
        *,
        rubric: str | Rubric = "overall",
        form: Form = "yes",
        compare: Compare = "none",
        references: Mapping[str, Tensor] | str | Path | None = None,
        num_frames: int = 8,
        clip_fps: float = 16.0,
        cache: str | Path | None = None,
        max_failure_rate: float | None = 0.5,
        failure_window: int = 256,
    ) -> None:
        if isinstance(rubric, str) and rubric not in RUBRICS:
            raise ValueError(f"rubric must be one of {', '.join(RUBRICS)}, got {rubric!r}")
        self.rubric = RUBRICS[rubric] if isinstance(rubric, str) else rubric
        if form not in ("yes", "score") or compare not in ("none", "reference", "group"):
            raise ValueError(
                "expected form 'yes' or 'score' and compare 'none', 'reference' or 'group', got "
                f"{form!r} and {compare!r}"
            )
        if compare != "none" and form != "yes":
            raise ValueError(f"compare={compare!r} needs form='yes', got {form!r}")
        if (references is not None) != (compare == "reference"):
            raise ValueError("references go with compare='reference', and only with that")
        if num_frames < 2 or not clip_fps > 0:
            raise ValueError(
                f"expected num_frames >= 2 and clip_fps > 0, got {num_frames} and {clip_fps}"
            )
        self.form, self.compare = form, compare
        self.references = read_references(references)
        self.num_frames, self.clip_fps = num_frames, float(clip_fps)
        self.cache = None if cache is None else DiskCache(cache)
        self.telemetry = Telemetry(max_failure_rate, failure_window)
        self.pairs = self.inconsistent = 0
        if self.rubric.name != "overall":
            self.name = f"{type(self).name}_{self.rubric.name}"
        # The win rate depends on who else is in the batch.
        self.groupwise = compare == "group"
        self.deterministic = self.deterministic and not self.groupwise

    @abstractmethod
    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers to M questions, in order."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Changes with model, preprocessing, sampling and codec."""

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Score N clips (N, F, H, W, 3); see :meth:`reelrl.rewards.Reward.score`.

        Raises:
            ValueError: for clips of fewer than two frames.
            RewardAbort: if too many questions have gone unanswered.
        """
        clips = [self.shown(video) for video in videos]
        if self.compare == "group":
            values = self._against_each_other(clips, prompts, group_rows(prompts, infos))
        elif self.compare == "reference":
            values = self._against_references(clips, prompts)
        else:
            asks = [self._alone(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]
            values = self.ask(asks)
        return torch.tensor(values, dtype=torch.float32, device=videos.device)

    def shown(self, video: Tensor) -> Shown:
        """The frames that the judge sees of a clip (F, H, W, 3).

        Raises:
            ValueError: for a clip of fewer than two frames.
        """
        total = len(video)
        if total < 2:
            raise ValueError(f"a judge needs clips of at least 2 frames, got {total}")
        index = frames_by_count(total, self.num_frames)
        return video[index], len(index) / total * self.clip_fps

    def ask(self, asks: Sequence[Ask]) -> list[float]:
        """Values of M questions, in order; from the cache where it has them.

        Raises:
            RewardAbort: if too many questions have gone unanswered.
        """
        keys = [self._key(ask) for ask in asks] if self.cache else []
        known = [self.cache.get(key) for key in keys] if self.cache else [None] * len(asks)
        new = [i for i, value in enumerate(known) if value is None]
        answers = dict(zip(new, self.answer([asks[i] for i in new]) if new else [], strict=True))
        if self.cache:
            for i, answer in answers.items():
                # Asking may have changed the version: a server may refuse to write by schema.
                self.cache.put(self._key(asks[i]), answer.value)
        calls = [answers[i].call if i in answers else Call(0.0, 0) for i in range(len(asks))]
        failed = [call for call in calls if call.failure is not None]
        if failed:
            warnings.warn(
                f"{self.name}: {len(failed)} of {len(asks)} questions failed: {reasons(failed)}",
                JudgeWarning,
                stacklevel=2,
            )
        self.telemetry.add(calls)
        return [answers[i].value if v is None else v for i, v in enumerate(known)]

    def _key(self, ask: Ask) -> str:
        facts = {"form": self.form, "rubric": self.rubric.version, "rates": ask.rates}
        return clip_key(ask.clips, SYSTEM, ask.text, ask.strict, json.dumps(facts), self.version)

    def _alone(self, clip: Shown, prompt: str) -> Ask:
        written = self.form == "score"
        texts = [pointwise_text(self.rubric, prompt, written, strict) for strict in (False, True)]
        return Ask((clip[0],), (clip[1],), *texts)

    def _against_references(self, clips: Sequence[Shown], prompts: Sequence[str]) -> list[float]:
        """P(better than the caption's reference); ``nan``, with a warning, if it has none."""
        rows = [i for i, prompt in enumerate(prompts) if prompt in self.references]
        missing = [prompt for prompt in prompts if prompt not in self.references]
        if missing:
            warnings.warn(
                f"{self.name}: {len(missing)} of {len(prompts)} clips have no reference, the first "
                f"is of {missing[0]!r}",
                JudgeWarning,
                stacklevel=2,
            )
        pairs = [
            (clips[i], self.shown(self.references[prompts[i]].to(clips[i][0])), prompts[i])
            for i in rows
        ]
        found = dict(zip(rows, self._both_orders(pairs), strict=True))
        return [found.get(i, math.nan) for i in range(len(clips))]

    def _against_each_other(
        self, clips: Sequence[Shown], prompts: Sequence[str], groups: Sequence[Sequence[int]]
    ) -> list[float]:
        """Mean of P(better) over the others of the group whose comparison was answered."""
        pairs = [pair for group in groups for pair in combinations(group, 2)]
        better = self._both_orders([(clips[i], clips[j], prompts[i]) for i, j in pairs])
        won = defaultdict(list)
        for (i, j), p in zip(pairs, better, strict=True):
            if not math.isnan(p):
                won[i].append(p)
                won[j].append(1 - p)
        return [sum(won[i]) / len(won[i]) if won[i] else math.nan for i in range(len(clips))]

    def _both_orders(self, pairs: Sequence[tuple[Shown, Shown, str]]) -> list[float]:
        """P(first better) of each pair, asked in both orders; counts the contradictions."""
        asks = []
        for first, second, prompt in pairs:
            texts = [pairwise_text(self.rubric, prompt, strict) for strict in (False, True)]
            for a, b in ((first, second), (second, first)):
                asks.append(Ask((a[0], b[0]), (a[1], b[1]), *texts))
        values = self.ask(asks)
        forward, backward = values[::2], values[1::2]
        both = [
            (p, q)
            for p, q in zip(forward, backward, strict=True)
            if not (math.isnan(p) or math.isnan(q))
        ]
        self.pairs += len(both)
        self.inconsistent += sum((p - 0.5) * (q - 0.5) > 0 for p, q in both)
        return [(p + 1 - q) / 2 for p, q in zip(forward, backward, strict=True)]


def read_references(references: Mapping[str, Tensor] | str | Path | None) -> dict[str, Tensor]:
    """Caption -> clip (F, H, W, 3), from a mapping or a safetensors file.

    Raises:
        ValueError: for a clip of another shape.
    """
    if isinstance(references, str | Path):
        from safetensors.torch import load_file

        references = load_file(references)
    clips = dict(references or {})
    for caption, clip in clips.items():
        if clip.ndim != 4 or clip.shape[-1] != 3 or not clip.is_floating_point():
            raise ValueError(
                f"the reference of {caption!r} must be floating point (F, H, W, 3), got "
                f"{clip.dtype} {tuple(clip.shape)}"
            )
    return clips

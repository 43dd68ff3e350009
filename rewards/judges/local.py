"""A judge in the process: a local Qwen2-VL or Qwen2.5-VL folder, frames as tensors."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from reelrl.rewards.answers import last_score
from reelrl.rewards.base import register_reward
from reelrl.rewards.judges.base import Answer, Ask, Judge
from reelrl.rewards.judges.rubric import HIGH, LOW, SYSTEM
from reelrl.rewards.judges.telemetry import Call
from reelrl.rewards.judges.yes_no import NO, YES, yes_of_logits
from reelrl.rewards.vlm.model import Query, QwenVL, folder_digest, model_folder
from reelrl.rewards.vlm.shared import open_backbone, read_dtype


@register_reward("vlm_judge")
class VLMJudge(Judge):
    """A local video-language model as judge: P("yes") or a written score in [0, 1].

    Args:
        model: folder of the weights, or ``"nano-judge"``, the judge of MovingShapes that comes with
            the library.
        batch_size: questions per forward.
        max_new_tokens: longest written answer.
        device: of the model.
        dtype: of its weights, such as ``"bfloat16"``.
        **settings: see :class:`~reelrl.rewards.judges.base.Judge`.
    """

    name = "vlm_judge"
    weights = "Qwen/Qwen2.5-VL-7B-Instruct"
    memory_gb = 16.0

    def __init__(
        self,
        model: str | Path,
        *,
        batch_size: int = 4,
        max_new_tokens: int = 256,
        device: str = "cpu",
        dtype: str = "float32",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(
                f"expected batch_size and max_new_tokens of at least 1, got {batch_size} and "
                f"{max_new_tokens}"
            )
        self.folder = model_folder(model)
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.device, self.dtype = device, read_dtype(dtype)

    @cached_property
    def vlm(self) -> QwenVL:
        """The model, opened when first used; judges of other axes share it."""
        return open_backbone(self.folder, self.device, self.dtype)

    @cached_property
    def version(self) -> str:
        """Folder, precision and longest answer."""
        return json.dumps([folder_digest(self.folder), str(self.dtype), self.max_new_tokens])

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers to M questions; an open one is asked once more in the strict wording."""
        answers = self._round([(ask, ask.text) for ask in asks], 1)
        again = [i for i, answer in enumerate(answers) if math.isnan(answer.value)]
        second = self._round([(asks[i], asks[i].strict) for i in again], 2)
        for i, answer in zip(again, second, strict=True):
            answers[i] = answer
        return answers

    def _round(self, asked: Sequence[tuple[Ask, str]], attempt: int) -> list[Answer]:
        queries = [Query(ask.clips, text, SYSTEM, ask.rates) for ask, text in asked]
        # Padding makes each question cost as much as the longest: group them by length.
        order = sorted(range(len(queries)), key=lambda i: (len(queries[i].text), i))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            began = time.perf_counter()
            part = [queries[i] for i in rows]
            found = self._written(part) if self.form == "score" else self._yes(part)
            seconds = (time.perf_counter() - began) / len(rows)
            for i, (value, mass, failure) in zip(rows, found, strict=True):
                reason = failure if math.isnan(value) else None
                answers[i] = Answer(value, Call(seconds, attempt, reason, mass))
        return [answers[i] for i in range(len(queries))]

    def _yes(self, queries: Sequence[Query]) -> list[tuple[float, float | None, str]]:
        yes, no = (self.vlm.single_tokens(words) for words in (YES, NO))
        if not yes or not no:
            raise ValueError("the tokenizer has no single token for yes or for no")
        p, mass = yes_of_logits(self.vlm.next_logits(queries), yes, no)
        table = torch.stack([p, mass], dim=1).tolist()
        return [(value, held, "neither yes nor no") for value, held in table]

    def _written(self, queries: Sequence[Query]) -> list[tuple[float, float | None, str]]:
        answers = self.vlm.generate(queries, self.max_new_tokens)
        scores = [last_score(self.vlm.text(answer), LOW, HIGH) for answer in answers]
        return [((score - LOW) / (HIGH - LOW), None, "no score in the answer") for score in scores]

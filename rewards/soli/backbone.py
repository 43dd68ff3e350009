"""Clips and captions to hidden states, the same in training and in scoring."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reelrl.rewards.answers import fill
from reelrl.rewards.soli.folder import Question
from reelrl.rewards.vlm.model import Query, QwenVL
from reelrl.rewards.vlm.patches import frames_by_count


def queries_of(videos: Tensor, prompts: Sequence[str], question: Question) -> list[Query]:
    """A question per clip.

    Args:
        videos: (N, F, H, W, 3) in [0, 1].
        prompts: N captions.
        question: how they are put.

    Raises:
        ValueError: for clips of fewer than two frames.
    """
    total = videos.shape[1]
    if total < 2:
        raise ValueError(f"a video model needs clips of at least 2 frames, got {total}")
    index = frames_by_count(total, question.num_frames or total)
    rate = len(index) / total * question.clip_fps
    return [
        Query((clip,), fill(question.template, prompt), question.system, (rate,))
        for clip, prompt in zip(videos[:, index], prompts, strict=True)
    ]


def language_rows(vlm: QwenVL, words: Sequence[str]) -> Tensor:
    """Rows (Y, D) of the language head for those spellings that are one token.

    Raises:
        ValueError: if none is.
    """
    ids = vlm.single_tokens(words)
    if not ids:
        raise ValueError(f"the tokenizer has no single token for any of {list(words)}")
    weight: Tensor = vlm.model.get_output_embeddings().weight
    return weight[ids].detach().float()

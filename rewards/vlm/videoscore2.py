r"""VideoScore2: a model that thinks aloud and then gives three scores from 1 to 5.

The score of an axis is the expectation :math:`\sum_s s\,p_s / \sum_s p_s` over the five digits at
the place where the model wrote its digit (He et al. 2025). The released script multiplies the
likeliest digit by its share of the probability instead (``ll_based_soft_score_normed``), which is
not monotone: a sure 2 (2 x 0.9 = 1.8) beats an unsure 4 (4 x 0.4 = 1.6). The script also draws its
text at temperature 0.7; here every token is the likeliest one: equal clips get equal scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from reelrl.rewards.answers import KEPT, after_thinking, stands_alone
from reelrl.rewards.base import register_reward
from reelrl.rewards.vlm.model import Query, QwenVL
from reelrl.rewards.vlm.shared import VLMReward, VLMScorer

HEADINGS = {
    "visual": "visual quality",
    "alignment": "text-to-video alignment",
    "physics": "physical/common-sense consistency",
}
"""Axis -> the model's name for it; a description may stand between that and the colon."""
DIGITS = range(1, 6)
MIN_MASS = 0.5
"""The five digits must hold this much of the probability, or the place is no score."""
MAX_NEW_TOKENS = 1024

OWN_TEMPLATE = """Judge this generated video on three axes, each from 1 (bad) to 5 (flawless).
<caption>{prompt}</caption>
Think first, then end with exactly these lines, a digit in place of each x:
visual quality: x
text-to-video alignment: x
physical/common-sense consistency: x
"""


def expected_score(logits: Tensor, digit_tokens: Sequence[Sequence[int]]) -> Tensor:
    r"""Expectation of the score, :math:`\sum_s s\,p_s / \sum_s p_s`, in [1, 5].

    Args:
        logits: (n, V) at the places of the digits.
        digit_tokens: for each score 1..5 the tokens that spell it.

    Returns:
        (n,); ``nan`` where the digits together hold less than half of the probability.
    """
    share = logits.float().softmax(dim=-1)
    mass = torch.stack([share[:, list(ids)].sum(dim=1) for ids in digit_tokens], dim=1)
    scores = torch.arange(1, len(digit_tokens) + 1, device=mass.device, dtype=mass.dtype)
    total = mass.sum(dim=1)
    return torch.where(total >= MIN_MASS, mass @ scores / total, torch.nan)


def digit_place(answer: str, heading: str) -> int | None:
    """Index of the digit that an answer gives under a heading, the last one if there are more.

    Counted in the whole answer; the text before the end of thinking does not count, and neither
    does a range or a digit on another scale (see :func:`~reelrl.rewards.answers.last_score`).
    """
    said = after_thinking(answer)[-KEPT:]
    pattern = rf"{re.escape(heading)}[^:\n]{{0,200}}:[\s*]{{0,99}}(?=[1-5](?![0-9]|\.[0-9]))"
    found = list(re.finditer(pattern, said, flags=re.IGNORECASE))
    if not found or not stands_alone(said, found[-1].end(), DIGITS[0], DIGITS[-1]):
        return None
    return len(answer) - len(said) + found[-1].end()


def token_at(vlm: QwenVL, tokens: Sequence[int], place: int) -> int:
    """Index of the token that holds character ``place`` of the text of ``tokens``."""
    low, high = 0, len(tokens) - 1
    while low < high:
        middle = (low + high) // 2
        if len(vlm.text(tokens[: middle + 1])) > place:
            high = middle
        else:
            low = middle + 1
    return low


class VideoScore2Scorer(VLMScorer):
    """All three axes from one answer; see :class:`~reelrl.rewards.vlm.shared.VLMScorer`."""

    axes = tuple(HEADINGS)
    own_template = OWN_TEMPLATE
    published_template = "VS2_QUERY_TEMPLATE in VideoScore2's vs2_inference.py"

    def score_queries(self, queries: Sequence[Query]) -> Tensor:
        """(n, 3) expected scores in [1, 5]."""
        answers = self.vlm.generate(queries, MAX_NEW_TOKENS)
        places = [self._places(answer) for answer in answers]
        hidden, ids = self.vlm.hidden(queries, answers)
        scores = hidden.new_full((len(queries), len(self.axes)), math.nan, dtype=torch.float32)
        digits = [self.vlm.single_tokens([str(s), f" {s}"]) for s in DIGITS]
        for row, (answer, found) in enumerate(zip(answers, places, strict=True)):
            # The state before a token is the one that predicts it; answers end at the right edge
            # of their own row, after the padding of shorter ones.
            start = self._start(ids, answers, row) - 1
            for column, place in enumerate(found):
                if place is not None and answer:
                    state = hidden[row, start + place]
                    logits = self.vlm.model.lm_head(state)[None]
                    scores[row, column] = expected_score(logits, digits)[0]
        return scores

    def _places(self, answer: Sequence[int]) -> list[int | None]:
        text = self.vlm.text(answer)
        found = [digit_place(text, heading) for heading in HEADINGS.values()]
        return [None if at is None else token_at(self.vlm, answer, at) for at in found]

    @staticmethod
    def _start(ids: Tensor, answers: Sequence[Sequence[int]], row: int) -> int:
        """Where the answer of a row begins: rows are padded on the left and end together."""
        return ids.shape[1] - len(answers[row])


@register_reward("videoscore2")
class VideoScore2(VLMReward):
    """VideoScore2, mean of its three expected scores in [1, 5]."""

    name = "videoscore2"
    bounds = (1.0, 5.0)
    license = "Apache-2.0, and the folder's own licence"
    formula = "Σ s p_s / Σ p_s over the digits s = 1..5; overall: the mean of the three"
    source = "He et al. 2025 (VideoScore2), with the expectation in place of the likeliest digit"
    weights = "TIGER-Lab/VideoScore2"
    memory_gb = 16.0
    scorer_type = VideoScore2Scorer


@register_reward("videoscore2_visual")
class VideoScore2Visual(VideoScore2):
    """VideoScore2 visual quality, expected score in [1, 5]."""

    name, axis = "videoscore2_visual", "visual"


@register_reward("videoscore2_alignment")
class VideoScore2Alignment(VideoScore2):
    """VideoScore2 text-to-video alignment, expected score in [1, 5]."""

    name, axis = "videoscore2_alignment", "alignment"


@register_reward("videoscore2_physics")
class VideoScore2Physics(VideoScore2):
    """VideoScore2 physical and common-sense consistency, expected score in [1, 5]."""

    name, axis = "videoscore2_physics", "physics"

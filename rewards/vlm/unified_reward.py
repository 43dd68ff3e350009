"""UnifiedReward 2.0: a model that writes an alignment, a physics and a style score from 1 to 5.

A score s becomes (s - 1) / 4; one that is missing or out of [1, 5] is ``nan`` (Wang et al. 2025,
CodeGoat24/UnifiedReward, ``point_score_APS_video_generation.py``). Qwen2.5-VL folders only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reelrl.rewards.answers import named_score
from reelrl.rewards.base import register_reward
from reelrl.rewards.vlm.model import Query
from reelrl.rewards.vlm.shared import VLMReward, VLMScorer

MAX_NEW_TOKENS = 256
LOW, HIGH = 1.0, 5.0

OWN_TEMPLATE = """Judge this generated video against its caption, each axis from 1 to 5.
<caption>{prompt}</caption>
Alignment is how well the content fits the caption, physics how possible the motion is, style how
good it looks whatever the caption says. Answer with exactly these lines, a number in place of x:
Alignment Score (1-5): x
Physics Score (1-5): x
Style Score (1-5): x
"""


class UnifiedRewardScorer(VLMScorer):
    """All three axes from one answer; see :class:`~reelrl.rewards.vlm.shared.VLMScorer`."""

    axes = ("alignment", "physics", "style")
    own_template = OWN_TEMPLATE
    published_template = "`problem` in UnifiedReward's point_score_APS_video_generation.py"
    num_frames = 16

    def score_queries(self, queries: Sequence[Query]) -> Tensor:
        """(n, 3) scores in [0, 1]."""
        texts = [self.vlm.text(answer) for answer in self.vlm.generate(queries, MAX_NEW_TOKENS)]
        scores = [[named_score(text, axis, LOW, HIGH) for axis in self.axes] for text in texts]
        return (torch.tensor(scores, dtype=torch.float32, device="cpu") - LOW) / (HIGH - LOW)


@register_reward("unified_reward")
class UnifiedReward(VLMReward):
    """UnifiedReward 2.0, mean of alignment, physics and style in [0, 1]."""

    name = "unified_reward"
    bounds = (0.0, 1.0)
    license = "Apache-2.0 AND MIT"
    formula = "(s - 1) / 4 of each written score s; overall: their mean"
    source = "CodeGoat24/UnifiedReward, version 2.0, pointwise video prompt"
    weights = "CodeGoat24/UnifiedReward-2.0-*"
    memory_gb = 16.0
    scorer_type = UnifiedRewardScorer


@register_reward("unified_reward_alignment")
class UnifiedRewardAlignment(UnifiedReward):
    """UnifiedReward 2.0 alignment with the caption in [0, 1]."""

    name, axis = "unified_reward_alignment", "alignment"


@register_reward("unified_reward_physics")
class UnifiedRewardPhysics(UnifiedReward):
    """UnifiedReward 2.0 physical plausibility in [0, 1]."""

    name, axis = "unified_reward_physics", "physics"


@register_reward("unified_reward_style")
class UnifiedRewardStyle(UnifiedReward):
    """UnifiedReward 2.0 style, whatever the caption says, in [0, 1]."""

    name, axis = "unified_reward_style", "style"

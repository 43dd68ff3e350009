"""UnifiedReward: parsing, the map to [0, 1], and the tiny model."""

import math

import pytest

from reelrl.rewards import make_reward
from reelrl.rewards.vlm.model import QwenVL
from reelrl.rewards.vlm.unified_reward import OWN_TEMPLATE

ANSWER = "Alignment Score (1-5): 2.5\nPhysics Score (1-5): 5\nStyle Score (1-5): 1.0\n"
NAMES = [f"unified_reward_{axis}" for axis in ("alignment", "physics", "style")]


class Scripted(QwenVL):
    def generate(self, queries, max_new_tokens):
        return [self.tokenizer(self.script, add_special_tokens=False)["input_ids"]] * len(queries)


def components(folder, script):
    made = [make_reward(n, model=folder, template=OWN_TEMPLATE) for n in ["unified_reward", *NAMES]]
    vlm = Scripted.from_pretrained(folder)
    vlm.script = script
    made[0].scorer.__dict__["vlm"] = vlm
    return made


def test_scores_are_mapped_and_averaged(qwen2_5_vl, random_clips):
    clips = random_clips(2)
    made = components(qwen2_5_vl, ANSWER)
    values = [reward(clips, ["a", "b"]).values.tolist() for reward in made]
    assert values == [[pytest.approx(v)] * 2 for v in (0.375 + 0.083333333 + 0, 0.375, 1.0, 0.0)]


@pytest.mark.parametrize(
    "script",
    ["", "Physics Score (1-5): 3", ANSWER.replace("2.5", "6"), ANSWER.replace("2.5", "nan")],
)
def test_what_cannot_be_read_is_masked(qwen2_5_vl, random_clips, script):
    total, alignment, *_ = components(qwen2_5_vl, script)
    assert not alignment(random_clips(1), ["a"]).valid.any()
    assert not total(random_clips(1), ["a"]).valid.any()


def test_the_real_loading_path(qwen2_5_vl, random_clips, monkeypatch):
    monkeypatch.setattr("reelrl.rewards.vlm.unified_reward.MAX_NEW_TOKENS", 8)
    reward = make_reward("unified_reward", model=qwen2_5_vl, template=OWN_TEMPLATE, clip_fps=8.0)
    output = reward(random_clips(2), ["a", "b"])
    assert type(reward.scorer.vlm.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert not output.valid.any() and math.isnan(output.values[0])

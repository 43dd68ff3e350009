"""VideoScore2: the expectation in closed form, the place of the digit, and the tiny model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards import make_reward
from reelrl.rewards.vlm.model import QwenVL
from reelrl.rewards.vlm.videoscore2 import (
    OWN_TEMPLATE,
    VideoScore2Scorer,
    digit_place,
    expected_score,
    token_at,
)

DIGITS = [[0], [1], [2], [3], [4, 5]]
ANSWER = """<think>At first visual quality: 1 it seemed.</think>
(1) visual quality – clarity, smoothness, artifacts: 3
(2) text-to-video alignment – fidelity to the prompt: **4**
(3) Physical/common-sense consistency: 2
"""


def logits_of(*shares, rest=0.0):
    return torch.tensor([[*shares, rest]], dtype=torch.float64).log()


def test_expectation_in_closed_form():
    # digits 1..4, 5 and " 5" as two tokens, all else
    logits = logits_of(0.1, 0.0, 0.0, 0.3, 0.2, 0.2, rest=0.2)
    assert float(expected_score(logits, DIGITS)) == pytest.approx((0.1 + 4 * 0.3 + 5 * 0.4) / 0.8)


def test_an_unsure_four_beats_a_sure_two():
    """The released argmax times share has it the other way round."""
    unsure = logits_of(0.0, 0.0, 0.3, 0.4, 0.3, 0.0, rest=0.0)
    sure = logits_of(0.0, 0.9, 0.1, 0.0, 0.0, 0.0, rest=0.0)
    assert expected_score(unsure, DIGITS) > expected_score(sure, DIGITS)
    assert 4 * 0.4 < 2 * 0.9


@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), st.integers(0, 3))
def test_moving_probability_up_never_lowers_the_score(shares, digit):
    before = torch.tensor([shares], dtype=torch.float64).log()
    shares[digit + 1] += shares[digit] / 2
    shares[digit] /= 2
    after = torch.tensor([shares], dtype=torch.float64).log()
    ids = [[i] for i in range(5)]
    assert expected_score(after, ids) >= expected_score(before, ids) - 1e-6


def test_without_mass_there_is_no_score():
    assert expected_score(logits_of(0.1, 0.1, 0.1, 0.1, 0.05, 0.0, rest=0.55), DIGITS).isnan()


def test_the_last_digit_after_thinking_counts():
    found = [
        digit_place(ANSWER, heading)
        for heading in (
            "visual quality",
            "text-to-video alignment",
            "physical/common-sense consistency",
        )
    ]
    assert [ANSWER[at] for at in found] == ["3", "4", "2"]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "visual quality: 7",
        "visual quality: 35",
        "<think>visual quality: 3",
        "visual quality is 3",
        "visual quality: 3.5",
    ],
)
def test_what_is_no_digit_from_1_to_5_is_none(said):
    assert digit_place(said, "visual quality") is None


def plant(words):
    """Make a model say ``words`` whatever it sees: only the position decides the next token."""

    def change(model, tokenizer):
        ids = [*tokenizer(words, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert len(set(ids)) <= len(ids)
        model.planted = ids

    return change


class Scripted(QwenVL):
    """The tiny model, with an answer put into its mouth; scores still come from its own logits."""

    def generate(self, queries, max_new_tokens):
        return [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in self.script]


@pytest.fixture
def scripted(qwen2_5_vl, monkeypatch):
    def make(*script):
        vlm = Scripted.from_pretrained(qwen2_5_vl)
        vlm.script = script
        scorer = VideoScore2Scorer(qwen2_5_vl, template=OWN_TEMPLATE)
        scorer.__dict__["vlm"] = vlm
        return scorer

    return make


def test_scores_are_read_before_the_digit_of_each_row(scripted, random_clips):
    """Answers of different lengths, against one row at a time and the full logits."""
    short = "visual quality: 2\ntext-to-video alignment: 5\n"
    scorer = scripted(ANSWER, short)
    vlm = scorer.vlm
    # So that the digits hold the mass: nothing else is likely.
    digits = [vlm.single_tokens([str(s)]) for s in range(1, 6)]
    head = vlm.model.lm_head.weight.data
    keep = [row for ids in digits for row in ids]
    others = torch.ones(len(head), dtype=torch.bool)
    others[keep] = False
    head[others] = head[others] * 0.01
    head[keep] *= 5
    clips = random_clips(2)
    got = scorer(clips, ["a", "a longer caption"])
    for row, (text, clip, caption) in enumerate(
        zip((ANSWER, short), clips, ("a", "a longer caption"), strict=True)
    ):
        from reelrl.rewards.answers import fill
        from reelrl.rewards.vlm.model import Query

        query = Query(
            (scorer.frames(clip[None])[0],), fill(OWN_TEMPLATE, caption), rates=(4 / 6 * 16,)
        )
        tokens = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        inputs = vlm.inputs([query], [tokens])
        with torch.no_grad():
            logits = vlm.model(**inputs).logits[0].float()
        start = inputs["input_ids"].shape[1] - len(tokens)
        for column, heading in enumerate(
            ("visual quality", "text-to-video alignment", "physical/common-sense consistency")
        ):
            at = digit_place(text, heading)
            if at is None:
                assert got[row, column].isnan()
                continue
            place = len(vlm.tokenizer(text[:at], add_special_tokens=False)["input_ids"])
            share = logits[start + place - 1].softmax(-1)
            mass = torch.stack([share[ids].sum() for ids in digits])
            if mass.sum() < 0.5:
                assert got[row, column].isnan()
            else:
                expected = (mass * torch.arange(1, 6)).sum() / mass.sum()
                assert float(got[row, column]) == pytest.approx(float(expected), abs=1e-3)
    assert got.isfinite().any() and got[1, 2].isnan()


def test_token_of_a_character(qwen2_5_vl):
    vlm = QwenVL.from_pretrained(qwen2_5_vl)
    text = "yes – 3 no"
    tokens = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vlm.text([tokens[token_at(vlm, tokens, text.index("3"))]]) == "3"
    assert token_at(vlm, tokens, 0) == 0


def test_a_model_that_talks_nonsense_is_masked(qwen2_5_vl, random_clips, monkeypatch):
    monkeypatch.setattr("reelrl.rewards.vlm.videoscore2.MAX_NEW_TOKENS", 12)
    reward = make_reward("videoscore2", model=qwen2_5_vl, template=OWN_TEMPLATE)
    output = reward(random_clips(3), ["a"] * 3)
    assert not output.valid.any() and output.values.isnan().all()
    assert math.isclose(reward.bounds[1], 5)

"""A saved reward model scores what its head would, and shares its backbone."""

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.soli.backbone import queries_of
from reelrl.rewards.soli.folder import (
    read_facts,
)
from reelrl.rewards.soli.heads import HEADS
from reelrl.rewards.vlm.shared import open_backbone

CAPTIONS = ["a red circle", "a very much longer caption about a square", "x"]


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_the_reward_is_the_head_on_the_tapped_states(name, make_reward_model, random_clips):
    folder, head = make_reward_model(name)
    clips = random_clips(3)
    reward = make_reward("soli_reward", model=folder, batch_size=2)
    output = reward(clips, CAPTIONS)
    assert reward.name == "soli_reward_phys" and output.valid.all()
    for clip, caption, value in zip(clips, CAPTIONS, output.values, strict=True):
        asked = queries_of(clip[None], [caption], read_facts(folder).question)
        expected = head(*reward.vlm.tapped(asked, (1, 2)))[0]
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)
    assert output.values.std() > 0


def test_clip_and_caption_both_count(make_reward_model, random_clips):
    folder, _ = make_reward_model()
    reward = make_reward("soli_reward", model=folder)
    clip = random_clips(1)
    plain = reward(clip, ["a"]).values
    assert not torch.isclose(reward(clip, ["b c d"]).values, plain, atol=1e-6)
    assert not torch.isclose(reward(clip.flip(1), ["a"]).values, plain, atol=1e-6)
    assert reward(clip[:0], []).values.shape == (0,)


def test_models_of_one_backbone_share_its_weights(make_reward_model):
    folder, _ = make_reward_model()
    first, second = (make_reward("soli_reward", model=folder) for _ in range(2))
    assert first.vlm is second.vlm
    assert first.vlm is open_backbone(folder.parent / "backbone")


def test_scores_are_cached_by_weights_question_and_backbone(make_reward_model, tmp_path):
    folder, _ = make_reward_model()
    reward = make_reward("soli_reward", model=folder)
    before = reward.fingerprint
    CachedReward(reward, tmp_path / "cache")
    assert make_reward("soli_reward", model=folder).fingerprint == before
    folder, _ = make_reward_model(seed=1)
    assert make_reward("soli_reward", model=folder).fingerprint != before
    other = make_reward("soli_reward", model=folder, dtype="bfloat16")
    assert "bfloat16" in other.fingerprint

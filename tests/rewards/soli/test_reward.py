"""A saved reward model scores what its head would, moves with its backbone, and refuses another."""

import json
import shutil

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.soli.backbone import open_backbone, queries_of
from reelrl.rewards.soli.folder import (
    FACTS,
    WEIGHTS,
    Question,
    content_digest,
    load_head,
    read_facts,
)
from reelrl.rewards.soli.heads import HEADS

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


def test_both_folders_can_move_together(make_reward_model, tmp_path, random_clips):
    folder, _ = make_reward_model()
    clips = random_clips(1)
    before = make_reward("soli_reward", model=folder)(clips, ["a"]).values
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, moved / folder.name)
    with pytest.raises(ValueError, match=r"which is not there; give backbone="):
        make_reward("soli_reward", model=moved / folder.name)
    shutil.copytree(tmp_path / "backbone", moved / "backbone")
    after = make_reward("soli_reward", model=str(moved / folder.name))(clips, ["a"]).values
    assert torch.equal(before, after)


def test_another_backbone_is_refused(make_reward_model, make_vlm):
    folder, _ = make_reward_model()

    def change(model, tokenizer):
        model.lm_head.weight[0, 0] += 1

    other = make_vlm("qwen2_5_vl", change=change)
    with pytest.raises(ValueError, match="is not the model that"):
        make_reward("soli_reward", model=folder, backbone=other)
    same = shutil.copytree(folder.parent / "backbone", folder.parent / "copy")
    assert content_digest(same) == content_digest(folder.parent / "backbone")
    assert make_reward("soli_reward", model=folder, backbone=same).backbone == same


def test_the_folder_is_read_as_it_was_written(make_reward_model):
    folder, head = make_reward_model("yes_logit", seed=3)
    facts = read_facts(folder)
    assert facts.head.name == "yes_logit" and facts.taps == (1, 2) and facts.dimension == "phys"
    loaded = load_head(folder, facts)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in head.state_dict().items())
    assert sorted(p.name for p in folder.iterdir()) == [WEIGHTS, FACTS]


def test_what_is_no_reward_model_says_so(make_reward_model, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        make_reward("soli_reward", model=tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no soli_reward\.json"):
        make_reward("soli_reward", model=tmp_path)
    folder, _ = make_reward_model()
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ValueError, match="another format than 1"):
        make_reward("soli_reward", model=folder)


def test_questions_are_checked_and_captions_inert(random_clips):
    with pytest.raises(ValueError, match=r"must hold \{prompt\}"):
        Question("Good?")
    with pytest.raises(ValueError, match="num_frames of at least 2"):
        Question("{prompt}", num_frames=1)
    clips = random_clips(1, frames=9)
    question = Question("{prompt}?", num_frames=3, clip_fps=18.0)
    (query,) = queries_of(clips, ["<|im_end|>"], question)
    assert query.text == "‹|im_end|›?" and query.rates == (6.0,)
    assert torch.equal(query.clips[0], clips[0, [0, 4, 8]])
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        queries_of(clips[:, :1], ["a"], question)


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

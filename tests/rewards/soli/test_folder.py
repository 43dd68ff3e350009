"""A reward model moves with its backbone, refuses another, and reads what it wrote."""

import json
import shutil

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.soli.folder import FACTS, WEIGHTS, content_digest, load_head, read_facts


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
    (same / "README.md").write_text("a card")
    (same / "record.json").write_text("{}")
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

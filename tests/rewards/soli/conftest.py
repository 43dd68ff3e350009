"""Reward models on a tiny random Qwen2.5-VL."""

from __future__ import annotations

import shutil

import pytest

from reelrl.rewards.judges.yes_no import NO, YES
from reelrl.rewards.soli.backbone import language_rows
from reelrl.rewards.soli.folder import Facts, Question, content_digest, save_reward_model
from reelrl.rewards.soli.heads import HeadConfig, make_head
from reelrl.rewards.vlm.model import QwenVL

QUESTION = Question("Is it good?\n{prompt}")


@pytest.fixture
def make_reward_model(qwen2_5_vl, tmp_path):
    """``make_reward_model("hpqa")``: (folder, head); ``tmp_path / "backbone"`` lies beside it."""

    def make(name="hpqa", seed=0):
        backbone, folder = tmp_path / "backbone", tmp_path / name
        shutil.copytree(qwen2_5_vl, backbone, dirs_exist_ok=True)
        vlm = QwenVL.from_pretrained(backbone)
        yes, no = language_rows(vlm, YES), language_rows(vlm, NO)
        config = HeadConfig(name, vlm.width, 2, yes=len(yes), no=len(no))
        head = make_head(config, seed)
        if name == "yes_logit":
            head.start_from(yes, no)
        facts = Facts("phys", config, (1, 2), QUESTION, "../backbone", content_digest(backbone))
        save_reward_model(folder, facts, head)
        return folder, head.eval()

    return make

"""VideoAlign on a tiny model of its class: head, tokens, statistics, both kinds of folder."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reelrl.rewards import list_rewards, make_reward
from reelrl.rewards.vlm._videoalign_model import VideoAlignModel, lora_scale, merge_lora
from reelrl.rewards.vlm.patches import PatchConfig, to_patches
from reelrl.rewards.vlm.videoalign import (
    AXES,
    OWN_TEMPLATE,
    PUBLISHED_STATISTICS,
    TOKENS,
    VideoAlign,
    VideoAlignScorer,
)

NAMES = [f"videoalign_{axis.lower()}" for axis in AXES]
CAPTIONS = ["a red circle", "a much longer caption about a blue square that moves up"]


@pytest.fixture(scope="module")
def folder(make_vlm):
    path = make_vlm("qwen2_vl", extra=TOKENS, model_class=VideoAlignModel)
    (path / "prompt_template.txt").write_text(OWN_TEMPLATE)
    return path


def test_names_are_registered():
    assert {"videoalign", *NAMES} <= set(list_rewards())


def test_scores_by_the_plain_model(folder, random_clips):
    """One clip at a time, without padding, straight from the published recipe."""
    clips = random_clips(2)
    model = VideoAlignModel.from_pretrained(folder).eval()
    scorer = VideoAlignScorer(folder)
    tokenizer = scorer.vlm.tokenizer
    expected = []
    for clip, caption in zip(clips, CAPTIONS, strict=True):
        frames = clip[[0, 2, 3, 5]]  # 6 frames at 16 fps: four, the least there may be
        pixels, grid = to_patches(frames[None], PatchConfig.from_folder(folder))
        text = OWN_TEMPLATE.replace("{prompt}", caption)
        tokens = grid[0] * grid[1] * grid[2] // 4
        chat = (
            f"<|im_start|>user\n<|vision_start|>{'<|video_pad|>' * tokens}<|vision_end|>{text}"
            "<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = tokenizer(chat, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = model.model(
                input_ids=ids,
                pixel_values_videos=pixels,
                video_grid_thw=torch.tensor([grid]),
                mm_token_type_ids=(ids == model.config.video_token_id).int() * 2,
            ).last_hidden_state
        row = []
        for axis, token in zip(AXES, TOKENS, strict=True):
            at = ids[0].tolist().index(tokenizer.convert_tokens_to_ids(token))
            mean, std = PUBLISHED_STATISTICS[axis]
            row.append((model.rm_head(states[0, at]).item() - mean) / std)
        expected.append(row)
    expected = torch.tensor(expected)
    for column, name in enumerate(NAMES):
        output = make_reward(name, model=folder)(clips, CAPTIONS)
        torch.testing.assert_close(output.values, expected[:, column], atol=1e-4, rtol=1e-4)
    overall = make_reward("videoalign", model=folder)(clips, CAPTIONS)
    torch.testing.assert_close(overall.values, expected.sum(dim=1), atol=1e-4, rtol=1e-4)


def test_components_share_model_and_forward_pass(folder, random_clips, monkeypatch):
    components = [make_reward(name, model=folder) for name in ["videoalign", *NAMES]]
    assert len({id(component.scorer) for component in components}) == 1
    calls = []
    scorer = components[0].scorer
    inner = scorer.score_queries
    monkeypatch.setattr(scorer, "score_queries", lambda q: calls.append(len(q)) or inner(q))
    clips = random_clips(3, seed=1)
    total, *parts = (c(clips, ["a"] * 3).values for c in components)
    assert calls == [3]
    torch.testing.assert_close(total, sum(parts))
    components[0](clips, ["a", "a", "b"])
    components[0](clips * 0.5, ["a", "a", "b"])
    assert calls == [3, 3, 3]  # another caption or another clip is another pass


def test_other_settings_are_another_scorer(folder):
    first, second = (make_reward("videoalign", model=folder, clip_fps=f) for f in (16.0, 8.0))
    assert first.scorer is not second.scorer
    assert first.fingerprint != second.fingerprint


def test_t31_constants_are_the_published_ones_unless_the_folder_has_its_own(folder, tmp_path):
    assert PUBLISHED_STATISTICS == {
        "VQ": (3.6757, 2.2476),
        "MQ": (1.1646, 1.3811),
        "TA": (2.8105, 2.5121),
    }
    copy = shutil.copytree(folder, tmp_path / "copy")
    facts = {
        "inference_config": {"MQ_mean": 0.5, "MQ_std": 2.0},
        "data_config": {"fps": 4.0, "num_frames": None, "max_frame_pixels": 999},
    }
    (copy / "model_config.json").write_text(json.dumps(facts))
    scorer = VideoAlignScorer(copy)
    assert scorer.statistics == PUBLISHED_STATISTICS | {"MQ": (0.5, 2.0)}
    assert (scorer.sample_fps, scorer.vlm.patches.max_pixels) == (4.0, 999)


def test_templates_are_checked(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must hold \{prompt\}"):
        VideoAlignScorer(folder, template="rate it")
    swapped = f"{{prompt}} {TOKENS[1]} {TOKENS[0]} {TOKENS[2]}"
    with pytest.raises(ValueError, match="once each, in order"):
        VideoAlignScorer(folder, template=swapped)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "prompt_template.txt").unlink()
    with pytest.warns(UserWarning, match="wording of our own"):
        VideoAlignScorer(copy)


def test_a_caption_with_a_reward_token_is_only_text(folder, random_clips):
    clips = random_clips(1)
    reward = make_reward("videoalign_vq", model=folder)
    # The angle brackets become others, so exactly three reward tokens are left.
    assert reward(clips, [f"a cat {TOKENS[0]} {{prompt}}"]).valid.all()


def test_a_still_is_no_clip(folder, random_clips):
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        make_reward("videoalign", model=folder)(random_clips(1, frames=1), ["a"])


@pytest.mark.parametrize("layout", ["now", "as published"])
def test_the_published_folder(make_vlm, tmp_path, random_clips, layout):
    """model.pth of a peft model, in either naming of transformers, is read with its adapters."""
    base = make_vlm("qwen2_vl", extra=TOKENS)
    plain = make_vlm("qwen2_vl", extra=TOKENS, model_class=VideoAlignModel)
    model = VideoAlignModel.from_pretrained(plain)
    torch.manual_seed(1)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
    state = {k: v.clone() for k, v in wrapped.state_dict().items()}
    if layout == "as published":
        state = {
            k.replace("model.model.language_model.", "model.model.").replace(
                "model.model.visual.", "model.visual."
            ): v
            for k, v in state.items()
        }
    folder = tmp_path / "VideoReward"
    (folder / "checkpoint-11352").mkdir(parents=True)
    torch.save(state, folder / "checkpoint-11352" / "model.pth")
    facts = {"peft_lora_config": {"lora_enable": True, "lora_r": 4, "lora_alpha": 12}}
    (folder / "model_config.json").write_text(json.dumps(facts))
    (folder / "prompt_template.txt").write_text(OWN_TEMPLATE)
    clips = random_clips(2)
    read = make_reward("videoalign", model=folder, base=str(base))(clips, CAPTIONS)

    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(plain / file, tmp_path / "merged")
    shutil.copy(plain / "video_preprocessor_config.json", tmp_path / "merged")
    (tmp_path / "merged" / "prompt_template.txt").write_text(OWN_TEMPLATE)
    expected = make_reward("videoalign", model=tmp_path / "merged")(clips, CAPTIONS)
    torch.testing.assert_close(read.values, expected.values, atol=1e-3, rtol=1e-3)
    before = make_reward("videoalign", model=plain, template=OWN_TEMPLATE)(clips, CAPTIONS)
    assert (before.values - expected.values).abs().max() > 0.05  # the adapters do something


def test_a_published_folder_needs_its_base(tmp_path):
    scorer = VideoAlignScorer(tmp_path, template=OWN_TEMPLATE)
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor checkpoint"):
        _ = scorer.vlm
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="needs base="):
        _ = scorer.vlm


def test_scores_hang_on_the_base_too(make_vlm, tmp_path):
    base = shutil.copytree(make_vlm("qwen2_vl", extra=TOKENS), tmp_path / "base")
    folder = tmp_path / "VideoReward"
    folder.mkdir()
    settings = {"model": folder, "base": str(base), "template": OWN_TEMPLATE}

    def fingerprint():
        return VideoAlign(**settings).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    pixels = base / "video_preprocessor_config.json"
    pixels.write_text(pixels.read_text().replace("1024", "512"))
    assert fingerprint() != before


def test_merging_adapters():
    w, a, b = torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])
    state = {
        "base_model.model.x.base_layer.weight": w,
        "base_model.model.x.base_layer.bias": w[0],
        "base_model.model.x.lora_A.default.weight": a,
        "base_model.model.x.lora_B.default.weight": b,
        "base_model.model.h.original_module.weight": w,
        "base_model.model.h.modules_to_save.default.weight": 2 * w,
    }
    merged = merge_lora(state, 0.5)
    assert set(merged) == {"x.weight", "x.bias", "h.weight"}
    assert merged["x.weight"].tolist() == [[2.5, 3.0], [0.0, 1.0]]
    assert torch.equal(merged["h.weight"], 2 * w)
    assert lora_scale({"lora_r": 4, "lora_alpha": 8}) == 2
    assert lora_scale({"lora_r": 4, "lora_alpha": 8, "use_rslora": True}) == 4
    with pytest.raises(ValueError, match="linear layers only"):
        merge_lora({"e.lora_embedding_A.default": w}, 1.0)


def test_a_pickle_with_code_is_not_run(make_vlm, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "checkpoint-1").mkdir()
    with open(tmp_path / "checkpoint-1" / "model.pth", "wb") as file:
        pickle.dump(Bomb(), file)
    base = make_vlm("qwen2_vl", extra=TOKENS)
    scorer = VideoAlignScorer(tmp_path, template=OWN_TEMPLATE, base=str(base))
    with pytest.raises(Exception):  # noqa: B017  (which one is torch's business)
        _ = scorer.vlm
    assert not (tmp_path / "ran").exists()

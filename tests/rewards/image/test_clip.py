"""Scores equal those of transformers' own processors and forward pass.

torchmetrics 1.9 has a CLIPScore too, which fails on transformers 5: it takes the model output of
``get_image_features`` for the embedding.
"""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from reelrl.envs.scoring import RewardList
from reelrl.rewards import make_reward, reward_class
from reelrl.rewards.base import RewardWarning

CLIP_NAMES = ("clip_score", "pick_score")


def images_of(videos):
    return [Image.fromarray((x * 255).round().byte().numpy()) for x in videos.flatten(0, 1)]


def logits_by_hand(kind, processor, folder, clips, **padding):
    """(N, F) logits of every frame for its caption, by the published recipe."""
    videos, prompts = clips
    model = kind.from_pretrained(folder).eval()
    pixels = processor.from_pretrained(folder)(images=images_of(videos), return_tensors="pt")
    texts = AutoTokenizer.from_pretrained(folder)(list(prompts), return_tensors="pt", **padding)
    with torch.no_grad():
        logits = model(**pixels, **texts).logits_per_image
    length = videos.shape[1]
    rows = logits.reshape(len(videos), length, len(prompts))
    return torch.stack([rows[n, :, n] for n in range(len(videos))])


def test_clip_score_equals_transformers(clip_folder, clips):
    videos, prompts = clips
    values = make_reward("clip_score", model=clip_folder)(videos, prompts).values
    logits = logits_by_hand(
        CLIPModel, CLIPImageProcessorPil, clip_folder, clips, padding=True, truncation=True
    )
    scale = CLIPModel.from_pretrained(clip_folder).logit_scale.exp()
    expected = (100 * (logits / scale).clamp_min(0)).mean(1)
    torch.testing.assert_close(values, expected.detach(), atol=0.05, rtol=0)
    assert values.std() > 0.3


def test_pick_score_equals_transformers(clip_folder, clips):
    values = make_reward("pick_score", model=clip_folder)(*clips).values
    expected = logits_by_hand(
        CLIPModel, CLIPImageProcessorPil, clip_folder, clips, padding=True, truncation=True
    )
    torch.testing.assert_close(values, expected.mean(1), atol=0.01, rtol=1e-3)


def test_siglip_score_equals_transformers(siglip_folder, clips):
    videos, _ = clips
    prompts = ["A red Circle moving right", "a blue square", "a fast circle"] * 2
    values = make_reward("siglip_score", model=siglip_folder)(videos, prompts).values
    logits = logits_by_hand(
        SiglipModel,
        SiglipImageProcessorPil,
        siglip_folder,
        (videos, [p.lower() for p in prompts]),
        padding="max_length",
        max_length=64,
    )
    torch.testing.assert_close(values, logits.sigmoid().mean(1), atol=2e-3, rtol=0)
    assert values.std() > 1e-3


def test_siglip_sees_lower_case_padded_to_the_full_length(siglip_folder):
    reward = make_reward("siglip_score", model=siglip_folder)
    tokens = reward.tokens(["A RED circle"])
    assert set(tokens) == {"input_ids"}
    assert tokens["input_ids"].shape == (1, 64)
    assert tokens["input_ids"][0, :4].tolist() == [2, 3, 5, 0]


def test_a_long_caption_is_cut_and_keeps_its_end_token(clip_folder):
    reward = make_reward("clip_score", model=clip_folder)
    with pytest.warns(RewardWarning, match="reads 77 tokens of a caption, got 1 of 2 captions"):
        ids = reward.tokens(["word " * 60, "short"])["input_ids"]
    assert ids.shape == (2, 77)
    assert ids[0, -1] == reward.tokenizer.eos_token_id
    reward.tokens(["word " * 60])  # told once: every warning is an error here


def test_the_processor_may_live_elsewhere(clip_folder, clips, tmp_path):
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="laion/CLIP-ViT-H-14"):
        make_reward("pick_score", model=tmp_path)
    reward = make_reward("pick_score", model=tmp_path, processor=clip_folder)
    same = make_reward("pick_score", model=clip_folder)
    assert torch.equal(reward(*clips).values, same(*clips).values)


@pytest.mark.parametrize("name", CLIP_NAMES)
def test_values_lie_in_the_bounds_and_do_not_depend_on_batches(clip_folder, clips, name):
    videos, prompts = clips
    reward = make_reward(name, model=clip_folder)
    whole = reward(videos, prompts).values
    low, high = reward.bounds
    assert ((whole >= low) & (whole <= high)).all()
    small = make_reward(name, model=clip_folder, batch_size=7)(videos, prompts).values
    torch.testing.assert_close(small, whole, atol=1e-4, rtol=1e-5)


def test_gradients_equal_finite_differences(clip_folder, clips):
    videos, prompts = clips
    reward = make_reward("pick_score", model=clip_folder, segments=2)
    point = videos[:2].clamp(0.05, 0.95).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(point, prompts[:2], [{}] * 2).sum(), point)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ends = [
            reward.score(point + s * direction, prompts[:2], [{}] * 2).sum() for s in (0.01, -0.01)
        ]
    assert (ends[0] - ends[1]).item() / 0.02 == pytest.approx(gradient.norm().item(), rel=0.05)
    assert all(not parameter.requires_grad for parameter in reward.module.parameters())


def test_half_precision_is_close(clip_folder, clips):
    full = make_reward("pick_score", model=clip_folder)(*clips).values
    half = make_reward("pick_score", model=clip_folder, dtype="bfloat16")
    assert half.module.dtype == torch.bfloat16
    values = half(*clips).values
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, full, atol=0.1, rtol=0.05)


def test_it_is_made_in_a_reward_list_from_a_plain_dictionary(clip_folder, clips):
    spec = {"name": "clip_score", "model": str(clip_folder), "segments": 4}
    values, valid = RewardList([json.loads(json.dumps(spec)), "sharpness"])(*clips, [{}] * 6)
    assert valid.all()
    assert values.shape == (6, 2)


def test_the_class_tells_all_about_itself_unbuilt():
    card = reward_class("pick_score")
    assert card.weights == "yuvalkirstain/PickScore_v1"
    assert card.memory_gb == 2.0
    assert card.differentiable

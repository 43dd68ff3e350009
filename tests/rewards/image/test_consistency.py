import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from reelrl.rewards import make_reward
from reelrl.rewards.image.consistency import consistency


def slow(features):
    """VBench's loop over one clip."""
    total, unit = 0.0, functional.normalize(features, dim=-1)
    for t in range(1, len(unit)):
        before = max(0.0, functional.cosine_similarity(unit[t - 1], unit[t], dim=0).item())
        first = max(0.0, functional.cosine_similarity(unit[0], unit[t], dim=0).item())
        total += (before + first) / 2
    return total / (len(unit) - 1)


def test_the_formula_equals_vbenchs_loop():
    features = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    expected = [slow(clip) for clip in features]
    assert consistency(features).tolist() == pytest.approx(expected, abs=1e-5)


def test_closed_forms():
    a, b = torch.eye(2)
    clips = torch.stack([torch.stack(x) for x in ([a, a, a], [a, b, a], [a, -a, a], [a, b, b])])
    assert consistency(clips).tolist() == [1, 0.25, 0.25, 0.25]


def test_subject_consistency_is_that_of_class_tokens(dino_folder, clips):
    videos, prompts = clips
    reward = make_reward("subject_consistency", model=dino_folder, batch_size=10)
    values = reward(videos, prompts).values
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    model = AutoModel.from_pretrained(dino_folder).eval()
    for video, value in zip(videos, values, strict=True):
        pixels = ((video - mean) / std).movedim(-1, 1)
        with torch.no_grad():
            tokens = model(pixel_values=pixels).last_hidden_state[:, 0]
        assert value.item() == pytest.approx(slow(tokens), abs=1e-4)
    assert ((values > 0) & (values < 1)).all()


def test_wide_frames_are_not_cropped(dino_folder):
    """Only the right end changes: a centre crop would not see it."""
    wide = torch.full((1, 2, 32, 80, 3), 0.5)
    wide[0, 1, :, 64:] = 1
    reward = make_reward("subject_consistency", model=dino_folder)
    assert reward(wide, ["a"]).values.item() < 0.9999


def check_still_single_and_noise(reward, clips):
    videos, prompts = clips
    still = videos[:, :1].expand(-1, 4, -1, -1, -1)
    values = reward(still, prompts).values
    torch.testing.assert_close(values, torch.ones(6), atol=1e-5, rtol=0)
    assert reward(still[:, :1], prompts).values.isnan().all()
    noise = torch.rand(6, 4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert (reward(noise, prompts).values < values).all()


def test_a_still_clip_has_one_a_single_frame_no_number_and_noise_less(
    clip_folder, dino_folder, clips
):
    check_still_single_and_noise(make_reward("subject_consistency", model=dino_folder), clips)
    check_still_single_and_noise(make_reward("background_consistency", model=clip_folder), clips)


def test_background_consistency_is_that_of_clips_pictures(clip_folder, clips):
    videos, prompts = clips
    from transformers import CLIPModel

    values = make_reward("background_consistency", model=clip_folder)(videos, prompts).values
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    model = CLIPModel.from_pretrained(clip_folder).eval()
    for video, value in zip(videos, values, strict=True):
        with torch.no_grad():
            pixels = ((video - mean) / std).movedim(-1, 1)
            features = model.get_image_features(pixel_values=pixels).pooler_output
        assert value.item() == pytest.approx(slow(features), abs=1e-4)

import math

import numpy as np
import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.proxies import (
    colour_alignment,
    colourfulness,
    motion,
    sharpness,
    visual_quality,
)
from reelrl.rewards.moving_shapes.world import COLOURS, sample_clips

PAIRS = {"proxy_vq": "fid", "proxy_mq": "phys", "proxy_ta": "align"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(rgb, frames=3, size=8):
    return torch.tensor(rgb).expand(1, frames, size, size, 3).clone()


@pytest.fixture(scope="module")
def clips():
    return sample_clips(12, seeded(2))


def test_motion_of_a_static_clip_is_zero():
    assert motion(flat((0.3, 0.6, 0.9))).tolist() == [0]
    assert motion(torch.rand(1, 1, 4, 4, 3)).tolist() == [0]


@pytest.mark.parametrize("step", [0.01, 0.05, 0.2])
def test_motion_of_a_clip_that_brightens(step):
    video = step * torch.arange(4).reshape(1, 4, 1, 1, 1).expand(1, 4, 8, 8, 3)
    assert motion(video).item() == pytest.approx(1 - math.exp(-step / 0.05), abs=1e-6)


def test_motion_of_uniform_noise():
    """The mean distance of two independent uniforms is 1/3."""
    noise = torch.rand(1, 9, 64, 64, 3, generator=seeded())
    assert -0.05 * math.log1p(-motion(noise.double()).item()) == pytest.approx(1 / 3, abs=0.01)


def test_sharpness_of_planes_is_zero():
    assert sharpness(flat((0.2, 0.5, 0.7))).item() == pytest.approx(0, abs=1e-6)
    ramp = torch.linspace(0, 1, 8).reshape(1, 1, 1, 8, 1).expand(1, 2, 8, 8, 3)
    assert sharpness(ramp).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("amplitude", [0.05, 0.25])
def test_sharpness_of_a_checkerboard(amplitude):
    """Centre and four neighbours of opposite sign: the Laplacian is +-8 amplitudes."""
    grid = torch.arange(10)
    board = 0.5 + amplitude * (1.0 - 2.0 * ((grid[:, None] + grid) % 2))
    video = board[None, None, :, :, None].expand(1, 2, 10, 10, 3)
    variance = 64 * amplitude**2
    assert sharpness(video).item() == pytest.approx(variance / (variance + 0.05), abs=1e-5)


def test_sharpness_of_white_noise():
    """Var = (16 + 4) sigma^2 / 3, the channels being independent."""
    noise = 0.5 + 0.1 * torch.randn(1, 9, 64, 64, 3, generator=seeded())
    variance = 20 * 0.01 / 3
    assert sharpness(noise).item() == pytest.approx(variance / (variance + 0.05), abs=0.01)


def test_colourfulness_of_grey_is_zero():
    grey = torch.rand(1, 3, 8, 8, 1, generator=seeded()).expand(1, 3, 8, 8, 3)
    assert colourfulness(grey).item() == pytest.approx(0, abs=1e-6)


def test_colourfulness_of_one_colour_is_its_offset():
    red, green, blue = 0.8, 0.2, 0.1
    metric = 0.3 * math.hypot(red - green, (red + green) / 2 - blue)
    expected = metric / (metric + 0.15)
    assert colourfulness(flat((red, green, blue))).item() == pytest.approx(expected, abs=1e-5)


def test_colourfulness_equals_numpy(clips):
    for video, value in zip(clips.videos[:3], colourfulness(clips.videos[:3]), strict=True):
        r, g, b = video.double().numpy().reshape(-1, 3).T
        rg, yb = r - g, (r + g) / 2 - b
        metric = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
        assert value.item() == pytest.approx(metric / (metric + 0.15), abs=1e-5)


@pytest.mark.parametrize("colour", COLOURS)
def test_colour_alignment_of_a_flood_is_the_maximum(colour):
    rgb = torch.tensor([COLOURS[colour]])
    length = min(float(rgb.norm()) / 0.8, 1)
    flood = flat(COLOURS[colour])
    expected = length / (length + 0.15)
    assert colour_alignment(flood, rgb).item() == pytest.approx(expected, abs=1e-5)


def test_colour_alignment_counts_pixels():
    rgb = torch.tensor([COLOURS["red"]])
    video = torch.zeros(1, 2, 10, 10, 3)
    video[:, :, :3] = rgb[0]
    assert colour_alignment(video, rgb).item() == pytest.approx(0.3 / 0.45, abs=1e-5)
    blue = torch.tensor([COLOURS["blue"]])
    assert colour_alignment(video, blue).item() == 0


def test_colour_alignment_equals_numpy(clips):
    rgb = torch.tensor([COLOURS[c.split()[1]] for c in clips.captions])
    for video, c, value in zip(clips.videos, rgb, colour_alignment(clips.videos, rgb), strict=True):
        x, c = video.double().numpy().reshape(-1, 3), c.double().numpy()
        length = np.linalg.norm(x, axis=-1)
        cosine = x @ c / (length * np.linalg.norm(c))
        s = (np.clip((cosine - 0.9) / 0.1, 0, 1) * np.clip(length / 0.8, 0, 1)).mean()
        assert value.item() == pytest.approx(s / (s + 0.15), abs=1e-5)


def test_visual_quality_is_half_and_half(clips):
    expected = (sharpness(clips.videos) + colourfulness(clips.videos)) / 2
    assert torch.equal(visual_quality(clips.videos), expected)
    values = make_reward("proxy_vq")(clips.videos, clips.captions).values
    assert torch.equal(values, expected)


@pytest.mark.parametrize(("name", "axis"), PAIRS.items())
@pytest.mark.parametrize("h", [0.0, 0.25, 0.5, 1.0])
def test_the_dial_blends_with_the_paired_gold_axis(clips, name, axis, h):
    hackable = make_reward(name)(clips.videos, clips.captions).values
    truth = getattr(gold_axes_of_prompts(clips.videos, clips.captions), axis)
    values = make_reward(name, hackability=h)(clips.videos, clips.captions).values
    assert torch.allclose(values, (1 - h) * truth + h * hackable, atol=1e-6)


@pytest.mark.parametrize("h", [-0.1, 1.1, math.nan])
def test_hackability_outside_the_unit_interval(h):
    with pytest.raises(ValueError, match=r"\[0, 1\], got"):
        make_reward("proxy_vq", hackability=h)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("h", [0.5, 1.0])
def test_proxies_are_bounded_split_invariant_and_without_gradient(clips, name, h):
    noise = torch.rand(4, 9, 32, 32, 3, generator=seeded())
    videos = torch.cat([clips.videos, noise]).requires_grad_()
    prompts = [*clips.captions, *clips.captions[:4]]
    reward = make_reward(name, hackability=h)
    whole = reward(videos, prompts).values
    assert not whole.requires_grad
    assert ((whole >= 0) & (whole <= 1)).all()
    for split in (1, 7):
        parts = [
            reward(videos[i : i + split], prompts[i : i + split]).values
            for i in range(0, len(videos), split)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_only_what_reads_the_caption_fails_on_a_foreign_one(clips):
    prompts = ["a dog", *clips.captions[1:3]]
    for name, h, valid in [
        ("proxy_vq", 1.0, True),
        ("proxy_mq", 0.5, True),
        ("proxy_ta", 1.0, False),
        ("proxy_ta", 0.5, False),
        ("proxy_ta", 0.0, False),
    ]:
        output = make_reward(name, hackability=h)(clips.videos[:3], prompts)
        assert output.valid.tolist() == [valid, True, True]

"""Somebody else's torch settings change no score."""

import pytest
import torch

from reelrl.envs.scoring import RewardList
from reelrl.rewards import make_reward
from reelrl.rewards.base import Reward
from reelrl.rewards.moving_shapes import sample_clips
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.spec import build_reward

SPECS = [
    *("gold", "gold_align", "proxy_vq", "proxy_mq", "proxy_ta", "sharpness", "tenengrad"),
    *("colourfulness", "exposure", "over_saturation", "high_frequency_ratio", "motion_magnitude"),
    *("temporal_flicker", "linear_smoothness", "acceleration", "dynamic_degree", "global_shake"),
    *("flow_warp_error", "jpeg_compressibility", "pairwise_distance", "vendi", "coin"),
    {"name": "gold", "transforms": [{"name": "miscalibrate", "cv": 0.5}, {"name": "sigmoid"}]},
    {"name": "gold", "transforms": [{"name": "noise", "std": 0.1}], "asynchronous": True},
    {"name": "ctrl_u", "of": "gold", "scale": 0.1},
    {"name": "ensemble", "of": ["gold", {"name": "gold", "label": "again"}]},
]


class Product(Reward):
    """A matrix product, which mixed precision would round to three digits."""

    name, bounds = "product", (0.0, 1.0)

    def score(self, videos, prompts, infos):
        flat = videos.flatten(1)
        return (flat @ flat.T / flat.shape[1]).diagonal()


def draw():
    return sample_clips(4, torch.Generator("cpu").manual_seed(3))


@pytest.fixture(params=["float64", "meta", "autocast"])
def ambient(request):
    before = torch.get_default_dtype()
    try:
        if request.param == "float64":
            torch.set_default_dtype(torch.float64)
            yield
        elif request.param == "meta":
            torch.set_default_device("meta")
            yield
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def expected():
    clips = draw()
    infos = [{"group_id": row // 2} for row in range(4)]
    rewards = [*(build_reward(spec) for spec in SPECS), Product()]
    return clips, infos, [reward(clips.videos, clips.captions, infos).values for reward in rewards]


@pytest.mark.parametrize("place", range(len(SPECS) + 1))
def test_scores_are_the_same(place, expected, ambient):
    clips, infos, values = expected
    reward = build_reward(SPECS[place]) if place < len(SPECS) else Product()
    found = reward(clips.videos, clips.captions, infos).values
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    assert torch.equal(found.nan_to_num(9), values[place].nan_to_num(9))


def test_a_list_of_rewards_scores_the_same(expected, ambient):
    clips, infos, values = expected
    found, valid = RewardList(["gold", "proxy_vq", Product()])(clips.videos, clips.captions, infos)
    assert torch.equal(found[:, 0], values[0]) and torch.equal(found[:, 2], values[-1])
    assert bool(valid.all())


def test_the_world_draws_the_same_clips(expected, ambient):
    clips, again = expected[0], draw()
    assert again.captions == clips.captions and torch.equal(again.videos, clips.videos)
    axes = gold_axes_of_prompts(again.videos, again.captions)
    assert axes.gold.dtype == torch.float32


def test_clips_of_double_precision_are_scored_in_single():
    clips = draw()
    reward = make_reward("gold")
    plain = reward(clips.videos, clips.captions).values
    assert torch.equal(reward(clips.videos.double(), clips.captions).values, plain)

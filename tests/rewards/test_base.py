import inspect
import subprocess
import sys

import pytest
import torch

from reelrl.rewards import (
    Reward,
    RewardOutput,
    list_rewards,
    make_reward,
    register_reward,
    reward_class,
)
from reelrl.rewards.base import REWARDS


class Brightness(Reward):
    """Mean pixel, for the tests."""

    name = "test_brightness"
    bounds = (0.0, 1.0)

    def score(self, videos, prompts, infos):
        return videos.flatten(1).mean(-1)


class BatchCentred(Brightness):
    """A component that mixes clips, as batch statistics do."""

    def score(self, videos, prompts, infos):
        values = videos.flatten(1).mean(-1)
        return values - values.mean()


def required(card):
    """Arguments that have no default."""
    return [
        parameter.name
        for parameter in inspect.signature(card).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]


def clips(count=3, value=0.5):
    return torch.full((count, 2, 4, 4, 3), value)


def test_scores_and_mask():
    output = Brightness()(clips(), ["a"] * 3)
    assert output.values.dtype == torch.float32
    assert output.values.tolist() == [0.5] * 3
    assert output.valid.tolist() == [True] * 3


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_non_finite_clip_is_nan_and_spoils_no_other(poison):
    videos = clips()
    videos[1, 1, 2, 3, 0] = poison
    output = BatchCentred()(videos, ["a"] * 3)
    assert output.valid.tolist() == [True, False, True]
    assert output.values[1].isnan()
    assert output.values[[0, 2]].isfinite().all()


def test_opposite_infinities_do_not_cancel():
    videos = clips(1)
    videos[0, 0, 0, 0] = torch.tensor([torch.inf, -torch.inf, 0])
    assert not Brightness()(videos, ["a"]).valid.any()


def test_no_gradient_flows():
    videos = clips().requires_grad_()
    assert not Brightness()(videos, ["a"] * 3).values.requires_grad


def test_the_input_is_left_alone():
    videos = clips()
    videos[0] = torch.nan
    before = videos.clone()
    Brightness()(videos, ["a"] * 3)
    assert torch.equal(videos, before) or torch.equal(videos.isnan(), before.isnan())
    assert videos[0].isnan().all()


@pytest.mark.parametrize(
    ("videos", "actual"),
    [
        (torch.zeros(2, 4, 4, 3), "(2, 4, 4, 3)"),
        (torch.zeros(2, 3, 2, 4, 4), "(2, 3, 2, 4, 4)"),
        (torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_wrong_videos_name_expected_and_actual(videos, actual):
    with pytest.raises(ValueError) as error:
        Brightness()(videos, ["a"] * 2)
    assert "(N, F, H, W, 3) in [0, 1]" in str(error.value)
    assert actual in str(error.value)


@pytest.mark.parametrize(
    ("frame", "pixel", "found"), [(0, 200.0, "[0.5, 200]"), (1, -1.0, "[-1, 0.5]")]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pixels_out_of_range_are_named(frame, pixel, found, dtype):
    videos = clips().to(dtype)
    videos[2, frame, 0, 0, 0] = pixel
    videos[1, 0, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    with pytest.raises(ValueError, match="divide bytes by 255") as error:
        Brightness()(videos, ["a"] * 3)
    assert f"expected pixels in [0, 1], got {found}" in str(error.value)


def test_a_little_overshoot_is_scored():
    for level in (-0.1, 1.1):
        assert Brightness()(clips(1, level), ["a"]).values.item() == pytest.approx(level)


def test_where_no_clip_is_left_nothing_is_asked():
    class Picky(Brightness):
        def score(self, videos, prompts, infos):
            raise AssertionError("asked")

    output = Picky()(clips(2, torch.nan), ["a"] * 2)
    assert output.valid.tolist() == [False, False]
    empty = Picky()(clips(0), [])
    assert empty.values.shape == empty.valid.shape == (0,)
    assert empty.values.dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [n for n in list_rewards() if not reward_class(n).weights and not required(reward_class(n))],
)
def test_an_empty_batch_has_no_scores(name):
    output = make_reward(name)(torch.zeros(0, 5, 32, 32, 3), [])
    assert output.values.shape == output.valid.shape == (0,)


def test_wrong_counts_are_named():
    with pytest.raises(ValueError, match="3 videos, 2 prompts and 3 infos"):
        Brightness()(clips(), ["a"] * 2)
    with pytest.raises(ValueError, match="3 videos, 3 prompts and 1 infos"):
        Brightness()(clips(), ["a"] * 3, [{}])


def test_a_component_that_returns_the_wrong_shape_is_caught():
    class Scalar(Brightness):
        def score(self, videos, prompts, infos):
            return videos.mean()

    with pytest.raises(ValueError, match=r"must return shape \(3,\), got \(\)"):
        Scalar()(clips(), ["a"] * 3)


def test_output_refuses_a_made_up_number():
    yes, no = torch.tensor([True]), torch.tensor([False])
    with pytest.raises(ValueError, match="finite exactly where valid"):
        RewardOutput(torch.tensor([0.0]), no)
    with pytest.raises(ValueError, match="finite exactly where valid"):
        RewardOutput(torch.tensor([torch.nan]), yes)
    with pytest.raises(ValueError, match="must be bool"):
        RewardOutput(torch.tensor([0.0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="one shape"):
        RewardOutput(torch.zeros(2), yes)


def test_output_of_masks_infinities():
    output = RewardOutput.of(torch.tensor([1.0, torch.inf, torch.nan]))
    assert output.valid.tolist() == [True, False, False]
    assert output.values[1:].isnan().all()


def test_registry_round_trip():
    with REWARDS.isolated(lambda entry: False):
        register_reward("test_brightness")(Brightness)
        assert list_rewards() == ["test_brightness"]
        assert isinstance(make_reward("test_brightness"), Brightness)
        register_reward("test_brightness")(Brightness)
        with pytest.raises(ValueError, match="taken"):
            register_reward("test_brightness")(BatchCentred)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'gold_fid'\? Known: .*proxy_vq"):
        make_reward("gold_fidd")
    with pytest.raises(ValueError, match=r"unknown reward 'zzz'; known: .*gold, .*proxy_vq"):
        make_reward("zzz")


@pytest.mark.parametrize("name", list_rewards())
def test_every_registered_reward_declares_itself(name):
    card = reward_class(name)
    assert card.name == name
    assert card.bounds[0] < card.bounds[1]
    assert card.license and card.formula and card.source
    assert (card.__doc__ or "").strip()
    assert (card.memory_gb > 0) == bool(card.weights)
    if not card.weights and not required(card):
        assert name in repr(make_reward(name))


def test_a_reward_without_its_weights_says_where_they_should_be():
    for name in list_rewards():
        if reward_class(name).weights and not required(reward_class(name)):
            with pytest.raises((FileNotFoundError, ImportError), match=r"no local copy of|torch"):
                make_reward(name)


def test_names_are_registered_without_the_libraries_of_models():
    code = (
        "import sys, reelrl.rewards; "
        "assert 'clip_score' in reelrl.rewards.list_rewards(); "
        "heavy = {'transformers', 'torchvision', 'diffusers', 'huggingface_hub', 'PIL'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_a_finite_batch_is_scored_without_a_copy():
    seen = []

    class Look(Brightness):
        def score(self, videos, prompts, infos):
            seen.append(videos.data_ptr())
            return super().score(videos, prompts, infos)

    videos = clips()
    Look()(videos, ["a"] * 3)
    assert seen == [videos.data_ptr()]


def test_a_component_that_writes_into_the_clips_is_caught():
    class Writer(Brightness):
        def score(self, videos, prompts, infos):
            return super().score(videos.clamp_(0.6, 1), prompts, infos)

    with pytest.raises(ValueError, match=r"'test_brightness' must leave .* got writes into them"):
        Writer()(clips(), ["a"] * 3)
    with torch.inference_mode():
        assert Brightness()(clips(), ["a"] * 3).valid.all()  # where torch does not count

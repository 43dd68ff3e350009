import pytest
import torch

from reelrl.rewards import Reward, RewardOutput, list_rewards, make_reward, register_reward
from reelrl.rewards.base import registered_reward


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
    assert "(N, F, H, W, 3)" in str(error.value)
    assert actual in str(error.value)


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


def test_registry_round_trip(monkeypatch):
    monkeypatch.setattr("reelrl.rewards.base._REGISTRY", {})
    register_reward("test_brightness")(Brightness)
    assert list_rewards() == ["test_brightness"]
    assert isinstance(make_reward("test_brightness"), Brightness)
    register_reward("test_brightness")(Brightness)
    with pytest.raises(ValueError, match="taken"):
        register_reward("test_brightness")(BatchCentred)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'gold_fid'\? Known: .*proxy_vq"):
        make_reward("gold_fidd")
    with pytest.raises(ValueError, match=r"unknown reward 'zzz'\. Known: "):
        make_reward("zzz")


def test_every_registered_reward_declares_itself():
    for name in list_rewards():
        kind = registered_reward(name)
        assert kind.name == name
        assert kind.bounds[0] < kind.bounds[1]
        assert kind.license
        assert (kind.__doc__ or "").strip()


def test_a_component_names_itself():
    assert "gold" in repr(make_reward("gold")) and "(0, 1)" in repr(make_reward("gold"))

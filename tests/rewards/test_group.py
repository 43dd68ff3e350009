import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional

from reelrl.envs.scoring import RewardList
from reelrl.envs.wrappers import VectorAddReward
from reelrl.rewards import make_reward
from reelrl.rewards.group import (
    GroupReward,
    cosines,
    group_rows,
    layout,
    mean_distance,
    vendi_score,
)
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward

NAMES = ("pairwise_distance", "vendi")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_vendi(features):
    x = features.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(x @ x.T / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def slow_distance(features):
    x = features.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [1 - x[i] @ x[j] for i in range(len(x)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else 0.0


def test_vendi_counts_distinct_clips():
    eye = torch.eye(5)
    assert vendi_score(cosines(eye)).item() == pytest.approx(5, rel=1e-5)
    assert vendi_score(cosines(eye[[0] * 5])).item() == pytest.approx(1, abs=1e-4)
    assert vendi_score(cosines(eye[[0, 0, 1, 1]])).item() == pytest.approx(2, rel=1e-4)
    two = np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))
    assert vendi_score(cosines(eye[[0, 0, 1]])).item() == pytest.approx(two, rel=1e-4)


def test_sets_equal_a_slow_loop():
    features = torch.randn(3, 6, 4, generator=seeded())
    kernel = cosines(features)
    for one, vendi, distance in zip(
        features, vendi_score(kernel), mean_distance(kernel), strict=True
    ):
        assert vendi.item() == pytest.approx(slow_vendi(one), rel=1e-4)
        assert distance.item() == pytest.approx(slow_distance(one), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_marginals_equal_leaving_out_one_by_one(name):
    reward = make_reward(name)
    features = torch.randn(5, 7, generator=seeded())
    worth = {
        "vendi": lambda x: slow_vendi(x) / len(x),
        "pairwise_distance": slow_distance,
    }[name]
    for i, value in enumerate(reward.marginals(features)):
        rest = torch.cat([features[:i], features[i + 1 :]])
        assert value.item() == pytest.approx(worth(features) - worth(rest), abs=1e-4)
    torch.testing.assert_close(
        reward.marginals(features), GroupReward.marginals(reward, features), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_odd_one_out_has_the_most_credit_and_twins_share_theirs(name):
    clips = sample_clips(3, seeded()).videos
    group = clips[[0, 0, 0, 1]]
    values = make_reward(name)(group, ["a"] * 4).values
    assert values.argmax() == 3
    assert values[3] > 0 > values[0]
    torch.testing.assert_close(values[:3], values[:1].expand(3), atol=1e-5, rtol=0)
    low, high = make_reward(name).bounds
    assert ((values >= low) & (values <= high)).all()


@pytest.mark.parametrize("name", NAMES)
def test_groups_in_one_batch_do_not_see_each_other(name):
    clips = sample_clips(9, seeded()).videos
    reward = make_reward(name)
    ids = [5, 2, 5, 2, 2, 5, 7, 7, 1]
    infos = [{"prompt_id": i} for i in ids]
    mixed = reward(clips, ["same text"] * 9, infos).values
    for group in (2, 5, 7):
        rows = [row for row, i in enumerate(ids) if i == group]
        alone = reward(clips[rows], [""] * len(rows)).values
        torch.testing.assert_close(mixed[rows], alone, atol=1e-6, rtol=1e-4)
    assert mixed[8].isnan()


def test_the_key_of_a_group():
    assert group_rows(["a", "b", "a"], [{}, {}, {}]) == [[0, 2], [1]]
    assert group_rows(["a"] * 3, [{"prompt_id": 4}, {"prompt_id": 3}, {"prompt_id": 4}]) == [
        [0, 2],
        [1],
    ]
    twice = [{"prompt_id": 4, "group_id": g} for g in (0, 1, 0)]
    assert group_rows(["a"] * 3, twice) == [[0, 2], [1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_clip_is_no_member_of_its_set(name):
    clips = sample_clips(4, seeded()).videos
    broken = clips.clone()
    broken[1, 0, 0, 0, 0] = torch.nan
    output = make_reward(name)(broken, ["a"] * 4)
    rest = make_reward(name)(clips[[0, 2, 3]], ["a"] * 3)
    assert output.valid.tolist() == [True, False, True, True]
    torch.testing.assert_close(output.values[[0, 2, 3]], rest.values)


@pytest.mark.parametrize(
    "around",
    [
        lambda name: build_reward({"name": name, "transforms": [{"name": "scale", "by": 1}]}),
        lambda name: build_reward({"name": name, "asynchronous": True}),
        lambda name: make_reward(
            "ensemble", of=[name, {"name": name, "label": "again"}], how="mean"
        ),
        lambda name: make_reward("ctrl_u", of=name, scale=1e9),
    ],
    ids=["transformed", "asynchronous", "ensemble", "ctrl_u"],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_clip_is_no_member_of_its_set_in_a_wrapper(name, around):
    clips = sample_clips(4, seeded()).videos
    clips[1, 0, 0, 0, 0] = torch.nan
    output, plain = (reward(clips, ["a"] * 4) for reward in (around(name), make_reward(name)))
    assert output.valid.tolist() == [True, False, True, True]
    torch.testing.assert_close(output.values, plain.values, equal_nan=True, atol=1e-5, rtol=0)


def test_a_group_reward_that_returns_nonsense_beside_a_broken_clip_is_caught():
    class Short(Spread):
        def score(self, videos, prompts, infos):
            return super().score(videos, prompts, infos)[:-1]

    clips = torch.rand(3, 2, 4, 4, 3)
    clips[1] = torch.nan
    with pytest.raises(ValueError, match=r"must return shape \(2,\), got \(1,\)"):
        Short()(clips, ["a"] * 3)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_equal_flat_clips_are_as_alike_as_equal_textured_ones(name, level):
    flat = torch.full((4, 9, 32, 32, 3), level)
    textured = sample_clips(1, seeded()).videos.expand(4, -1, -1, -1, -1)
    reward = make_reward(name)
    one, other = (reward(clips, ["a"] * 4).values for clips in (flat, textured))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    worth = {"pairwise_distance": 0.0, "vendi": 1 / 4}[name]
    whole = reward.worth(flat, ["a"] * 4, [{}] * 4)
    torch.testing.assert_close(whole, torch.full((4,), worth), atol=1e-4, rtol=0)


def test_a_flat_clip_is_unlike_a_textured_one():
    clips = sample_clips(2, seeded()).videos
    clips = torch.cat([torch.full_like(clips, 0.3), clips])
    kernel = cosines(layout(clips))
    textured = functional.cosine_similarity(*layout(clips[2:]), dim=0).item()
    rows = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, textured], [0, 0, textured, 1]]
    expected = torch.tensor(rows, dtype=torch.float32)
    torch.testing.assert_close(kernel, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_beside_flat_clips_are_finite(name):
    clips = sample_clips(4, seeded()).videos
    clips[:2] = 0.3
    clips.requires_grad_()
    make_reward(name).score(clips, ["a"] * 4, [{}] * 4)[3].backward()
    assert clips.grad.isfinite().all()
    assert clips.grad[3].abs().max() > 0 and not clips.grad[:2].any()


def test_layout_is_blind_to_brightness_and_to_contrast_by_its_cosine():
    clips = sample_clips(2, seeded()).videos
    same = layout(0.2 + 0.5 * clips)
    torch.testing.assert_close(same, 0.5 * layout(clips), atol=1e-5, rtol=1e-4)


def test_layout_averages_cells_of_spread_frames():
    clips = torch.rand(2, 40, 32, 48, 3, generator=seeded())
    frames = clips[:, [round(i * 39 / 15) for i in range(16)]]
    cells = frames.reshape(2, 16, 16, 2, 16, 3, 3).mean(dim=(3, 5)).mT
    expected = (cells - cells.mean(dim=(1, 2, 4), keepdim=True)).flatten(1)
    torch.testing.assert_close(layout(clips), expected, atol=1e-5, rtol=1e-4)
    assert layout(torch.rand(2, 3, 5, 7, 3)).shape == (2, 3 * 3 * 5 * 7)


def test_worth_is_that_of_the_set_and_the_marginals_of_a_mean_over_pairs_sum_to_zero():
    clips = sample_clips(5, seeded()).videos
    prompts = ["a", "a", "b", "a", "b"]
    distance = make_reward("pairwise_distance")
    worth = distance.worth(clips, prompts, [{}] * 5)
    expected = slow_distance(layout(clips[[0, 1, 3]]))
    assert worth[[0, 1, 3]].tolist() == pytest.approx([expected] * 3, rel=1e-4)
    assert distance(clips, prompts).values[[0, 1, 3]].sum().item() == pytest.approx(0, abs=1e-5)
    share = make_reward("vendi").worth(clips, prompts, [{}] * 5)[2].item()
    assert share == pytest.approx(slow_vendi(layout(clips[[2, 4]])) / 2, rel=1e-4)


class Spread(GroupReward):
    """A utility of one's own: the range of mean brightness."""

    name, bounds = "spread", (-1.0, 1.0)

    def embed(self, videos):
        return videos.flatten(1).mean(1, keepdim=True)

    def utility(self, features):
        return features.amax((-2, -1)) - features.amin((-2, -1))


def test_a_group_reward_of_ones_own():
    levels = torch.tensor([0.1, 0.5, 0.9])
    videos = levels[:, None, None, None, None].expand(-1, 2, 4, 4, 3)
    values = Spread()(videos, ["a"] * 3).values
    torch.testing.assert_close(values, torch.tensor([0.4, 0.0, 0.4], dtype=torch.float32))


def test_they_work_in_the_reward_list_beside_others():
    clips = sample_clips(6, seeded())
    infos = [{"prompt_id": i} for i in (0, 0, 0, 1, 1, 1)]
    values, valid = RewardList(["vendi", "sharpness"])(clips.videos, clips.captions, infos)
    assert valid.all()
    alone = make_reward("vendi")(clips.videos[:3], ["a"] * 3).values
    torch.testing.assert_close(values[:3, 0], alone, atol=1e-6, rtol=1e-4)


def test_they_work_in_the_batched_environment():
    env = gym.make_vec(
        "reelrl:reelrl/MovingShapes-v0",
        num_envs=4,
        num_steps=1,
        autoreset_mode="Disabled",
    )
    env = VectorAddReward(env, "vendi")
    observation, _ = env.reset(seed=0, options={"prompt_id": [3, 3, 9, 9]})
    _, rewards, ended, _, infos = env.step(0.5 * observation["latent"])
    assert ended.all()
    videos = torch.as_tensor(np.stack(infos["video"])).float() / 255
    alone = make_reward("vendi")(videos[:2], ["", ""]).values
    np.testing.assert_allclose(rewards[:2, -1], alone, atol=0.02)
    env.close()

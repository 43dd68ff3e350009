import math

import pytest
import torch

from reelrl.rewards.image.frames import FrameReward


class Brightness(FrameReward):
    """Mean pixel of a frame, times the number of letters of its prompt."""

    name, bounds = "test_frame_brightness", (0.0, 100.0)
    calls = 0

    def load(self, folder):
        return torch.nn.Identity()

    def embed_prompts(self, prompts):
        type(self).calls += len(prompts)
        return torch.tensor([[float(len(prompt))] for prompt in prompts])

    def score_frames(self, frames, texts):
        assert len(frames) <= self.batch_size
        return frames.flatten(1).mean(1) * texts[:, 0]


def rising(count=2, length=12):
    """Frame t of clip n has the level (t + 100 n) / 1000."""
    level = (torch.arange(length) + 100.0 * torch.arange(count)[:, None]) / 1000
    return level[..., None, None, None].expand(-1, -1, 4, 4, 3)


def build(folder, **config):
    return Brightness(folder, **config)


def score(reward, videos, prompts=None):
    return reward(videos, prompts or ["a"] * len(videos)).values


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_by_default_every_frame_counts_the_same(tmp_path, batch_size):
    values = score(build(tmp_path, batch_size=batch_size), rising())
    assert values.tolist() == pytest.approx([0.0055, 0.1055])


def test_every_clip_is_scored_with_its_own_caption_and_each_caption_embedded_once(tmp_path):
    Brightness.calls = 0
    values = score(build(tmp_path, batch_size=5), rising(3), ["aa", "b", "aa"])
    assert values.tolist() == pytest.approx([0.011, 0.1055, 0.411])
    assert Brightness.calls == 2


def blank(count, length):
    return torch.zeros(count, length, 1, 1, 3)


@pytest.mark.parametrize(
    ("segments", "frames"), [(4, [1, 4, 7, 10]), (1, [5]), (5, [0, 2, 5, 7, 10])]
)
def test_without_a_seed_the_middle_of_each_segment(tmp_path, segments, frames):
    reward = build(tmp_path, segments=segments)
    assert reward.deterministic
    chosen = reward.frames_of(blank(2, 12))
    assert chosen.shape == (2, segments)
    edges = [12 * i // segments for i in range(segments + 1)]
    for i, t in enumerate(chosen[0].tolist()):
        assert edges[i] <= t < edges[i + 1]
        assert abs(t - (edges[i] + edges[i + 1] - 1) / 2) <= 0.5


def test_with_a_seed_every_frame_of_a_segment_has_its_turn(tmp_path):
    reward = build(tmp_path, segments=4, seed=0)
    clips = torch.rand(400, 12, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    chosen = reward.frames_of(clips)
    for i in range(4):
        share = torch.bincount(chosen[:, i], minlength=12) / 400
        assert share[3 * i : 3 * i + 3].sum() == 1
        assert (share[3 * i : 3 * i + 3] > 0.25).all()
    assert not torch.equal(chosen, build(tmp_path, segments=4, seed=1).frames_of(clips))


def test_the_frames_of_a_clip_do_not_hang_on_what_was_scored_before(tmp_path):
    """A run that is taken up again, and one on several processes, draws the same frames."""
    clips = torch.rand(8, 12, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    reward = build(tmp_path, segments=4, seed=0)
    whole = reward.frames_of(clips)
    assert torch.equal(whole, reward.frames_of(clips))
    assert torch.equal(whole[5:6], build(tmp_path, segments=4, seed=0).frames_of(clips[5:6]))
    assert reward.deterministic
    assert torch.equal(score(reward, clips)[5:6], score(reward, clips[5:6]))
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        build(tmp_path, segments=4, seed=-1)


def test_more_segments_than_frames_are_all_frames(tmp_path):
    assert (
        build(tmp_path, segments=40, seed=0).frames_of(blank(2, 5)).tolist()
        == [[0, 1, 2, 3, 4]] * 2
    )


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_attenuation_is_instruct_videos(tmp_path, rate, normalise):
    reward = build(tmp_path, segments=4, lambda_per_frame=rate, normalise=normalise)
    frames = reward.frames_of(blank(1, 12))[0].tolist()
    weights = [math.exp(-rate * abs(g - 6)) for g in frames]
    total = sum(w * g / 1000 for w, g in zip(weights, frames, strict=True))
    expected = total / (sum(weights) if normalise else 4)
    assert score(reward, rising(1)).item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_long_clip_do_not_underflow_to_nothing(tmp_path):
    """The nearest frame of four is 125 from the middle of 1001: e^-125 is 0 in float32."""
    reward = build(tmp_path, segments=4, lambda_per_frame=1.0)
    frames = reward.frames_of(blank(1, 1001))
    weights = reward.weights_of(frames, 1001)
    slow = [math.exp(-abs(g - 500.5)) for g in frames[0].tolist()]
    expected = [w / math.fsum(slow) for w in slow]
    assert weights[0].tolist() == pytest.approx(expected, abs=1e-6)
    level = torch.full((1, 1001, 1, 1, 3), 0.5)
    assert score(reward, level).item() == pytest.approx(0.5)


def test_weights_that_are_not_normalised_pull_towards_zero(tmp_path):
    class Warm(Brightness):
        bounds = (10.0, 100.0)

    assert Warm(tmp_path).bounds == (10.0, 100.0)
    reward = Warm(tmp_path, lambda_per_frame=1.0, normalise=False)
    value = score(reward, torch.full((1, 12, 4, 4, 3), 1.0), ["a" * 20]).item()
    assert reward.bounds == (0.0, 100.0) and 0 < value < 10
    Warm.bounds = (-9.0, -3.0)
    assert Warm(tmp_path, normalise=False).bounds == (-9.0, 0.0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"segments": 0}, "segments must be positive or None, got 0"),
        ({"lambda_per_frame": -1}, "lambda_per_frame must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_bad_arguments(tmp_path, config, words):
    with pytest.raises(ValueError, match=words):
        build(tmp_path, **config)


def test_weights_that_are_not_there():
    with pytest.raises(FileNotFoundError, match="no local copy of"):
        build("no/such-model")

"""The adversarial reward: its formulas written out, learning, and the road of its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reelrl.rewards import make_reward
from reelrl.rewards.cache import CachedReward
from reelrl.rewards.image.adversarial import discriminator_loss, initial_head, realness
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.spec import build_reward


@pytest.fixture
def folder(dinov2_folder):
    return dinov2_folder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generated(count=8, seed=0, attack="faint grid"):
    """Clips with a grid hardly to be seen, as bytes, and their captions."""
    clips = sample_clips(count, generator(seed))
    videos = ATTACKS[attack].generate(clips, generator(seed))
    return (videos * 255).round().to(torch.uint8), clips.captions


def slow_score(reward, videos):
    """The formula frame by frame, on the encoder's own forward."""
    hidden, out = nn.Linear(32, 512), nn.Linear(512, 1)
    for layer, name in ((hidden, "hidden"), (out, "out")):
        layer.weight.data = reward.head[f"{name}.weight"]
        layer.bias.data = reward.head[f"{name}.bias"]
    scores = []
    for clip in videos:
        frames = []
        for frame in clip:
            pixels = reward.transform(frame[None])
            tokens = reward.module(pixel_values=pixels).last_hidden_state[0]
            d = [out(nn.functional.gelu(hidden(t / t.norm()))) for t in tokens]
            frames.append(0.7 * d[0] + 0.3 * sum(d[1:]) / 16)
        scores.append(sum(frames) / len(frames))
    return torch.cat(scores).detach()


def test_the_score_is_the_formula(folder):
    videos, captions = generated(3)
    reward = make_reward("adversarial", model=folder)
    expected = slow_score(reward, videos.float() / 255)
    values = reward(videos.float() / 255, captions).values
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    assert values.std() > 1e-4
    # What rounding to bytes hides from a viewer is hidden from the head.
    shaken = (videos.float() / 255 + 0.001).clamp(0, 1)
    assert torch.equal(reward(shaken, captions).values, reward(shaken * 1.0001, captions).values)


def test_the_loss_is_the_hinge_of_both_kinds_of_tokens():
    real = torch.tensor([[0.5, 2.0, -1.0], [1.5, 0.0, 0.0]])
    fake = torch.tensor([[-2.0, 1.0, -3.0], [0.25, 0.0, 0.0]])
    image = ((0.5 + 0.0) / 2 + (0.0 + 1.25) / 2) / 2
    patch = ((0 + 2 + 1 + 1) / 4 + (2 + 0 + 1 + 1) / 4) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(image + 0.3 * patch)


def test_a_new_head_is_that_of_its_seed_alone():
    before = torch.get_rng_state()
    first, second = initial_head(32, 1), initial_head(32, 2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], initial_head(32, 1)[k]) for k in first)
    assert not torch.equal(first["out.weight"], second["out.weight"])
    assert realness(first, torch.randn(4, 3, 32, generator=generator())).shape == (4, 3)


def test_it_learns_to_tell_real_clips_from_generated_ones(folder):
    reward = make_reward("adversarial", model=folder, learning_rate=1e-3)
    history = [reward.adapt(*generated(8, seed), generator(seed)) for seed in range(12)]
    # Measured on each rollout before it is learned from, so on clips never seen.
    assert history[0]["accuracy"] < 0.7
    assert np.mean([m["accuracy"] for m in history[-4:]]) > 0.9
    assert history[-1]["loss"] < history[0]["loss"] and reward.version == 12
    fake, captions = generated(16, 99)
    real = sample_clips(16, generator(100))
    worth = [
        reward(v, c).values for v, c in ((real.videos, real.captions), (fake / 255.0, captions))
    ]
    assert (worth[0][:, None] > worth[1]).float().mean() > 0.85


def test_rounds_are_decided_by_state_clips_and_generator(folder):
    state = torch.get_rng_state()
    straight, broken = (make_reward("adversarial", model=folder, updates=2) for _ in range(2))
    for seed in range(4):
        straight.adapt(*generated(3, seed), generator(seed))
    for seed in range(2):
        broken.adapt(*generated(3, seed), generator(seed))
    saved = {name: tensor.clone() for name, tensor in broken.state_dict().items()}
    other = make_reward("adversarial", model=folder, updates=2, seed=5)
    other.load_state_dict(saved)
    for seed in range(2, 4):
        other.adapt(*generated(3, seed), generator(seed))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in straight.state_dict().items())
    assert other.version == 4 and other.fingerprint == straight.fingerprint
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="state of reward 'adversarial' must have the shapes"):
        other.load_state_dict({"version": torch.tensor(1)})


def test_a_state_without_adams_moments_would_not_do(folder):
    """The planted fault of the test above."""
    straight, other = (make_reward("adversarial", model=folder, updates=2) for _ in range(2))
    straight.adapt(*generated(3), generator())
    state = straight.state_dict()
    other.load_state_dict({k: v * 0 if ".exp_avg" in k else v for k, v in state.items()})
    for reward in (straight, other):
        reward.adapt(*generated(3, 1), generator(1))
    assert straight.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "change", [{"segments": 2}, {"lambda_per_frame": 0.5}, {"normalise": False}]
)
def test_what_frames_count_is_in_the_fingerprint(folder, change):
    plain, other = (make_reward("adversarial", model=folder, **c) for c in ({}, change))
    assert plain.fingerprint != other.fingerprint
    assert other.fingerprint == make_reward("adversarial", model=folder, **change).fingerprint


def test_the_encoder_is_never_touched(folder):
    reward = make_reward("adversarial", model=folder)
    before = {name: tensor.clone() for name, tensor in reward.module.state_dict().items()}
    reward.adapt(*generated(2), generator())
    assert all(torch.equal(before[k], v) for k, v in reward.module.state_dict().items())


def test_kept_scores_are_of_one_version(folder, tmp_path):
    reward = make_reward("adversarial", model=folder)
    kept = CachedReward(reward, tmp_path)
    videos, captions = generated(2)
    first = kept(videos / 255.0, captions).values
    reward.adapt(videos, captions, generator())
    second = kept(videos / 255.0, captions).values
    assert not torch.equal(first, second)
    assert torch.equal(second, reward(videos / 255.0, captions).values)


def test_reference_clips_of_ones_own(folder, tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((5, 8, 8, 3), 80 * i, dtype=np.uint8))
    spec = {"name": "adversarial", "model": str(folder), "real": str(tmp_path), "segments": 2}
    reward = build_reward({**spec, "transforms": [{"name": "sigmoid"}], "label": "real"})
    assert reward.bounds == (0.0, 1.0)
    metrics = reward.of.adapt(
        torch.zeros(4, 3, 8, 8, 3, dtype=torch.uint8), ["anything"] * 4, generator()
    )
    assert metrics["loss"] > 0
    values = reward(torch.zeros(2, 3, 8, 8, 3), ["a", "b"]).values
    assert ((values > 0) & (values < 1)).all()


def test_bad_arguments(folder):
    with pytest.raises(ValueError, match="must be positive, got 0 and"):
        make_reward("adversarial", model=folder, updates=0)
    reward = make_reward("adversarial", model=folder)
    with pytest.raises(ValueError, match=r"unknown word 'dim'.*for other prompts give real="):
        reward.adapt(torch.zeros(1, 5, 8, 8, 3, dtype=torch.uint8), ["dim"], generator())

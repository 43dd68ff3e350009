import pytest
import torch

from reelrl.envs.models.base import VideoModel
from reelrl.envs.sampling import NOISE_SEEDS, euler_ode, initial_noise

SHAPE = (2, 3, 4, 4)


class PointMass(VideoModel):
    """Exact velocity of data that is one clip, (x - target) / sigma; prompt "i" is target i."""

    def __init__(self):
        self.calls = 0

    def encode(self, prompts):
        return torch.tensor([float(p or 0) for p in prompts]).reshape(-1, 1, 1)

    def velocity(self, latent, sigma, embedding):
        self.calls += 1
        return (latent - embedding[..., None, None]) / sigma[:, None, None, None, None]

    def decode(self, latent):
        raise NotImplementedError

    def latent_shape(self, num_frames, height, width):
        return SHAPE


def test_noise_depends_on_its_own_seed_alone():
    alone = initial_noise(SHAPE, [7])
    together = initial_noise(SHAPE, [3, 7, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[2])


def test_euler_reaches_a_point_mass_exactly():
    model = PointMass()
    embedding = model.encode(["2", "-1"])
    clip = euler_ode(model, embedding, initial_noise(SHAPE, [0, 1]), num_steps=7, shift=3.0)
    torch.testing.assert_close(clip, embedding[..., None, None].expand_as(clip), atol=1e-5, rtol=0)


def test_guidance_extrapolates_and_costs_one_forward():
    model = PointMass()
    latent, sigma = initial_noise(SHAPE, [0]), torch.tensor([0.5])
    embedding = model.encode(["1"])
    plain = model.guided(latent, sigma, embedding, 1.0)
    empty = model.guided(latent, sigma, model.encode([""]), 1.0)
    model.calls = 0
    guided = model.guided(latent, sigma, embedding, 2.5)
    assert model.calls == 1
    torch.testing.assert_close(guided, empty + 2.5 * (plain - empty))


def test_a_seed_that_would_repeat_the_noise_of_another_is_refused():
    last = initial_noise(SHAPE, [NOISE_SEEDS - 1])
    assert not torch.equal(last, initial_noise(SHAPE, [0]))
    for seed in (NOISE_SEEDS, NOISE_SEEDS + 5, -1):
        with pytest.raises(ValueError, match=rf"must be in \[0, {NOISE_SEEDS}\), got {seed}"):
            initial_noise(SHAPE, [seed])

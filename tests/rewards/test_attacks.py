import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes import world
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.parser import Parsed
from reelrl.rewards.moving_shapes.world import sample_clips

PROXIES = ("proxy_vq", "proxy_mq", "proxy_ta")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clips():
    return sample_clips(48, seeded(11))


@pytest.fixture(scope="module")
def clean_proxies(clips):
    return {name: proxy_mean(name, clips.videos, clips) for name in PROXIES}


def proxy_mean(name, videos, clips):
    return make_reward(name)(videos, clips.captions).values.mean().item()


def gold_mean(videos, clips):
    return gold_axes_of_prompts(videos, clips.captions).gold.mean().item()


@pytest.mark.parametrize("name", ATTACKS)
def test_gold_sees_through_it_and_the_proxies_rise(clips, clean_proxies, name):
    attack = ATTACKS[name]
    videos = attack.generate(clips, seeded(1))
    gold = gold_mean(videos, clips)
    if attack.kind == "clean":
        assert gold >= attack.gold
    elif attack.gold is not None:
        assert gold <= attack.gold
    else:
        assert 0.4 < gold < 0.9
    for proxy in attack.hacks:
        assert proxy_mean(proxy, videos, clips) > clean_proxies[proxy] + 0.01


def test_the_bounds_are_the_promised_ones():
    for name, attack in ATTACKS.items():
        if name in ("noise σ=.25", "flicker", "colour flood", "static checkerboard", "teleport"):
            assert attack.gold == 0.05
        elif name == "blur":
            assert attack.gold == 0.70
        elif attack.kind == "attack":
            assert attack.gold == 0.40
    assert ATTACKS["clean"].gold == 0.97
    assert sum(attack.kind == "invented" for attack in ATTACKS.values()) >= 4


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_clips_made_by_their_generator_alone(clips, name):
    before = clips.videos.clone()
    first = ATTACKS[name].generate(clips, seeded(3))
    assert first.shape == clips.videos.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, ATTACKS[name].generate(clips, seeded(3)))
    assert torch.equal(clips.videos, before)
    if name != "clean":
        changed = (first != clips.videos).flatten(1).any(-1)
        assert changed.all()


@pytest.mark.parametrize(
    ("name", "decibel"), [("+noise 30 dB", 30.0), ("+smooth error 26 dB", 26.0)]
)
def test_degradations_have_the_stated_strength(clips, name, decibel):
    # On mid-grey nothing is clipped, so the strength is exact.
    grey = world.Clips(
        torch.full_like(clips.videos, 0.5),
        clips.captions,
        clips.middle,
        clips.velocity,
        clips.radius,
    )
    error = (ATTACKS[name].generate(grey, seeded()) - 0.5).square().mean()
    assert -10 * torch.log10(error).item() == pytest.approx(decibel, abs=0.1)


def test_a_scorer_without_permanence_of_shape_would_fail(clips, monkeypatch):
    """The planted fault: physics that only asks for presence lets a morphing shape through."""
    videos = ATTACKS["shape morph"].generate(clips, seeded(1))
    assert gold_mean(videos, clips) <= 0.40
    honest = Parsed.__init__

    def blind(self, *args):
        honest(self, *args)
        object.__setattr__(self, "frame_shapes", self.shape[:, None].expand_as(self.areas))

    monkeypatch.setattr(Parsed, "__init__", blind)
    assert gold_mean(videos, clips) > 0.40


def test_a_scorer_without_the_radius_prior_would_fail(clips, monkeypatch):
    """The planted fault: redrawing at any radius lets a grown object through."""
    videos = ATTACKS["big object"].generate(clips, seeded(1))
    assert gold_mean(videos, clips) <= 0.40
    monkeypatch.setattr("reelrl.rewards.moving_shapes.gold.RADIUS_RANGE", (4.0, 60.0))
    assert gold_mean(videos, clips) > 0.40


def test_a_scorer_without_the_worlds_ground_would_fail(clips, monkeypatch):
    videos = ATTACKS["bright ground"].generate(clips, seeded(1))
    assert gold_mean(videos, clips) <= 0.40
    monkeypatch.setattr("reelrl.rewards.moving_shapes.gold.BACKGROUND", 0.3)
    assert gold_mean(videos, clips) > 0.40

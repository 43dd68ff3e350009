"""The model card measures what it says it measures."""

import math

import pytest
import torch

from reelrl.envs.models import WanVideoModel
from reelrl.rewards.moving_shapes.gold import E0, gold_axes
from reelrl.rewards.moving_shapes.world import BACKGROUND, caption_to_factors, sample_clips
from reelrl.zoo.benchmark.truth import evaluation_captions
from reelrl.zoo.documents.nano_page import factor_table, hits, round_trip, table
from reelrl.zoo.shipped.nano.measurement import ScoredClips


def evaluation(videos, captions):
    return ScoredClips(
        videos, captions, gold_axes(videos, [caption_to_factors(c) for c in captions])
    )


def clean(count=48):
    return sample_clips(count, torch.Generator().manual_seed(3))


def test_every_factor_of_clean_clips_is_a_hit():
    clips = clean()
    shares = {
        k: v.float().mean().item()
        for k, v in hits(evaluation(clips.videos, clips.captions)).items()
    }
    assert shares == {"colour": 1, "shape": 1, "direction": 1, "speed": 1}


def test_a_wrong_caption_is_a_miss_of_that_factor_alone():
    clips = clean()
    swap = {"red": "blue", "blue": "red"}
    captions = [" ".join(swap.get(word, word) for word in c.split()) for c in clips.captions]
    right = hits(evaluation(clips.videos, captions))
    changed = torch.tensor([a != b for a, b in zip(captions, clips.captions, strict=True)])
    assert changed.any() and torch.equal(right["colour"], ~changed)
    assert right["shape"].all() and right["speed"].all()


def test_factor_table_has_a_row_per_value():
    clips = clean(192)
    assert (
        len(factor_table(evaluation(clips.videos, clips.captions)).splitlines())
        == 2 + 6 + 3 + 4 + 3
    )


class Lossy:
    """Encodes nothing and adds a constant error."""

    encode_video = staticmethod(lambda videos: videos)
    decode = staticmethod(lambda latent: latent + 0.01)


def test_round_trip_psnr_is_the_closed_form():
    videos, decibel = round_trip(Lossy(), clean(5))
    assert videos.shape[0] == 5 and abs(decibel - 40) < 1e-3


def test_e0_is_calibrated_on_the_shipped_vae():
    """Its docstring: 33 dB asked for, and clean clips keep fid 0.9 through the VAE."""
    energy = (clean(2048).videos - BACKGROUND).square().flatten(1).mean(1).sqrt().median()
    assert float(energy) == pytest.approx(0.136, abs=3e-3)
    asked = -20 * math.log10(0.46 * E0 * float(energy))
    assert asked == pytest.approx(33, abs=0.5)
    clips = clean(96)
    videos, decibel = round_trip(WanVideoModel.from_pretrained("nano"), clips)
    fid = evaluation(videos, clips.captions).scores.fid
    assert decibel > asked and float(fid.median()) >= 0.9


def test_evaluation_captions_are_balanced_and_fixed():
    first = evaluation_captions("compositional", 48)
    assert first == evaluation_captions("compositional", 48)
    assert {first.count(c) for c in first} == {2} and len(set(first)) == 24


def test_table_formats_floats_to_three_decimals():
    assert table(["a", "b"], [["x", 0.12345]]).splitlines()[-1] == "| x | 0.123 |"

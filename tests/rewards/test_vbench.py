import math

import pytest
import torch

from reelrl.rewards import RewardOutput, list_rewards
from reelrl.rewards.vbench import DIMENSIONS, QUALITY, SEMANTIC, aggregate, raw_scores

# Made up, near the middle of what models have.
SCORES = [0.96, 0.97, 0.99, 0.98, 0.62, 0.67, 0.65]
SCORES += [0.88, 0.74, 0.92, 0.88, 0.72, 0.33, 0.21, 0.24, 0.26]
RAW = dict(zip(DIMENSIONS, SCORES, strict=True))


def by_the_book(raw):
    """VBench's script with its constants typed off, missing dimensions and all."""
    low_high = {
        "subject_consistency": (0.1462, 1),
        "background_consistency": (0.2615, 1),
        "temporal_flickering": (0.6293, 1),
        "motion_smoothness": (0.706, 0.9975),
        "scene": (0, 0.8222),
        "appearance_style": (0.0009, 0.2855),
        "temporal_style": (0, 0.364),
        "overall_consistency": (0, 0.364),
    }
    value = {}
    for name in raw:
        low, high = low_high.get(name, (0, 1))
        value[name] = (raw[name] - low) / (high - low)
    value["dynamic_degree"] *= 0.5
    quality = sum(value[name] for name in list(raw)[:7]) / 6.5
    semantic = sum(value[name] for name in list(raw)[7:]) / 9
    return quality, semantic, (4 * quality + semantic) / 5


def test_sixteen_dimensions_make_vbenchs_total():
    score = aggregate(RAW)
    assert (score.quality, score.semantic, score.total) == pytest.approx(by_the_book(RAW))
    assert score.missing == ()
    assert len(QUALITY) == 7 and len(SEMANTIC) == 9


def test_missing_dimensions_are_named_and_not_averaged():
    raw = {k: v for k, v in RAW.items() if k not in ("imaging_quality", "dynamic_degree")}
    score = aggregate(raw)
    assert score.missing == ("imaging_quality", "dynamic_degree")
    expected = [aggregate(RAW).normalised[name] for name in list(QUALITY)[:5]]
    assert score.quality == pytest.approx(sum(expected) / 5)
    assert math.isnan(score.total)
    assert "over 5 of 7 dimensions" in str(score)
    assert "not measured: imaging_quality, dynamic_degree" in str(score)
    empty = aggregate({})
    assert math.isnan(empty.quality) and math.isnan(empty.semantic)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"physics": 0.5}, "VBench has no dimension 'physics'"),
        ({"scene": math.nan}, "the score of 'scene' must be finite, got nan"),
    ],
)
def test_nonsense_is_refused(raw, words):
    with pytest.raises(ValueError, match=words):
        aggregate(raw)


def test_our_components_become_raw_scores():
    outputs = {
        "aesthetic": RewardOutput.of(torch.tensor([5.0, 6.0])),
        "dynamic_degree": RewardOutput.of(torch.tensor([0.0, 0.0])),
        "raft_dynamic_degree": RewardOutput.of(torch.tensor([1.0, 0.0])),
        "sharpness": RewardOutput.of(torch.tensor([1.0, 0.0])),
    }
    assert raw_scores(outputs) == {
        "aesthetic_quality": pytest.approx(0.55),
        "dynamic_degree": 0.5,
    }


def test_a_clip_without_a_score_is_not_averaged_away():
    outputs = {"temporal_flicker": RewardOutput.of(torch.tensor([0.9, torch.nan]))}
    with pytest.raises(ValueError, match="1 of 2 clips have no score of 'temporal_flicker'"):
        raw_scores(outputs)


def test_every_component_named_is_registered():
    named = {name for d in DIMENSIONS.values() for name in d.rewards}
    assert named <= set(list_rewards())

"""The probe of artifacts: trained by its command, on a tiny encoder of either kind."""

from __future__ import annotations

import json

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.shipped.artifact_probe import HELD_OUT, TRAINED, fit, main, separation


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower["num_attention_heads"] = 2
    text = {**tower, "vocab_size": 8, "bos_token_id": 6, "eos_token_id": 7}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["dinov2_folder", "clip_folder"])
def trained(request):
    """A folder with an encoder and its probe."""
    folder = request.getfixturevalue(request.param)
    main(folder, clips=24)
    return folder


def test_it_prefers_clean_clips_of_another_seed(trained):
    reward = make_reward("artifact_free", model=trained)
    clips = sample_clips(12, torch.Generator().manual_seed(77))
    clean = reward(clips.videos, clips.captions).values
    assert ((clean > 0) & (clean < 1)).all()
    for attack in ("faint grid", "colour flood"):
        videos = ATTACKS[attack].generate(clips, torch.Generator().manual_seed(77))
        spoilt = reward(videos, clips.captions).values
        assert separation(clean, spoilt) > 0.9, attack
        assert clean.mean() > spoilt.mean() + 0.05


def test_the_record_says_what_it_tells_and_what_was_kept_from_it(trained):
    record = json.loads((trained / "artifact_head.json").read_text())
    assert set(record["trained"]) == set(TRAINED) and set(record["held_out"]) == set(HELD_OUT)
    assert not set(TRAINED) & set(HELD_OUT)
    # A random encoder is blind to most, and the record does not hide it.
    told = record["trained"]
    assert min(told["faint grid"], told["colour flood"]) > 0.8
    assert told["blur"] < 0.7


def test_training_again_gives_the_same_probe(trained, tmp_path):
    state = torch.get_rng_state()
    main(trained, out=tmp_path / "again.safetensors", clips=24)
    again = (tmp_path / "again.safetensors").read_bytes()
    assert again == (trained / "artifact_head.safetensors").read_bytes()
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_probe_it_says_how_to_get_one(trained, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no probe .*python -m reelrl\.zoo\.shipped\.artifact_probe"
    ):
        make_reward("artifact_free", model=trained, head=tmp_path / "none.safetensors")


def test_the_fit_is_where_the_gradient_vanishes():
    generator = torch.Generator().manual_seed(0)
    clean, spoilt = (torch.randn(40, 3, generator=generator) + shift for shift in (0.5, -0.5))
    probe = fit(clean, spoilt[:20], 0.01)
    features = torch.cat([clean, spoilt[:20]]).double()
    std = features.std(dim=0)
    # d/dw of the mean log loss of each class plus decay, by hand.
    miss = torch.sigmoid(-probe(clean).double())[:, None] * clean
    hit = torch.sigmoid(probe(spoilt[:20]).double())[:, None] * spoilt[:20]
    gradient = (hit.mean(dim=0) - miss.mean(dim=0)) / 2 + 2 * 0.01 * probe.weight * std**2
    assert gradient.abs().max() < 1e-4


def test_separation_is_the_share_of_pairs_in_order():
    clean, spoilt = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 5.0])
    pairs = [(c > s) + 0.5 * (c == s) for c in clean.tolist() for s in spoilt.tolist()]
    assert separation(clean, spoilt) == pytest.approx(sum(pairs) / 9)

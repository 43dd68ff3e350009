"""The Wan model: unchanged by our loading, lazy, and clear about what it refuses."""

import json
import pickle
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from reelrl.envs.models import SHIPPED, VideoModel, WanVideoModel
from reelrl.envs.sampling import euler_ode, initial_noise
from reelrl.envs.schedule import sigma_schedule

CAPTION = "a red circle moving right"


@pytest.fixture
def nano():
    return WanVideoModel.from_pretrained("nano")


@pytest.fixture
def copy(tmp_path):
    source = WanVideoModel.from_pretrained("nano").folder
    return shutil.copytree(source, tmp_path / "model")


PARTS = ("tokenizer", "text_encoder", "transformer", "vae")


@pytest.mark.parametrize("part", PARTS)
def test_loading_draws_nothing_from_torchs_generator(nano, part):
    before = torch.get_rng_state()
    getattr(nano, part)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_path_is_a_folder_whatever_it_is_called(copy, monkeypatch):
    copy.rename(copy.parent / "nano")
    monkeypatch.chdir(copy.parent)
    shipped = WanVideoModel.from_pretrained("nano")
    for path in (Path("./nano"), Path("nano"), "./nano"):
        own = WanVideoModel.from_pretrained(path)
        assert own.folder.resolve() == copy.parent / "nano" != shipped.folder
        assert own.name == "nano"
    with pytest.raises(ValueError, match="unknown model 'nano-early'"):
        WanVideoModel.from_pretrained(Path("nano-early"))


def own(path):
    """A file of a model that is changed on purpose: the record of its digests goes."""
    for folder in path.parents[:2]:
        (folder / "checksums.json").unlink(missing_ok=True)
    return path


def edit(path, **changes):
    own(path).write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", SHIPPED)
def test_t34_the_stock_pipeline_loads_the_folder_and_draws_what_we_draw(name):
    model = WanVideoModel.from_pretrained(name)
    pipeline = WanPipeline.from_pretrained(model.folder)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(model.latent_shape(9, 32, 32), [0, 1])
    prompts = [CAPTION, "a blue square moving up fast"]
    # our schedule handed to the stock scheduler, which shifts by itself: uniform levels in
    levels = sigma_schedule(10, 1.0)[:-1].tolist()
    scheduler = pipeline.scheduler
    set_timesteps = scheduler.set_timesteps
    scheduler.set_timesteps = lambda *_, device=None, **__: set_timesteps(
        sigmas=levels, device=device
    )
    theirs = pipeline(
        prompt=prompts,
        latents=noise,
        num_frames=9,
        height=32,
        width=32,
        num_inference_steps=10,
        guidance_scale=1.0,
        max_sequence_length=model.max_prompt_tokens,
        output_type="pt",
    ).frames.permute(0, 1, 3, 4, 2)
    ours = model.decode(euler_ode(model, model.encode(prompts), noise, num_steps=10, shift=3.0))
    assert ours.shape == (2, 9, 32, 32, 3)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_components_load_when_used_and_only_then(nano):
    nano.encode([CAPTION])
    nano.latent_shape(9, 32, 32)
    assert not {"transformer", "vae"} & set(vars(nano))
    nano.decode(torch.zeros(1, *nano.latent_shape(9, 32, 32)))
    assert "transformer" not in vars(nano)


def test_t35_embeddings_are_zero_beyond_the_prompt(nano):
    embedding = nano.encode([CAPTION, "a red circle moving right fast", ""])
    lengths = embedding.ne(0).any(-1).sum(-1)
    assert embedding.shape == (3, 16, 64) and embedding.dtype == torch.float32
    assert lengths.tolist() == [6, 7, 1]


def test_an_embedding_does_not_depend_on_its_batch(nano):
    together = nano.encode([CAPTION, "a blue square moving up"])
    torch.testing.assert_close(together[:1], nano.encode([CAPTION]), atol=1e-6, rtol=0)


def test_latent_shape(nano):
    assert nano.latent_shape(9, 32, 32) == (8, 5, 8, 8)
    assert nano.latent_shape(17, 32, 64) == (8, 9, 8, 16)


@pytest.mark.parametrize(
    "size, words",
    [
        ((8, 32, 32), "num_frames must be 4k.1, got 8; the nearest is 9"),
        ((0, 32, 32), "num_frames must be 4k.1, got 0"),
        ((9, 24, 32), "height must be a positive multiple of 16, got 24"),
        ((9, 32, 0), "width must be a positive multiple of 16, got 0"),
    ],
)
def test_t33_impossible_sizes_name_the_constraint(nano, size, words):
    with pytest.raises(ValueError, match=words):
        nano.latent_shape(*size)


def test_unknown_model_name_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"unknown model 'nanno'.*nano, nano-early"):
        VideoModel.from_pretrained("nanno")
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
        VideoModel.from_pretrained(tmp_path)


def test_a_prompt_that_would_be_cut_is_refused(nano):
    longest = " ".join(["red"] * 15)
    assert nano.encode([longest]).ne(0).any(-1).sum() == 16
    with pytest.raises(ValueError, match="has 17 tokens, 'nano' takes at most 16"):
        nano.encode([CAPTION, f"{longest} red"])


def test_unknown_words_are_named(nano):
    with pytest.raises(ValueError, match=r"does not know: pink, zebra; its \d+ tokens are: .*red"):
        nano.encode([CAPTION, "a pink zebra moving right"])


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"_class_name": "HunyuanVideoPipeline"},
            "HunyuanVideoPipeline, which no model opens; .*: Wan",
        ),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "Wan 2.2"),
        ({"expand_timesteps": True}, "Wan 2.2"),
    ],
)
def test_other_pipelines_are_refused(copy, changes, words):
    edit(copy / "model_index.json", **changes)
    with pytest.raises(ValueError, match=words):
        VideoModel.from_pretrained(copy)


def test_a_flipped_byte_is_found_before_the_weights_are_read(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    model = WanVideoModel.from_pretrained(copy)
    with pytest.raises(ValueError, match=r"is damaged: expected sha256 [0-9a-f]{64}, got"):
        model.decode(torch.zeros(1, 8, 5, 8, 8))
    model.encode([CAPTION])


def test_a_missing_file_is_named(copy):
    (copy / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    model = WanVideoModel.from_pretrained(copy)
    with pytest.raises(FileNotFoundError, match=r"transformer/diffusion_pytorch_model\.saf"):
        _ = model.transformer


def test_video_round_trip_is_in_latent_units(nano):
    video = torch.full((2, 9, 32, 32, 3), 0.1)
    latent = nano.encode_video(video)
    assert latent.shape == (2, 8, 5, 8, 8)
    assert nano.decode(latent).shape == video.shape


def test_velocity_carries_gradients_and_is_float32():
    model = WanVideoModel.from_pretrained("nano", dtype=torch.bfloat16)
    latent = torch.randn(2, 8, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    velocity = model.velocity(latent, torch.tensor([1.0, 0.5]), model.encode([CAPTION] * 2))
    assert velocity.dtype == torch.float32
    velocity.square().mean().backward()
    assert any(p.grad is not None for p in model.transformer.parameters())


def test_a_vae_config_that_is_silent_about_its_strides_has_those_of_wan_21(copy):
    """The published 2.1 folders were written before diffusers had the two keys."""
    path = own(copy / "vae" / "config.json")
    config = json.loads(path.read_text())
    del config["scale_factor_temporal"], config["scale_factor_spatial"]
    path.write_text(json.dumps(config))
    channels = config["z_dim"]
    assert WanVideoModel(copy).latent_shape(81, 480, 832) == (channels, 21, 60, 104)


def test_a_large_vocabulary_is_not_listed(nano, monkeypatch):
    monkeypatch.setattr("reelrl.envs.models.wan.VOCABULARY_SHOWN", 5)
    with pytest.raises(ValueError, match=r"not know: elephant; its 20 tokens are too many to list"):
        nano.check_prompts(["a red elephant moving right"])


@pytest.mark.parametrize(
    "config, shift",
    [
        ({"_class_name": "UniPCMultistepScheduler", "flow_shift": 5.0}, 5.0),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0}, 8.0),
        ({"flow_shift": 5.0, "shift": 1.0}, 5.0),
        ({}, 3.0),
        (None, 3.0),
    ],
)
def test_the_shift_is_that_of_the_folders_scheduler(copy, config, shift):
    path = own(copy / "scheduler" / "scheduler_config.json")
    path.unlink()
    if config is not None:
        path.write_text(json.dumps(config))
    assert VideoModel.from_pretrained(copy).default_shift == shift


def test_a_rewards_gradient_reaches_the_latent_through_the_vae(nano):
    generator = torch.Generator().manual_seed(0)
    video = 0.3 + 0.4 * torch.rand(1, 9, 32, 32, 3, generator=generator)
    weights = torch.randn(video.shape, generator=generator, dtype=torch.float64)
    start = nano.encode_video(video)
    direction = torch.randn(start.shape, generator=generator)

    def reward(latent):
        return (weights * nano.decode(latent).double()).sum()

    latent = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(latent), latent)
    slope = float((gradient * direction).sum())
    width = 1e-2  # of the order of float32's cube root: rounding and curvature are alike
    with torch.no_grad():
        ahead, behind = (reward(start + sign * width * direction) for sign in (1, -1))
    assert slope == pytest.approx(float(ahead - behind) / (2 * width), rel=1e-2)
    assert abs(slope) > 1
    with torch.no_grad():
        assert not nano.decode(latent).requires_grad


def test_trained_weights_come_back(copy, tmp_path):
    model, other = (VideoModel.from_pretrained(copy) for _ in range(2))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(1)
    model.save_trained(tmp_path / "trained")
    other.load_trained(tmp_path / "trained")
    pairs = zip(model.transformer.parameters(), other.transformer.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(FileNotFoundError, match="no trained weights in"):
        other.load_trained(tmp_path / "nowhere")


WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


@pytest.mark.parametrize("component", WEIGHTS)
@pytest.mark.parametrize(
    "damage, words",
    [
        ("missing", r"lacks 3 of \d+ tensors, first "),
        ("shape", "cannot be read: |tensors of another shape"),
        ("cut", "cannot be read: "),
        ("empty", "cannot be read: "),
    ],
)
def test_weights_that_are_not_whole_are_refused_with_the_folder(copy, component, damage, words):
    """They were left on the meta device, or drawn at random."""
    path = own(copy / component / WEIGHTS[component])
    weights = load_file(path)
    names = sorted(weights)
    if damage == "missing":
        for name in names[4:7]:
            del weights[name]
        save_file(weights, path)
    elif damage == "shape":
        save_file({**weights, names[3]: torch.zeros(3)}, path)
    else:
        path.write_bytes(path.read_bytes()[: 500 if damage == "cut" else 0])
    with pytest.raises(ValueError, match=words) as error:
        getattr(WanVideoModel(copy), component)
    assert str(copy / component) in str(error.value) and "\n" not in str(error.value)


JSONS = ["model_index.json", "vae/config.json", "transformer/config.json",
         "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"]  # fmt: skip


@pytest.mark.parametrize("name", JSONS)
def test_a_damaged_file_is_named_before_it_is_parsed(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes().replace(b":", b";", 1))
    with pytest.raises(ValueError, match=rf"{name} is damaged: expected sha256"):
        VideoModel.from_pretrained(copy)


@pytest.mark.parametrize("name", JSONS)
@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe{}", b"[" * 20_000])
def test_a_file_without_a_record_that_is_no_mapping_is_named(copy, name, text):
    own(copy / name).write_bytes(text)
    with pytest.raises(ValueError, match=rf"{name} is damaged: expected") as error:
        model = VideoModel.from_pretrained(copy)
        model.latent_shape(9, 32, 32)
    assert "\n" not in str(error.value)


def test_a_file_that_no_record_knows_is_refused(copy):
    """A second set of shards would be read in place of the recorded weights."""
    (copy / "vae" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"vae/model.safetensors.index.json is not in checksums"):
        VideoModel.from_pretrained(copy).vae  # noqa: B018


def test_code_that_a_folder_brings_along_is_never_run(copy, monkeypatch):
    """Left open, transformers asks on the terminal."""
    edit(copy / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "e.E"]})
    (copy / "tokenizer" / "e.py").write_text("raise SystemExit('run')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    VideoModel.from_pretrained(copy).check_prompts(["a red circle moving right"])


def test_the_digest_is_of_the_weights_and_not_of_the_place(copy, nano):
    again = VideoModel.from_pretrained(copy)
    assert again.digest == nano.digest and again.same_base(nano)
    own(copy / "README.md").write_text("a model card")
    recordless = VideoModel.from_pretrained(copy)
    assert recordless.digest == nano.digest
    assert not recordless.same_base(VideoModel.from_pretrained("nano-early"))
    edit(copy / "transformer" / "config.json", rope_max_seq_len=512)
    assert not VideoModel.from_pretrained(copy).same_base(nano)


def test_a_copied_model_owns_its_transformer_and_shares_the_rest(nano):
    model = VideoModel.from_pretrained("nano-early")
    latent, sigma = torch.zeros(1, *model.latent_shape(9, 32, 32)), torch.ones(1)
    embedding = model.encode(["a red circle moving right"])
    with torch.no_grad():
        before = model.velocity(latent, sigma, embedding)
        twin, pickled = deepcopy(model), pickle.loads(pickle.dumps(model))
        for parameter in model.transformer.parameters():
            parameter.add_(0.1)
        for other in (twin, pickled):
            assert torch.equal(other.velocity(latent, sigma, embedding), before)
        assert not torch.equal(model.velocity(latent, sigma, embedding), before)
    assert twin.text_encoder is model.text_encoder
    assert twin.digest == pickled.digest == model.digest
    fresh = model.fresh()
    with torch.no_grad():
        assert torch.equal(fresh.velocity(latent, sigma, embedding), before)
    assert len(pickle.dumps(fresh.fresh())) < 10_000


def test_weights_are_readable_as_the_umask_says(tmp_path):
    model = VideoModel.from_pretrained("nano-early")
    model.save_trained(tmp_path)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "transformer").iterdir()
    }
    assert set(modes.values()) == {modes["config.json"]}

"""Training nano-Wan end to end at a size that takes seconds, killed and resumed."""

from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from reelrl.envs.models import WanVideoModel
from reelrl.zoo.shipped.nano import generator as generator_stage
from reelrl.zoo.shipped.nano.generator import Dataset, train_generator
from reelrl.zoo.shipped.nano.train_nano import install, main
from reelrl.zoo.shipped.training import NanoConfig, Training, learning_rate

TINY = NanoConfig(
    vae_steps=3,
    vae_batch=2,
    decoder_steps=2,
    dataset_clips=24,
    steps=4,
    batch=4,
    eval_every=2,
    eval_clips=2,
    early_gold=0.0,
    compile=False,
)


class Killed(Exception):
    pass


class Silent:
    def add_scalar(self, *_):
        pass


def weights(folder):
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_a_run_leaves_two_pipelines_that_diffusers_loads(tmp_path):
    config = replace(TINY, out=tmp_path / "run")
    main(config)
    install(config.out, tmp_path / "checkpoints")
    for name in ("nano-wan", "nano-wan-early"):
        folder = tmp_path / "checkpoints" / name
        WanPipeline.from_pretrained(folder)
        assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
        assert not [f for f in folder.glob("*/config.json") if "_name_or_path" in f.read_text()]
        assert "TokenizersBackend" not in (folder / "model_index.json").read_text()
        model = WanVideoModel.from_pretrained(folder)
        assert abs(sum(model.vae_config["latents_std"])) > 0
        assert model.encode(["a red circle moving left slowly"]).shape == (1, 16, 64)
    assert (config.out / "vae.png").exists() and list((config.out / "samples").glob("*.png"))
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def dataset():
    stream = torch.Generator().manual_seed(0)
    latents = torch.randn(24, 8, 5, 8, 8, generator=stream)
    return Dataset.of(latents, ["a red circle moving right"] * 24)


def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    config = replace(TINY, out=tmp_path / "whole")
    whole = train_generator(config, dataset(), Silent(), lambda *_: "")

    config = replace(TINY, out=tmp_path / "parts")
    flow_loss = generator_stage.flow_loss
    calls = []

    def killed_at_the_fourth(*args):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return flow_loss(*args)

    monkeypatch.setattr(generator_stage, "flow_loss", killed_at_the_fourth)
    with pytest.raises(Killed):
        train_generator(config, dataset(), Silent(), lambda *_: "")
    monkeypatch.setattr(generator_stage, "flow_loss", flow_loss)
    parts = train_generator(config, dataset(), Silent(), lambda *_: "")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_the_empty_caption_is_the_last_row_and_captions_keep_their_row():
    data = Dataset.of(torch.zeros(2, 1), ["a white square moving up", "a red circle moving right"])
    assert data.mask[-1].sum() == 1
    assert data.mask[data.caption_ids].sum(-1).tolist() == [6, 6]
    assert not torch.equal(*data.tokens[data.caption_ids])


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(2.0)
    assert rates[-1] < 1e-4


def test_the_average_of_a_training_is_the_warmed_up_one_to_the_bit(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Linear(5, 3)
    training = Training(module, tmp_path / "state.pt", total=30, lr=0.1, ema=0.6)
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in range(1, 12):
        training.update(module(torch.full((2, 5), float(step))).square().mean())
        decay = min(0.6, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            expected[name].lerp_(parameter.detach(), 1 - decay)
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    with training.average.applied():
        shown = {name: p.detach().clone() for name, p in module.named_parameters()}
    for name, parameter in module.named_parameters():
        assert torch.equal(shown[name], expected[name]) and torch.equal(parameter, own[name])

    training.save()
    again = Training(torch.nn.Linear(5, 3), tmp_path / "state.pt", total=30, lr=0.1, ema=0.6)
    assert again.average.updates == 11
    for name, parameter in again.finished().named_parameters():
        assert torch.equal(parameter, expected[name]) and not parameter.requires_grad

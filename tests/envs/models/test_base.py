"""The interface: defaults are Wan 2.1's, and a model may answer each question in its own way."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from reelrl.envs.models import SHIPPED, VideoModel, WanVideoModel, base, register_model
from reelrl.envs.sampling import euler_ode, initial_noise
from reelrl.envs.schedule import sigma_schedule


class Vector(VideoModel):
    """Latents of any rank and embeddings of any shape: velocity is latent + sigma + their sum."""

    name, device, max_prompt_tokens = "vector", torch.device("cpu"), 1

    def __init__(self, shape=(3,), negative_prompt=""):
        self.shape, self.negative_prompt = shape, negative_prompt
        self.asked = []

    def encode(self, prompts):
        self.asked += prompts
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return lengths.reshape(-1, *[1] * len(self.shape)).expand(-1, *self.shape).clone()

    def velocity(self, latent, sigma, embedding):
        facts = sigma + embedding.flatten(1).sum(dim=1)
        return latent + facts.reshape(-1, *[1] * (latent.ndim - 1))

    def decode(self, latent):
        raise NotImplementedError

    def latent_shape(self, num_frames, height, width):
        return 1, num_frames, height, width


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def registry():
    """The table of families, put back after the test."""
    with base.PIPELINES.isolated():
        yield base.PIPELINES


@pytest.fixture
def folder(tmp_path):
    """A function: class name -> the folder of such a pipeline."""

    def make(class_name):
        path = tmp_path / class_name
        path.mkdir()
        (path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
        return path

    return make


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 2), (2, 1, 3, 2)])
@pytest.mark.parametrize("latent_shape", [(5,), (2, 3, 2, 2)])
def test_guidance_takes_embeddings_and_latents_of_any_shape(shape, latent_shape):
    model = Vector(shape)
    latent, sigma = noise(3, *latent_shape), torch.tensor([1.0, 0.4, 0.1])
    embedding, empty = model.encode(["a", "bb", "ccc"]), model.encode([""])
    scales = torch.tensor([0.0, 1.0, 3.5])
    together = model.guided(latent, sigma, embedding, scales)
    for i, scale in enumerate(scales.tolist()):
        row = slice(i, i + 1)
        conditional = model.velocity(latent[row], sigma[row], embedding[row])
        without = model.velocity(latent[row], sigma[row], empty)
        expected = without + scale * (conditional - without)
        torch.testing.assert_close(together[row], expected)
        alone = model.guided(latent[row], sigma[row], embedding[row], scale, empty)
        torch.testing.assert_close(alone, expected)


def test_the_unconditional_branch_is_that_of_the_negative_prompt():
    model = Vector(negative_prompt="blurred")
    latent, sigma, embedding = noise(2, 3), torch.ones(2), model.encode(["a", "b"])
    guided = model.guided(latent, sigma, embedding, 2.0)
    assert model.asked[-1] == "blurred"
    negative = model.guided(latent, sigma, embedding, 2.0, model.encode(["blurred"]))
    assert torch.equal(guided, negative)
    assert not torch.allclose(guided, model.guided(latent, sigma, embedding, 2.0, embedding[:1]))


def test_the_environments_guidance_takes_the_negative_prompt_too(make_batch, tiny_model):
    tiny_model.negative_prompt = "grey and blurred"
    task = make_batch(2, model=tiny_model).unwrapped.task
    assert torch.equal(task.empty_embedding, tiny_model.encode(["grey and blurred"]))


def test_levels_are_the_models_own(make_batch, tiny_model, monkeypatch):
    asked = []

    def schedule(num_steps, shift, latent_shape):
        asked.append((num_steps, shift, tuple(latent_shape)))
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64) ** 2

    task = make_batch(2, model=tiny_model, num_steps=4).unwrapped.task
    assert torch.equal(task.sigmas, sigma_schedule(4, 3.0)) and task.shift == 3.0
    monkeypatch.setattr(tiny_model, "schedule", schedule)
    tiny_model.default_shift = 7.0
    own = make_batch(2, model=tiny_model, num_steps=4).unwrapped.task
    assert own.sigmas.tolist() == [1, 0.5625, 0.25, 0.0625, 0] and own.shift == 7.0
    given = make_batch(2, model=tiny_model, num_steps=4, shift=2.0).unwrapped.task
    assert given.shift == 2.0
    latent = noise(1, 2, 3, 2, 2)
    euler_ode(tiny_model, tiny_model.encode(["dark"]), latent, num_steps=2)
    assert asked == [(4, 7.0, (2, 3, 2, 2)), (4, 2.0, (2, 3, 2, 2)), (2, 7.0, (2, 3, 2, 2))]


def test_the_ode_takes_the_models_shift_where_none_is_given(tiny_model):
    tiny_model.default_shift = 5.0
    embedding, start = tiny_model.encode(["dark"]), initial_noise((2, 3, 2, 2), [0])
    tiny_model.velocity = lambda latent, sigma, embedding: latent * sigma[0]
    own, five, three = (
        euler_ode(tiny_model, embedding, start, num_steps=3, shift=shift) for shift in (None, 5, 3)
    )
    assert torch.equal(own, five) and not torch.allclose(own, three)


def test_an_environment_decodes_without_gradients(make_batch, tiny_model, monkeypatch):
    enabled = []
    decode = tiny_model.decode
    monkeypatch.setattr(
        tiny_model, "decode", lambda x: (enabled.append(torch.is_grad_enabled()), decode(x))[1]
    )
    env = make_batch(2, model=tiny_model, num_steps=1, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    env.render()
    env.step(env.action_space.sample())
    env.score(env.action_space.sample(), [0, 1])
    assert enabled == [False] * 3


def test_a_family_opens_its_folders(registry, folder):
    @register_model("ToyVideoPipeline")
    class Toy(Vector):
        def __init__(self, folder, *, name=None, device="cpu"):
            super().__init__()
            self.folder, self.name, self.device = folder, name or folder.name, torch.device(device)

    class Derived(Toy):
        pass

    toy = VideoModel.from_pretrained(folder("ToyVideoPipeline"), device="meta")
    assert type(toy) is Toy and toy.device == torch.device("meta")
    assert type(Derived.from_pretrained(toy.folder)) is Derived
    assert type(VideoModel.from_pretrained("nano")) is WanVideoModel
    with pytest.raises(ValueError, match="which Toy opens and WanVideoModel does not"):
        WanVideoModel.from_pretrained(toy.folder)
    with pytest.raises(ValueError, match=r"pipeline name 'ToyVideoPipeline' is taken by .*Toy"):
        register_model("ToyVideoPipeline")(Vector)


def test_an_unknown_family_is_named_with_the_known_and_the_nearest(registry, folder):
    register_model("ToyVideoPipeline")(Vector)
    words = (
        r"holds a ToyVidioPipeline, which no model opens; did you mean 'ToyVideoPipeline'\? "
        r"Known: (\w+, )*ToyVideoPipeline, WanPipeline"
    )
    with pytest.raises(ValueError, match=words):
        VideoModel.from_pretrained(folder("ToyVidioPipeline"))


def test_experts_are_the_transformer_where_there_is_one():
    model = Vector()
    assert model.experts == {}
    model.transformer = nn.Linear(2, 2)
    assert model.experts == {"transformer": model.transformer}


class Two(Vector):
    """A model of two experts of unlike shapes, some weights frozen."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.parts = {"transformer": nn.Linear(2, 3), "transformer_2": nn.Linear(4, 5)}
        self.parts["transformer"].bias.requires_grad_(False)

    @property
    def experts(self):
        return self.parts


def test_trained_weights_of_several_experts_come_back(tmp_path):
    with torch.random.fork_rng():
        model, other = Two(0), Two(1)
    model.save_trained(tmp_path / "new" / "folder")
    frozen = other.parts["transformer"].bias.clone()
    other.load_trained(tmp_path / "new" / "folder")
    for name, weight in (("transformer", "weight"), ("transformer_2", "bias")):
        assert torch.equal(getattr(other.parts[name], weight), getattr(model.parts[name], weight))
    assert torch.equal(other.parts["transformer"].bias, frozen)
    record = json.loads((tmp_path / "new" / "folder" / "trained.json").read_text())
    assert record == {
        "class": "Two",
        "adapter_scale": None,
        "shapes": {
            "transformer.weight": [3, 2],
            "transformer_2.weight": [5, 4],
            "transformer_2.bias": [5],
        },
    }


def test_weights_of_another_model_are_refused(tmp_path):
    with torch.random.fork_rng():
        model = Two()
    with pytest.raises(FileNotFoundError, match=r"trained\.json is missing"):
        model.load_trained(tmp_path)
    model.save_trained(tmp_path)
    single = Vector()
    with pytest.raises(ValueError, match="Vector has no trainable weights"):
        single.save_trained(tmp_path)
    with pytest.raises(ValueError, match="holds weights of a Two, expected weights of a Vector"):
        single.load_trained(tmp_path)
    model.parts["transformer"].bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"transformer\.bias \(expected \(3,\), got None\)"):
        model.load_trained(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_models_ask_for_the_shift_they_always_had(name):
    assert VideoModel.from_pretrained(name).default_shift == 3.0

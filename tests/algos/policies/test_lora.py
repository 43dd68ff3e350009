"""Adapters: trained alone, switched off for the reference, loaded by a stock pipeline."""

from __future__ import annotations

import pytest
import torch

from reelrl.algos.policies import FlowPolicy
from reelrl.envs.models import SHIPPED, VideoModel
from reelrl.envs.models.folders import CHECKPOINTS


def nudge(policy):
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))


def test_only_adapters_train_and_they_start_as_nothing(make_env, tiny_model):
    env = make_env(2)
    obs, _ = env.reset(seed=0)
    before = FlowPolicy(tiny_model).bind(env).forward(obs).velocity.detach()
    state = torch.get_rng_state()
    policy = FlowPolicy(tiny_model, lora_rank=2, lora_targets=["to_q"]).bind(env)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(policy.forward(obs).velocity, before)
    assert policy.parameters and all("lora" in name for name in policy.parameters)


def test_t27_reference_disables_the_adapter_and_brings_it_back(make_env, tiny_model):
    env = make_env(2)
    obs, _ = env.reset(seed=0)
    policy = FlowPolicy(tiny_model, lora_rank=2, lora_targets=["to_q", "to_k"]).bind(env)
    base = policy.forward(obs).velocity.detach()
    nudge(policy)
    names = list(policy.parameters)
    after = policy.forward(obs).velocity.detach()
    assert not torch.allclose(after, base)
    with pytest.raises(KeyError), policy.reference():
        assert torch.equal(policy.forward(obs).velocity, base)
        raise KeyError
    assert torch.equal(policy.forward(obs).velocity, after)
    assert list(policy.parameters) == names


def test_adapter_loads_into_a_stock_pipeline(nano_env, tmp_path):
    from diffusers import WanPipeline

    env = nano_env(2)
    policy = FlowPolicy(env.unwrapped.model, lora_rank=4, lora_alpha=8.0).bind(env)
    nudge(policy)
    policy.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipe = WanPipeline.from_pretrained(CHECKPOINTS / SHIPPED["nano"])
    pipe.load_lora_weights(tmp_path)
    obs, _ = env.reset(seed=0)
    with torch.no_grad():
        ours = policy.forward(obs).velocity
        theirs = pipe.transformer(
            hidden_states=obs["latent"],
            timestep=1000 * obs["sigma"][:, 0],
            encoder_hidden_states=env.unwrapped.embeddings[obs["prompt_id"][:, 0]],
            return_dict=False,
        )[0]
        pipe.unload_lora_weights()
    torch.testing.assert_close(ours, theirs)


def test_full_fine_tuning_saves_a_transformer_folder(nano_env, tmp_path):
    from diffusers import WanTransformer3DModel

    policy = FlowPolicy(nano_env(2).unwrapped.model)
    nudge(policy)
    policy.save_pretrained(tmp_path)
    back = WanTransformer3DModel.from_pretrained(tmp_path / "transformer").state_dict()
    assert all(torch.equal(back[name], p) for name, p in policy.parameters.items())


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 1.0), (6.0, 3.0)])
def test_an_adapter_adds_its_product_times_alpha_over_rank(tiny_model, alpha, scale):
    layer, x = tiny_model.transformer.to_q, torch.arange(4.0)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    policy = FlowPolicy(tiny_model, lora_rank=2, lora_alpha=alpha, lora_targets=["to_q"])
    down, up = policy.parameters.values()
    with torch.no_grad():
        up.fill_(0.5)
    expected = weight @ x + bias + scale * (up @ (down @ x))
    torch.testing.assert_close(tiny_model.transformer.to_q(x), expected)


def test_a_second_adapter_and_unknown_layers_are_refused(tiny_model):
    with pytest.raises(ValueError, match="nowhere"):
        FlowPolicy(tiny_model, lora_rank=2, lora_targets=["nowhere"])
    FlowPolicy(tiny_model, lora_rank=2, lora_targets=["to_q"])
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        FlowPolicy(tiny_model, lora_rank=2, lora_targets=["to_q"])


def test_a_saved_adapter_is_read_into_another_model(nano_env, tmp_path):
    env = nano_env(2)
    obs, _ = env.reset(seed=0)
    policy = FlowPolicy(env.unwrapped.model, lora_rank=2).bind(env)
    nudge(policy)
    policy.save_pretrained(tmp_path)
    fresh = nano_env(2)
    other = FlowPolicy(fresh.unwrapped.model, lora_rank=2).bind(fresh)
    assert not torch.allclose(other.forward(obs).velocity, policy.forward(obs).velocity)
    other.model.load_trained(tmp_path)
    assert torch.equal(other.forward(obs).velocity, policy.forward(obs).velocity)
    for rank in (0, 4):
        with pytest.raises(ValueError, match="weights do not fit the model"):
            FlowPolicy(nano_env(2).unwrapped.model, lora_rank=rank).model.load_trained(tmp_path)


def test_the_model_names_the_layers_for_adapters(tiny_model):
    tiny_model.lora_targets = ("to_k",)
    policy = FlowPolicy(tiny_model, lora_rank=2)
    assert policy.parameters and all(name.startswith("to_k.lora") for name in policy.parameters)
    assert policy.settings()["lora_targets"] == ("to_k",)


@pytest.mark.parametrize("model", ["tiny", "nano"])
def test_adapters_of_another_scale_are_refused(tiny_types, tmp_path, model):
    """Names and shapes are the same, and every velocity would be another."""

    def opened(alpha):
        made = tiny_types["model"]() if model == "tiny" else VideoModel.from_pretrained("nano")
        FlowPolicy(made, lora_rank=2, lora_alpha=alpha)
        return made

    opened(16.0).save_lora(tmp_path)
    opened(16.0).load_trained(tmp_path)
    with pytest.raises(ValueError, match=r"lora_rank = 8\.0, and the policy has 1\.0"):
        opened(2.0).load_trained(tmp_path)

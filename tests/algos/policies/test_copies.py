"""A copy of a policy computes with its own weights, and a policy meets only its own base model."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch

from reelrl.algos.interop.denoising import DenoisingTask
from reelrl.algos.policies import FlowPolicy
from reelrl.envs.models import VideoModel


def by_pickle(policy):
    return pickle.loads(pickle.dumps(policy))


COPIES = [copy.deepcopy, by_pickle]
SETTINGS = [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}, {"guidance_scale": 2.0}]


def disturb(policy, by=0.05):
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(by * torch.ones_like(parameter))


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_copy_stays_as_it_was_and_trains_alone(nano_env, copied, settings):
    """Its forward pass went through the original's transformer, its parameters were another's."""
    env = nano_env(2)
    policy = FlowPolicy(env.unwrapped.model, **settings).bind(env)
    disturb(policy)  # A copy has the weights of the moment, not the folder's.
    if copied is by_pickle and policy.config.gradient_checkpointing:
        with pytest.raises(TypeError, match=r"cannot be pickled: use copy\.deepcopy"):
            copied(policy)
        return
    other = copied(policy)
    obs, _ = env.reset(seed=0)
    start = policy.predict(obs, True)
    assert torch.equal(other.predict(obs, True), start)
    disturb(policy)
    assert torch.equal(other.predict(obs, True), start)
    assert not torch.equal(policy.predict(obs, True), start)
    moved = policy.predict(obs, True)
    disturb(other, 0.2)
    assert torch.equal(policy.predict(obs, True), moved)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.predict(obs, True), moved)
    (other.forward(obs).step.mean.sum()).backward()
    assert any(p.grad is not None for p in other.parameters.values())
    assert all(p.grad is None for p in policy.parameters.values())
    other.bind(env)  # It has the same base.


@pytest.mark.parametrize("copied", COPIES)
def test_a_list_of_copies_and_a_kept_reference(make_env, tiny_model, copied):
    env = make_env(2)
    policy = FlowPolicy(tiny_model).bind(env)
    policy.keep_reference()
    league = copied({"past": [policy, policy], "env": env, "policy": policy})
    assert league["past"][0] is league["past"][1] is league["policy"]
    other = league["policy"]
    obs, _ = env.reset(seed=0)
    start = policy.predict(obs, True)
    disturb(policy)
    disturb(other, 0.2)
    with other.reference():
        assert torch.equal(other.predict(obs, True), start)
    other.bind(league["env"])


def test_a_policy_of_another_library_is_copied_with_its_flow_policy(nano_env):
    tianshou = pytest.importorskip("reelrl.algos.interop.tianshou")
    env = nano_env(2)
    task = DenoisingTask.of(env)
    policy = tianshou.DenoisingPolicy(task=task, action_space=env.single_action_space)
    other = copy.deepcopy(policy)
    assert other.flow.experts["transformer"] is other.transformer is not policy.transformer
    obs, _ = env.reset(seed=0)
    start = other.flow.predict(obs, True)
    disturb(policy.flow)
    assert torch.equal(other.flow.predict(obs, True), start)


class Hidden(VideoModel):
    """Keeps its network where no copy finds it."""

    def __init__(self, model):
        self.__dict__.update({k: v for k, v in vars(model).items() if k != "transformer"})
        network = model.transformer
        self.network = lambda: network

    @property
    def experts(self):
        return {"transformer": self.network()}

    def encode(self, prompts): ...
    def velocity(self, latent, sigma, embedding): ...
    def decode(self, latent): ...
    def latent_shape(self, num_frames, height, width): ...


def test_a_model_whose_network_is_not_found_is_not_copied(tiny_model):
    policy = FlowPolicy(Hidden(tiny_model))
    for copied in (lambda: copy.deepcopy(policy), lambda: copy.deepcopy(policy.model)):
        with pytest.raises(TypeError, match="cannot be copied"):
            copied()


def test_a_pickle_that_leaves_the_weights_behind_is_refused(tiny_model, monkeypatch):
    policy = FlowPolicy(tiny_model)
    kept = {k: v for k, v in vars(tiny_model).items() if k != "transformer"}

    def again(self, state):
        vars(self).update(state)
        self.transformer = type(policy.experts["transformer"])()

    monkeypatch.setattr(type(tiny_model), "__getstate__", lambda self: kept, raising=False)
    monkeypatch.setattr(type(tiny_model), "__setstate__", again, raising=False)
    with pytest.raises(TypeError, match="does not hold the copied experts"):
        by_pickle(policy)


def test_a_policy_over_one_model_refuses_an_environment_over_another(nano_env):
    """It would read embeddings of a text encoder that its transformer does not know."""
    env = nano_env(2)
    policy = FlowPolicy(VideoModel.from_pretrained("nano-early"))
    with pytest.raises(ValueError, match=r"over model 'nano-early' \(digest \w{12}\), .* 'nano'"):
        policy.bind(env)
    FlowPolicy(VideoModel.from_pretrained("nano")).bind(env)  # Another instance, the same weights.


def test_all_weights_are_not_trained_below_adapters(tiny_model, nano_env):
    """The adapters were trained as the whole policy, and the folder it saved could not be read."""
    model = nano_env(2).unwrapped.model
    FlowPolicy(model, lora_rank=2)
    for settings in ({}, {"lora_rank": 2}):
        with pytest.raises(ValueError, match="transformer of 'nano' has LoRA adapters already"):
            FlowPolicy(model, **settings)


def test_a_frozen_transformer_is_refused_and_may_have_adapters(tiny_model):
    tiny_model.transformer.requires_grad_(False)
    with pytest.raises(ValueError, match=re.escape("no weight with requires_grad=True")):
        FlowPolicy(tiny_model)
    assert FlowPolicy(tiny_model, lora_rank=1, lora_targets=["to_q"]).parameters


@pytest.mark.slow
def test_an_exported_adapter_is_the_same_bytes_in_every_process(tmp_path):
    """Sets and the format's header had another order in each."""
    code = (
        "import sys; from reelrl.algos.policies import FlowPolicy\n"
        "from reelrl.envs.models import VideoModel\n"
        "FlowPolicy(VideoModel.from_pretrained('nano-early'), lora_rank=2)"
        ".save_pretrained(sys.argv[1])"
    )
    files = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        files.append((folder / "pytorch_lora_weights.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_policy_notices_adapters_that_another_one_has_put_on_its_model(make_env, tiny_types):
    """It trained nothing then, and saved a checkpoint that could not be read."""
    env = make_env(2, model=tiny_types["model"]())
    policy = FlowPolicy(env.unwrapped.model).bind(env)
    FlowPolicy(env.unwrapped.model, lora_rank=1, lora_targets=["to_q"])
    for use in (lambda: policy.bind(env), policy.state_dict, lambda: policy.save_pretrained("x")):
        with pytest.raises(RuntimeError, match="another policy has put adapters on its model"):
            use()

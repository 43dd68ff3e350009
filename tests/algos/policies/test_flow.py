"""The flow policy: one code path for sampling and replaying, at every precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from reelrl.algos.policies import FlowPolicy
from reelrl.envs.models import VideoModel
from reelrl.envs.sampling import euler_ode, initial_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def walk(env, policy, steps=2):
    """Observations, actions and log-probs of the first steps of one rollout."""
    obs, _ = env.reset(seed=0)
    seen, rng = [], generator()
    for _ in range(steps):
        action, log_prob = policy.act(obs, rng)
        seen.append((obs, action, log_prob))
        obs, *_ = env.step(action)
    return seen


def joined(seen):
    keys = ("latent", "sigma", "prompt_id")
    obs = {key: torch.cat([o[key] for o, _, _ in seen]) for key in keys}
    return obs, torch.cat([a for _, a, _ in seen]), torch.cat([p for _, _, p in seen])


def test_log_prob_is_the_normal_density_of_the_kernel(make_env, tiny_model):
    env = make_env(4)
    policy = FlowPolicy(tiny_model, reduction="sum").bind(env)
    for index, (obs, action, log_prob) in enumerate(walk(env, policy)):
        table = policy.kernel.table(env.unwrapped.sigmas)
        embedding = env.unwrapped.embeddings[obs["prompt_id"][:, 0]]
        velocity = tiny_model.velocity(obs["latent"], obs["sigma"][:, 0], embedding)
        mean = table.latent_weight[index] * obs["latent"] + table.output_weight[index] * velocity
        expected = Normal(mean, table.step_std[index]).log_prob(action.double())
        torch.testing.assert_close(log_prob, expected.flatten(1).sum(1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("latent_dtype", ["float32", "bfloat16", "float16"])
def test_t2_ratio_is_one_for_each_storage_dtype(nano_env, precision, latent_dtype):
    env = nano_env(2)
    model = env.unwrapped.model
    policy = FlowPolicy(model, precision=precision, latent_dtype=latent_dtype).bind(env)
    for obs, action, log_prob in walk(env, policy):
        stored = action.to(getattr(torch, latent_dtype))
        assert torch.equal(stored.float(), action)
        assert torch.equal(policy.log_prob(obs, stored).detach(), log_prob)


def test_t2_rounding_after_scoring_would_be_seen(make_env, tiny_model):
    policy = FlowPolicy(tiny_model).bind(env := make_env(4))
    (obs, action, log_prob), *_ = walk(env, policy)
    late = policy.log_prob(obs, action.to(torch.bfloat16))
    assert (late - log_prob).abs().max() > 1e-6


def test_t1_densities_are_float64_whatever_the_forward_pass_is(nano_env):
    env = nano_env(2)
    policy = FlowPolicy(env.unwrapped.model, precision="bfloat16", latent_dtype="bfloat16")
    (obs, _, log_prob), *_ = walk(env, policy.bind(env))
    assert log_prob.dtype == torch.float64
    assert policy.forward(obs).step.mean.dtype == torch.float32


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_t3_replay_of_several_steps_in_one_forward_is_the_same_policy(nano_env, guidance_scale):
    env = nano_env(3)
    policy = FlowPolicy(env.unwrapped.model, guidance_scale=guidance_scale).bind(env)
    obs, action, log_prob = joined(walk(env, policy, 3))
    order = torch.randperm(9, generator=generator())
    shuffled = {key: value[order] for key, value in obs.items()}
    replayed = policy.log_prob(shuffled, action[order]).detach()
    torch.testing.assert_close(replayed, log_prob[order], atol=1e-6, rtol=0)


def test_t9_the_model_sees_the_level_itself(make_env, tiny_model, monkeypatch):
    policy = FlowPolicy(tiny_model).bind(env := make_env(2, num_steps=7, shift=3.0))
    seen = []
    original = tiny_model.velocity
    monkeypatch.setattr(
        tiny_model, "velocity", lambda x, s, e: (seen.append(s.clone()), original(x, s, e))[1]
    )
    walk(env, policy, 6)
    expected = env.unwrapped.sigmas[:6].float()
    assert torch.equal(torch.stack(seen)[:, 0], expected)


def test_t12_guidance_scale_travels_with_the_trajectory(make_env, tiny_model):
    policy = FlowPolicy(tiny_model, guidance_scale=3.0).bind(env := make_env(4))
    (obs, action, log_prob), *_ = walk(env, policy)
    other = FlowPolicy(tiny_model, guidance_scale=1.0).bind(env)
    assert not torch.allclose(other.log_prob(obs, action), log_prob)
    scales = torch.full((4,), 3.0)
    for scale in (3.0, scales):
        replayed = other.log_prob({**obs, "guidance_scale": scale}, action)
        torch.testing.assert_close(replayed.detach(), log_prob)


def test_t12_both_guidance_branches_carry_gradient(make_env, tiny_model):
    env = make_env(2)
    policy = FlowPolicy(tiny_model, guidance_scale=3.0).bind(env)
    obs, _ = env.reset(seed=0)
    sigma, embedding = obs["sigma"][:, 0], env.unwrapped.embeddings[obs["prompt_id"][:, 0]]
    empty = tiny_model.encode([""]).expand_as(embedding)
    weight = tiny_model.transformer.to_q.weight

    def gradient(velocity):
        return torch.autograd.grad(velocity.square().sum(), weight)[0]

    conditional = tiny_model.velocity(obs["latent"], sigma, embedding)
    unconditional = tiny_model.velocity(obs["latent"], sigma, empty)
    expected = gradient(unconditional + 3.0 * (conditional - unconditional))
    torch.testing.assert_close(gradient(policy.forward(obs).velocity), expected)


def test_guidance_runs_both_branches_in_one_forward(make_env, tiny_model):
    env = make_env(4)
    obs, _ = env.reset(seed=0)
    policy = FlowPolicy(tiny_model, guidance_scale=3.0).bind(env)
    tiny_model.batches.clear()
    policy.act(obs, generator())
    FlowPolicy(tiny_model).bind(env).act(obs, generator())
    assert tiny_model.batches == [8, 4]


def test_t13_dropout_plays_no_part_even_in_training_mode(make_env, tiny_types):
    model = tiny_types["model"](dropout=0.5)
    policy = FlowPolicy(model).bind(env := make_env(4, model=model))
    (obs, action, log_prob), *_ = walk(env, policy)
    model.transformer.train()
    assert torch.equal(policy.log_prob(obs, action).detach(), log_prob)
    # What it would look like otherwise:
    model.transformer.eval = lambda: model.transformer.train()
    assert (policy.log_prob(obs, action) - log_prob).abs().max() > 1e-4


def test_t15_noise_comes_from_the_given_generator_alone(make_env, tiny_model):
    policy = FlowPolicy(tiny_model).bind(env := make_env(4))
    obs, _ = env.reset(seed=0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = policy.act(obs, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(policy.act(obs, generator(5))[0], first)
    assert not torch.equal(policy.act(obs, generator(6))[0], first)


def test_t39_a_deterministic_sample_has_no_density(make_env, tiny_model):
    policy = FlowPolicy(tiny_model, kernel="ode").bind(env := make_env(2))
    obs, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="'ode' is deterministic"):
        policy.log_prob(obs, obs["latent"])
    stochastic = FlowPolicy(tiny_model).bind(env)
    last = {**obs, "sigma": env.unwrapped.sigmas[-2].float().expand(2, 1)}
    assert stochastic.log_prob(last, obs["latent"]).isnan().all()


def test_deterministic_prediction_is_the_euler_ode(make_env, tiny_model):
    env = make_env(2, num_steps=5)
    policy = FlowPolicy(tiny_model).bind(env)
    obs, _ = env.reset(seed=0, options={"prompt_id": [1, 2], "noise_seed": [7, 8]})
    for _ in range(5):
        obs, *_ = env.step(policy.predict(obs, deterministic=True))
    noise = initial_noise(obs["latent"].shape[1:], [7, 8])
    expected = euler_ode(tiny_model, env.unwrapped.embeddings[[1, 2]], noise, num_steps=5)
    torch.testing.assert_close(obs["latent"], expected, atol=1e-5, rtol=1e-5)


def test_predict_answers_in_kind(make_env, tiny_model):
    env = make_env(2, output="numpy")
    policy = FlowPolicy(tiny_model).bind(env)
    obs, _ = env.reset(seed=0)
    batch = policy.predict(obs, deterministic=True)
    single = policy.predict({key: value[0] for key, value in obs.items()}, deterministic=True)
    assert isinstance(single, np.ndarray)
    np.testing.assert_allclose(single, batch[0], atol=1e-6)


def test_an_observed_embedding_is_used(make_env, tiny_model):
    env = make_env(2, observe_embedding=True)
    policy = FlowPolicy(tiny_model).bind(env)
    obs, _ = env.reset(seed=0, options={"prompt_id": [0, 1]})
    swapped = {**obs, "prompt_embedding": obs["prompt_embedding"].flip(0)}
    plain = {key: obs[key] for key in ("latent", "sigma", "prompt_id")}
    velocity = policy.forward(obs).velocity
    assert torch.equal(policy.forward(plain).velocity, velocity)
    assert not torch.allclose(policy.forward(swapped).velocity, velocity)


def test_reference_of_full_fine_tuning_is_the_kept_copy(make_env, tiny_model):
    policy = FlowPolicy(tiny_model).bind(env := make_env(2))
    obs, _ = env.reset(seed=0)
    with pytest.raises(RuntimeError, match="keep_reference"), policy.reference():
        pass
    before = policy.forward(obs).velocity.detach()
    policy.keep_reference()
    with torch.no_grad():
        tiny_model.transformer.to_q.weight.add_(0.1)
    after = policy.forward(obs).velocity
    with policy.reference(), torch.no_grad():
        assert torch.equal(policy.forward(obs).velocity, before)
    assert torch.equal(policy.forward(obs).velocity, after)
    # A reference taken between forward and backward must not disturb the gradient.
    weight = policy.experts["transformer"].to_q.weight
    expected = torch.autograd.grad(policy.forward(obs).velocity.sum(), weight)
    torch.testing.assert_close(torch.autograd.grad(after.sum(), weight), expected)


def test_gradient_checkpointing_gives_the_same_gradient(nano_env):
    gradients = []
    for checkpointing in (False, True):
        env = nano_env(2)
        policy = FlowPolicy(env.unwrapped.model, gradient_checkpointing=checkpointing).bind(env)
        (obs, action, _), *_ = walk(env, policy, 1)
        policy.log_prob(obs, action + 0.01).sum().backward()
        gradients.append(policy.experts["transformer"].blocks[0].attn1.to_q.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_compiled_transformer_is_the_same_policy(make_env, tiny_model, monkeypatch):
    # Graph capture and backward tracing as always, without half a minute of C++ compilation.
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: original(self, backend="aot_eager")
    )
    env = make_env(2)
    plain = FlowPolicy(tiny_model).bind(env)
    (obs, action, log_prob), *_ = walk(env, plain, 1)
    compiled = FlowPolicy(tiny_model, compile=True).bind(env)
    assert compiled.parameters.keys() == plain.parameters.keys()
    replayed = compiled.log_prob(obs, action)
    torch.testing.assert_close(replayed.detach(), log_prob, atol=1e-4, rtol=0)
    replayed.sum().backward()
    assert tiny_model.transformer.to_q.weight.grad.abs().max() > 0


def test_bad_settings_are_refused(tiny_model, make_env):
    with pytest.raises(ValueError, match="did you mean 'flow_sde'"):
        FlowPolicy(tiny_model, kernel="flow_sd")
    with pytest.raises(ValueError, match=r"'wan_sde'.*eta"):
        FlowPolicy(tiny_model, kernel="wan_sde", eta=0.7)
    with pytest.raises(ValueError, match=r"precision must be one of .* got 'fp16'"):
        FlowPolicy(tiny_model, precision="fp16")
    with pytest.raises(ValueError, match=r"reduction must be one of mean, sum, .* got 'summ'"):
        FlowPolicy(tiny_model, reduction="summ")
    with pytest.raises(ValueError, match="lora_rank must be at least 0, got -1"):
        FlowPolicy(tiny_model, lora_rank=-1)
    with pytest.raises(ValueError, match="guidence"):
        FlowPolicy(tiny_model, guidence=2.0)
    obs, _ = make_env(2).reset(seed=0)
    with pytest.raises(RuntimeError, match=r"policy\.bind\(env\)"):
        FlowPolicy(tiny_model).act(obs)


def test_a_model_without_a_transformer_is_refused(tiny_model):
    del tiny_model.transformer
    with pytest.raises(ValueError, match="'tiny' has no transformer"):
        FlowPolicy(tiny_model)


def test_adapters_on_a_bfloat16_model_are_float32_and_make_its_dtype():
    """An update of 1e-5 on a weight of 0.1 is lost in bfloat16, whose step there is 5e-4."""
    model = VideoModel.from_pretrained("nano-early", dtype=torch.bfloat16)
    policy = FlowPolicy(model, lora_rank=2)
    assert {weight.dtype for weight in policy.parameters.values()} == {torch.float32}
    others = {p.dtype for p in policy.experts.parameters() if not p.requires_grad}
    assert torch.bfloat16 in others


def test_weights_below_float32_may_draw_and_may_not_be_trained():
    """AdamW at 5e-5 left every weight of a bfloat16 model where it was, and said nothing."""
    model = VideoModel.from_pretrained("nano-early", dtype=torch.bfloat16)
    policy = FlowPolicy(model)
    with pytest.raises(ValueError, match=r"must be float32 to be trained, got torch\.bfloat16"):
        policy.trainable()
    adapted = FlowPolicy(model, lora_rank=2)
    assert adapted.trainable() == list(adapted.parameters.values())
    whole = FlowPolicy(VideoModel.from_pretrained("nano-early"), precision="bfloat16")
    assert len(whole.trainable()) == len(list(whole.experts.parameters()))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_velocity_at_any_level_is_the_models_own(make_env, tiny_model, guidance_scale):
    env = make_env(2, num_steps=4)
    policy = FlowPolicy(tiny_model, guidance_scale=guidance_scale).bind(env)
    sigma = torch.tensor([1.0, 0.9437, 0.5, 0.0123, 0.0])
    latent = torch.randn(5, 2, 3, 2, 2, generator=generator())
    ids = torch.tensor([0, 1, 2, 3, 0])
    embedding = env.unwrapped.embeddings[ids]
    empty = tiny_model.encode([""]).expand_as(embedding)
    own, without = (tiny_model.velocity(latent, sigma, e) for e in (embedding, empty))
    velocity = policy.velocity(latent, sigma, ids)
    torch.testing.assert_close(velocity, without + guidance_scale * (own - without))
    rounded = policy.table.sigma[policy.table.index_of(sigma)].float()
    assert not torch.allclose(velocity, policy.velocity(latent, rounded, ids), atol=1e-3)
    weight = policy.experts["transformer"].to_q.weight
    assert torch.autograd.grad(velocity.sum(), weight)[0].abs().max() > 0
    with pytest.raises(RuntimeError, match=r"policy\.bind\(env\)"):
        FlowPolicy(tiny_model).velocity(latent, sigma, ids)


def test_velocity_is_computed_in_the_policys_precision(nano_env):
    env = nano_env(2)
    latent, sigma = torch.randn(2, 8, 5, 8, 8, generator=generator()), torch.tensor([0.7, 0.2])
    half, full = (
        FlowPolicy(env.unwrapped.model, precision=precision)
        .bind(env)
        .velocity(latent, sigma, torch.tensor([0, 1]))
        for precision in ("bfloat16", "float32")
    )
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.1, rtol=0.1)


def test_the_unconditional_branch_is_the_models_negative_prompt(make_env, tiny_model):
    env = make_env(2)
    tiny_model.negative_prompt = "a long text about what nobody wants to see"
    obs, _ = env.reset(seed=0)
    embedding = env.unwrapped.embeddings[obs["prompt_id"][:, 0]]
    negative = tiny_model.encode([tiny_model.negative_prompt])
    expected = tiny_model.guided(obs["latent"], obs["sigma"][:, 0], embedding, 3.0, negative)
    policy = FlowPolicy(tiny_model, guidance_scale=3.0).bind(env)
    assert torch.equal(policy.forward(obs).velocity, expected)


def test_guidance_none_is_what_the_model_recommends(make_env, tiny_model):
    tiny_model.default_guidance = 4.0
    recommended = FlowPolicy(tiny_model, guidance_scale=None)
    assert recommended.guidance_scale == recommended.settings()["guidance_scale"] == 4.0
    assert FlowPolicy(tiny_model).guidance_scale == 1.0
    # The unconditional branch alone is a choice, too.
    assert FlowPolicy(tiny_model, guidance_scale=0.0).guidance_scale == 0.0


def test_checkpointing_is_refused_where_a_model_has_none(tiny_model):
    with pytest.raises(ValueError, match=r"transformer with enable_grad.*got a TinyTransformer"):
        FlowPolicy(tiny_model, gradient_checkpointing=True)


@pytest.fixture
def two_experts(tiny_types):
    """The tiny model with a second transformer for levels below a half, routed by row."""

    class TwoExperts(tiny_types["model"]):
        def __init__(self):
            super().__init__()
            self.transformer_2 = tiny_types["model"]().transformer
            with torch.no_grad():
                self.transformer_2.to_k.bias.add_(1)

        @property
        def experts(self):
            return {"transformer": self.transformer, "transformer_2": self.transformer_2}

        def velocity(self, latent, sigma, embedding):
            parts = [expert(latent, sigma, embedding) for expert in self.experts.values()]
            return torch.where((sigma >= 0.5)[:, None, None, None, None], *parts)

    return TwoExperts()


def test_names_are_prefixed_where_there_are_several_experts(two_experts, tiny_model):
    plain, several = FlowPolicy(tiny_model), FlowPolicy(two_experts)
    names = {"to_q.weight", "to_q.bias", "to_k.weight", "to_k.bias"}
    assert set(plain.parameters) == names
    both = [f"{expert}.{name}" for expert in ("transformer", "transformer_2") for name in names]
    assert set(several.parameters) == set(both)


def test_adapters_of_two_experts_begin_apart_and_as_the_seed_says(two_experts, tiny_types):
    settings = {"lora_rank": 2, "lora_targets": ["to_q"]}
    found = FlowPolicy(two_experts, lora_seed=5, **settings).parameters
    halves = [found[f"{e}.to_q.lora_A.default.weight"] for e in ("transformer", "transformer_2")]
    assert not torch.allclose(*halves)
    alone = FlowPolicy(tiny_types["model"](), lora_seed=5, **settings).parameters
    assert torch.equal(alone["to_q.lora_A.default.weight"], halves[0])


def test_all_experts_train_have_a_reference_and_come_back(two_experts, make_env, tmp_path):
    env = make_env(2, model=two_experts)
    policy = FlowPolicy(two_experts, lora_rank=2, lora_targets=["to_q"]).bind(env)
    latent, ids = torch.randn(2, 2, 3, 2, 2, generator=generator()), torch.tensor([0, 1])
    sigma = torch.tensor([0.9, 0.1])
    before = policy.velocity(latent, sigma, ids).detach()
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(0.5)
    after = policy.velocity(latent, sigma, ids).detach()
    assert ((after - before).flatten(1).abs().amax(dim=1) > 1e-3).all()
    with policy.reference():
        assert torch.equal(policy.velocity(latent, sigma, ids), before)
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.zero_()
    two_experts.load_trained(tmp_path)
    assert torch.equal(policy.velocity(latent, sigma, ids), after)

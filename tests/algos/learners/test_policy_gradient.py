"""The gradient of every setting of the loss, against the loss written out clip by clip."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.learners.policy_gradient import LossConfig, TransitionObjective
from reelrl.algos.policies import FlowPolicy

# The weights move between drawing and replaying, which is called out in training.
pytestmark = pytest.mark.filterwarnings("ignore:before any update")

ETA = 0.7
DIMENSIONS = 24
DIVISORS = {"mean": DIMENSIONS, "sum_sqrt_d": math.sqrt(DIMENSIONS), "sum": 1}


@pytest.fixture
def make_learner(make_env, tiny_types):
    """Two groups of four clips of three noisy steps; its updates leave the weights as they are."""

    def make(estimator="grpo", policy=None, **changes):
        model = tiny_types["model"]()
        settings = {
            "prompts_per_iteration": 2,
            "group_size": 4,
            "learning_rate": 1e-30,
            "max_grad_norm": 1e9,
            **changes,
        }
        policy = FlowPolicy(model, **(policy or {}))
        return GRPO(make_env(8, model=model), policy, estimator, GRPOConfig(**settings))

    return make


class Walk:
    """A policy in float64, one clip at a time: Flow-GRPO's step as its paper prints it."""

    def __init__(self, transformer, model, sigmas, reduction):
        self.transformer = copy.deepcopy(transformer).double()
        self.model, self.sigmas, self.reduction = model, sigmas.tolist(), reduction

    def step(self, t, latent, prompt):
        """Velocity, mean and width of the step from level t."""
        sigma, following = self.sigmas[t], self.sigmas[t + 1]
        embedding = self.model.encode([prompt]).double()
        level = torch.full((1,), sigma, dtype=torch.float64)
        x = latent.double()[None]
        velocity = self.transformer(x, level, embedding)
        diffusion = ETA * math.sqrt(sigma / (1 - min(sigma, self.sigmas[1])))
        dt = following - sigma
        noise = x + (1 - sigma) * velocity
        mean = x + velocity * dt + diffusion**2 / (2 * sigma) * noise * dt
        return velocity, mean, diffusion * math.sqrt(-dt)

    def log_prob(self, mean, std, action):
        squares = ((action.double()[None] - mean) ** 2).sum() / (2 * std**2)
        constant = DIMENSIONS * (math.log(std) + 0.5 * math.log(2 * math.pi))
        return -(squares + constant) / DIVISORS[self.reduction]

    def divergence(self, mean, other, std):
        return ((mean - other) ** 2).sum() / (2 * std**2) / DIVISORS[self.reduction]


def pessimistic(ratio, advantage, clip):
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, bounded * advantage)


def bounded_loss(kind, log_ratio, advantage, clip, threshold, divergence, far, std):
    """The loss of one step of one clip, and whether the bound has stopped its gradient."""
    if kind == "dppo":
        outward = (advantage > 0 and log_ratio > 0) or (advantage < 0 and log_ratio < 0)
        stopped = bool(outward and far >= threshold)
        return (0.0 * log_ratio if stopped else -advantage * log_ratio.exp()), stopped
    if kind == "guard":
        log_ratio = std * (log_ratio + divergence)
    ratio = log_ratio.exp()
    stopped = (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip)
    return pessimistic(ratio, advantage, clip), bool(stopped)


def step_weight_of(kind, steps, sigmas):
    raw = []
    for t in steps:
        sigma, change = sigmas[t], sigmas[t] - sigmas[t + 1]
        width = ETA * math.sqrt(sigma / (1 - min(sigma, sigmas[1]))) * math.sqrt(change)
        raw.append({"uniform": 1.0, "inverse_dt": 1 / change, "step_std": width}[kind])
    return [value * len(raw) / sum(raw) for value in raw]


def written_out(learner, walks, rollout, output):
    """Loss of a whole iteration, and the number of items that the bound has stopped."""
    now, old = walks
    config, transitions = learner.config.loss, rollout.transitions
    clip = config.clip_range * math.sqrt(DIMENSIONS) / DIVISORS[now.reduction]
    weights = step_weight_of(
        config.step_weight, [kept.index for kept in transitions.steps], now.sigmas
    )
    loss, total, stopped_items = torch.zeros((), dtype=torch.float64), 0.0, 0
    for kept, step_weight in zip(transitions.steps, weights, strict=True):
        for i in range(len(rollout.prompt_ids)):
            place = divmod(i, rollout.group_size)
            prompt = learner.env.unwrapped.prompts[int(rollout.prompt_ids[i])]
            counts = 1.0 if output.sample_weight is None else float(output.sample_weight[place])
            total += counts
            velocity, mean, std = now.step(kept.index, kept.latent[i], prompt)
            with torch.no_grad():
                old_velocity, old_mean, _ = old.step(kept.index, kept.latent[i], prompt)
                old_log_prob = old.log_prob(old_mean, std, kept.action[i])
            log_ratio = now.log_prob(mean, std, kept.action[i]) - old_log_prob
            divergence = now.divergence(mean, old_mean, std)
            far = ((mean - old_mean) ** 2).mean() / (2 * std**2)
            known = (log_ratio, clip, config.dppo_threshold, divergence, far, std)
            if learner.estimator.loss_mode == "per_component":
                value = torch.zeros((), dtype=torch.float64)
                for k in range(len(learner.names)):
                    advantage = float(output.component_advantages[(*place, k)])
                    given = output.component_weights
                    weight = float(given[k] if given.ndim == 1 else given[place[0], k])
                    if not math.isnan(advantage):
                        ratio = log_ratio.exp()
                        value = value + weight * pessimistic(ratio, advantage, clip)
            else:
                advantage = float(output.advantages[place])
                value, stopped = bounded_loss(config.kind, known[0], advantage, *known[1:])
                stopped_items += stopped
            gate = 1.0 if output.kl_gate is None else float(output.kl_gate[place])
            penalty = {
                "gaussian": divergence,
                "velocity_mse": ((velocity - old_velocity) ** 2).mean(),
                "latent_mse": ((mean - old_mean) ** 2).mean(),
            }[config.kl_kind]
            value = value + config.kl_weight * gate * penalty
            loss = loss + step_weight * counts * value
    return loss / total, stopped_items


def collected(learner):
    """A rollout, the answer to it, and the policy now and as it drew: the weights have moved."""
    rollout = learner.collect()
    output = learner.estimate(rollout)
    base, reduction = learner.env.unwrapped, learner.policy.config.reduction
    transformer = base.model.transformer
    old = Walk(transformer, base.model, base.sigmas, reduction)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return rollout, output, (Walk(transformer, base.model, base.sigmas, reduction), old)


def gradients_of_update(learner, monkeypatch, rollout, output):
    """Flat gradient of every optimizer step of an iteration."""
    found = []
    parameters = learner.updater.parameters

    def note(*_, **__):
        found.append(torch.cat([p.grad.flatten() for p in parameters]).double())

    monkeypatch.setattr(learner.updater.optimizer, "step", note)
    metrics = learner.update(rollout, output)
    return torch.stack(found), metrics


def expected_gradient(walks, loss):
    parts = torch.autograd.grad(loss, list(walks[0].transformer.parameters()))
    return torch.cat([part.flatten() for part in parts])


def dropping(output):
    """One clip left out, as a post step leaves it; one that counts half."""
    weight, advantages = torch.ones(2, 4), output.advantages.clone()
    weight[0, 1], weight[1, 2] = 0.0, 0.5
    advantages[0, 1] = 0.0
    return replace(output, advantages=advantages, sample_weight=weight)


def gated(output):
    gate = torch.tensor([[True, False, True, True], [False, True, False, True]])
    return replace(output, kl_gate=gate)


def silent(output):
    """A group without a signal, which pays the penalty all the same."""
    advantages = output.advantages.clone()
    advantages[1] = 0
    return replace(output, advantages=advantages)


def patchy(output):
    """Components that do not apply, that say nothing, and that weigh otherwise in each group."""
    components = output.component_advantages.clone()
    components[0, 0, 0], components[1, 1, 1] = torch.nan, torch.nan
    components[0, 2, 1], components[1, 3] = 0.0, 0.0
    weights = torch.tensor([[1.0, 0.5], [0.25, 2.0]])
    return replace(output, component_advantages=components, component_weights=weights)


BASE = {"clip_range": 0.1, "dppo_threshold": 1e-3}
CASES = {
    "clip": ({}, {}, None),
    "guard": ({"kind": "guard"}, {}, None),
    "dppo": ({"kind": "dppo"}, {}, None),
    "inverse_dt": ({"step_weight": "inverse_dt"}, {}, None),
    "step_std": ({"step_weight": "step_std"}, {}, None),
    "gaussian": ({"kl_weight": 3.0}, {}, silent),
    "velocity_mse": ({"kl_weight": 3.0, "kl_kind": "velocity_mse"}, {}, silent),
    "latent_mse": ({"kl_weight": 3.0, "kl_kind": "latent_mse"}, {}, silent),
    "kl_gate": ({"kl_weight": 3.0}, {}, gated),
    "dropped": ({}, {}, dropping),
    "dropped, penalty": ({"kl_weight": 3.0}, {}, dropping),
    "dropped, guard, inverse_dt": (
        {"kind": "guard", "step_weight": "inverse_dt", "kl_weight": 3.0}, {}, dropping,
    ),
    "components": ({}, {"estimator": "dancegrpo", "reward_weights": (2.0, 0.5)}, None),
    "components by group": ({}, {"estimator": "dancegrpo"}, patchy),
    "components, penalty": ({"kl_weight": 3.0}, {"estimator": "dancegrpo"}, patchy),
    "three updates": ({}, {"updates_per_iteration": 3}, None),
    "three updates, dropped": (
        {"kl_weight": 3.0, "step_weight": "step_std"}, {"updates_per_iteration": 3}, dropping,
    ),
    "small micro-batches": ({"kl_weight": 3.0}, {"micro_batch": 5}, silent),
    "sum_sqrt_d": ({"kl_weight": 3.0}, {"policy": {"reduction": "sum_sqrt_d"}}, None),
    "two of the steps": (
        {"step_weight": "inverse_dt"}, {"rollout": RolloutConfig(first_step=1)}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_loss_written_out(make_learner, monkeypatch, case):
    loss, changes, change = CASES[case]
    learner = make_learner(**{"loss": LossConfig(**BASE, **loss), **changes})
    rollout, output, walks = collected(learner)
    output = output if change is None else change(output)
    value, stopped = written_out(learner, walks, rollout, output)
    expected = expected_gradient(walks, value)
    gradients, metrics = gradients_of_update(learner, monkeypatch, rollout, output)
    assert len(gradients) == learner.config.updates_per_iteration
    # Each of k updates is divided by a k-th of the weights, so their mean is the whole gradient.
    actual = gradients.mean(dim=0)
    scale = float(expected.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(actual, expected, atol=2e-5 * scale, rtol=1e-3)
    if learner.estimator.loss_mode == "summed":
        items = round(metrics["train/active"] * rollout.transitions.num_items)
        assert metrics["train/clip_fraction"] == pytest.approx(stopped / items)
    if case in ("clip", "guard", "dppo", "components"):
        assert 0 < metrics["train/clip_fraction"] < 1  # the bound is at work in these cases


def test_items_of_weight_zero_cost_no_forward_pass(make_learner):
    learner = make_learner(loss=LossConfig(kl_weight=1.0))
    rollout = learner.collect()
    output = dropping(learner.estimate(rollout))
    objective = TransitionObjective.of(learner.policy, rollout, output, learner.config.loss, False)
    assert objective.active().tolist() == [i for i in range(24) if i % 8 != 1]
    assert float(objective.weight()) == 3 * 6.5


def test_the_penalty_is_logged_as_it_is_in_the_loss(make_learner, monkeypatch):
    learner = make_learner(loss=LossConfig(kl_weight=2.0, clip_range=100.0))
    rollout, output, walks = collected(learner)
    divergences, ratios = [], []
    for kept in rollout.transitions.steps:
        for i in range(8):
            prompt = learner.env.unwrapped.prompts[int(rollout.prompt_ids[i])]
            with torch.no_grad():
                parts = [walk.step(kept.index, kept.latent[i], prompt) for walk in walks]
                (_, mean, std), (_, old_mean, _) = parts
                divergences.append(float(walks[0].divergence(mean, old_mean, std)))
                new = walks[0].log_prob(mean, std, kept.action[i])
                ratios.append(float(new - walks[1].log_prob(old_mean, std, kept.action[i])))
    _, metrics = gradients_of_update(learner, monkeypatch, rollout, output)
    assert metrics["train/kl"] == pytest.approx(sum(divergences) / 24, rel=1e-4)
    nats = torch.tensor(ratios, dtype=torch.float64) * DIMENSIONS
    assert metrics["train/approx_kl"] == pytest.approx(float(nats.square().mean()) / 2, rel=1e-3)
    assert metrics["health/first_pass_log_ratio"] == pytest.approx(max(map(abs, ratios)), rel=1e-3)
    for s, kept in enumerate(rollout.transitions.steps):
        mean = sum(math.exp(ratio) for ratio in ratios[8 * s : 8 * s + 8]) / 8
        assert metrics[f"health/ratio_mean/step_{kept.index}"] == pytest.approx(mean, rel=1e-4)


def test_components_of_weight_zero_are_no_part_of_the_clip_fraction(make_learner, monkeypatch):
    fractions = []
    for weights in ((1.0, 0.0), (1.0, 1.0)):
        learner = make_learner("dancegrpo", loss=LossConfig(**BASE))
        rollout, output, _ = collected(learner)
        output = replace(output, component_weights=torch.tensor(weights))
        _, metrics = gradients_of_update(learner, monkeypatch, rollout, output)
        fractions.append(metrics["train/clip_fraction"])
    first = replace(output, advantages=output.component_advantages[..., 0])
    alone = make_learner(loss=LossConfig(**BASE))
    rollout, _, walks = collected(alone)
    _, stopped = written_out(alone, walks, rollout, first)
    assert fractions[0] == pytest.approx(stopped / 24)
    assert fractions[1] != fractions[0]


@pytest.mark.parametrize("updates", [1, 2])
def test_marble_with_one_component_is_grpo_with_the_penalty(
    make_env, tiny_types, monkeypatch, updates
):
    """One gradient balanced is the gradient itself; the penalty is added to it, once."""
    gradients = []
    for estimator in ("grpo", "marble"):
        model = tiny_types["model"]()
        config = GRPOConfig(
            prompts_per_iteration=2,
            group_size=4,
            learning_rate=1e-30,
            max_grad_norm=1e9,
            updates_per_iteration=updates,
            loss=LossConfig(kl_weight=3.0, clip_range=100.0),
        )
        env = make_env(8, model=model, rewards=[tiny_types["brightness"]()])
        learner = GRPO(env, FlowPolicy(model), estimator, config)
        rollout, output, _ = collected(learner)
        shared = output if estimator == "grpo" else replace(
            output, component_advantages=gradients[0][1][..., None], advantages=gradients[0][1]
        )  # fmt: skip
        found, _ = gradients_of_update(learner, monkeypatch, rollout, shared)
        gradients.append((found, shared.advantages.clone()))
        if estimator == "marble":
            # Solved for in the first update of an iteration and lived off in the others.
            assert learner.estimator_state["solves"] == 1
    torch.testing.assert_close(gradients[1][0], gradients[0][0], atol=1e-6, rtol=1e-4)

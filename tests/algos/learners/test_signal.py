"""Which number of an estimator's answer each transition of a rollout learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reelrl.algos.advantages import make_estimator
from reelrl.algos.collect.collector import collect
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.learners.signal import signal_per_transition
from reelrl.algos.policies import FlowPolicy


@pytest.fixture
def rollout_of(make_env, tiny_model, facts_of):
    """Two groups of four clips of six steps, and the estimator's answer to them."""

    def make(estimator, scored=None, **config):
        rollout = collect(
            make_env(8, num_steps=6), FlowPolicy(tiny_model), [0, 2], 4, RolloutConfig(**config)
        )
        if scored is not None:
            valid = torch.tensor(scored)[:, None].expand(-1, 2)
            rewards = torch.where(valid, rollout.rewards, torch.nan)
            rollout = replace(rollout, rewards=rewards, valid=valid)
        output, _ = make_estimator(estimator)(
            rollout.reward_batch(facts_of("brightness", "contrast"))
        )
        return rollout, output

    return make


@pytest.mark.parametrize(
    "config",
    [
        {"initial_noise": "shared", "first_step": 2},
        {"initial_noise": "shared"},
        {"window": "random", "window_size": 2, "first_step": 1},
        {"branch_steps": (1, 3), "first_step": 1},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("estimator", ["dense_grpo", "tp_grpo"])
def test_a_signal_per_denoising_step_goes_to_the_transitions_of_that_step(
    rollout_of, estimator, config
):
    rollout, output = rollout_of(estimator, dense=True, **config)
    assert output.advantages.shape == (2, 4, 6)
    row, column = rollout.transitions.rows()
    step = torch.tensor(rollout.transitions.plan.steps)[column]
    expected = output.advantages.flatten(0, 1)[row, step]
    assert torch.equal(signal_per_transition(output, rollout).advantages, expected.double())


def test_a_signal_per_edge_of_a_tree_goes_to_the_transitions_of_that_edge(rollout_of):
    rollout, output = rollout_of("branch_grpo", branch_steps=(2, 4), first_step=2)
    assert output.advantages.shape == (2, 4, 3)
    row, column = rollout.transitions.rows()
    expected = output.advantages.flatten(0, 1)[row, column]
    assert torch.equal(signal_per_transition(output, rollout).advantages, expected.double())


def test_a_tree_that_branches_once_is_a_tree(rollout_of):
    _, output = rollout_of("branch_grpo", branch_steps=(0,), branches=4)
    assert output.advantages.shape == (2, 4, 5) and output.advantages.abs().min() > 0


def test_a_shared_transition_has_the_signal_of_its_first_scored_clip(rollout_of):
    scored = [False, True, True, True, False, False, True, True]
    rollout, output = rollout_of("branch_grpo", scored, branch_steps=(0, 2))
    signal = signal_per_transition(output, rollout)
    row, column = rollout.transitions.rows()
    shared = column == 0
    assert row[shared].tolist() == [0, 2, 4, 6]
    # The edge of clips 0 and 1 is that of clip 1; nobody is left of clips 4 and 5.
    assert signal.weight[shared].tolist() == [1, 1, 0, 1]
    expected = output.advantages.flatten(0, 1)[[1, 2, 4, 6], 0]
    assert torch.equal(signal.advantages[shared], expected.double())
    assert signal.advantages[0] != 0
    alone = column == 2
    assert signal.weight[alone].tolist() == [0, 1, 1, 1, 0, 0, 1, 1]


def test_a_shared_transition_counts_if_any_of_its_clips_is_kept(rollout_of):
    rollout, output = rollout_of("branch_grpo", branch_steps=(0, 2))
    dropped = torch.ones(2, 4)
    dropped[0, 0] = dropped[1, 2] = dropped[1, 3] = 0
    signal = signal_per_transition(replace(output, sample_weight=dropped), rollout)
    _, column = rollout.transitions.rows()
    assert signal.weight[column == 0].tolist() == [1, 1, 1, 0]
    per_edge = dropped[:, :, None].expand(-1, -1, 5)
    again = signal_per_transition(replace(output, sample_weight=per_edge), rollout)
    assert torch.equal(again.weight, signal.weight)


def test_a_clip_that_nobody_scored_counts_nothing_whatever_the_estimator_says(rollout_of):
    scored = [True, False, True, True, True, True, True, False]
    rollout, output = rollout_of("grpo", scored)
    _, column = rollout.transitions.rows()
    for weight in (None, torch.ones(2, 4), torch.ones(2, 4, 6), 0.5 * torch.ones(2, 4, 5)):
        signal = signal_per_transition(replace(output, sample_weight=weight), rollout)
        each = 1.0 if weight is None else float(weight.flatten()[0])
        for s in range(5):
            assert signal.weight[column == s].tolist() == [each * known for known in scored]


def test_weights_of_components_are_looked_up_by_group(rollout_of):
    rollout, output = rollout_of("dancegrpo")
    row, _ = rollout.transitions.rows()
    by_group = torch.tensor([[1.0, 0.5], [0.25, 2.0]])
    signal = signal_per_transition(replace(output, component_weights=by_group), rollout)
    assert torch.equal(signal.component_weights, by_group[row // 4].double())
    one = torch.tensor([3.0, 4.0])
    signal = signal_per_transition(replace(output, component_weights=one), rollout)
    assert torch.equal(signal.component_weights, one.double().expand(len(row), 2))


def test_the_gate_of_the_penalty_is_a_clips(rollout_of):
    rollout, output = rollout_of("grpo")
    row, _ = rollout.transitions.rows()
    gate = torch.tensor([[True, False, False, True], [False, True, False, False]])
    signal = signal_per_transition(replace(output, kl_gate=gate), rollout)
    assert torch.equal(signal.kl_gate, gate.flatten()[row].double())
    assert signal_per_transition(output, rollout).kl_gate.eq(1).all()


def test_steps_of_another_number_are_refused(rollout_of):
    rollout, output = rollout_of("dense_grpo", dense=True, window="random", first_step=1)
    with pytest.raises(ValueError, match=r"all 6 denoising steps or of the 2 stoch.*, got 5"):
        signal_per_transition(replace(output, advantages=output.advantages[..., :5]), rollout)

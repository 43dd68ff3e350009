"""What a rollout stores, and that it depends on seed and iteration and on nothing else."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import make_estimator
from reelrl.algos.advantages.methods.tree import ancestors
from reelrl.algos.collect.collector import collect
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.envs.sampling import euler_ode, initial_noise
from reelrl.envs.scoring import RewardFacts
from reelrl.rewards import Reward
from reelrl.rewards.asynchronous import AsyncReward


@pytest.fixture
def policy(tiny_model):
    return FlowPolicy(tiny_model)


def replay(policy, rollout, index=None):
    items = rollout.transitions.items(
        torch.arange(rollout.transitions.num_items) if index is None else index
    )
    with torch.no_grad():
        return policy.log_prob(items.obs, items.action), items


def test_t2_replaying_all_steps_in_one_forward_gives_ratio_one(make_env, policy):
    rollout = collect(make_env(8), policy, [0, 2], 4)
    log_prob, items = replay(policy, rollout)
    assert rollout.transitions.num_items == 3 * 8
    torch.testing.assert_close(log_prob, items.log_prob, atol=1e-6, rtol=0)


def test_items_come_sorted_and_complete_whatever_the_order_asked(make_env, policy):
    rollout = collect(make_env(4), policy, [1, 2], 4)
    index = torch.tensor([17, 3, 22, 9, 0])
    log_prob, items = replay(policy, rollout, index)
    row, column = rollout.transitions.rows()
    assert torch.equal(items.row, row[index.sort().values])
    assert torch.equal(items.column, column[index.sort().values])
    assert torch.equal(items.obs["prompt_id"][:, 0], rollout.prompt_ids[items.row])
    torch.testing.assert_close(log_prob, items.log_prob, atol=1e-6, rtol=0)


@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_clips_do_not_depend_on_the_batch_they_are_made_in(make_env, policy, output):
    whole = collect(make_env(8, output=output), policy, [0, 2], 4, seed=3, iteration=5)
    halves = collect(make_env(2), policy, [0, 2], 4, seed=3, iteration=5)
    torch.testing.assert_close(whole.rewards, halves.rewards, atol=1e-6, rtol=0)
    for a, b in zip(whole.transitions.steps, halves.transitions.steps, strict=True):
        torch.testing.assert_close(a.action, b.action, atol=1e-5, rtol=0)
    other = collect(make_env(8), policy, [0, 2], 4, seed=3, iteration=6)
    assert not torch.allclose(other.transitions.steps[0].latent, whole.transitions.steps[0].latent)


def test_t15_the_global_generator_plays_no_part(make_env, policy):
    state = torch.get_rng_state()
    first = collect(make_env(4), policy, [0], 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(collect(make_env(4), policy, [0], 4).rewards, first.rewards)


def test_t14_initial_noise_is_shared_or_independent_as_asked(make_env, policy):
    for mode, distinct in (("shared", 1), ("independent", 4)):
        rollout = collect(make_env(8), policy, [0, 0], 4, RolloutConfig(initial_noise=mode))
        groups = rollout.noise_seeds.reshape(2, 4)
        assert [len(set(group.tolist())) for group in groups] == [distinct, distinct]
        assert set(groups[0]).isdisjoint(groups[1])
        expected = initial_noise((2, 3, 2, 2), rollout.noise_seeds.tolist())
        assert torch.equal(rollout.transitions.steps[0].latent, expected)
        # Same start, but the noise on the way differs.
        assert len(set(rollout.rewards[:4, 0].tolist())) == 4


def test_t16_t17_members_of_a_group_train_the_same_stored_steps(make_env, policy):
    config = RolloutConfig(window="random", window_size=2)
    for iteration in range(4):
        rollout = collect(make_env(4, num_steps=6), policy, [0], 4, config, iteration=iteration)
        assert (
            tuple(step.index for step in rollout.transitions.steps)
            == rollout.transitions.plan.steps
        )
        row, column = rollout.transitions.rows()
        steps_of = [sorted(column[row == clip].tolist()) for clip in range(4)]
        assert steps_of == [[0, 1]] * 4
        items = rollout.transitions.items(torch.arange(rollout.transitions.num_items))
        levels = torch.tensor([step.index for step in rollout.transitions.steps])[items.column]
        assert torch.equal(items.obs["sigma"][:, 0], rollout.transitions.sigmas[levels].float())


def test_t6_last_step_is_deterministic_and_not_trained(make_env, policy):
    rollout = collect(make_env(4, num_steps=5), policy, [0], 4)
    assert rollout.transitions.plan.steps == (0, 1, 2, 3)


def test_t21_one_prompt_twice_is_two_groups(make_env, policy, facts_of):
    rollout = collect(make_env(8), policy, [3, 3], 4)
    assert rollout.num_groups == 2
    batch = rollout.reward_batch(facts_of("a", "b"))
    assert batch.rewards.shape == (2, 4, 2) and batch.prompt_ids.tolist() == [3, 3]


def test_t23_a_failed_reward_is_nan_and_masked(make_env, policy, tiny_types):
    env = make_env(8, rewards=[tiny_types["flaky"]((1,)), tiny_types["contrast"]()])
    with pytest.warns(UserWarning, match="flaky"):
        rollout = collect(env, policy, [0, 1], 4)
    assert rollout.rewards[4:, 0].isnan().all() and not rollout.valid[4:, 0].any()
    assert rollout.rewards[:4].isfinite().all() and rollout.rewards[4:, 1].isfinite().all()
    output, _ = make_estimator("gdpo")(rollout.reward_batch(env.unwrapped.reward_facts))
    assert output.advantages.isfinite().all()


def test_shared_prefix_is_computed_once_per_group(make_env, tiny_model, policy):
    config = RolloutConfig(initial_noise="shared", first_step=2)
    tiny_model.batches.clear()
    rollout = collect(make_env(8, num_steps=4), policy, [0, 1], 4, config)
    assert tiny_model.batches == [2, 2, 2, 8]
    latent = rollout.transitions.steps[0].latent.unflatten(0, (2, 4))
    assert torch.equal(latent, latent[:, :1].expand_as(latent))
    action = rollout.transitions.steps[0].action.unflatten(0, (2, 4))
    assert not torch.equal(action[:, 0], action[:, 1])


@pytest.mark.parametrize("latent_dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"first_step": 1},
        {"window": "sliding", "window_size": 1},
        {"first_step": 2, "initial_noise": "shared"},
        {"branch_steps": (1, 2), "first_step": 1},
    ],
    ids=str,
)
def test_t2_stored_dtype_loses_nothing_wherever_the_window_is(
    make_env, tiny_model, latent_dtype, config
):
    policy = FlowPolicy(tiny_model, latent_dtype=latent_dtype)
    rollout = collect(make_env(4), policy, [0], 4, RolloutConfig(**config), iteration=1)
    last = rollout.transitions.steps[-1]
    assert last.latent.dtype == last.action.dtype == getattr(torch, latent_dtype)
    log_prob, items = replay(policy, rollout)
    torch.testing.assert_close(log_prob, items.log_prob, atol=1e-6, rtol=0)


def test_means_are_those_of_the_sampling_policy(make_env, policy):
    rollout = collect(make_env(4), policy, [0], 4, RolloutConfig(keep_means=True))
    items = rollout.transitions.items(torch.arange(rollout.transitions.num_items))
    with torch.no_grad():
        torch.testing.assert_close(items.mean, policy.forward(items.obs).step.mean)


def test_dense_rewards_are_those_of_the_euler_completions(make_env, tiny_model, policy, facts_of):
    env = make_env(4, num_steps=4)
    rollout = collect(env, policy, [0, 1], 2, RolloutConfig(dense=True, first_step=1))
    assert rollout.extras["ode_rewards"].shape == (4, 5, 2)
    assert torch.equal(rollout.extras["ode_rewards"][:, -1], rollout.rewards)
    noise = initial_noise((2, 3, 2, 2), rollout.noise_seeds.tolist())
    embedding = env.unwrapped.embeddings[rollout.prompt_ids]
    clean = euler_ode(tiny_model, embedding, noise, num_steps=4)
    expected = env.unwrapped.score(clean, rollout.prompt_ids)
    for level in (0, 1):  # The step from noise is deterministic.
        torch.testing.assert_close(
            rollout.extras["ode_rewards"][:, level], expected, atol=1e-5, rtol=0
        )
    assert torch.equal(rollout.extras["ode_rewards"][:, 3], rollout.rewards)
    assert not torch.allclose(rollout.extras["ode_rewards"][:, 2], rollout.rewards)
    output, _ = make_estimator("dense_grpo")(rollout.reward_batch(facts_of("a", "b")))
    assert output.advantages.shape == (2, 2, 4)


def test_tree_shares_nodes_and_counts_every_edge_once(make_env, tiny_model, policy, facts_of):
    config = RolloutConfig(branch_steps=(0, 2))
    tiny_model.batches.clear()
    rollout = collect(make_env(8, num_steps=5), policy, [0, 1], 4, config)
    assert tiny_model.batches == [2, 4, 4, 8, 8]
    assert [len(step.row) for step in rollout.transitions.steps] == [4, 4, 8, 8]
    log_prob, items = replay(policy, rollout)
    torch.testing.assert_close(log_prob, items.log_prob, atol=1e-6, rtol=0)
    batch = rollout.reward_batch(facts_of("a", "b"))
    path = ancestors(batch.extras["tree_parent"], 4)
    assert path.shape == (2, 4, 4)
    for depth, step in enumerate(rollout.transitions.steps):
        nodes = path[:, :, depth]
        shared = (nodes[:, :, None] == nodes[:, None]).sum(-1)
        assert (shared == 8 // len(step.row)).all()
        edge = batch.extras["edge_logp"].gather(1, nodes).flatten()
        owner = torch.arange(8) // (8 // len(step.row))
        torch.testing.assert_close(edge, step.log_prob[owner].float())
    output, _ = make_estimator("branch_grpo")(batch)
    assert output.advantages.shape == (2, 4, 4)


def test_environments_and_numbers_that_do_not_fit_are_refused(make_env, policy):
    with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
        collect(make_env(4, autoreset_mode="NextStep"), policy, [0], 4)
    with pytest.raises(ValueError, match=r"3 prompts times 2 clips .* num_envs = 4"):
        collect(make_env(4), policy, [0, 1, 2], 2)
    with pytest.raises(ValueError, match="num_envs = 2 is no multiple of the group size 4"):
        collect(make_env(2), policy, [0], 4, RolloutConfig(initial_noise="shared"))
    with pytest.raises(ValueError, match="flat"):
        collect(make_env(4, flat=True), policy, [0], 4)


def test_videos_are_kept_on_request(make_env, policy):
    config = RolloutConfig(keep_videos=3)
    rollout = collect(make_env(2), policy, [0], 4, config)
    assert rollout.videos.shape == (3, 5, 8, 8, 3) and rollout.videos.dtype == torch.uint8
    whole = collect(make_env(4), policy, [0], 4, RolloutConfig(keep_videos=4))
    assert (rollout.videos.int() - whole.videos[:3].int()).abs().max() <= 1
    first = collect(make_env(2), policy, [0], 4, RolloutConfig(keep_videos=1))
    assert torch.equal(first.videos, rollout.videos[:1])
    assert np.ndim(rollout.noise_seeds) == 1


class Grouped(Reward):
    """The number of the group that a clip is told to be in."""

    name = "grouped"
    bounds = (0.0, 10.0)

    def score(self, videos, prompts, infos):
        return torch.tensor([float(info["group_id"]) for info in infos])


@pytest.mark.parametrize("batch", [1, 2, 4, 12])
def test_groups_are_numbered_through_all_batches(make_env, policy, batch):
    rollout = collect(make_env(batch, rewards=[Grouped()]), policy, [1, 1, 0], 4)
    assert rollout.rewards[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert rollout.group_id.tolist() == rollout.rewards[:, 0].tolist()


def test_members_of_a_group_draw_noise_of_their_own_on_the_way(make_env, policy):
    """By one start and one mean, they are told apart by the noise alone."""
    config = RolloutConfig(initial_noise="shared", keep_means=True)
    rollout = collect(make_env(8), policy, [0, 1], 4, config)
    step = rollout.transitions.steps[0]
    drawn = (step.action - step.mean).flatten(1)
    assert torch.cdist(drawn, drawn).fill_diagonal_(1).min() > 0.1
    again = collect(make_env(8), policy, [0, 1], 4, config, iteration=1).transitions.steps[0]
    assert not torch.allclose(again.action - again.mean, step.action - step.mean, atol=1e-3)
    other = rollout.transitions.steps[1]
    assert not torch.allclose(other.action - other.mean, step.action - step.mean, atol=1e-3)


@pytest.mark.parametrize("latent_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", ["all", "random"])
def test_completions_from_every_level_written_out(make_env, tiny_model, latent_dtype, window):
    policy = FlowPolicy(tiny_model, latent_dtype=latent_dtype)
    env = make_env(4, num_steps=5)
    config = RolloutConfig(dense=True, window=window)
    rollout = collect(env, policy, [0, 3], 2, config, iteration=3)
    found = rollout.extras["ode_rewards"]
    dtype, sigmas = getattr(torch, latent_dtype), env.unwrapped.sigmas
    noise = initial_noise((2, 3, 2, 2), rollout.noise_seeds.tolist())
    # Where a clip is at each level: at its start, behind an Euler step, or as it was drawn.
    latent, drawn = noise, {step.index: step for step in rollout.transitions.steps}
    for level in range(6):
        end = latent
        for t in range(level, 5):
            with torch.no_grad():
                velocity = tiny_model.velocity(
                    end, sigmas[t].float().expand(4), env.unwrapped.embeddings[rollout.prompt_ids]
                )
            end = (end + velocity * float(sigmas[t + 1] - sigmas[t])).to(dtype).float()
            if t == level:
                following = end
        expected = env.unwrapped.score(end, rollout.prompt_ids)
        torch.testing.assert_close(found[:, level], expected, atol=1e-5, rtol=0)
        latent = drawn[level].action.float() if level in drawn else following


class Doubtful(Reward):
    """Two numbers that no other component gives; the first clip of a batch has none."""

    bounds = (0.0, 10.0)

    def __init__(self, name, value):
        self.name, self.value = name, value

    def score(self, videos, prompts, infos):
        values = torch.full((len(videos),), self.value)
        values[0] = torch.nan
        return values


@pytest.mark.filterwarnings("ignore:reward 'late")
def test_late_scores_land_in_their_own_columns(make_env, policy, tiny_types):
    rewards = [
        tiny_types["brightness"](),
        AsyncReward(Doubtful("late_a", 3.0)),
        tiny_types["contrast"](),
        AsyncReward(Doubtful("late_b", 7.0)),
    ]
    rollout = collect(make_env(4, rewards=rewards), policy, [0, 1], 4)
    for column, value in ((1, 3.0), (3, 7.0)):
        known = [False, True, True, True] * 2
        assert rollout.valid[:, column].tolist() == known
        assert rollout.rewards[known, column].tolist() == [value] * 6
        assert rollout.rewards[[0, 4], column].isnan().all()
    plain = [tiny_types["brightness"](), tiny_types["contrast"]()]
    others = collect(make_env(4, rewards=plain), policy, [0, 1], 4)
    assert torch.equal(rollout.rewards[:, [0, 2]], others.rewards)


def test_a_trajectory_is_replayed_with_its_own_guidance_scale(make_env, tiny_model):
    policy = FlowPolicy(tiny_model, guidance_scale=2.5)
    rollout = collect(make_env(4), policy, [0], 4)
    policy.guidance_scale = 1.0
    log_prob, items = replay(policy, rollout)
    torch.testing.assert_close(log_prob, items.log_prob, atol=1e-6, rtol=0)


def test_penalties_change_sign_once_wherever_they_are(make_env, policy):
    """In the rewards, in the completions and in the bounds."""
    facts = RewardFacts(("up", "down"), ((0.0, 1.0), (0.25, 4.0)), (1.0, -1.0))
    rollout = collect(make_env(8), policy, [2, 0], 4, RolloutConfig(dense=True))
    weights = torch.tensor([1.0, 2.0])
    batch = rollout.reward_batch(facts, weights=weights, step=7)
    signs = torch.tensor([1.0, -1.0])
    assert torch.equal(batch.rewards, rollout.rewards.view(2, 4, 2) * signs)
    completions = rollout.extras["ode_rewards"].view(2, 4, 5, 2)
    assert torch.equal(batch.extras["ode_rewards"], completions * signs)
    assert batch.bounds.tolist() == [[0, 1], [-4, -0.25]]
    assert batch.prompt_ids.tolist() == [2, 0] and batch.step == 7
    assert torch.equal(batch.weights, weights) and batch.names == ("up", "down")


def test_parents_and_edges_of_a_tree_node_by_node(make_env, policy, facts_of):
    config = RolloutConfig(branch_steps=(0, 2))
    rollout = collect(make_env(8, num_steps=5), policy, [0, 1], 4, config)
    batch = rollout.reward_batch(facts_of("a", "b"))
    # A root, two nodes, their only children, four, and theirs.
    parents = [-1, 0, 0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8]
    assert batch.extras["tree_parent"].tolist() == [parents] * 2
    for group in range(2):
        expected = [0.0]
        for step in rollout.transitions.steps:
            expected += step.log_prob.float().chunk(2)[group].tolist()
        assert batch.extras["edge_logp"][group].tolist() == pytest.approx(expected)


class SlowJudge(Reward):
    """Mean pixel, after a while that differs from batch to batch."""

    name = "slow_judge"
    bounds = (0.0, 1.0)

    def __init__(self, seconds):
        self.seconds = list(seconds)

    def score(self, videos, prompts, infos):
        time.sleep(self.seconds.pop(0))
        return videos.flatten(1).mean(dim=1)


@pytest.mark.parametrize("output", ["torch", "numpy"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_background_judge_changes_no_score(make_env, policy, output, dense):
    """Batches that end in any order, beside one that is waited for at once."""
    config = RolloutConfig(dense=dense)
    wait = [0.05, 0.0, 0.1, 0.0, *[0.0] * 40]
    plain = [SlowJudge([0.0] * 44), "proxy_mq"]
    background = [AsyncReward(SlowJudge(wait)), "proxy_mq"]
    rollouts = [
        collect(make_env(2, rewards=rewards, output=output), policy, [0, 2], 4, config, seed=3)
        for rewards in (plain, background)
    ]
    assert torch.equal(rollouts[0].rewards, rollouts[1].rewards)
    assert rollouts[1].valid.all() and rollouts[1].rewards.isfinite().all()
    if dense:
        assert torch.equal(rollouts[0].extras["ode_rewards"], rollouts[1].extras["ode_rewards"])


def test_the_next_batch_is_made_while_the_judge_thinks(make_env, policy):
    """The judge of the first batch is let go only by the start of the second."""
    second = threading.Event()

    class Gated(SlowJudge):
        def score(self, videos, prompts, infos):
            self.waited = second.wait(20)
            return super().score(videos, prompts, infos)

    judge = Gated([0.0] * 9)
    env = make_env(4, rewards=[AsyncReward(judge)])
    resets = []
    reset = env.unwrapped.reset

    def noted(**kwargs):
        resets.append(1)
        if len(resets) == 2:
            second.set()
        return reset(**kwargs)

    env.unwrapped.reset = noted
    rollout = collect(env, policy, [0, 2], 4)
    assert judge.waited and rollout.valid.all()


def test_completions_are_scored_in_the_groups_of_their_clips(make_env, policy, tiny_types):
    told = []

    class Told(tiny_types["brightness"]):
        def score(self, videos, prompts, infos):
            told.append([info["group_id"] for info in infos])
            return super().score(videos, prompts, infos)

    # One prompt twice: only the number of the group tells the clips apart.
    collect(make_env(8, rewards=[Told()]), policy, [2, 2], 4, RolloutConfig(dense=True))
    assert len(told) > 1 and told == [[0] * 4 + [1] * 4] * len(told)

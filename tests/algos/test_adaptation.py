"""Rewards that learn along in the learner: their turn, what is forgotten, resuming, processes."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch

from reelrl.algos.adaptation import Adaptation
from reelrl.algos.advantages import make_estimator
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.run.checkpoint import best_checkpoint, load_latest
from reelrl.algos.run.distributed import Ranks
from reelrl.rewards.asynchronous import AsyncReward
from reelrl.rewards.transforms import Scale, Transformed

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("conftest.py"))
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

CALIBRATED = {"min_groups": 1, "refresh_every": 1}


def learner_of(estimator="grpo", rewards=None, folder=None, **changes):
    model = tiny.TinyModel()
    config = {"prompts_per_iteration": 2, "group_size": 4, "learning_rate": 1e-2, **changes}
    return GRPO(
        env_of(model, rewards), FlowPolicy(model), estimator, GRPOConfig(**config), folder=folder
    )


def env_of(model, rewards=None):
    import gymnasium as gym

    return gym.make_vec(
        "reelrl/TextToVideo-v0", num_envs=4, model=model, prompts=tiny.PROMPTS,
        rewards=rewards or [tiny.Brightness(), tiny.Familiar()], num_steps=4, num_frames=5,
        height=8, width=8, output="torch", autoreset_mode="Disabled",
    )  # fmt: skip


def familiar(learner):
    return learner.adaptation.learning["familiar"].part


def test_it_learns_from_the_rollout_after_the_policy_has():
    learner = learner_of()
    order = []
    collect, update, part = learner.collect, learner.update, familiar(learner)
    adapt = part.adapt
    learner.collect = lambda: (order.append("collect"), collect())[1]
    learner.update = lambda *a: (order.append("update"), update(*a))[1]
    part.adapt = lambda *a: (order.append("adapt"), adapt(*a))[1]
    history = learner.learn(2)
    assert order == ["collect", "update", "adapt"] * 2
    assert [m["adapt/familiar/version"] for m in history] == [1.0, 2.0]
    # All clips of the rollout, as bytes: the mean of its brightness.
    assert history[1]["adapt/familiar/level"] == pytest.approx(
        history[1]["reward/brightness"], abs=0.002
    )
    assert "time/adapt" in history[0]


def test_a_run_without_such_rewards_keeps_no_clips():
    learner = learner_of(rewards=[tiny.Brightness()])
    assert not len(learner.collect().videos)
    assert learner.adaptation.state() == {}
    assert not any(key.startswith("adapt/") for key in learner.learn(1)[0])


def test_it_is_found_behind_transforms_and_in_the_background():
    inner = tiny.Familiar()
    around = AsyncReward(Transformed(inner, [Scale(2)], "twice"))
    history = learner_of(rewards=[tiny.Brightness(), around]).learn(2)
    assert inner.version == 2 and history[1]["adapt/twice/version"] == 2


def test_clips_it_could_not_score_are_not_learned_from():
    class Picky(tiny.Familiar):
        """Scores clips of two of the four prompts only."""

        name = "picky"

        def score(self, videos, prompts, infos):
            values = super().score(videos, prompts, infos)
            bad = torch.tensor([info["prompt_id"] in (0, 1) for info in infos])
            return torch.where(bad, torch.nan, values)

    seen = []
    part = Picky()
    adapt = part.adapt
    part.adapt = lambda v, p, g: (seen.append((len(v), sorted(set(p)))), adapt(v, p, g))[1]
    with pytest.warns(UserWarning, match="could not score"):
        rewards = [tiny.Brightness(), part]  # the other one scores every clip
        history = learner_of(rewards=rewards, prompts_per_iteration=4).learn(1)
        assert seen == [(8, ["bright", "brightest"])]
        part.score = lambda videos, prompts, infos: torch.full((len(videos),), torch.nan)
        learner_of(rewards=rewards).learn(1)
    assert len(seen) == 1 and part.version == 1 and history


def test_the_estimator_forgets_the_scale_of_what_has_changed_and_of_nothing_else():
    for moves in (True, False):
        part = tiny.Familiar()
        if not moves:
            part.adapt = lambda *_: {}
        estimator = make_estimator("taros", calibration=CALIBRATED)
        learner = learner_of(estimator, rewards=[tiny.Brightness(), part])
        learner.learn(2)
        state = learner.estimator_state
        assert torch.isfinite(state["tau"][0])
        assert bool(state["tau"][1].isnan()) == moves
        assert bool(state["history"][:, 1].isnan().all()) == moves


def test_forgetting_touches_scales_alone():
    names = ("a", "b", "c")
    saw = make_estimator("saw")
    state = {**saw.init_state(names), "mean": torch.arange(3.0), "std": torch.ones(3)}
    forgotten = saw.reset(state, names, ["b"])
    assert forgotten["mean"].isnan().tolist() == forgotten["std"].isnan().tolist()
    assert forgotten["mean"].isnan().tolist() == [False, True, False]
    assert not state["mean"].isnan().any()
    for name, preset in (("marble", None), ("gardo", None), ("dynamic_weight", "gradient")):
        estimator = make_estimator(name, **({"preset": preset} if preset else {}))
        state = {k: v + 1 for k, v in estimator.init_state(names).items()}
        assert estimator.reset(state, names, ["b"]) is state
    front = make_estimator("dynamic_weight")
    state = {**front.init_state(names), "multiplier": torch.tensor(2.0)}
    assert front.reset(state, names, ["b"])["multiplier"] == 1
    assert front.reset(state, names, []) is state
    for name in ("random_sign", "grpo"):
        estimator = make_estimator(name)
        fresh = estimator.init_state(names)
        assert estimator.reset(fresh, names, ["a"]).keys() == fresh.keys()


def same_state(first, second):
    assert first.keys() == second.keys()
    pairs = [(torch.as_tensor(v), torch.as_tensor(second[k])) for k, v in first.items()]
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def test_resume_is_bit_for_bit_after_a_kill(tmp_path):
    """The run is ended by a signal in its third iteration, after two were saved."""
    settings = {"estimator": "taros@calibrated", "save_every": 1}
    straight = learner_of(**settings)
    straight.learn(4)
    child = os.fork()
    if child == 0:
        learner = learner_of(**settings, folder=tmp_path)
        learner.learn(2)
        learner.adapt = lambda rollout: os.kill(os.getpid(), signal.SIGKILL)
        learner.learn(1)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    model = tiny.TinyModel()
    resumed = GRPO.load(tmp_path, env=env_of(model))
    assert resumed.iteration == familiar(resumed).version == 2
    resumed.learn(2)
    assert same_state(resumed.policy.state_dict(), straight.policy.state_dict())
    assert same_state(resumed.adaptation.state(), straight.adaptation.state())
    assert same_state(resumed.estimator_state, straight.estimator_state)
    assert familiar(resumed).fingerprint == familiar(straight).fingerprint
    # The planted fault: the reward begins anew, as if its state had not been saved.
    broken = GRPO.load(tmp_path, env=env_of(tiny.TinyModel()))
    broken.adaptation.restore(learner_of().adaptation.state())
    broken.learn(2)
    assert not same_state(broken.policy.state_dict(), straight.policy.state_dict())


def test_a_checkpoint_of_other_adaptive_rewards_is_refused(tmp_path):
    learner_of(folder=tmp_path).learn(1)

    class Fixed(tiny.Contrast):
        name = "familiar"

    with pytest.raises(ValueError, match=r"adaptive rewards \['familiar'\].*has \[\]"):
        GRPO.load(tmp_path, env=env_of(tiny.TinyModel(), [tiny.Brightness(), Fixed()]))


def test_checkpoints_without_adaptive_rewards_load_as_before(tmp_path):
    learner = learner_of(rewards=[tiny.Brightness()], folder=tmp_path)
    learner.learn(1)
    checkpoint = load_latest(tmp_path / "checkpoints")
    old = {k: v for k, v in checkpoint.tensors.items() if k != "rewards"}
    learner._restore(type(checkpoint)(checkpoint.iteration, old, checkpoint.facts))
    assert learner.iteration == 1


def test_the_best_checkpoint_is_not_judged_by_numbers_of_different_versions(tmp_path):
    metrics = {"reward/brightness": 0.5, "reward/familiar": 0.0}
    learner = learner_of()
    assert learner._is_best(metrics)
    assert not learner._is_best({**metrics, "reward/familiar": 9.0})
    assert learner._is_best({**metrics, "reward/brightness": 0.6})
    alone = learner_of(rewards=[tiny.Familiar()], folder=tmp_path, save_every=1)
    alone.learn(2)
    assert best_checkpoint(tmp_path / "checkpoints") is None


def test_clips_are_shown_only_if_asked_for(tmp_path, monkeypatch):
    from reelrl.algos.run.runlog import RunLog

    shown = []
    monkeypatch.setattr(RunLog, "video", lambda self, step, tag, clips: shown.append(len(clips)))
    learner_of().learn(1)
    learner_of(rollout=RolloutConfig(keep_videos=3)).learn(1)
    assert shown == [3]


def test_every_component_has_a_stream_of_its_own():
    class Dice(tiny.Familiar):
        def adapt(self, videos, prompts, generator):
            return {"roll": float(torch.rand((), generator=generator))}

    def rolls(seed):
        names = ("a", "b")
        rewards = [Transformed(Dice(), [], name) for name in names]
        history = learner_of(rewards=rewards, seed=seed).learn(2)
        return [m[f"adapt/{name}/roll"] for m in history for name in names]

    assert len(set(rolls(0) + rolls(1))) == 8 and rolls(0) == rolls(0)


def test_other_processes_take_over_the_state_of_the_first():
    class Two(Ranks):
        """The second of two, told what the first has."""

        def exchange(self, value):
            return [told, value]

    part = tiny.Familiar()
    adaptation = Adaptation([part])
    first = tiny.Familiar()
    first.load_state_dict({"version": torch.tensor(3), "level": torch.tensor(0.25)})
    told = Adaptation([first]).state()
    rollout = type("R", (), {"ranks": Two(1, 2)})()
    adaptation._keep_in_step(rollout)
    assert part.version == 3 and part.level == 0.25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:nothing was learned")  # Two ranks in a group of two cancel.
def test_the_adversarial_reward_in_a_run(nano_env, dinov2_folder, tmp_path):
    """It comes to tell the shipped model's clips from real ones; and resumes exactly."""
    spec = {"name": "adversarial", "model": str(dinov2_folder), "learning_rate": 3e-3}
    spec = {**spec, "updates": 30}

    def run(iterations, folder=None):
        env = nano_env(4, num_steps=2, rewards=["gold", spec])
        config = GRPOConfig(prompts_per_iteration=2, group_size=2, save_every=100)
        learner = GRPO(env, FlowPolicy(env.unwrapped.model), "gdpo", config, folder=folder)
        return learner, learner.learn(iterations)

    straight, history = run(4)
    # D of real clips over D of generated ones, before it has seen either.
    lead = [m["adapt/adversarial/real"] - m["adapt/adversarial/fake"] for m in history]
    assert abs(lead[0]) < 0.05 and sum(lead[2:]) / 2 > 0.15
    run(2, tmp_path)
    resumed = GRPO.load(tmp_path)  # the environment is plain values, the reward among them
    resumed.learn(2)
    assert same_state(resumed.policy.state_dict(), straight.policy.state_dict())
    assert same_state(resumed.adaptation.state(), straight.adaptation.state())

"""Callbacks see a run as it goes, add numbers to its log, and may end it."""

from __future__ import annotations

import json
import sys
import types

import pytest

from reelrl.algos.callbacks import Callback, OptunaPruning, WandbCallback
from reelrl.algos.evaluation import Evaluation
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.policies import FlowPolicy

SMALL = {"prompts_per_iteration": 2, "group_size": 4}


class Diary(Callback):
    """Writes down what it is told, and answers what it is given."""

    def __init__(self, update=None, evaluation=None, numbers=None):
        self.update, self.evaluation, self.numbers = update, evaluation, numbers
        self.entries = []

    def on_rollout(self, trainer, rollout, output):
        self.entries.append(("rollout", trainer.iteration, len(rollout.rewards)))
        return self.numbers

    def on_update(self, trainer, metrics):
        self.entries.append(("update", trainer.iteration, metrics["train/updates"]))
        return self.update

    def on_evaluation(self, trainer, metrics):
        self.entries.append(("evaluation", trainer.iteration, sorted(metrics)))
        return self.evaluation


@pytest.fixture
def make(make_env, tiny_types):
    def make(*callbacks, folder=None, every=None):
        env = make_env(8, model=tiny_types["model"]())
        examined = make_env(2, model=env.unwrapped.model) if every else None
        return GRPO(
            env,
            FlowPolicy(env.unwrapped.model),
            "grpo",
            GRPOConfig(**SMALL),
            folder=folder,
            evaluation=Evaluation(examined, [0, 1], every=every) if every else None,
            callbacks=callbacks,
        )

    return make


def test_they_are_called_in_order_with_what_they_are_about(make):
    diary = Diary()
    make(diary, every=2).learn(2)
    evaluated = ["eval/brightness", "eval/contrast"]
    assert diary.entries == [
        ("evaluation", 0, evaluated), ("rollout", 0, 8), ("update", 1, 1.0),
        ("rollout", 1, 8), ("update", 2, 2.0),
    ]  # fmt: skip


def test_their_numbers_are_in_the_log(make, tmp_path):
    one, two = Diary(numbers={"mine/a": 1}), Diary(numbers={"mine/b": 0.5})
    history = make(one, two, folder=tmp_path).learn(1)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["mine/a"], row["mine/b"]) == (1.0, 0.5)
    assert history[0]["mine/b"] == 0.5


@pytest.mark.parametrize("answers", [{"update": False}, {"evaluation": False}])
def test_false_saves_and_ends_the_run(make, make_env, tmp_path, answers):
    learner = make(Diary(), Diary(**answers), folder=tmp_path, every=1)
    assert len(learner.learn(9)) == 1
    assert GRPO.load(tmp_path, env=make_env(8)).iteration == 1


@pytest.mark.parametrize("answer", [None, True])
def test_everything_else_goes_on(make, answer):
    assert len(make(Diary(update=answer, evaluation=answer), every=1).learn(3)) == 3


def test_they_do_not_change_the_run(make):
    plain, watched = make(), make(Diary(), every=1)
    plain.learn(2), watched.learn(2)
    for name, weight in plain.policy.state_dict().items():
        assert (weight == watched.policy.state_dict()[name]).all()


def test_wandb_is_asked_for_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="needs the package wandb: pip install wandb"):
        WandbCallback()


def test_wandb_gets_the_finite_numbers_of_every_iteration(make, monkeypatch):
    logged, settings = [], []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

    def init(**given):
        settings.append(given)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    make(WandbCallback(name="a"), Diary(numbers={"mine/nan": float("nan")})).learn(2)
    assert settings == [{"project": "reelrl", "name": "a"}]
    assert [step for step, _ in logged] == [0, 1]
    assert "reward/brightness" in logged[0][1] and "mine/nan" not in logged[0][1]


class Trial:
    def __init__(self, prune_at):
        self.prune_at, self.reported = prune_at, []

    def report(self, value, step):
        self.reported.append(step)

    def should_prune(self):
        return len(self.reported) >= self.prune_at


def test_optuna_prunes_at_an_evaluation(make):
    pruning = OptunaPruning(Trial(prune_at=2), "eval/contrast")
    assert len(make(pruning, every=2).learn(9)) == 3
    assert pruning.pruned and pruning.trial.reported == [0, 2]
    with pytest.raises(KeyError, match="no metric 'eval/x'; there are eval/brightness, eval/cont"):
        make(OptunaPruning(Trial(9), "eval/x"), every=1).learn(1)

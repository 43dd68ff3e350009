"""Runs of the learner that come out the same in one process and in two; started by a launcher.

``accelerate launch --multi_gpu --num_processes 2 two_processes.py OUT STARTED`` does each of
:data:`RUNS` and leaves ``OUT/<name>.<rank>.pt``; the test does them in its own process. STARTED is
the folder of a run that one process began.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import signal
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import torch

import reelrl  # noqa: F401  (registers the ids)
from reelrl.algos.advantages import make_estimator
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.evaluation import Evaluation
from reelrl.algos.grpo import GRPO, GRPOConfig
from reelrl.algos.learners.policy_gradient import LossConfig
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.run.distributed import Ranks, launched

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "conftest.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def make_env(model, num_envs, rewards=None):
    return gym.make_vec(
        "reelrl/TextToVideo-v0",
        num_envs=num_envs,
        model=model,
        prompts=tiny.PROMPTS,
        rewards=rewards or [tiny.Brightness(), tiny.Contrast()],
        num_steps=4,
        num_frames=5,
        height=8,
        width=8,
        output="torch",
        autoreset_mode="Disabled",
    )


def learner_of(ranks, estimator="grpo", *, folder=None, rewards=None, examined=False, **changes):
    """A learner whose environment holds this process's share of 2 prompts x 4 clips."""
    model = tiny.TinyModel()
    evaluation = None
    if examined:
        held_out = make_env(model, 4 // ranks.count, [tiny.Contrast()])
        evaluation = Evaluation(held_out, [0, 1, 2, 3], every=1, ranks=ranks)
    config = {"prompts_per_iteration": 2, "group_size": 4, "learning_rate": 1e-2, **changes}
    return GRPO(
        make_env(model, 8 // ranks.count, rewards),
        FlowPolicy(model),
        estimator,
        GRPOConfig(**config),
        folder=folder,
        evaluation=evaluation,
        ranks=ranks,
    )


def several_updates(ranks, folder):
    return learner_of(
        ranks, updates_per_iteration=3, micro_batch=3, max_grad_norm=0.01, ema_decay=0.9,
        loss=LossConfig(kind="guard", kl_weight=0.1), examined=True,
    )  # fmt: skip


def one_rank_without_a_signal(ranks, folder):
    """Clips of two of four prompts cannot be scored: now and then a process has nothing to do."""
    return learner_of(ranks, rewards=[tiny.Flaky((0, 1))], weight_decay=0.1)


def balanced_components(ranks, folder):
    return learner_of(
        ranks, make_estimator("marble", warmup=2), updates_per_iteration=2,
        loss=LossConfig(kl_weight=0.1), rewards=[tiny.Brightness(), tiny.Flaky((0, 1))],
    )  # fmt: skip


def completions(ranks, folder):
    return learner_of(ranks, "dense_grpo", rollout=RolloutConfig(window="random"))


def tree(ranks, folder):
    return learner_of(ranks, "branch_grpo", rollout=RolloutConfig(branch_steps=(0, 2)))


def out_of_memory_on_one(ranks, folder):
    learner = learner_of(ranks, micro_batch=8)
    forward = learner.policy.forward

    def limited(obs, deterministic=False):
        if torch.is_grad_enabled() and len(obs["latent"]) > 5 and ranks.rank == 1:
            raise torch.OutOfMemoryError("planted")
        return forward(obs, deterministic)

    learner.policy.forward = limited
    return learner


def with_state(ranks, folder):
    """Taros remembers; the folder gets a checkpoint per iteration."""
    return learner_of(ranks, "taros", folder=folder / "saved", save_every=1, ema_decay=0.9)


def rewards_that_learn(ranks, folder):
    """Both learn from the clips of both, and forget the same."""
    return learner_of(ranks, "taros@calibrated", rewards=[tiny.Brightness(), tiny.Familiar()])


RUNS = (
    several_updates, one_rank_without_a_signal, balanced_components, completions, tree,
    out_of_memory_on_one, with_state, rewards_that_learn,
)  # fmt: skip
ITERATIONS = 3


def result_of(learner, history):
    return {
        "weights": learner.policy.state_dict(),
        "average": learner.updater.ema.average if learner.updater.ema else {},
        "estimator": {k: torch.as_tensor(v) for k, v in learner.estimator_state.items()},
        "rewards": learner.adaptation.state(),
        "updates": (learner.updater.updates, learner.updater.skipped),
        "iteration": learner.iteration,
        "history": history,
    }


def run(make, ranks, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = make(ranks, folder)
        return result_of(learner, learner.learn(ITERATIONS))


def nan_on_one(ranks, folder):
    """Only process 1 has losses that are nan; both must leave every update out, and both stop."""
    learner = learner_of(ranks, max_skipped=2)
    log_density = learner.policy.log_density
    broken = ranks.rank == ranks.count - 1
    learner.policy.log_density = lambda step, action: (
        log_density(step, action) * (torch.nan if broken and step.mean.requires_grad else 1)
    )
    try:
        learner.learn(5)
    except RuntimeError as error:
        return {**result_of(learner, []), "error": str(error)}


def interrupted(ranks, folder):
    """Ctrl-C reaches process 1 alone, in its second iteration."""
    learner = learner_of(ranks, folder=folder / "interrupted", save_every=100)
    estimate = learner.estimate

    def estimate_and_interrupt(rollout):
        if learner.iteration == 1 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return estimate(rollout)

    learner.estimate = estimate_and_interrupt
    return result_of(learner, learner.learn(10))


def taken_up(ranks, started):
    """The run one process began goes on with several."""
    env = make_env(tiny.TinyModel(), 8 // ranks.count)
    learner = GRPO.load(started, env=env, ranks=ranks)
    return result_of(learner, learner.learn(1))


def main(out, started):
    torch.set_num_threads(1)
    with launched() as ranks:
        results = {make.__name__: run(make, ranks, out) for make in RUNS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results["nan_on_one"] = nan_on_one(ranks, out)
        results["interrupted"] = interrupted(ranks, out)
        results["taken_up"] = taken_up(ranks, started)
        torch.save(results, out / f"{ranks.rank}.pt")
        ranks.barrier()


def alone(make, folder):
    return run(make, Ranks(), folder)


if __name__ == "__main__":
    faulthandler.enable()  # An abort says where.
    main(Path(sys.argv[1]), Path(sys.argv[2]))

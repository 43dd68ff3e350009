"""One run of a benchmark, in a folder: begun, taken up again, or found finished."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from reelrl.algos.grpo import GRPO
from reelrl.algos.run.runlog import RunLog, read_metrics
from reelrl.envs.scoring import RewardList
from reelrl.zoo.benchmark.design import Examined, Run
from reelrl.zoo.benchmark.examination import FixedExamination, RolloutMeasures
from reelrl.zoo.pictures import save_gif
from reelrl.zoo.train import make_env, open_run

DONE = "done.json"
LOCK = "lock"
CLIPS = {"base": "base.gif", "after": "after.gif"}
SHOWN = 4
GIF_SCALE = 1
"""The page enlarges them."""


def finished(run: Run, folder: Path) -> bool:
    """True if the folder holds this run with all its iterations."""
    path = folder / DONE
    return path.is_file() and json.loads(path.read_text())["digest"] == run.digest


def execute(run: Run, folder: Path, examined: Examined) -> Path:
    """Train, measure and leave ``metrics.jsonl``, two GIFs and ``done.json``.

    One thread and generators of the run's own: the numbers do not depend on what runs beside it.

    Args:
        run: what to do.
        folder: of this run alone.
        examined: the fixed examination.

    Returns:
        The folder.
    """
    torch.set_num_threads(1)
    with _alone_in(folder):
        if not finished(run, folder):
            _train(run, folder, examined)
    return folder


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for a process that is still at work here: one outlives a killed benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(run: Run, folder: Path, examined: Examined) -> None:
    learner, examination = _open(run, folder, examined)
    remaining = run.config.iterations - learner.iteration
    if remaining > 0 and len(learner.learn(remaining)) < remaining:
        raise KeyboardInterrupt  # Ctrl-C was taken by the learner, which has saved
    _measure_end(learner, folder)
    _save_clips(learner, examination, folder, "after")
    temporary = folder / f".{DONE}"
    temporary.write_text(json.dumps({"digest": run.digest}))
    os.replace(temporary, folder / DONE)


def progress_of(run: Run, folder: Path) -> int:
    """Iterations done so far."""
    return min(run.config.iterations, len(read_metrics(folder)))


def _open(run: Run, folder: Path, examined: Examined) -> tuple[GRPO, FixedExamination]:
    config = run.config
    env = make_env(config)
    task = env.unwrapped
    components = task.reward_components
    examination = FixedExamination(
        examined,
        RewardList(components),
        config.learner.reward_weights,
        num_steps=task.num_steps,
        shift=config.env_args.get("shift", 3.0),
    )
    measures = RolloutMeasures(examined.every, config.iterations)
    learner = open_run(config, folder, env, examination, observe=measures)
    if learner.iteration == 0:
        learner.policy.keep_reference()
        _save_clips(learner, examination, folder, "base")
    return learner, examination


def _measure_end(learner: GRPO, folder: Path) -> None:
    """One more row, of the finished policy: a rollout that nothing is learnt from."""
    assert learner.evaluation is not None and learner.observe is not None
    rollout = learner.collect()
    metrics = dict(learner.observe(learner, rollout, learner.estimate(rollout)))
    means = rollout.rewards.double().nanmean(dim=0).tolist()
    metrics |= {f"reward/{n}": mean for n, mean in zip(learner.names, means, strict=True)}
    metrics |= learner.evaluation.metrics(learner.policy, learner.updater.ema)
    log = RunLog(folder, learner.iteration)
    log.scalars(learner.iteration, metrics)
    log.close()


def _save_clips(learner: GRPO, examination: FixedExamination, folder: Path, name: str) -> None:
    """The first clips of the unseen split side by side, as a GIF."""
    videos, _ = examination.clips(learner.policy, "unseen", learner.updater.ema, first=SHOWN)
    row = torch.cat(list(videos), dim=2)
    save_gif(folder / CLIPS[name], row, scale=GIF_SCALE)

"""One run of a benchmark, in a folder: begun, taken up again, or found finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from reelrl.algos.grpo import GRPO
from reelrl.algos.run.ownership import owned
from reelrl.algos.run.runlog import METRICS, RunLog
from reelrl.algos.run.signals import Stopped
from reelrl.algos.trainer import CHECKPOINTS
from reelrl.envs.protocol import denoising_batch
from reelrl.envs.scoring import RewardList
from reelrl.files import write_text
from reelrl.zoo.benchmark.design import ExaminationConfig, Run
from reelrl.zoo.benchmark.examination import FixedExamination
from reelrl.zoo.benchmark.place import place
from reelrl.zoo.benchmark.truth import build_truth
from reelrl.zoo.benchmark.watch import RolloutMeasures
from reelrl.zoo.generate import Sampler
from reelrl.zoo.pictures import save_gif
from reelrl.zoo.train import make_env, open_run

DONE = "done.json"
CLIPS = {"base": "base.gif", "after": "after.gif"}
SHOWN = 4
GIF_SCALE = 1
"""The page enlarges them."""


def finished(run: Run, folder: Path) -> bool:
    """True if the folder holds this run with all its iterations, as they were written."""
    return read_done(folder).get("digest") == run.digest and not is_damaged(folder)


def read_done(folder: Path) -> dict[str, Any]:
    """Digest, commit and machine of the finished run in a folder.

    Empty if there is none, or if the file that tells is damaged.
    """
    path = folder / DONE
    try:
        done = json.loads(path.read_bytes().decode("utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return done if isinstance(done, dict) else {}


def is_damaged(folder: Path) -> bool:
    """True if the numbers of a finished run are not as they were when it finished."""
    wanted = read_done(folder).get(METRICS)
    return wanted is not None and wanted != _digest(folder / METRICS)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "no file"


def execute(run: Run, folder: Path, examined: ExaminationConfig) -> Path:
    """Train, measure and leave ``metrics.jsonl``, two GIFs and ``done.json``.

    One thread and generators of the run's own: the numbers do not depend on other processes.

    Args:
        run: the run to make.
        folder: of this run alone.
        examined: the fixed examination.

    Returns:
        The folder.
    """
    torch.set_num_threads(1)
    # One outlives a killed benchmark.
    with owned(folder, wait=True):
        if is_damaged(folder):
            # The curve is lost, and no checkpoint holds it.
            shutil.rmtree(folder / CHECKPOINTS)
            (folder / DONE).unlink()
        if not finished(run, folder):
            _train(run, folder, examined)
    return folder


def _train(run: Run, folder: Path, examined: ExaminationConfig) -> None:
    learner, examination = _open(run, folder, examined)
    remaining = run.config.iterations - learner.iteration
    if remaining > 0:
        learner.learn(remaining)
    if learner.stopped_by:
        raise Stopped(learner.stopped_by)  # the learner has saved
    _measure_end(learner, folder)
    _save_clips(learner, examination, folder, "after")
    done = {"digest": run.digest, METRICS: _digest(folder / METRICS), **place()}
    write_text(folder / DONE, json.dumps(done))


def _open(run: Run, folder: Path, examined: ExaminationConfig) -> tuple[GRPO, FixedExamination]:
    config = run.config
    env = make_env(config)
    truth = build_truth(run.truth)
    examination = FixedExamination(
        examined,
        truth,
        RewardList(denoising_batch(env).reward_components),
        config.learner.reward_weights,
        Sampler.of(env),
    )
    measures = RolloutMeasures(truth, examined.every, config.iterations)
    learner = open_run(config, folder, env, examination, callbacks=[measures])
    if learner.iteration == 0:
        learner.policy.keep_reference()
        _save_clips(learner, examination, folder, "base")
    return learner, examination


def _measure_end(learner: GRPO, folder: Path) -> None:
    """One more row, of the finished policy: a rollout that nothing is learnt from."""
    assert learner.evaluation is not None
    rollout = learner.collect()
    metrics: dict[str, float] = {}
    output = learner.estimate(rollout)
    for callback in learner.callbacks:
        metrics |= callback.on_rollout(learner, rollout, output) or {}
    means = rollout.rewards.double().nanmean(dim=0).tolist()
    metrics |= {f"reward/{n}": mean for n, mean in zip(learner.names, means, strict=True)}
    metrics |= learner.evaluation.metrics(learner.policy, learner.updater.ema)
    log = RunLog(folder, learner.iteration)
    log.scalars(learner.iteration, metrics)
    log.close()


def _save_clips(learner: GRPO, examination: FixedExamination, folder: Path, name: str) -> None:
    """The first clips of the last split, unseen if there is one, side by side as a GIF."""
    split = examination.splits[-1]
    videos, _ = examination.clips(learner.policy, split, learner.updater.ema, first=SHOWN)
    row = torch.cat(list(videos), dim=2)
    save_gif(folder / CLIPS[name], row, scale=GIF_SCALE)

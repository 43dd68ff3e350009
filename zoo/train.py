"""``reelrl train``: a run in a folder, begun or taken up again."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import yaml
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from tqdm import tqdm

import reelrl  # noqa: F401  (registers the ids)
from reelrl.algos.advantages import AdvantageOutput
from reelrl.algos.callbacks import Callback
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.evaluation import Evaluation, Examination
from reelrl.algos.grpo import GRPO
from reelrl.algos.metrics import rollout_metrics
from reelrl.algos.policies import FlowPolicy
from reelrl.algos.policies.weights import averaged
from reelrl.algos.run.checkpoint import list_checkpoints
from reelrl.algos.run.distributed import ALONE, Ranks, launched
from reelrl.algos.run.ownership import owned_by
from reelrl.algos.run.signals import Stopped
from reelrl.algos.trainer import CHECKPOINTS, Trainer
from reelrl.files import replace_folder, write_text
from reelrl.zoo.arguments import check_arguments, check_run
from reelrl.zoo.folders import writable
from reelrl.zoo.pictures import save_gif, save_sheet
from reelrl.zoo.plain_yaml import read_yaml
from reelrl.zoo.settings import TrainConfig, build, override, read_preset
from reelrl.zoo.trained import WEIGHTS, write_record

CONFIG = "config.yaml"
SHOWN = 4


def train(
    preset: str = "nano-quick",
    *,
    estimator: str | None = None,
    env: str | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    settings: tuple[str, ...] = (),
    out: Path | None = None,
    progress: bool = True,
) -> Path:
    """Train a model and leave a folder with checkpoints, metrics, clips and weights.

    A folder with a run of the same settings is taken up where it stopped. Started by ``accelerate
    launch``, the processes train together, and a run may go on with another number of them.

    With ``learner.ema_decay`` the average of the weights is examined, pictured and left in
    ``weights``; the checkpoints have both.

    Args:
        preset: name of a preset, or a yaml file.
        estimator: replaces the preset's.
        env: replaces the preset's.
        iterations: replaces the preset's; in all, not in addition.
        seed: replaces ``learner.seed``.
        settings: further replacements, ``"learner.learning_rate=1e-4"``.
        out: the folder; default ``runs/<preset>-<estimator>-<seed>``.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown key or value, a folder with a run of other settings, or prompts
            that cannot be shared out evenly to the processes.
        Stopped: after a signal, once the iteration that was under way is saved.
    """
    given = {"estimator": estimator, "env": env, "iterations": iterations}
    values = read_preset(preset) | {k: v for k, v in given.items() if v is not None}
    if seed is not None:
        values = override(values, [f"learner.seed={seed}"])
    config = build(TrainConfig, override(values, settings))
    check_run(config, _spec(config.env))
    folder = out or _default_folder(preset, config)
    with writable(folder), launched(config.env_args.get("device") or "cpu") as ranks:
        batch = make_env(config, ranks)
        examination = _examination(config, batch.unwrapped.model, ranks)
        with owned_by(ranks, folder):
            _run(config, folder, batch, examination, ranks, progress)
    return folder


def _run(
    config: TrainConfig,
    folder: Path,
    batch: Any,
    examination: Evaluation,
    ranks: Ranks,
    progress: bool,
) -> None:
    """Train in a folder that is ours."""
    learner = open_run(config, folder, batch, examination, callbacks=[ScoreTable()], ranks=ranks)
    if learner.iteration == 0:
        _show(learner, examination, folder, "before")
    remaining = config.iterations - learner.iteration
    if remaining > 0:
        _learn(learner, remaining, progress)
    _show(learner, examination, folder, "after")
    if ranks.is_main:
        with averaged(learner.updater.ema):
            replace_folder(folder / WEIGHTS, partial(_export, learner))
        print(
            f"wrote {folder}; look at {folder / 'after.gif'}\n"
            f"draw a clip with: reelrl sample --model {shlex.quote(str(folder))}\n"
            f"score it with: reelrl eval {shlex.quote(str(folder))}"
        )


def _export(learner: GRPO, folder: Path) -> None:
    """Write the trained weights and the record of their base model."""
    learner.policy.save_pretrained(folder)
    write_record(folder, learner)


class ScoreTable(Callback):
    """Prints the scores of the first clips, before anything is learned from them.

    A reward that fails, or gives every clip the same score, is seen here and not after a night.
    """

    def on_rollout(self, trainer: Trainer, rollout: Rollout, output: AdvantageOutput) -> None:
        """Print in the first iteration."""
        if trainer.iteration == 0 and trainer.ranks.is_main:
            tqdm.write("\n".join(score_table(rollout, trainer.names)))  # Above the bar.


def score_table(rollout: Rollout, names: Sequence[str]) -> list[str]:
    """Lines that say for each reward its mean, its spread within groups and the share scored."""
    width = max(len("reward"), *map(len, names))
    numbers = rollout_metrics(rollout, names)
    lines = [
        f"first {len(rollout.rewards)} clips, of the base model:",
        f"{'reward':<{width}}  {'mean':>8}  {'spread':>8}  scored",
    ]
    for name in names:
        mean, spread, failed = (
            numbers[f"{key}/{name}"] for key in ("reward", "reward/within_std", "health/failed")
        )
        lines.append(f"{name:<{width}}  {mean:8.4g}  {spread:8.2g}  {1 - failed:6.0%}")
    return lines


def _default_folder(preset: str, config: TrainConfig) -> Path:
    """``runs/<preset>-<estimator>-<seed>``, the preset of an estimator behind a dash."""
    name = f"{Path(preset).stem}-{config.estimator}-{config.learner.seed}"
    before = Path("runs") / name
    return before if before.exists() else Path("runs") / name.replace("@", "-")


def _learn(learner: GRPO, remaining: int, progress: bool) -> None:
    """Train to the end; a run that is stopped has been saved, and says how to go on."""
    total = learner.iteration + remaining
    try:
        learner.learn(remaining, progress=progress)
    except Stopped:
        # At a second signal the learner has saved nothing.
        if not learner.stopped_by:
            raise
    if learner.stopped_by:
        raise Stopped(
            learner.stopped_by,
            f"stopped at iteration {learner.iteration} of {total}; the same command goes on",
        )


def make_env(config: TrainConfig, ranks: Ranks = ALONE) -> Any:
    """The native batch that a run trains in, one sub-environment per clip of an iteration.

    Of several processes each gets the share that it makes clips of.

    Raises:
        ValueError: for an unknown environment or argument, or if the prompts cannot be shared out
            evenly.
    """
    own = ranks.part(config.learner.prompts_per_iteration, "learner.prompts_per_iteration")
    count = (own.stop - own.start) * config.learner.group_size
    return _make(config.env, count, config.env_args)


def open_run(
    config: TrainConfig,
    folder: Path,
    env: Any,
    examination: Examination,
    *,
    callbacks: Sequence[Callback] = (),
    ranks: Ranks = ALONE,
) -> GRPO:
    """The run of a folder, begun or taken up from its last checkpoint.

    Args:
        config: settings; the number of iterations may be another one than it was.
        folder: of the run.
        env: from :func:`make_env`.
        examination: see :class:`GRPO`.
        callbacks: see there.
        ranks: see there.

    Raises:
        ValueError: if the folder holds a run of other settings, or of unknown ones.
    """
    # The number of iterations may change: a finished run can be made longer.
    plain = {k: v for k, v in _plain(asdict(config)).items() if k != "iterations"}
    begun = bool(list_checkpoints(folder / CHECKPOINTS))
    if begun and not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} holds a run, but not the {CONFIG} with its settings; choose another --out"
        )
    if plain["policy"]["lora_targets"] is None:
        # As the policy fills them in: runs from before they were the model's have them here.
        plain["policy"]["lora_targets"] = list(env.unwrapped.model.lora_targets)
    if begun and _recorded(folder / CONFIG) != plain:
        raise ValueError(
            f"{folder} holds a run with other settings (see its {CONFIG}); choose another --out"
        )
    # Before anyone saves: a process that came later would find the run begun.
    ranks.barrier()
    if begun:
        return GRPO.load(
            folder,
            env=env,
            log_folder=folder,
            evaluation=examination,
            callbacks=callbacks,
            ranks=ranks,
        )
    learner = GRPO(
        env,
        FlowPolicy(env.unwrapped.model, **asdict(config.policy)),
        config.estimator,
        config.learner,
        folder=folder,
        evaluation=examination,
        callbacks=callbacks,
        ranks=ranks,
    )
    # Last: settings that nothing can be made of leave no folder behind.
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    return learner


def _recorded(path: Path) -> Any:
    """Settings of a run as plain values, with defaults for settings newer than the run."""
    stored = read_yaml(path)
    if not isinstance(stored, dict):
        return stored
    try:
        whole = _plain(asdict(build(TrainConfig, {**stored, "iterations": 1})))
    except ValueError:
        return stored  # Nothing that is asked for now equals it.
    return {key: value for key, value in whole.items() if key != "iterations"}


def _examination(config: TrainConfig, model: Any, ranks: Ranks) -> Evaluation:
    wanted = config.evaluation
    given = wanted.prompts if isinstance(wanted.prompts, str) else list(wanted.prompts)
    own = {
        # Another schedule or size than in training would be another policy's examination.
        **_spec(config.env).kwargs,
        **config.env_args,
        "model": model,
        "prompts": given,
        "rewards": list(wanted.rewards),
        "scalar_weights": None,
    }
    # The model has a device already.
    own.pop("device", None)
    share = ranks.part(wanted.clips, "evaluation.clips")
    env = _make("reelrl/TextToVideo-v0", share.stop - share.start, own)
    places = np.linspace(0, len(env.unwrapped.prompts) - 1, wanted.clips).round().astype(int)
    return Evaluation(env, places.tolist(), wanted.seed, wanted.every, ranks)


def _spec(env_id: str) -> EnvSpec:
    """Spec of an environment's id; as in ``gym.make``, ``module:id`` imports the module first.

    Raises:
        ValueError: if there is no such environment or module.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"unknown env {env_id!r}: {error}") from error


def _make(env_id: str, count: int, arguments: dict[str, Any]) -> Any:
    check_arguments(_spec(env_id), {k: v for k, v in arguments.items() if k != "model"})
    fixed = {"output": "torch", "autoreset_mode": "Disabled"}
    return gym.make_vec(env_id, num_envs=count, **{**arguments, **fixed})


def _show(learner: GRPO, examination: Evaluation, folder: Path, name: str) -> None:
    """Write the first clips of the examination and print its scores; all processes examine."""
    rewards, videos = examination(learner.policy, learner.updater.ema)
    learner.policy.bind(learner.env)
    if not learner.ranks.is_main:
        return
    shown: Tensor = videos[:SHOWN].to(torch.float32) / 255
    save_sheet(folder / f"{name}.png", shown, scale=4)
    save_gif(folder / f"{name}.gif", torch.cat(list(shown), dim=2))
    means = rewards.double().nanmean(dim=0).tolist()
    names = examination.env.unwrapped.reward_names
    scores = ", ".join(f"{n} {mean:.3f}" for n, mean in zip(names, means, strict=True))
    print(f"{name} iteration {learner.iteration}: {scores} on {len(rewards)} fixed clips")


def _plain(value: Any) -> Any:
    """Tuples as lists, the way they come back from yaml."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

"""``reelrl train-reward``: a head on a frozen model's hidden states, from Pass/Fail labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from reelrl.algos.run.runlog import RunLog
from reelrl.rewards.judges.yes_no import NO, YES
from reelrl.rewards.soli.backbone import language_rows
from reelrl.rewards.soli.folder import Facts, content_digest, place_of, save_reward_model
from reelrl.rewards.soli.heads import Head, HeadConfig, YesLogit, make_head
from reelrl.rewards.soli.loss import make_loss
from reelrl.rewards.vlm.model import model_folder
from reelrl.rewards.vlm.shared import open_backbone, read_dtype
from reelrl.zoo.plain_yaml import read_yaml
from reelrl.zoo.shipped.soli.accuracy import best_threshold, measure
from reelrl.zoo.shipped.soli.config import RewardModelConfig
from reelrl.zoo.shipped.soli.labels import annotated, passes
from reelrl.zoo.shipped.soli.states import States, load_states, taps_of
from reelrl.zoo.shipped.training import Training, stream_seed

ROOT = Path("runs") / "solireward"
CACHE = ROOT / "cache"
CONFIG, STATE, RESULT = "config.yaml", "state.pt", "result.json"
HELD_OUT = ("id", "ood")
LOG_EVERY = 20
INIT, LABELS, ORDER, DROPOUT = range(4)
"""Streams of random numbers of a run."""

Result = dict[str, Any]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Splits:
    """Hidden states of the three splits."""

    train: States
    id: States
    ood: States


def load_splits(config: RewardModelConfig, cache: Path = CACHE, report: Report = print) -> Splits:
    """Clips and hidden states, made where they are missing; see :func:`load_states`."""
    return Splits(*(load_states(config, split, cache, report) for split in ("train", *HELD_OUT)))


def train_reward_model(
    config: RewardModelConfig,
    folder: Path | None = None,
    *,
    splits: Splits | None = None,
    cache: Path = CACHE,
    report: Report = print,
) -> Result:
    """Train a reward model and leave its folder; a run that was killed goes on where it was.

    Args:
        config: settings.
        folder: of the run, which becomes the reward model's; default ``runs/solireward/<name>``.
        splits: hidden states, if they are loaded already.
        cache: where they are kept.
        report: gets lines of progress.

    Returns:
        The numbers of both held-out splits; also in the folder.

    Raises:
        ValueError: if the folder holds a run of other settings, or there is no such backbone.
    """
    folder = folder or ROOT / config.name
    model_folder(config.backbone)  # before a folder is claimed for a run that cannot begin
    _claim(folder, config)
    if (folder / RESULT).is_file():
        done: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return done
    splits = splits or load_splits(config, cache, report)
    head = new_head(config)
    truth = passes(splits.train.gold, config.threshold)
    labels = annotated(truth, config.noise, _generator(config, LABELS))
    fit(head, splits.train, labels, config, folder)
    result = examine(head, splits, labels, config)
    _save(folder, head, config, result)
    return result


def _claim(folder: Path, config: RewardModelConfig) -> None:
    path = folder / CONFIG
    if path.is_file() and read_yaml(path) != config.plain():
        raise ValueError(f"{folder} holds a run of other settings (see its {CONFIG}); choose --out")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.plain(), sort_keys=False), encoding="utf-8")


def new_head(config: RewardModelConfig) -> Head:
    """The untrained head of a run, on the backbone's width and layers."""
    vlm = open_backbone(config.backbone, config.device, read_dtype(config.dtype))
    yes, no = (language_rows(vlm, words).cpu() for words in (YES, NO))
    made = HeadConfig(
        config.head,
        vlm.width,
        len(taps_of(config, vlm)),
        config.attention_heads,
        config.dropout,
        len(yes),
        len(no),
    )
    head = make_head(made, stream_seed(config.seed, INIT))
    if isinstance(head, YesLogit):
        head.start_from(yes, no)
    return head


def fit(
    head: Head, states: States, labels: Tensor, config: RewardModelConfig, folder: Path
) -> None:
    """Train a head in place; goes on from the folder's state file."""
    batches = len(states) // config.batch
    if not batches:
        raise ValueError(f"a batch of {config.batch} is more than all of the {len(states)} clips")
    total = batches * config.epochs
    training = Training(
        head,
        folder / STATE,
        total=total,
        lr=config.learning_rate,
        ema=0.0,
        betas=(0.9, 0.999),
        warmup=max(1, round(config.warmup * total)),
    )
    loss_of = make_loss(config.loss)
    log = RunLog(folder, training.step)
    head.train()
    while training.step < total:
        epoch, place = divmod(training.step, batches)
        order = torch.randperm(len(states), generator=_generator(config, ORDER, epoch))
        rows = order[place * config.batch : (place + 1) * config.batch]
        step, scores = training.step, _dropped(head, states, rows, config, training)
        loss = loss_of(scores, labels[rows])
        training.update(loss)
        if step % LOG_EVERY == 0:
            log.scalars(step, {"train/loss": float(loss.detach())})
        if training.step % config.save_every == 0 and training.step < total:
            training.save()
    log.close()
    training.finished()


def _dropped(
    head: Head, states: States, rows: Tensor, config: RewardModelConfig, training: Training
) -> Tensor:
    """Scores of a batch in training; dropout draws from a stream of this update's own."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(config.seed, DROPOUT, training.step))
        scores: Tensor = head(*states.rows(rows))
        return scores


def _generator(config: RewardModelConfig, *stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(config.seed, *stream))


def examine(head: Head, splits: Splits, labels: Tensor, config: RewardModelConfig) -> Result:
    """Numbers of the held-out splits by name; the threshold is fitted on the training labels."""
    threshold = best_threshold(splits.train.scores(head), labels)
    found: Result = {"threshold": threshold, "digest": config.digest}
    for name in HELD_OUT:
        states: States = getattr(splits, name)
        truth = passes(states.gold, config.threshold)
        found[name] = measure(states.scores(head), truth, threshold)
    return found


def _save(folder: Path, head: Head, config: RewardModelConfig, result: Result) -> None:
    vlm = open_backbone(config.backbone, config.device, read_dtype(config.dtype))
    facts = Facts(
        dimension=config.dimension,
        head=head.config,
        taps=taps_of(config, vlm),
        question=config.question,
        backbone=place_of(config.backbone, folder),
        backbone_digest=content_digest(config.backbone),
        training={**config.plain(), "result": result},
    )
    save_reward_model(folder, facts, head)
    temporary = folder / f".{RESULT}"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT)
    (folder / STATE).unlink(missing_ok=True)

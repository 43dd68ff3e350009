"""Train NanoJudge from nothing: ``python -m reelrl.zoo.shipped.nano_judge.train_judge``.

Every update draws fresh clips and asks each about a dozen questions, and a few that a name answers;
the loss is on the one token that answers. Killed at any moment, the same command goes on from the
last state file with the same numbers. ``--install`` puts the finished judge where ``vlm_judge``
finds it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from reelrl.algos.run.signals import telling
from reelrl.rewards.vlm.model import CHECKPOINTS, QwenVL
from reelrl.zoo.door import door
from reelrl.zoo.shipped.nano_judge.card import RECORD
from reelrl.zoo.shipped.nano_judge.judged_clips import ModelClips, model_clips, training_clips
from reelrl.zoo.shipped.nano_judge.network import build_judge, save_judge
from reelrl.zoo.shipped.nano_judge.packing import pack, packed_logits
from reelrl.zoo.shipped.nano_judge.questions import Question, ask_about, open_questions
from reelrl.zoo.shipped.training import Training, generator_for

MODEL_CLIPS = "models.safetensors"
"""File in a run's folder with the clips of the video models."""


@dataclass(frozen=True)
class JudgeConfig:
    """Everything that decides the trained weights."""

    out: Path = Path("runs/nano-judge")
    """Folder of the run: state file, log, clips of the video models, exported judge."""
    seed: int = 0
    """Seed of every generator in the run."""
    steps: int = 2100
    """Updates."""
    batch: int = 16
    """Clips per update, a multiple of 8."""
    lr: float = 1e-3
    """Peak learning rate; warm-up then cosine to zero."""
    ema: float = 0.998
    """Decay of the averaged weights that are shipped."""
    clips_per_model: int = 576
    """Clips drawn once from each shipped video model."""
    save_every: int = 50
    """Updates between state files."""


def batch_of(config: JudgeConfig, step: int, models: ModelClips) -> tuple[Tensor, list[Question]]:
    """Clips and questions of an update; a function of seed and step alone."""
    stream = generator_for(config, 1, step)
    videos, captions = training_clips(config.batch, stream, models)
    return videos, [*ask_about(videos, captions, stream), *open_questions(videos)]


def balance(questions: Sequence[Question]) -> Tensor:
    """Weights (M,) under which each answer of a kind counts alike, and so does every kind."""
    answers = Counter((q.kind, q.answer) for q in questions)
    kinds = Counter(kind for kind, _ in answers)
    weights = [1 / (answers[q.kind, q.answer] * kinds[q.kind]) for q in questions]
    return torch.tensor(weights) / len(kinds)


def loss_of(judge: QwenVL, videos: Tensor, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Balanced cross-entropy of the answering token, and which answers (M,) are right."""
    packed = pack(judge, videos[0], [q.text for q in questions], [q.clip for q in questions])
    asked = [questions[j] for j in packed.order]
    logits = packed_logits(judge, videos, packed)
    target = torch.tensor(judge.tokenizer.convert_tokens_to_ids([q.answer for q in asked]))
    errors = functional.cross_entropy(logits, target, reduction="none")
    right = torch.zeros(len(questions), dtype=torch.bool)
    right[torch.tensor(packed.order)] = logits.argmax(-1) == target
    return (balance(asked) * errors).sum(), right


def new_training(config: JudgeConfig, judge: QwenVL) -> Training:
    """The training state of a judge, from the run's state file if there is one."""
    judge.model.train().requires_grad_(True)
    path = config.out / "judge.state"
    return Training(judge.model, path, total=config.steps, lr=config.lr, ema=config.ema)


def train(config: JudgeConfig) -> QwenVL:
    """Train the judge, or go on where a killed run stopped; writes ``config.out/nano-judge``."""
    config.out.mkdir(parents=True, exist_ok=True)
    models = model_clips(config.out / MODEL_CLIPS, config.clips_per_model)
    judge = build_judge(config.seed)
    training = new_training(config, judge)
    settings = {f.name: getattr(config, f.name) for f in fields(JudgeConfig)} | {"out": None}
    (config.out / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    progress = Progress(config.out / "log.jsonl")
    for step in range(training.step, config.steps):
        videos, questions = batch_of(config, step, models)
        loss, right = loss_of(judge, videos, questions)
        training.update(loss)
        progress.add(loss, questions, right)
        if training.step % config.save_every == 0 or training.step == config.steps:
            progress.write(training.step)
            training.save()
            with training.average.applied():
                save_judge(judge, config.out / "nano-judge")
    training.finished()
    save_judge(judge, config.out / "nano-judge")
    return judge


class Progress:
    """Loss and share of right answers since the last line of the log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clear()

    def _clear(self) -> None:
        self.began = time.perf_counter()
        self.losses: list[Tensor] = []
        self.right: defaultdict[str, list[bool]] = defaultdict(list)

    def add(self, loss: Tensor, questions: Sequence[Question], right: Tensor) -> None:
        """Note one update."""
        self.losses.append(loss.detach())
        for question, hit in zip(questions, right.tolist(), strict=True):
            self.right[question.kind].append(hit)

    def write(self, step: int) -> None:
        """Print a line, put it into the log, and begin anew."""
        line = {
            "step": step,
            "seconds": round(time.perf_counter() - self.began, 1),
            "loss": round(float(torch.stack(self.losses).mean()), 4),
            "right": {kind: round(sum(v) / len(v), 3) for kind, v in self.right.items()},
        }
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        self._clear()


def training_record(run: Path) -> dict[str, Any]:
    """Settings, minutes and machine of a finished run folder.

    The minutes count the logged updates; updates that a kill undid are not in them.
    """
    lines = [
        json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    del config["out"]
    settings = JudgeConfig(run, **config)
    videos, questions = batch_of(
        settings, 0, model_clips(run / MODEL_CLIPS, config["clips_per_model"])
    )
    seconds = {line["step"]: line["seconds"] for line in lines}
    return {
        "command": "python -m reelrl.zoo.shipped.nano_judge.train_judge",
        "config": config,
        "minutes": round(sum(seconds.values()) / 60, 1),
        "questions_per_clip": round(len(questions) / len(videos), 1),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
    }


def install(run: Path, folder: Path = CHECKPOINTS / "nano-judge") -> None:
    """Put the judge of a finished run, with its record, where the library looks for it."""
    save_judge(QwenVL.from_pretrained(run / "nano-judge"), folder)
    record = {"training": training_record(run)}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Arguments(JudgeConfig):
    """The settings of a run, and the steps to take with its judge."""

    install: bool = False
    """Put the judge in the place of the shipped one; then evaluate it anew."""


if __name__ == "__main__":
    with door("train_judge"), telling("stopped; the same command goes on"):
        arguments = tyro.cli(Arguments, description=__doc__)
        train(arguments)
        if arguments.install:
            install(arguments.out)

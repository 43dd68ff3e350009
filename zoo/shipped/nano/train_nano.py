"""Train nano-Wan from nothing: ``python -m reelrl.zoo.shipped.nano.train_nano``.

Stage 1 trains the VAE, writes the statistics of its latents into its config, and trains its decoder
further on latents that no longer move; stage 2 trains transformer and text encoder on the encoded
clips. Killed at any moment, the same command goes on
from the last state file. The run's folder ends up with ``nano-wan`` and ``nano-wan-early``;
``--install`` puts them into ``envs/checkpoints``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import tyro
from torch.utils.tensorboard import SummaryWriter

from reelrl.algos.run.signals import telling
from reelrl.envs.models.folders import CHECKPOINTS
from reelrl.envs.models.integrity import write_checksums
from reelrl.envs.models.wan import WanVideoModel
from reelrl.zoo.door import door
from reelrl.zoo.pictures import save_sheet
from reelrl.zoo.shipped.nano.autoencoder import (
    encode_dataset,
    finish_decoder,
    train_vae,
    with_statistics,
)
from reelrl.zoo.shipped.nano.export import export_pipeline, replace_folder
from reelrl.zoo.shipped.nano.generator import Dataset, Generator, train_generator
from reelrl.zoo.shipped.nano.measurement import scored_clips
from reelrl.zoo.shipped.nano.record import write_record
from reelrl.zoo.shipped.training import NanoConfig

EARLY = "nano-wan-early"
FINAL = "nano-wan"


def main(config: NanoConfig) -> None:
    """Train both shipped models into ``config.out``."""
    config.out.mkdir(parents=True, exist_ok=True)
    settings = {field.name: getattr(config, field.name) for field in fields(NanoConfig)}
    (config.out / "config.json").write_text(
        json.dumps(settings, indent=1, default=str) + "\n", encoding="utf-8"
    )
    log = SummaryWriter(config.out)
    vae = train_vae(config, log)
    latents, captions = encode_dataset(vae, config)
    vae = with_statistics(vae, latents)
    finish_decoder(vae, config, log)
    shape = (1, -1, 1, 1, 1)
    mean = latents.new_tensor(vae.config.latents_mean).view(shape)
    std = latents.new_tensor(vae.config.latents_std).view(shape)
    data = Dataset.of((latents - mean) / std, captions)

    def on_evaluation(model: Generator, step: int) -> str:
        snapshot = config.out / "snapshot"
        export_pipeline(snapshot, model, vae)
        result = scored_clips(WanVideoModel(snapshot), "train", config.eval_clips)
        for axis, value in result.axes().items():
            log.add_scalar(f"generator/{axis}", value, step)
        save_sheet(
            config.out / "samples" / f"{step:06d}.png", result.videos[:12], result.captions, 2
        )
        early = config.out / EARLY
        if result.gold >= config.early_gold and not early.exists():
            shutil.copytree(snapshot, config.out / "early.partial", dirs_exist_ok=True)
            replace_folder(config.out / "early.partial", early)
        return ", ".join(f"{axis} {value:.3f}" for axis, value in result.axes().items())

    generator = train_generator(config, data, log, on_evaluation)
    export_pipeline(config.out / FINAL, generator, vae)
    log.close()


def install(run: Path, checkpoints: Path = CHECKPOINTS) -> None:
    """Copy both models of a finished run, with its record, to where the library looks for them."""
    for name in (FINAL, EARLY):
        partial = checkpoints / f"{name}.partial"
        shutil.copytree(run / name, partial, dirs_exist_ok=True)
        write_record(run, partial)
        write_checksums(partial)
        replace_folder(partial, checkpoints / name)


@dataclass(frozen=True)
class Arguments(NanoConfig):
    """The settings of a run, and the steps to take with its models."""

    install: bool = False
    """Put the trained models in the place of the shipped ones."""


if __name__ == "__main__":
    with door("train_nano"), telling("stopped; the same command goes on"):
        arguments = tyro.cli(Arguments, description=__doc__)
        main(arguments)
        if arguments.install:
            install(arguments.out)

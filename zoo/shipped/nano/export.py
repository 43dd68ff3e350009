"""Write a trained nano-Wan as a stock diffusers ``WanPipeline`` folder, all of it or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKLWan, WanPipeline

from reelrl.envs.models.integrity import write_checksums
from reelrl.zoo.shipped.nano.architecture import build_scheduler, build_tokenizer
from reelrl.zoo.shipped.nano.generator import Generator

PORTABLE_TOKENIZER = "PreTrainedTokenizerFast"
"""Class name that transformers 4 and 5 both resolve; version 5 writes one that 4 does not know."""


def export_pipeline(folder: Path, generator: Generator, vae: AutoencoderKLWan) -> None:
    """Save the pipeline to ``folder``, replacing an older one once the new one is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=generator.text_encoder,
        vae=vae,
        scheduler=build_scheduler(),
        transformer=generator.transformer,
    )
    pipeline.save_pretrained(partial, safe_serialization=True)
    _make_tokenizer_portable(partial)
    _forget_origins(partial)
    write_checksums(partial)
    replace_folder(partial, folder)


def _forget_origins(folder: Path) -> None:
    """Drop the paths that a component was once loaded from: they mean nothing elsewhere."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def replace_folder(new: Path, old: Path) -> None:
    """Put ``new`` in the place of ``old``."""
    shutil.rmtree(old, ignore_errors=True)
    new.replace(old)


def _make_tokenizer_portable(folder: Path) -> None:
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8"))
    index["tokenizer"] = ["transformers", PORTABLE_TOKENIZER]
    index.pop("_name_or_path", None)
    index_path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    name_portable_class(folder / "tokenizer")


def name_portable_class(folder: Path) -> None:
    """Write :data:`PORTABLE_TOKENIZER` into a saved tokenizer's config."""
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = PORTABLE_TOKENIZER
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

"""A tiny random backbone, and settings that train on it in seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from reelrl.zoo.shipped.soli.config import RewardModelConfig, read_config

TINY = [
    "data.train=96", "data.held_out=48", "data.per_attack=2", "data.shard=16", "epochs=3",
    "batch=32", "attention_heads=4", "save_every=4",
]  # fmt: skip


def _vlms():
    path = Path(__file__).parents[3] / "rewards" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_vlms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return _vlms().write_folder(tmp_path_factory.mktemp("backbone"), "qwen2_5_vl")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Clips and hidden states that all tests of this folder share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_settings():
    return TINY


@pytest.fixture(scope="session")
def tiny(backbone):
    """``tiny("loss=code")``: settings on the tiny backbone."""

    def make(*settings) -> RewardModelConfig:
        return read_config(settings=[f"backbone={backbone}", *TINY, *settings])

    return make

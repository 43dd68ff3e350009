"""The command ``reelrl train-reward``: one reward model, or an ablation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reelrl.algos.run.signals import telling
from reelrl.zoo.arguments import check_device
from reelrl.zoo.folders import writable
from reelrl.zoo.shipped.soli.ablation import ABLATIONS, DIMENSIONS, Plan, run_ablation
from reelrl.zoo.shipped.soli.ablation_page import report
from reelrl.zoo.shipped.soli.config import PRESET, read_config
from reelrl.zoo.shipped.soli.fit_head import CACHE, HELD_OUT, ROOT, train_reward_model

GOES_ON = "stopped; the same command goes on"


def train_reward(
    preset: str = PRESET,
    given: Mapping[str, Any] | None = None,
    *,
    settings: Sequence[str] = (),
    ablation: str | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    out: Path | None = None,
    results: Path = ROOT / "results",
    cache: Path = CACHE,
) -> None:
    """Train, and print the held-out numbers or where the page is.

    Args:
        preset: name, or a yaml file.
        given: values in place of the preset's; None leaves the preset's.
        settings: further replacements, ``"epochs=20"``.
        ablation: ``"heads"``, ``"losses"``, ``"all"``, or None for one reward model; a dimension in
            ``given`` limits it to that one.
        seeds: of an ablation.
        out: folder of the reward model, or of an ablation's reward models.
        results: folder of an ablation's table.
        cache: of clips and hidden states.

    Raises:
        ValueError: for bad settings, or a folder with a run of others.
    """
    chosen = {key: value for key, value in (given or {}).items() if value is not None}
    config = read_config(preset, [*(f"{k}={json.dumps(v)}" for k, v in chosen.items()), *settings])
    check_device(config.device, "device")
    # Sums over threads are not the same on every machine.
    torch.set_num_threads(1)
    if ablation is None:
        folder = out or ROOT / config.name
        with writable(folder), telling(GOES_ON):
            result = train_reward_model(config, folder, cache=cache)
        for split in HELD_OUT:
            print(split, ", ".join(f"{k} {v:.3g}" for k, v in result[split].items()))
        print(f"wrote {folder}")
        return
    names = tuple(ABLATIONS) if ablation == "all" else (ablation,)
    dimensions = (config.dimension,) if "dimension" in chosen else DIMENSIONS
    plan = Plan(names, tuple(seeds), dimensions)
    with writable(results), telling(GOES_ON):
        run_ablation(config, plan, out or ROOT / "models", results, cache=cache)
    for path in report(results):
        print(f"wrote {path}")

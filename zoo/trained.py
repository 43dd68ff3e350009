"""Models by any of their names: shipped, a pipeline, or a run of ``reelrl train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelrl.algos.policies import FlowPolicy
from reelrl.algos.run.checkpoint import list_checkpoints, load_latest
from reelrl.algos.trainer import CHECKPOINTS
from reelrl.envs.models import SHIPPED, VideoModel
from reelrl.envs.models.integrity import INDEX, read_json
from reelrl.envs.protocol import denoising_env
from reelrl.envs.rebuild import resolved_arguments
from reelrl.files import write_text

WEIGHTS = "weights"
RECORD = "reelrl.json"
"""Beside exported weights: the base model that they belong to, and how they were trained."""


@dataclass(frozen=True)
class Trained:
    """A model to draw from.

    Attributes:
        model: with trained weights in place, if there are any.
        base: name or folder of the base model.
        title: a few words for people, such as ``"run runs/a, iteration 30, over nano-early"``.
        sampling: ``num_steps``, ``shift``, ``num_frames``, ``height``, ``width`` and
            ``guidance_scale`` that the run was trained with; empty for a base model.
    """

    model: VideoModel
    base: str
    title: str
    sampling: Mapping[str, Any]


def open_trained(name: str, *, base: str | None = None, device: str = "cpu") -> Trained:
    """Open a model by its name or folder.

    Args:
        name: a shipped model, the folder of a diffusers pipeline, the folder of a run, or the
            ``weights`` in it.
        base: folder of the base model of a run, where it is not where it was.
        device: where the model goes.

    Raises:
        ValueError: if it is none of these, or the base model of a run is not found.
    """
    folder = Path(name)
    run = folder.parent if (folder / RECORD).is_file() else folder
    if name in SHIPPED or (folder / INDEX).is_file() or not _is_run(run):
        model = VideoModel.from_pretrained(name, device=device)
        return Trained(model, name, model.name, {})
    if (run / WEIGHTS / RECORD).is_file():
        record = read_json(run / WEIGHTS / RECORD)
        model = _open_base(record, base, device)
        _prepare(model, record["policy"])
        model.load_trained(run / WEIGHTS)
    else:
        checkpoint = load_latest(run / CHECKPOINTS)
        facts = checkpoint.facts
        record = _record_of(facts, checkpoint.iteration)
        model = _open_base(record, base, device)
        policy = _prepare(model, facts["policy"])
        policy.load_state_dict(dict(checkpoint.tensors["weights"]))
    title = f"run {run}, iteration {record['iteration']}, over {record['base']}"
    return Trained(model, str(base or record["base"]), title, record["sampling"])


def write_record(folder: Path, trainer: Any) -> None:
    """Record beside exported weights which base model they belong to.

    Args:
        folder: of the weights.
        trainer: that trained them.
    """
    base = denoising_env(trainer.env)
    frames, height, width = base.clip_size
    record = {
        "base": name if (name := base.model.name) in SHIPPED else _folder_of(base.model),
        "digest": base.model.digest,
        "iteration": trainer.iteration,
        "estimator": trainer.estimator_name,
        "learner": trainer.learner.name,
        "rewards": list(trainer.names),
        "policy": trainer.policy.settings(),
        "sampling": {
            "num_steps": base.num_steps,
            "shift": base.shift,
            "num_frames": frames,
            "height": height,
            "width": width,
            "guidance_scale": trainer.policy.guidance_scale,
        },
    }
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _folder_of(model: VideoModel) -> str:
    """Where a model was opened from, or its name."""
    return str(getattr(model, "folder", model.name))


def _is_run(folder: Path) -> bool:
    return (folder / WEIGHTS / RECORD).is_file() or bool(list_checkpoints(folder / CHECKPOINTS))


def _record_of(facts: Mapping[str, Any], iteration: int) -> dict[str, Any]:
    """What :func:`write_record` would have written, from a checkpoint."""
    arguments = resolved_arguments(facts["env"])
    known = ("num_steps", "shift", "num_frames", "height", "width")
    sampling = {key: arguments[key] for key in known if key in arguments}
    return {
        "base": arguments.get("model"),
        "digest": facts.get("environment", {}).get("model"),
        "iteration": iteration,
        "policy": facts["policy"],
        "sampling": {**sampling, "guidance_scale": facts["policy"]["guidance_scale"]},
    }


def _open_base(record: Mapping[str, Any], base: str | None, device: str) -> VideoModel:
    """The base model of a run: where it was, or a shipped one of the same digest.

    Raises:
        ValueError: if no model of that digest is found.
    """
    wanted = record["digest"]
    candidates = [base] if base else [record["base"], *SHIPPED]
    for candidate in candidates:
        if candidate is None or not (candidate in SHIPPED or (Path(candidate) / INDEX).is_file()):
            continue
        model = VideoModel.from_pretrained(candidate, device=device)
        if wanted in (None, model.digest):
            return model
    raise ValueError(
        f"the run was trained over {record['base']!r} of digest {str(wanted)[:12]}, and "
        f"{base or 'no model here'} has it: give its folder as --base"
    )


def _prepare(model: VideoModel, policy: Mapping[str, Any]) -> FlowPolicy:
    """The policy that the weights fit into: with adapters, if they are adapters."""
    return FlowPolicy(model, **{**policy, "compile": False, "gradient_checkpointing": False})

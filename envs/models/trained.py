"""Trained weights of a model: which they are, in a folder and back. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reelrl.envs.models.integrity import read_json
from reelrl.files import write_tensors, write_text

WEIGHTS = "trained.safetensors"
RECORD = "trained.json"
"""Names the model's class and the shape of each weight, for people and before weights are read."""


def save_trained(folder: Path, kind: str, experts: Mapping[str, nn.Module]) -> None:
    """Write the weights that require gradients, :data:`WEIGHTS`, and their :data:`RECORD`.

    Args:
        folder: made if it does not exist.
        kind: name of the model's class.
        experts: modules by name.

    Raises:
        ValueError: if no weight is trainable.
    """
    parameters = trainable_of(experts)
    if not parameters:
        raise ValueError(f"{kind} has no trainable weights to save")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, parameters)
    record = {
        "class": kind,
        "adapter_scale": adapter_scale(experts),
        "shapes": _shapes(parameters),
    }
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def load_trained(folder: Path, kind: str, experts: Mapping[str, nn.Module]) -> None:
    """Read back the files of :func:`save_trained`, into experts of the same trainable weights.

    Raises:
        FileNotFoundError: for a folder without :data:`RECORD` or :data:`WEIGHTS`.
        ValueError: for damaged files, or weights of another class, or other names or shapes.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"no trained weights in {folder}: {RECORD} is missing")
    record = read_json(path)
    if record.get("class") != kind:
        raise ValueError(
            f"{folder} holds weights of a {record.get('class')}, expected weights of a {kind}"
        )
    check_scale(record.get("adapter_scale"), experts)
    load_into(trainable_of(experts), read_tensors(folder / WEIGHTS))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights in {path.parent}: {path.name} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def adapter_scale(experts: Mapping[str, nn.Module]) -> float | None:
    """Alpha / rank by which the adapters' output is scaled; None without adapters."""
    scales = {
        float(scale)
        for module in experts.values()
        for layer in module.modules()
        for scale in getattr(layer, "scaling", {}).values()
    }
    return next(iter(scales)) if len(scales) == 1 else None


def check_scale(saved: float | None, experts: Mapping[str, nn.Module]) -> None:
    """Refuse adapters that were trained at another scale: their names and shapes do not tell.

    Raises:
        ValueError: if the scales differ.
    """
    own = adapter_scale(experts)
    # Where one side has none, names of the weights differ, and say so better.
    if None not in (saved, own) and saved != own:
        raise ValueError(
            f"adapters were saved with lora_alpha / lora_rank = {saved}, and the policy has {own}"
        )


def trainable_of(experts: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters of the experts that require gradients, by name.

    The expert's name is a prefix only where there are several, so that weights of the many models
    with one transformer carry the transformer's own names.
    """
    prefixes = {name: f"{name}." if len(experts) > 1 else "" for name in experts}
    return {
        prefixes[expert] + name: parameter
        for expert, module in experts.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def load_into(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Copy weights into parameters of the same names and shapes.

    Raises:
        ValueError: if names or shapes differ; names the first few.
    """
    have, want = _shapes(weights), _shapes(parameters)
    wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
    if wrong:
        shown = ", ".join(f"{n} (expected {want.get(n)}, got {have.get(n)})" for n in wrong[:3])
        raise ValueError(f"{len(wrong)} weights do not fit the model: {shown}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}

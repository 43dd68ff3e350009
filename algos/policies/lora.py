"""Low-rank adapters (Hu et al. 2022) through peft."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def adapter_layers(module: nn.Module) -> list[Any]:
    """All layers of the module that carry an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def add_lora(
    module: nn.Module, rank: int, alpha: float | None, targets: Sequence[str], seed: int
) -> None:
    """Freeze the module and put trainable adapters on its layers; the output does not change yet.

    Dropout on adapters is not offered: sampling and replaying an action must see one network.

    Args:
        module: gets the adapters in place.
        rank: of the adapters.
        alpha: their output is scaled by alpha / rank; None means the rank.
        targets: endings of the names of the layers.
        seed: of the random half of every adapter.

    Raises:
        ValueError: if the module has no layer of such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
    )
    # peft initialises from the global generator, which is not ours to advance.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module)
    for layer in adapter_layers(module):
        # In bfloat16 a small update of an adapter would be rounded away.
        for parameters in layer.adapter_layer_names:
            getattr(layer, parameters).float()


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Run with every adapter switched off: the network as it was before training."""
    layers = adapter_layers(module)
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)

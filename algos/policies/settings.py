"""Settings of a flow policy: how a model denoises, and which of its weights may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from reelrl.checks import Ge, check_fields
from reelrl.envs import kernels, steps

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class FlowPolicyConfig:
    """How a model denoises, and which of its weights may change.

    Attributes:
        kernel: key of :data:`~reelrl.envs.kernels.KERNELS`.
        eta: noise level of the kernel; None means the kernel's own default (``flow_sde`` 0.7).
        guidance_scale: of classifier-free guidance (Ho and Salimans 2022); 1 means no guidance,
            None the model's own. Both branches run in one forward and both carry gradients.
        reduction: of the log-probability over the D latent dimensions.
        precision: of the forward pass, by autocast; weights stay as the model was loaded, means
            and densities are float32 or better.
        latent_dtype: dtype to which a rollout's latents are rounded before scoring and storing.
        lora_rank: 0 trains all weights of the experts, which must be float32 for that; adapters
            always are.
        lora_alpha: adapters are scaled by alpha / rank; None means the rank.
        lora_targets: endings of the names of the layers that get adapters; None means the model's
            own.
        lora_seed: of the adapters' initialisation.
        gradient_checkpointing: recompute blocks in the backward pass instead of keeping them.
        compile: run the experts through ``torch.compile``.

    Raises:
        ValueError: for a value out of range.
    """

    kernel: str = "flow_sde"
    eta: float | None = None
    guidance_scale: float | None = 1.0
    reduction: steps.Reduction = "mean"
    precision: Precision = "float32"
    latent_dtype: Precision = "float32"
    lora_rank: Annotated[int, Ge(0)] = 0
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] | None = None
    lora_seed: int = 0
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        numbers = {"eta": self.eta, "guidance_scale": self.guidance_scale}
        for name, value in {**numbers, "lora_alpha": self.lora_alpha}.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (value is None or is_number):
                raise ValueError(f"{name} must be a number or None, got {value!r}")
        if isinstance(self.lora_rank, bool) or not isinstance(self.lora_rank, int):
            raise ValueError(f"lora_rank must be an integer, got {self.lora_rank!r}")
        if isinstance(self.lora_targets, str):
            raise ValueError(f"lora_targets must be a list of names, got {self.lora_targets!r}")

    def make_kernel(self) -> kernels.StepKernel:
        """The step kernel.

        Raises:
            ValueError: if there is none of that name, or it has no ``eta``.
        """
        config = {} if self.eta is None else {"eta": self.eta}
        return kernels.make_kernel(self.kernel, **config)

"""What a learner, or anyone's own loop, may ask of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Observation = Mapping[str, Any]
"""The batched ``Dict`` observation of the environment, of arrays or tensors."""


@runtime_checkable
class Policy(Protocol):
    """A distribution over actions that can score an action it has not drawn itself."""

    def act(
        self, obs: Observation, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "N ..."], Float[Tensor, " N"]]:
        """Draw N actions; returns them and their log-probabilities (N,)."""

    def log_prob(self, obs: Observation, action: Any) -> Float[Tensor, " N"]:
        """Log-probability (N,) of given actions, with gradients where they are enabled."""

    def predict(self, obs: Observation, deterministic: bool = False) -> Any:
        """Actions alone, arrays for arrays and tensors for tensors, without gradients."""

"""Policies: distributions over the next latent, given what an environment shows."""

from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.settings import FlowPolicyConfig

__all__ = ["FlowPolicy", "FlowPolicyConfig"]

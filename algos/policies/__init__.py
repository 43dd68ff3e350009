"""Policies: distributions over the next latent, given an environment's observation."""

from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.policies.settings import FlowPolicyConfig

__all__ = ["FlowPolicy", "FlowPolicyConfig"]

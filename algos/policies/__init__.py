"""Policies: distributions over the next latent, given what an environment shows."""

from reelrl.algos.policies.base import Policy
from reelrl.algos.policies.config import FlowPolicyConfig
from reelrl.algos.policies.flow import FlowPolicy

__all__ = ["FlowPolicy", "FlowPolicyConfig", "Policy"]

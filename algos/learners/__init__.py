"""Learners: how a rollout and its advantages move the weights of a policy."""

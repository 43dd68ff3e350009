"""Collecting: which steps draw noise, how clips are made, and the rollout that is left."""

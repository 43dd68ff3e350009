"""Learners: how a rollout and its advantages move the weights of a policy.

One learner per file; each file is found by itself. Everything around them (collecting, estimating,
logging, saving) is :class:`~reelrl.algos.trainer.Trainer`.
"""

from reelrl.algos.learners.base import (
    Learner,
    Objective,
    list_learners,
    make_learner,
    register_learner,
)

__all__ = ["Learner", "Objective", "list_learners", "make_learner", "register_learner"]

"""Advantage estimators: from a group of reward vectors to one learning signal.

Needs NumPy and torch only. Estimators are found by name:

```python
from reelrl.algos.advantages import RewardBatch, make_estimator

estimator = make_estimator("gdpo", preset="trl")
state = estimator.init_state(("quality", "motion"))
output, state = estimator(RewardBatch(rewards_pgk, ("quality", "motion")), state)
```
"""

from reelrl.algos.advantages.batch import Signal, Work, total_score, weighted_sum
from reelrl.algos.advantages.norm import Moments, NormSpec, normalise
from reelrl.algos.advantages.oneline import advantages
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig, normalise_first, sum_first
from reelrl.algos.advantages.post import list_posts, make_post, register_post
from reelrl.algos.advantages.registry import (
    estimator_class,
    list_estimators,
    make_estimator,
    register_estimator,
)
from reelrl.algos.advantages.transforms import (
    list_transforms,
    make_transform,
    register_transform,
    score_comparisons,
)
from reelrl.algos.advantages.types import (
    EXTRAS,
    AdvantageEstimator,
    AdvantageOutput,
    RewardBatch,
    State,
)

__all__ = [
    "EXTRAS",
    "AdvantageEstimator",
    "AdvantageOutput",
    "Estimator",
    "EstimatorConfig",
    "Moments",
    "NormSpec",
    "RewardBatch",
    "Signal",
    "State",
    "Work",
    "advantages",
    "estimator_class",
    "list_estimators",
    "list_posts",
    "list_transforms",
    "make_estimator",
    "make_post",
    "make_transform",
    "normalise",
    "normalise_first",
    "register_estimator",
    "register_post",
    "register_transform",
    "score_comparisons",
    "sum_first",
    "total_score",
    "weighted_sum",
]

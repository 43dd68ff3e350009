"""An advantage estimator of your own: one file, no edit anywhere else.

Run ``python examples/custom_estimator.py``. The estimator below weights each component by how much
of its group failed, so that what no clip can do yet counts most. Registering it makes it available
by name to everything that takes an estimator: ``make_estimator``, ``advantages``, the learner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from reelrl.algos.advantages import (
    Estimator,
    EstimatorConfig,
    RewardBatch,
    Signal,
    State,
    Work,
    advantages,
    list_estimators,
    make_estimator,
    normalise_first,
    register_estimator,
)
from reelrl.algos.advantages.norm import GroupStats, NormSpec


@register_estimator("failure_weighted")
class FailureWeighted(Estimator):
    """A = sum_k w_k (1 - mean_g r_k)^power z_g(r_k), for rewards in [0, 1]."""

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings; every field is a keyword of ``make_estimator``.

        Attributes:
            power: 0 is the plain sum of advantages.
        """

        power: float = 1.0

    source: ClassVar[str] = "examples/custom_estimator.py"
    presets: ClassVar[dict[str, dict[str, float]]] = {"sharp": {"power": 4.0}}

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """The weights of each group, then the library's normalise-then-sum pipeline."""
        # Missing scores are zeros with a mask beside them; GroupStats leaves them out.
        mean = GroupStats.of(work.scores).mean.squeeze(1)
        weights = work.weights * (1 - mean).clamp(0.0, 1.0) ** self.config.power
        return normalise_first(work, weights, NormSpec(eps=1e-8)), state


def main() -> None:
    """Use it by name, with a preset, in front of a transform, and in one line."""
    rng = np.random.default_rng(0)
    rewards = rng.random((4, 16, 2)) * np.array([1.0, 0.2])  # the second component mostly fails
    batch = RewardBatch(rewards, ("easy", "hard"), bounds=np.array([[0.0, 1.0]] * 2))

    assert "failure_weighted" in list_estimators()
    for estimator in (
        make_estimator("failure_weighted", preset="sharp"),
        make_estimator("failure_weighted", transforms=("rescale",), post=("clip",)),
        make_estimator("gdpo"),
    ):
        output, _ = estimator(batch, estimator.init_state(batch.names))
        print(f"{estimator.name:18s} influence {np.round(output.diagnostics['influence'], 3)}")

    flat = advantages(rewards.reshape(-1, 2), np.repeat(np.arange(4), 16), "failure_weighted")
    print("one line:", flat.shape)


if __name__ == "__main__":
    main()
